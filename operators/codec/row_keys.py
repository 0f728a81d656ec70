"""The canonical primary key of a row: `table:part,part`, each part percent-encoded.

The order of the parts is the contract's, not the message's. Percent-encoded, the key is safe in a
Milvus filter, and two different keys never share one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from operators.changes.row_key import RowKey, encoded, key_prefix
from operators.codec import logical_types
from operators.codec.text import as_text
from operators.contract.table import TableSection
from operators.errors import RecordError

MAX_ROW_KEY_BYTES = 900
"""A row key must fit into the entity id with its chunk number; percent-encoded, so ASCII."""


class KeyMaker:
    """Makes the row keys of one table.

    Args:
        table: Its `name`, `key` and `encodings` are used.
        masks: By key column, the mask that its value goes through before it is used.
    """

    def __init__(
        self, table: TableSection, masks: Mapping[str, Callable[[Any], Any]] | None = None
    ) -> None:
        self.subject = f"key of {table.topic}"
        self._prefix = key_prefix(table.name)
        self._columns = table.key
        self._masks = masks or {}
        self._types = {
            column: logical_types.from_encoding(encoding)
            for column, encoding in table.encodings.items()
            if column in table.key
        }

    def __call__(
        self, fields: Mapping[str, Any], types: Mapping[str, logical_types.Logical] | None = None
    ) -> RowKey:
        """The key of a row with these columns.

        Args:
            fields: At least the key's columns.
            types: The columns' types by the message; None if it has none: then the contract's
                `encodings` apply.

        Raises:
            RecordError: A key column is missing, null, or not a scalar; or the key is too long.
        """
        if types is None:
            types = self._types
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
            value = self._converted(column, value, types)
            # By exact type: True is an int too, and must not become 1.
            kind = type(value)
            if kind is int:
                parts.append(str(value))
            elif kind is str:
                parts.append(encoded(value))
            elif kind is bool:
                parts.append("true" if value else "false")  # guard: key-kinds
            elif kind is float:
                parts.append(encoded(repr(value)))
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
                hint=f"keys may have up to {MAX_ROW_KEY_BYTES}",
            )
        return key

    def _converted(
        self, column: str, value: Any, types: Mapping[str, logical_types.Logical]
    ) -> Any:
        if value is None:
            return None
        logical = types.get(column)
        # Oracle's NUMBER arrives as an object but is a scalar; arrays, maps and structs are not.
        if logical is not None and logical.kind not in ("array", "map", "struct"):
            try:
                value = as_text(logical_types.logical_value(logical, value))
            except (ValueError, TypeError, OverflowError) as error:
                raise RecordError(
                    subject=self.subject,
                    cause=f"column '{column}' is not what its schema says: {error}",
                    hint="correct `encodings` of the table in the contract",
                ) from None
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
