"""Logical types: what the raw value of a column means, and the canonical value that it becomes.

Debezium writes one SQL value in many ways: a decimal as the base64 of its digits, a string or a
double; a timestamp as a count of days, milli-, micro- or nanoseconds, or as ISO text. The message's
schema tells them apart, or the contract's `encodings` if there is no schema: both become a `Logical`.
With it `logical_value` makes the canonical value, which is the same for every way of writing;
`operators.rendering.field_values` turns that into text and fields.

MySQL's BIGINT UNSIGNED above 2^63 - 1 arrives as a negative number, which cannot be told from a real
one unless the connector's `bigint.unsigned.handling.mode` is `precise`.
"""

import binascii
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from operators.codec.big_numbers import EXACT, decimal_of
from operators.codec.temporal import Moment, moment_of


class Logical(NamedTuple):
    """What the raw values of a column mean.

    Attributes:
        kind: `decimal`, `variable decimal`, `date`, `time`, `timestamp`, `zoned time`,
            `zoned timestamp`, `interval`, `bytes`, `bits`, `float`, `json`, and `array`, `map` and
            `struct` of such. A zoned value whose text has an offset is converted to UTC; without an
            offset it has no zone. The others never have a zone, even if Debezium writes a `Z`.
        unit: Of a date or time, what it is counted in, `days`, `ms`, `us`, `ns`, or `iso` for text;
            of bytes, `base64` or `hex`.
        scale: Digits after a decimal's point.
        parts: Of an array or a map the type of its values, under ""; of a struct those of its fields.
    """

    kind: str
    unit: str = ""
    scale: int = 0
    parts: "tuple[tuple[str, Logical], ...]" = ()


MAX_DECIMAL_BYTES = 65_536
"""More than the largest numeric that PostgreSQL computes with: 147,455 digits."""

MAX_BITS_BYTES = 65_536
"""Of a bit string: as a number it has 157,827 digits, which is more than any field holds."""

MAX_NUMBERS_CHARACTERS = 2**20
"""Of all numbers of an array as base64. Spelling a number of 64 KiB takes a tenth of a second."""

_DIGITS_OF_BYTES = frozenset({"decimal", "bits"})

NOT_FINITE = {
    "NaN": math.nan,
    "NAN": math.nan,
    "Infinity": math.inf,
    "POSITIVE_INFINITY": math.inf,
    "-Infinity": -math.inf,
    "NEGATIVE_INFINITY": -math.inf,
}
"""Debezium's texts for numbers that JSON cannot write, in a double, and in a numeric under
`decimal.handling.mode=string`."""

_DECIMAL_NAME = "org.apache.kafka.connect.data.Decimal"

_DATE = Logical("date", "days")

_BY_NAME = {
    "io.debezium.data.VariableScaleDecimal": Logical("variable decimal"),
    "io.debezium.data.Bits": Logical("bits"),
    "io.debezium.time.Date": _DATE,
    "io.debezium.time.Time": Logical("time", "ms"),
    "io.debezium.time.MicroTime": Logical("time", "us"),
    "io.debezium.time.NanoTime": Logical("time", "ns"),
    "io.debezium.time.Timestamp": Logical("timestamp", "ms"),
    "io.debezium.time.MicroTimestamp": Logical("timestamp", "us"),
    "io.debezium.time.NanoTimestamp": Logical("timestamp", "ns"),
    "io.debezium.time.IsoDate": Logical("date", "iso"),
    "io.debezium.time.IsoTime": Logical("time", "iso"),
    "io.debezium.time.IsoTimestamp": Logical("timestamp", "iso"),
    "io.debezium.time.ZonedTime": Logical("zoned time", "iso"),
    "io.debezium.time.ZonedTimestamp": Logical("zoned timestamp", "iso"),
    "io.debezium.time.MicroDuration": Logical("interval", "us"),
    "io.debezium.time.NanoDuration": Logical("interval", "ns"),
    "org.apache.kafka.connect.data.Date": _DATE,
    "org.apache.kafka.connect.data.Time": Logical("time", "ms"),
    "org.apache.kafka.connect.data.Timestamp": Logical("timestamp", "ms"),
}

