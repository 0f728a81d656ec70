"""Reads a row's columns: recognises the placeholder, then converts by type, then masks."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from operators.changes.events import Upsert
from operators.codec.logical_types import Logical, columns_of, from_encoding, logical_value
from operators.codec.mongodb import Document
from operators.codec.placeholder import Unavailable
from operators.codec.row_keys import names_of
from operators.contract.table import TableSection
from operators.errors import FatalError, RecordError
from operators.rendering.masks import Masker

MISSING = object()
"""The value of a column that Debezium left out."""

Types: TypeAlias = Mapping[str, Logical]

Reads: TypeAlias = Callable[[Mapping[str, Any], Types, str], Any]
"""Reads one column of a row: `ColumnReader.value`, for example."""


class ColumnReader:
    """Reads the columns of one table.

    Args:
        table: The contract's.
        masker: None where nothing is masked.
    """

    def __init__(self, table: TableSection, masker: Masker | None) -> None:
        self._table = table
        self._masker = masker
        self._masked = frozenset(table.masks if masker is not None else ())
        self._unavailable = Unavailable(table.unavailable_value)
        self.lengths = self._unavailable.lengths
        """Lengths of the placeholder's texts: a text of any other length is not one."""
        self._encodings = {c: from_encoding(e) for c, e in table.encodings.items()}

    def types(self, event: Upsert) -> Types:
        """The columns' types: the message's, and the contract's for columns that it says nothing of.

        Raises:
            RecordError: The message's schema is invalid.
        """
        if event.schema is None:
            return self._encodings
        try:
            types = columns_of(event.schema)
        except (ValueError, TypeError) as error:
            raise RecordError(
                subject=f"schema of {event.position.topic}",
                cause=f"it is no schema of Kafka Connect's: {error}",
                hint="send it as JsonConverter writes it, or without: schemas.enable=false",
            ) from None
        return {**self._encodings, **types} if self._encodings else types

    def value(self, columns: Mapping[str, Any], types: Types, name: str) -> Any:
        """The canonical value of a column, NULL as None, or MISSING.

        Raises:
            RecordError: There is no such column, or its value is not of its type.
            FatalError: The same, if the contract says to halt.
        """
        try:
            value = columns[name]
        except KeyError:
            return self._absent(columns, name)
        # Most values are short texts and numbers, which need no further test.
        kind = type(value)
        if kind is str:
            if len(value) in self.lengths and self._unavailable(value):  # guard: left-out
                return MISSING
        elif value is None:
            return None
        elif (kind is list or kind is dict) and self._unavailable(value):
            return MISSING
        return self._converted(value, types, name)

    def sent(self, columns: Mapping[str, Any], types: Types, name: str) -> Any:
        """The same, of a row that was sent whole: a text like the placeholder is the row's own."""
        value = columns.get(name)
        # The record's headers tell a change of the key from an insert. They are read for nearly every
        # form of the placeholder; in the other forms, it may be either.
        # guard: left-out-literal
        if value is not None and self._unavailable(value) and self._unavailable.is_found(value):
            return self._converted(value, types, name)
        return self.value(columns, types, name)

    def known(self, columns: Mapping[str, Any], name: str) -> Any:
        """The same, of values that the database itself has given."""
        value = columns[name]
        return None if value is None else self._converted(value, {}, name)

    def reader(self, event: Upsert) -> Reads:
        """What reads the columns of an event's row: `value` or `sent`."""
        return self.sent if event.inserted else self.value

    def _converted(self, value: Any, types: Types, name: str) -> Any:
        if types:
            logical = types.get(name)
            if logical is not None:
                try:
                    value = logical_value(logical, value)
                except (ValueError, TypeError, OverflowError) as error:
                    return self.retyped(self._table.topic, name, logical.kind, error)
        if name in self._masked:  # guard: mask-value
            assert self._masker is not None
            value = self._masker.value(name, value)
        return value

    def retyped(self, subject: str, column: str, kind: str, error: Exception) -> Any:
        """Apply `drift.retyped` to a value that does not fit: return NULL, or raise.

        Raises:
            RecordError: The contract says "dead-letter".
            FatalError: The contract says "halt".
        """
        policy = self._table.drift.retyped
        if policy == "null":
            return None
        raise (FatalError if policy == "halt" else RecordError)(
            subject=f"{subject}, column '{column}'",
            cause=f"it does not fit into {kind}: {error}",
            hint="change the column's type in the contract",
        ) from None

    def _absent(self, columns: Mapping[str, Any], name: str) -> Any:
        policy = self._table.drift.missing
        # guard: absent-field
        if policy == "null" or (policy is None and isinstance(columns, Document)):
            return None
        raise (FatalError if policy == "halt" else RecordError)(
            subject=f"column '{name}' of {self._table.topic}",
            cause=f"the row has no such column but {names_of(columns)}",
            hint="correct the table's `text` and `columns` in the contract"
            + (
                '; or, if documents may lack it, say drift = { missing = "null" }'
                * ("_id" in columns)
            ),
        ) from None
