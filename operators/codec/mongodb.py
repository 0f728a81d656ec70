"""MongoDB's documents, which Debezium sends as text, as columns."""

from typing import Any

import orjson

from operators.changes import exact_json
from operators.errors import RecordError


class Document(dict[str, Any]):
    """The fields of one of MongoDB's documents; it has no others, and NULL is one that is not there."""


def document_of(text: str) -> Any:
    """The columns of a document in extended JSON; typed values such as `$oid` become plain ones."""
    try:
        fields = _plain(exact_json.loads(text))
    except (orjson.JSONDecodeError, RecursionError):
        raise RecordError(
            subject="value",
            cause="`after` is a text that is no JSON, or nested too deep",
            hint="leave out the field that is (field.exclude.list)",
        ) from None
    return Document(fields) if isinstance(fields, dict) else fields


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        match name:
            case "$oid" | "$numberDecimal" | "$symbol" | "$uuid":
                return inner
            case "$numberLong" | "$numberInt" if isinstance(inner, str):
                digits = inner.removeprefix("-")
                return int(inner) if digits.isdecimal() and len(digits) < 20 else inner
            case "$numberDouble" if isinstance(inner, str):
                try:
                    return float(inner)
                except ValueError:
                    return inner
            case "$date":
                return _plain(inner)
            case "$binary" if isinstance(inner, dict):
                return inner.get("base64")
    if value.keys() == {"$binary", "$type"}:
        return value["$binary"]
    return {name: _plain(each) for name, each in value.items()}