_BY_TYPE = {
    "bytes": Logical("bytes", "base64"),
    "float": Logical("float"),
    "double": Logical("float"),
}

_DECIMALS = {str(scale): Logical("decimal", scale=scale) for scale in range(39)}

_NESTED = frozenset({"array", "map", "struct"})

_NONE: Mapping[str, Logical] = MappingProxyType({})


def columns_of(schema: Any) -> Mapping[str, Logical]:
    """The columns of a row whose raw values need a conversion, with their logical types.

    Args:
        schema: That of `Upsert`: the fields of Connect's struct schema as JsonConverter writes them;
            or the mapping that a registry's decoder made of one; or None if there is no schema.

    Raises:
        ValueError: It is none of these.
    """
    if schema is None:
        return _NONE
    if isinstance(schema, Mapping):
        return schema
    found: dict[str, Logical] = {}
    try:
        for field in schema:
            # This runs for every message, so a column that needs no conversion costs no call.
            name = field.get("name")
            logical = _BY_NAME.get(name)
            if logical is None and (
                name == _DECIMAL_NAME or field["type"] in _BY_TYPE or field["type"] in _NESTED
            ):
                logical = logical_of(field)
            if logical is not None:
                found[field["field"]] = logical
    except (TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("its schema is not one of Kafka Connect") from None
    return found


def logical_of(schema: Mapping[str, Any]) -> Logical | None:
    """The logical type that one Connect schema describes; None if raw values need no conversion.

    Args:
        schema: As JsonConverter writes it: `type`, and where it applies `name`, `parameters`,
            `items`, `values`, `fields`.

    Raises:
        ValueError: The scale of a decimal is not a number, or out of range.
        KeyError: The schema is not complete.
    """
    name, kind = schema.get("name"), schema["type"]
    if name == _DECIMAL_NAME:
        scale = schema["parameters"]["scale"]
        return _DECIMALS.get(scale) or Logical("decimal", scale=_scale(scale))
    if name in _BY_NAME:
        return _BY_NAME[name]
    if kind not in _NESTED:
        return _BY_TYPE.get(kind)
    if name is not None and name.startswith("io.debezium.data."):
        return None  # Vectors and geometries: their items need no conversion, and vectors are long.
    if kind == "struct":
        parts = tuple(columns_of(schema["fields"]).items())
        return Logical(kind, parts=parts) if parts else None
    if kind == "map" and schema["keys"]["type"] != "string":
        return None
    part = logical_of(schema["items" if kind == "array" else "values"])
    return Logical(kind, parts=(("", part),)) if part else None


def from_encoding(text: str) -> Logical:
    """The logical type that an `encodings` entry of the contract names.

    Raises:
        ValueError: There is no such encoding.
    """
    kind, _, rest = text.partition("-")
    if text.startswith("decimal(") and text.endswith(")"):
        return Logical("decimal", scale=_scale(text[8:-1]))
    if text == "json":
        return Logical("json")
    if kind in ("time", "timestamp") and rest == "iso":
        # Without a schema it is not known whether Debezium's Z is meant, so it is taken as written.
        return Logical(f"zoned {kind}", rest)
    if rest not in _UNITS.get(kind, ()):
        raise ValueError(f"'{text}' is no encoding")
    return Logical(kind, rest)


_UNITS = {
    "date": ("days", "iso"),
    "time": ("ms", "us", "ns"),
    "timestamp": ("ms", "us", "ns"),
    "bytes": ("base64", "hex"),
}


def logical_value(logical: Logical, raw: Any) -> Any:
    """The canonical value of a raw one: the same however it was written.

    A decimal is a `decimal.Decimal`, a date, time, timestamp or interval a `Moment`, bytes are
    `bytes`, bits an `int`; any other value stays as it is, and None stays None. A raw value that has
    Python's own type already (from PostgreSQL itself, for example) is accepted.

    Raises:
        ValueError: The value does not fit the type. The message does not quote it.
    """
    if raw is None:
        return None
    read = _READERS.get(logical.kind)
    if read is None:
        return raw
    try:
        return read(logical, raw)
    except _MismatchError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        written = f" in {logical.unit}" if logical.unit else ""
        raise _MismatchError(
            f"it is no {logical.kind}{written}, which its schema says it is"
        ) from None


class _MismatchError(ValueError):
    """Names the nested part that does not fit: more precise than naming the array around it."""


def _scale(value: Any) -> int:
    try:
        scale = int(value)
    except (ValueError, TypeError):
        raise ValueError("the scale of a decimal is not a number") from None
    # Printing a value with a huge scale would turn a few bytes into gigabytes of zeros.
    if abs(scale) > 2 * MAX_DECIMAL_BYTES:
        raise ValueError("the scale of a decimal is out of range")
    return scale


def _decimal(logical: Logical, raw: Any) -> Decimal:
    if isinstance(raw, str | bytes):
        return _unscaled(_bytes(logical, raw), logical.scale)
    # JsonConverter with decimal.format=NUMERIC: trailing zeros are lost in the number.
    value = raw if isinstance(raw, Decimal) else Decimal(repr(_number(raw)))
    return with_scale(value, logical.scale) or value


def with_scale(value: Decimal, scale: int) -> Decimal | None:
    """The same number with this many digits after the point; None if it has no such form."""
    if not value.is_finite() or not 0 <= scale <= 38:
        return None
    padded = value.quantize(Decimal(1).scaleb(-scale), context=EXACT)
    return padded if padded == value else None


def _variable_decimal(logical: Logical, raw: Any) -> Decimal:
    if isinstance(raw, Decimal):
        return raw
    return _unscaled(_bytes(logical, raw["value"]), _scale(raw["scale"]))


def _unscaled(digits: bytes, scale: int) -> Decimal:
    if not 0 < len(digits) <= MAX_DECIMAL_BYTES:  # guard: decimal-bytes
        raise ValueError
    number = decimal_of(int.from_bytes(digits, "big", signed=True))
    return number.scaleb(-scale, context=EXACT) if scale else number


def _bytes(logical: Logical, raw: Any) -> bytes:
    if isinstance(raw, bytes):
        return raw
    if logical.unit == "hex":
        return binascii.unhexlify(raw)
    return binascii.a2b_base64(raw, strict_mode=True)


def _bits(logical: Logical, raw: Any) -> int:
    bits = _bytes(logical, raw)
    if len(bits) > MAX_BITS_BYTES:  # guard: bits-bytes
        raise _MismatchError(f"it has more than {MAX_BITS_BYTES * 8:,} bits")
    return int.from_bytes(bits, "little")


def _float(_logical: Logical, raw: Any) -> float | int:
    if isinstance(raw, Decimal):  # written with more digits than a double has
        return float(raw)
    return NOT_FINITE[raw] if isinstance(raw, str) else _number(raw)


def _number(raw: Any) -> int | float:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise TypeError
    return raw


def _moment(logical: Logical, raw: Any) -> Moment:
    return moment_of(logical.kind, logical.unit, raw)


def _array(logical: Logical, raw: Any) -> list[Any]:
    if not isinstance(raw, list | tuple):
        raise TypeError
    item = logical.parts[0][1]
    if len(raw) > 1 and item.kind in _DIGITS_OF_BYTES:
        written = sum(len(each) for each in raw if isinstance(each, str))
        if written > MAX_NUMBERS_CHARACTERS:  # guard: array-digits
            raise _MismatchError(
                f"its numbers have more than {MAX_NUMBERS_CHARACTERS:,} characters"
            )
    return [logical_value(item, each) for each in raw]


def _map(logical: Logical, raw: Any) -> dict[str, Any]:
    item = logical.parts[0][1]
    return {name: logical_value(item, each) for name, each in _mapping(raw).items()}


def _struct(logical: Logical, raw: Any) -> dict[str, Any]:
    parts = {name: logical_value(part, _mapping(raw).get(name)) for name, part in logical.parts}
    return {**raw, **parts}


def _mapping(raw: Any) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise TypeError
    return raw


_READERS: Mapping[str, Callable[[Logical, Any], Any]] = {
    "decimal": _decimal,
    "variable decimal": _variable_decimal,
    **dict.fromkeys(
        ("date", "time", "timestamp", "zoned time", "zoned timestamp", "interval"), _moment
    ),
    "bytes": _bytes,
    "bits": _bits,
    "float": _float,
    "array": _array,
    "map": _map,
    "struct": _struct,
}
