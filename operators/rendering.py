"""A row's columns → the text that is embedded and the fields that are mirrored, under the contract."""

import hashlib
import string
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from operators.debezium import is_unavailable
from operators.errors import RecordError
from operators.events import Row, Upsert
from operators.table import MAX_VARCHAR_BYTES, ColumnSpec, ColumnType, TableSection

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
            (column, spec.field or column, spec, _CONVERSIONS[spec.type])
            for column, spec in table.columns.items()
        ]

    def render(self, event: Upsert) -> Row:
        """The row as the store will hold it, but for its vector.

        Raises:
            RecordError: A column is not in the row, has a value its field cannot hold, was left out by
                Debezium (TOAST), or the text is too long to be stored.
        """
        columns = event.columns
        pieces: list[str] = []
        for literal, name in self._pieces:
            pieces.append(literal)
            if name is not None:
                pieces.append(_as_text(self._value(columns, name)))
        text = "".join(pieces)
        encoded = len(text) if text.isascii() else len(text.encode())
        if encoded > MAX_VARCHAR_BYTES:
            raise RecordError(
                subject=str(event.row_key),
                cause=f"its text has {encoded:,} bytes; Milvus stores up to {MAX_VARCHAR_BYTES:,}",
                hint="leave the large column out of the template, or split the row in SQL",
            )
        fields: dict[str, Any] = {}
        for column, field, spec, convert in self._fields:
            value = self._value(columns, column)
            if value is not None:
                try:
                    value = convert(value, spec)
                except (ValueError, TypeError, OverflowError) as error:
                    raise RecordError(
                        subject=f"{event.row_key}, column '{column}'",
                        cause=f"it does not fit into {spec.type}: {error}",
                        hint="change the column's type in the contract",
                    ) from None
            fields[field] = value
        return Row(
            event.row_key,
            event.version,
            event.position,
            event.source_ts_ms,
            event.op,
            self._table.name,
            text,
            text_hash(text),
            fields,
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


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return orjson.dumps(value).decode()


# The conversions raise ValueError without quoting the value: it may be private.


def _varchar(value: Any, spec: ColumnSpec) -> str:
    text = _as_text(value)
    if (len(text) if text.isascii() else len(text.encode())) > spec.max_length:
        raise ValueError(f"it has more than max_length = {spec.max_length} bytes")
    return text


def _integer(value: Any, spec: ColumnSpec) -> int:
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


def _number(value: Any, _spec: ColumnSpec) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError("it is not a number") from None


def _boolean(value: Any, _spec: ColumnSpec) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it is not a boolean")
    return value


def _json(value: Any, _spec: ColumnSpec) -> Any:
    """SQL's json arrives as a string that holds JSON; any other value is JSON already."""
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


_CONVERSIONS: dict[ColumnType, Callable[[Any, ColumnSpec], Any]] = {
    "varchar": _varchar,
    "int64": _integer,
    "int32": _integer,
    "double": _number,
    "float": _number,
    "bool": _boolean,
    "json": _json,
}
