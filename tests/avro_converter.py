"""Converts a message of JsonConverter with schema into what Connect's AvroConverter would write."""

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import fastavro

_AVRO_TYPES = {
    "int8": "int",
    "int16": "int",
    "int32": "int",
    "int64": "long",
    "float": "float",
    "double": "double",
    "boolean": "boolean",
    "string": "string",
    "bytes": "bytes",
}
_LOGICAL_TYPES = {
    "org.apache.kafka.connect.data.Decimal": "decimal",
    "org.apache.kafka.connect.data.Date": "date",
    "org.apache.kafka.connect.data.Time": "time-millis",
    "org.apache.kafka.connect.data.Timestamp": "timestamp-millis",
}


def to_avro(schema: Mapping[str, Any], payload: Any) -> tuple[str, bytes]:
    """The schema that AvroConverter registers, and the bytes that it writes after the schema id."""
    avro = _type(schema, set(), "root")
    text = json.dumps(avro)
    # The payload holds raw values, so logical types are removed: fastavro would convert the values.
    plain = fastavro.parse_schema(json.loads(text.replace('"logicalType"', '"ignored"')))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, plain, _value(schema, payload))
    return text, out.getvalue()


def _type(schema: Mapping[str, Any], defined: set[str], path: str) -> Any:
    avro = _not_null(schema, defined, path)
    return ["null", avro] if schema.get("optional") else avro


def _not_null(schema: Mapping[str, Any], defined: set[str], path: str) -> Any:
    name = schema.get("name")
    match schema["type"]:
        case "struct":
            return _record(schema, defined, path)
        case "array":
            avro = {"type": "array", "items": _type(schema["items"], defined, f"{path}_item")}
        case "map":
            avro = {"type": "map", "values": _type(schema["values"], defined, f"{path}_value")}
        case kind:
            avro = {"type": _AVRO_TYPES[kind]}
    if name is not None:
        parameters = schema.get("parameters", {})
        avro |= {"connect.version": 1, "connect.name": name, "connect.parameters": parameters}
        if name in _LOGICAL_TYPES:
            avro["logicalType"] = _LOGICAL_TYPES[name]
        if "scale" in parameters:
            avro["scale"] = int(parameters["scale"])
            avro["precision"] = int(parameters.get("connect.decimal.precision", 64))
    return avro


def _record(schema: Mapping[str, Any], defined: set[str], path: str) -> Any:
    full_name = schema.get("name") or f"io.confluent.connect.avro.{path}"
    adjusted = "".join(c if c.isalnum() or c in "_." else "_" for c in full_name)
    if adjusted in defined:
        return adjusted
    defined.add(adjusted)
    namespace, _, short = adjusted.rpartition(".")
    fields = [
        {"name": field["field"], "type": _type(field, defined, f"{path}_{field['field']}")}
        for field in schema["fields"]
    ]
    return {
        "type": "record",
        "name": short,
        "namespace": namespace,
        "fields": fields,
        "connect.name": full_name,
    }


def _value(schema: Mapping[str, Any], value: Any) -> Any:
    if value is None:
        return None
    match schema["type"]:
        case "struct":
            return {each["field"]: _value(each, value[each["field"]]) for each in schema["fields"]}
        case "array":
            return [_value(schema["items"], each) for each in value]
        case "map":
            return {name: _value(schema["values"], each) for name, each in value.items()}
        case "bytes":
            return base64.b64decode(value)
        case "float" | "double":
            return float(value)
        case _:
            return value
