"""Avro schemas, as Connect's AvroConverter writes them: how to convert values, and the columns' types.

Does not use a registry. Values come out as in Debezium's JSON, so that all code after the decoder is
the same for both: bytes as base64 text, NaN and infinity as strings; decimals, dates and times as
they were written, with a `Logical` that says what they mean.
"""

import json
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from fastavro import parse_schema

from operators.codec.envelope import has_marks
from operators.codec.logical_types import Logical, columns_of

Convert: TypeAlias = Callable[[Any], Any]

_SET_ASIDE = "rowvec.logicalType"

_CONNECT_NAMES = {
    "decimal": "org.apache.kafka.connect.data.Decimal",
    "date": "org.apache.kafka.connect.data.Date",
    "time-millis": "org.apache.kafka.connect.data.Time",
    "time-micros": "io.debezium.time.MicroTime",
    "timestamp-millis": "org.apache.kafka.connect.data.Timestamp",
    "timestamp-micros": "io.debezium.time.MicroTimestamp",
    "timestamp-nanos": "io.debezium.time.NanoTimestamp",
    "local-timestamp-millis": "org.apache.kafka.connect.data.Timestamp",
    "local-timestamp-micros": "io.debezium.time.MicroTimestamp",
    "local-timestamp-nanos": "io.debezium.time.NanoTimestamp",
}
"""Avro's own logical types, and the name that Connect or Debezium gives to the same encoding."""

_CONNECT_TYPES = {
    "boolean": "boolean",
    "int": "int32",
    "long": "int64",
    "float": "float",
    "double": "double",
    "bytes": "bytes",
    "fixed": "bytes",
    "string": "string",
    "enum": "string",
    "array": "array",
    "map": "map",
    "record": "struct",
    "error": "struct",
}


class AvroSchema(NamedTuple):
    """What a writer schema says about its values.

    Attributes:
        convert: Makes a decoded value what JSON would have, in place if possible; None if it is that.
        columns: The logical types of the row's columns; None if the value is no record.
    """

    convert: Convert | None
    columns: Mapping[str, Logical] | None


def without_conversions(text: str) -> str:
    """The schema with its logical types renamed, so that fastavro leaves values as written.

    fastavro's conversions refuse values that SQL has: a date beyond the year 9999 (PostgreSQL's
    infinity is one), or a decimal whose scale is larger than its precision.
    """
    return json.dumps(json.loads(text, object_hook=_set_aside))


def read_schema(text: str, references: Iterable[str]) -> AvroSchema:
    """Read a schema; needed once for each.

    Args:
        text: The writer schema, from `without_conversions`.
        references: The schemas that it refers to, likewise; each after those that it refers to.

    Raises:
        ValueError, fastavro.schema.SchemaParseException: It is no Avro schema, or lacks a reference.
    """
    named: dict[str, Any] = {}
    for reference in references:
        parse_schema(json.loads(reference), named)
    schema = parse_schema(json.loads(text), named)
    row = _row(schema, named)
    columns = None if row is None else columns_of(_fields(row, named, (row["name"],)))
    return AvroSchema(_Conversions(named).of(schema), columns)


def _set_aside(schema: dict[str, Any]) -> dict[str, Any]:
    if "logicalType" in schema:
        schema[_SET_ASIDE] = schema.pop("logicalType")
    return schema


class _Conversions:
    """Builds the conversion of each type of one schema; a type may contain itself."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, Convert | None] = {}
        self._making: set[str] = set()

    def of(self, schema: Any) -> Convert | None:
        """The conversion of values of this type; None if they need none."""
        if isinstance(schema, list):
            return self._union(schema)
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(kind, dict | list):
            return self.of(kind)
        match kind:
            case "bytes" | "fixed":
                return base64_text
            case "float":
                return shortest
            case "double":
                return finite
            case "array":
                return _each(self.of(schema["items"]))
            case "map":
                return _each_value(self.of(schema["values"]))
            case "record" | "error":
                return self._record(schema["name"])
            case _:
                return (
                    self._record(kind) if _is_record(self._named.get(kind)) else self._other(kind)
                )

    def _other(self, kind: str) -> Convert | None:
        fixed = self._named.get(kind, {}).get("type") == "fixed"
        return base64_text if fixed else None

    def _union(self, branches: list[Any]) -> Convert | None:
        made = [self.of(branch) for branch in branches if branch != "null"]
        if not any(made):
            return None
        only = made[0] if len(made) == 1 else _by_value
        assert only is not None
        return lambda value: None if value is None else only(value)

    def _record(self, name: str) -> Convert | None:
        if name in self._making:
            return lambda value: self._again(name, value)
        if name not in self._made:
            self._making.add(name)
            fields = self._named[name]["fields"]
            made = [(field["name"], self.of(field["type"])) for field in fields]
            wanted = [(field, convert) for field, convert in made if convert is not None]
            self._made[name] = _each_field(wanted) if wanted else None
            self._making.discard(name)
        return self._made[name]

    def _again(self, name: str, value: Any) -> Any:
        convert = self._made[name]
        return convert(value) if convert else value


def base64_text(value: bytes) -> str:
    """Bytes as Connect's JSON writes them."""
    return b64encode(value).decode()


