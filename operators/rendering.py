"""A row's columns → the text that is embedded and the fields that are mirrored, under the contract."""

import hashlib
import string
from collections.abc import Mapping
from typing import Any

import orjson

from operators.contract import MAX_VARCHAR_BYTES, ColumnSpec, TableSection
from operators.debezium import is_unavailable
from operators.errors import RecordError
from operators.events import Row, Upsert

_INT_RANGES = {"int64": 2**63, "int32": 2**31}


def text_hash(text: str) -> str:
    """Hex digest of a text, 128 bits: equal hashes stand for equal texts."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Renderer:
    """Renders the rows of one table; parses its template once."""

    def __init__(self, table: TableSection) -> None:
        self._table = table
        self._pieces: list[tuple[str, str | None]] = [
            (literal, name) for literal, name, _, _ in string.Formatter().parse(table.text)
        ]
        self._fields = [
            (column, spec.field or column, spec) for column, spec in table.columns.items()
        ]

    def render(self, event: Upsert) -> Row:
        """The row as the store will hold it, but for its vector.

        Raises:
            RecordError: A column is not in the row, has a value its field cannot hold, was left out by
                Debezium (TOAST), or the text is too long to be stored.
        """
        columns = event.columns
        text = "".join(
            literal if name is None else literal + _as_text(self._value(columns, name))
            for literal, name in self._pieces
        )
        encoded = len(text) if text.isascii() else len(text.encode())
        if encoded > MAX_VARCHAR_BYTES:
            raise RecordError(
                subject=str(event.row_key),
                cause=f"its text has {encoded:,} bytes; Milvus stores up to {MAX_VARCHAR_BYTES:,}",
                hint="leave the large column out of the template, or split the row in SQL",
            )
        return Row(
            row_key=event.row_key,
            version=event.version,
            position=event.position,
            source_ts_ms=event.source_ts_ms,
            op=event.op,
            table=self._table.name,
            text=text,
            text_hash=text_hash(text),
            columns={
                field: self._field(event, column, spec) for column, field, spec in self._fields
            },
        )

    def _value(self, columns: Mapping[str, Any], name: str) -> Any:
        try:
            value = columns[name]
        except KeyError:
            raise RecordError(
                subject=f"column '{name}' of {self._table.topic}",
                cause=f"the row has no such column but {', '.join(sorted(columns)[:20])}",
                hint="correct the table's `text` and `columns` in the contract",
            ) from None
        if is_unavailable(value):
            raise RecordError(
                subject=f"column '{name}' of {self._table.topic}",
                cause="Debezium left the unchanged large value out (TOAST)",
                hint=f"ALTER TABLE {self._table.name} REPLICA IDENTITY FULL",
            )
        return value

    def _field(self, event: Upsert, column: str, spec: ColumnSpec) -> Any:
        value = self._value(event.columns, column)
        if value is None:
            return None
        try:
            return _convert(value, spec)
        except (ValueError, TypeError, OverflowError) as error:
            raise RecordError(
                subject=f"{event.row_key}, column '{column}'",
                cause=f"it does not fit into {spec.type}: {error}",
                hint="change the column's type in the contract",
            ) from None


def _as_text(value: Any) -> str:
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case _:
            return orjson.dumps(value).decode()


def _convert(value: Any, spec: ColumnSpec) -> Any:
    """`value` as the field's type; raises ValueError without quoting the value (it may be private)."""
    match spec.type:
        case "varchar":
            text = _as_text(value)
            if len(text.encode()) > spec.max_length:
                raise ValueError(f"it has more than max_length = {spec.max_length} bytes")
            return text
        case "int64" | "int32":
            try:
                number = int(value)
            except ValueError:
                raise ValueError("it is not a whole number") from None
            if isinstance(value, float) and number != value:
                raise ValueError("it has a fraction")
            limit = _INT_RANGES[spec.type]
            if not -limit <= number < limit:
                raise ValueError("it is out of range")
            return number
        case "double" | "float":
            try:
                return float(value)
            except ValueError:
                raise ValueError("it is not a number") from None
        case "bool":
            if not isinstance(value, bool):
                raise ValueError("it is not a boolean")
            return value
        case "json":
            return _json(value)


def _json(value: Any) -> Any:
    """SQL's json arrives as a string that holds JSON; any other value is JSON already."""
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value
