"""The canonical primary key of a row: `table:part,part`, each part percent-encoded.

The order of the parts is the contract's, not the message's. Percent-encoded, the key is safe in a
Milvus filter, and two different keys never share one.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from operators.changes.row_key import RowKey, encoded, key_prefix
from operators.codec import logical_types
from operators.codec.key_types import KeyTypeError, KeyTypes
from operators.codec.text import as_text
from operators.contract.table import TableSection
from operators.errors import RecordError

MAX_ROW_KEY_BYTES = 900
"""A row key must fit into the entity id with its chunk number; percent-encoded, so ASCII."""


class OtherIdError(RecordError):
    """The message contradicts what is known of a key column, so that its row would get another id."""


class FormerKey(str):
    """A row key as the row's key was written at first. Whatever is stored under it is to be deleted.

    A class of its own, because it passes through the router with the records that it is about.
    """

    __slots__ = ()


class KeyMaker:
    """Makes the row keys of one table.

    Args:
        table: Its `name`, `key` and `encodings` are used.
        masks: By key column, the mask that its value goes through before it is used.
        types: What the key columns mean; shared by all readers of the topic in a process.
    """

    def __init__(
        self,
        table: TableSection,
        masks: Mapping[str, Callable[[Any], Any]] | None = None,
        types: KeyTypes | None = None,
    ) -> None:
        self.subject = f"key of {table.topic}"
        self._prefix = key_prefix(table.name)
        self._columns = table.key
        self._masks = masks or {}
        self.types = types or KeyTypes(
            {
                column: logical_types.from_encoding(encoding)
                for column, encoding in table.encodings.items()
                if column in table.key
            }
        )

    def __call__(
        self, fields: Mapping[str, Any], types: Mapping[str, logical_types.Logical] | None = None
    ) -> RowKey:
        """The key of a row with these columns.

        Args:
            fields: At least the key's columns.
            types: The columns' types by the message; None if it has none.

        Raises:
            RecordError: A key column is missing, null, or not a scalar; or the key is too long.
        """
        return self._made(fields, lambda column, value: self._converted(column, value, types))

    def as_written(self, fields: Mapping[str, Any]) -> RowKey | None:
        """The id that a row may be stored under since before its key's columns had a known type.

        None if there is none; see `operators.codec.key_types`.

        Raises:
            RecordError: See above.
        """
        moved = self.types.moved
        if not moved:
            return None

        def raw(column: str, value: Any) -> Any:
            return (
                self._masked(column, value)
                if column in moved
                else self._converted(column, value, None)
            )

        return RowKey(FormerKey(self._made(fields, raw)))

    def _made(self, fields: Mapping[str, Any], converted: Callable[[str, Any], Any]) -> RowKey:
        parts: list[str] = []
        for column in self._columns:
            try:
                value = fields[column]
            except KeyError:
                raise RecordError(
                    subject=self.subject,
                    cause=f"it has no column '{column}' but {names_of(fields)}",
                    hint="make `key` of the table in the contract name the primary key's columns",
                ) from None
            value = converted(column, value)
            # By exact type: True is an int too, and must not become 1.
            kind = type(value)
            if kind is int:
                parts.append(as_text(value))
            elif kind is str:
                parts.append(encoded(value))
            elif kind is bool:
                parts.append("true" if value else "false")  # guard: key-kinds
            elif kind is float:
                parts.append(encoded(repr(value)))
            elif kind is Decimal:
                parts.append(encoded(as_text(value)))
            else:
                raise RecordError(
                    subject=self.subject,
                    cause=f"column '{column}' is {kind_of(value)}",
                    hint="key columns hold strings, numbers or booleans",
                )
        key = RowKey(self._prefix + ",".join(parts))
        if len(key) > MAX_ROW_KEY_BYTES:  # guard: key-length
            raise RecordError(
                subject=self.subject,
                cause=f"it is {len(key)} characters long once encoded",
                hint=f"an id in Milvus holds up to {MAX_ROW_KEY_BYTES}: a letter that is not ASCII "
                "takes 6 of them, a Chinese one 9; use a shorter key",
            )
        return key

    def _converted(
        self, column: str, value: Any, types: Mapping[str, logical_types.Logical] | None
    ) -> Any:
        if value is None:
            return None
        try:
            found = self.types.value(column, value, types)
            if found is not value:
                value = as_text(found)
        except KeyTypeError as error:
            raise OtherIdError(
                subject=self.subject,
                cause=f"column '{column}' {error}: its rows would get other ids",
                hint="let the connector write it as before (its converter, schemas.enable, "
                "decimal.handling.mode, time.precision.mode); or name another `collection`, which is "
                "then filled anew",
            ) from None
        except (ValueError, TypeError, OverflowError) as error:
            raise RecordError(
                subject=self.subject,
                cause=f"column '{column}' is not what its schema says: {error}",
                hint="correct `encodings` of the table in the contract",
            ) from None
        return self._masked(column, value)

    def _masked(self, column: str, value: Any) -> Any:
        mask = self._masks.get(column)
        # guard: mask-key
        return value if mask is None or isinstance(value, list | dict) else mask(value)


def names_of(fields: Mapping[str, Any] | Sequence[str]) -> str:
    """The first few column names of a message, for an error message."""
    names = sorted(map(str, fields))[:12]
    return ", ".join(f"'{name[:60]}'" for name in names) if names else "no fields"


def kind_of(value: Any) -> str:
    """What kind of JSON a value is, without quoting it."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "a number out of range"
        case float():
            return "a number with a fraction"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