def finite(value: float) -> float | str:
    """A double as Connect's JSON has it, which has no numbers for NaN and infinity."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def shortest(value: float) -> float | str:
    """A single-precision number as JSON has it: 0.1, which as a double is 0.10000000149011612."""
    return float(str(np.float32(value))) if math.isfinite(value) else finite(value)


def _each(convert: Convert | None) -> Convert | None:
    return convert and (lambda values: [convert(value) for value in values])


def _each_value(convert: Convert | None) -> Convert | None:
    return convert and (lambda values: {name: convert(value) for name, value in values.items()})


def _each_field(fields: list[tuple[str, Convert]]) -> Convert:
    def convert(record: dict[str, Any]) -> dict[str, Any]:
        for name, each in fields:
            record[name] = each(record[name])
        return record

    return convert


def _by_value(value: Any) -> Any:
    """Convert a value of a union of several types by its Python type: its branch is not known."""
    match value:
        case bytes():
            return base64_text(value)
        case float():
            return finite(value)
        case list():
            return [_by_value(each) for each in value]
        case dict():
            return {name: _by_value(each) for name, each in value.items()}
        case _:
            return value


def _is_record(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") in ("record", "error")


def _resolved(schema: Any, named: Mapping[str, Any]) -> Any:
    """The definition of a type, or of the one type that a union has besides null."""
    if isinstance(schema, list):
        branches = [branch for branch in schema if branch != "null"]
        schema = branches[0] if len(branches) == 1 else None
    if isinstance(schema, dict) and isinstance(schema.get("type"), dict | list):
        return _resolved(schema["type"], named)
    return named.get(schema, schema) if isinstance(schema, str) else schema


def _row(schema: Any, named: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record that holds the columns: an envelope's `after`, or the value itself."""
    schema = _resolved(schema, named)
    if not _is_record(schema):
        return None
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    # As `codec.shapes` tells an envelope, as far as a schema can tell.
    if {"op", "source", "after"} <= fields.keys() and not has_marks(fields):
        after, source = (_resolved(fields[name], named) for name in ("after", "source"))
        if _is_record(after) and _is_record(source):
            schema = after
    found: dict[str, Any] = schema
    return found


def _connect(schema: Any, named: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A type as JsonConverter would describe it, as far as `codec.logical_types` reads that."""
    schema = _resolved(schema, named)
    if not isinstance(schema, dict):
        # Connect has no union of several types.
        return {"type": _CONNECT_TYPES.get(schema, "") if isinstance(schema, str) else ""}
    kind = schema["type"]
    found: dict[str, Any] = {"type": _CONNECT_TYPES.get(kind, "")}
    name = schema.get("connect.name") or _CONNECT_NAMES.get(schema.get(_SET_ASIDE, ""))
    if name is not None:
        scale = schema.get("connect.parameters", {}).get("scale", schema.get("scale", 0))
        found |= {"name": name, "parameters": {"scale": str(scale)}}
    if kind == "array":
        found["items"] = _connect(schema["items"], named, above)
    elif kind == "map":
        found |= {"keys": {"type": "string"}, "values": _connect(schema["values"], named, above)}
    elif _is_record(schema):
        within = (*above, schema["name"])
        found["fields"] = [] if schema["name"] in above else _fields(schema, named, within)
    return found


def _fields(
    record: Mapping[str, Any], named: Mapping[str, Any], above: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    fields = record["fields"]
    return [{**_connect(each["type"], named, above), "field": each["name"]} for each in fields]
