"""What the raw value of a column stands for, and how a field of Milvus holds it.

Debezium writes one SQL value in many ways: a decimal as the base64 of its digits, a string or a
double, a moment as a count of days, milli-, micro- or nanoseconds or as ISO text. What tells them
apart is the schema of the message, or the contract's `encodings` where there is none: a `Logical`.
`logical_value` makes the canonical value of it, the same for every way of writing. `as_text` and
`as_field` say how that one is embedded and stored:

| value            | varchar and text          | int64, int32           | double, float   | json      |
|------------------|---------------------------|------------------------|-----------------|-----------|
| decimal          | all its digits: 12.30     | if it is whole         | the nearest     | as text   |
| NaN, Infinity    | by that name              | refused                | NULL            | NULL      |
| date             | 2024-01-02                | days since 1970        | as int64        | as text   |
| time             | 03:04:05.5                | microseconds of day    | as int64        | as text   |
| timestamp        | 2024-01-02T03:04:05.5     | microseconds since 1970| as int64        | as text   |
| with a time zone | the same in UTC, with a Z | the same               | as int64        | as text   |
| its infinity     | infinity, -infinity       | the largest, smallest  | NULL            | as text   |
| interval (count) | PT36H5.5S, -PT1S          | microseconds           | as int64        | as text   |
| bits             | the number they spell     | the number             | the number      | number    |
| bytes            | base64                    | refused                | refused         | as text   |
| boolean          | true, false               | 1, 0                   | 1, 0            | boolean   |
| number           | as it is                  | if whole and in range  | the nearest     | number    |
| string           | as it is                  | if it spells a number  | if it spells one| its JSON  |
| array, map       | compact JSON              | refused                | refused         | as it is  |

A bool field takes a boolean, and 0 and 1 for databases that have none. A string in a json field is
read as JSON, since SQL's json arrives as such, and stays a string if it is none; JSON's null is NULL.
Inside of json a NaN or an infinity becomes null, and what JSON has no word for becomes text. Milvus
filters by no NaN, hence NULL. UUID, enum, set, XML, year, and PostgreSQL's interval as a string are
plain strings or numbers already; geometries are maps, vectors are arrays.

Fractions of a second are written down to the last digit that is not 0. An int64 has microseconds,
rounded down. Years below 1 and above 9999 are written as ISO 8601 expands them: -0044, +12024.

MySQL's BIGINT UNSIGNED above 2^63 - 1 arrives as a negative number that nothing tells from a true
one, unless the connector's `bigint.unsigned.handling.mode` is `precise`.
"""

import binascii
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from operators.table import ColumnSpec, ColumnType


class Logical(NamedTuple):
    """What the raw values of a column stand for.

    Attributes:
        kind: `decimal`, `variable decimal`, `date`, `time`, `timestamp`, `zoned time`,
            `zoned timestamp`, `interval`, `bytes`, `bits`, `float`, `json`, and `array`, `map` and
            `struct` of such. The zoned ones are in UTC if the text says where it is, and without a
            zone if it does not; the others never have one, even where Debezium writes a `Z`.
        unit: What a moment is counted in, `days`, `ms`, `us`, `ns`, or that it is `iso` text;
            whether bytes are `base64` or `hex`.
        scale: Digits after a decimal's point.
        parts: Of an array or a map what each value is, by ""; of a struct those of its fields.
    """

    kind: str
    unit: str = ""
    scale: int = 0
    parts: "tuple[tuple[str, Logical], ...]" = ()


class Moment(NamedTuple):
    """A date, time, timestamp or interval. Those of one kind compare as what they stand for.

    Attributes:
        kind: `date`, `time`, `timestamp` or `interval`.
        ticks: Days since 1970-01-01 of a date, nanoseconds of the others: since 1970-01-01, since
            midnight, or long. The infinities are `math.inf` and `-math.inf`; no other is a float.
        zoned: It is an instant in UTC, and not what some clock shows.
    """

    kind: str
    ticks: int | float
    zoned: bool = False


_Temporal: TypeAlias = Moment | date | time | timedelta

MAX_DECIMAL_BYTES = 65_536
"""More than the largest numeric that PostgreSQL computes with: 147,455 digits."""

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
    """Those columns of a row whose raw values stand for something else, and for what.

    Args:
        schema: Of `Upsert`: the fields of Connect's struct schema as JsonConverter writes them; or
            a mapping that a decoder made already; or None, which says nothing.

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
    """What values of one Connect schema stand for; None if they are what they look like.

    Args:
        schema: As JsonConverter writes it: `type`, and where it applies `name`, `parameters`,
            `items`, `values`, `fields`.

    Raises:
        ValueError: The scale of a decimal is no sensible number.
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
        return None  # Vectors and geometries: what is in them needs nothing, and vectors are long.
    parts: Sequence[tuple[str, Logical]] = ()
    if kind == "struct":
        parts = tuple(columns_of(schema["fields"]).items())
    elif kind == "array" or schema["keys"]["type"] == "string":
        part = logical_of(schema["items" if kind == "array" else "values"])
        parts = (("", part),) if part else ()
    return Logical(kind, parts=tuple(parts)) if parts else None


def from_encoding(text: str) -> Logical:
    """What an `encodings` entry of the contract says of a column.

    Raises:
        ValueError: There is no such encoding.
    """
    kind, _, rest = text.partition("-")
    if text.startswith("decimal(") and text.endswith(")"):
        return Logical("decimal", scale=_scale(text[8:-1]))
    if text == "json":
        return Logical("json")
    if kind in ("time", "timestamp") and rest == "iso":
        # Nothing tells whether Debezium's Z is meant, so it is taken as it is written.
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
    """The canonical value: one for all ways to write it.

    A decimal is a `decimal.Decimal`, a date, time, timestamp or interval a `Moment`, bytes are
    `bytes`, bits an `int`; the rest stays what it is. None is None, and a value that Avro or Protobuf
    brought as Python's own type is taken as such.

    Raises:
        ValueError: It is nothing that the schema describes. The message does not quote it.
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
        raise _mismatch(logical) from None


class _MismatchError(ValueError):
    """Of a part: says more than its whole could."""


def _mismatch(logical: Logical) -> ValueError:
    written = f" in {logical.unit}" if logical.unit else ""
    return _MismatchError(f"it is no {logical.kind}{written}, which its schema says it is")


def _scale(value: Any) -> int:
    try:
        scale = int(value)
    except (ValueError, TypeError):
        raise ValueError("the scale of a decimal is not a number") from None
    # A scale is what a few bytes can blow up to gigabytes of zeros with.
    if abs(scale) > 2 * MAX_DECIMAL_BYTES:
        raise ValueError("the scale of a decimal is out of range")
    return scale


def _decimal(logical: Logical, raw: Any) -> Decimal:
    if isinstance(raw, Decimal):
        return raw
    if isinstance(raw, str | bytes):
        return _unscaled(_bytes(logical, raw), logical.scale)
    # JsonConverter with decimal.format=NUMERIC: trailing zeros are lost in the number.
    value = Decimal(repr(_number(raw)))
    if not 0 <= logical.scale <= 38:
        return value
    padded = Decimal(f"{value:.{logical.scale}f}")
    return padded if padded == value else value


def _variable_decimal(logical: Logical, raw: Any) -> Decimal:
    if isinstance(raw, Decimal):
        return raw
    return _unscaled(_bytes(logical, raw["value"]), _scale(raw["scale"]))


def _unscaled(digits: bytes, scale: int) -> Decimal:
    if not 0 < len(digits) <= MAX_DECIMAL_BYTES:
        raise ValueError
    number = Decimal(int.from_bytes(digits, "big", signed=True))
    # By its digits: arithmetic would round to the precision of the context.
    sign, figures, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    return Decimal((sign, figures, exponent - scale)) if scale else number


def _bytes(logical: Logical, raw: Any) -> bytes:
    if isinstance(raw, bytes):
        return raw
    if logical.unit == "hex":
        return binascii.unhexlify(raw)
    return binascii.a2b_base64(raw, strict_mode=True)


def _bits(logical: Logical, raw: Any) -> int:
    return int.from_bytes(_bytes(logical, raw), "little")


def _float(_logical: Logical, raw: Any) -> float | int:
    return _NOT_FINITE[raw] if isinstance(raw, str) else _number(raw)


def _number(raw: Any) -> int | float:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise TypeError
    return raw


def _array(logical: Logical, raw: Any) -> list[Any]:
    if not isinstance(raw, list | tuple):
        raise TypeError
    item = logical.parts[0][1]
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


# Moments

_NANOS = {"ms": 1_000_000, "us": 1_000, "ns": 1}
_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
_INFINITE = {"infinity": math.inf, "-infinity": -math.inf}

# What PostgreSQL's connector sends for the infinities where it has only numbers; as ISO text it
# writes the same as the dates that they would be. A date is the driver's, its overflow included.
_INFINITE_DAYS = {-2_147_472_692: math.inf, -2_147_472_691: -math.inf}
_INFINITE_MICROS = {
    9_223_372_036_825_200_000: math.inf,
    -9_223_372_036_832_400_000: -math.inf,
}
_INFINITE_COUNTS = {
    "ms": {count // 1_000: sign for count, sign in _INFINITE_MICROS.items()},
    "us": _INFINITE_MICROS,
    "ns": {2**63 - 1: math.inf, -(2**63): -math.inf},
}

_ZONE = r"(Z|(?P<sign>[+-])(?P<zh>\d\d):?(?P<zm>\d\d)?(:(?P<zs>\d\d))?)?"
_ISO_DATE = r"(?P<year>[+-]?\d{4,9})-(?P<month>\d\d)-(?P<day>\d\d)"
_ISO_TIME = r"(?P<h>\d{2,4}):(?P<m>[0-5]\d)(:(?P<s>[0-5]\d)(\.(?P<fraction>\d{1,9}))?)?"
_PATTERNS = {
    "date": re.compile(_ISO_DATE + _ZONE, re.ASCII),
    "time": re.compile("(?P<minus>-)?" + _ISO_TIME + _ZONE, re.ASCII),
    "timestamp": re.compile(f"{_ISO_DATE}([T ]{_ISO_TIME}{_ZONE})?", re.ASCII),
}

# The Gregorian calendar repeats itself after 400 years, so Python's, which ends, serves for all.
_ERA_DAYS = 146_097
_EPOCH = date(1970, 1, 1).toordinal()


def _moment(logical: Logical, raw: Any) -> Moment:
    zoned, kind = logical.kind.startswith("zoned "), logical.kind.removeprefix("zoned ")
    if isinstance(raw, _Temporal):
        moment = _from_python(raw)
        if moment.kind != kind:
            raise TypeError
        return moment if zoned else moment._replace(zoned=False)
    if isinstance(raw, str) and raw in _INFINITE and kind in ("date", "timestamp"):
        return Moment(kind, _INFINITE[raw], zoned)
    if logical.unit == "iso":
        moment = _from_iso(kind, raw)
        return moment if zoned else moment._replace(zoned=False)
    count = _number(raw)
    if count != int(count):
        raise ValueError
    count = int(count)
    if kind == "date":
        return Moment(kind, _INFINITE_DAYS.get(count, count))
    if kind == "timestamp" and count in _INFINITE_COUNTS[logical.unit]:
        return Moment(kind, _INFINITE_COUNTS[logical.unit][count])
    return Moment(kind, count * _NANOS[logical.unit])


def _from_iso(kind: str, text: str) -> Moment:
    match = _PATTERNS[kind].fullmatch(text)
    if match is None:
        raise ValueError
    part = match.groupdict()
    days = nanos = 0
    if kind != "time":
        era, year = divmod(int(part["year"]) - 1, 400)
        ordinal = date(year + 1, int(part["month"]), int(part["day"])).toordinal()
        days = ordinal - _EPOCH + era * _ERA_DAYS
    if kind == "date":
        return Moment(kind, _INFINITE_DAYS.get(days, days))
    if part["h"]:
        seconds = (int(part["h"]) * 60 + int(part["m"])) * 60 + int(part["s"] or 0)
        nanos = seconds * _SECOND + int((part["fraction"] or "").ljust(9, "0"))
    zoned = match[0].endswith("Z") or part["sign"] is not None
    offset = _offset(part)
    if kind == "time":
        # The day's end, 24:00, is not its beginning; but what moves over midnight starts again.
        nanos = (nanos - offset) % _DAY if offset else nanos
        return Moment(kind, -nanos if part["minus"] else nanos, zoned)
    if nanos > _DAY:
        raise ValueError
    count = days * _DAY + nanos - offset
    return Moment(kind, _INFINITE_MICROS.get(count // 1_000, count), zoned)


def _offset(part: Mapping[str, str | None]) -> int:
    hours, minutes, seconds = (int(part[name] or 0) for name in ("zh", "zm", "zs"))
    total = (hours * 60 + minutes) * 60 + seconds
    return (-total if part["sign"] == "-" else total) * _SECOND


def _from_python(value: _Temporal) -> Moment:
    micro = timedelta(microseconds=1)
    match value:
        case Moment():
            return value
        case datetime():
            zoned = value.tzinfo is not None
            since = (value.astimezone(UTC) if zoned else value).replace(tzinfo=None)
            return Moment("timestamp", (since - datetime(1970, 1, 1)) // micro * 1_000, zoned)
        case date():
            return Moment("date", value.toordinal() - _EPOCH)
        case timedelta():
            return Moment("interval", value // micro * 1_000)
        case time():
            return _from_iso("time", value.isoformat())


def _iso(moment: Moment) -> str:
    kind, ticks, zoned = moment
    if isinstance(ticks, float):
        return "infinity" if ticks > 0 else "-infinity"
    if kind == "date":
        return _iso_date(ticks)
    if kind == "interval":
        return ("-PT" if ticks < 0 else "PT") + _iso_duration(abs(ticks))
    if kind == "timestamp":
        days, nanos = divmod(ticks, _DAY)
        text = f"{_iso_date(days)}T{_iso_time(nanos)}"
    else:
        text = ("-" if ticks < 0 else "") + _iso_time(abs(ticks))
    return text + "Z" if zoned else text


def _iso_date(days: int) -> str:
    era, rest = divmod(days + _EPOCH - 1, _ERA_DAYS)
    day = date.fromordinal(rest + 1)
    year = day.year + era * 400
    sign = "-" if year < 0 else "+" if year > 9_999 else ""
    return f"{sign}{abs(year):04d}-{day.month:02d}-{day.day:02d}"


def _iso_time(nanos: int) -> str:
    seconds, nanos = divmod(nanos, _SECOND)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{_fraction(nanos)}"


def _iso_duration(nanos: int) -> str:
    seconds, nanos = divmod(nanos, _SECOND)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    return text + f"{seconds}{_fraction(nanos)}S" if seconds or nanos or not text else text


def _fraction(nanos: int) -> str:
    return f".{nanos:09d}".rstrip("0") if nanos else ""


_READERS: Mapping[str, Callable[[Logical, Any], Any]] = {
    "decimal": _decimal,
    "variable decimal": _variable_decimal,
    "date": _moment,
    "time": _moment,
    "timestamp": _moment,
    "zoned time": _moment,
    "zoned timestamp": _moment,
    "interval": _moment,
    "bytes": _bytes,
    "bits": _bits,
    "float": _float,
    "array": _array,
    "map": _map,
    "struct": _struct,
}

# Values as they are embedded and stored


def as_text(value: Any) -> str:
    """A canonical value as text, for templates and varchar fields; None is empty.

    Raises:
        ValueError: It is nested too deep, or holds an integer of thousands of digits.
        TypeError: It is of a type that no column has.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return _digits(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else _NAMES[repr(value)]
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, _Temporal):
        return _iso(_from_python(value))
    if isinstance(value, Mapping | list | tuple):
        try:
            return _ENCODER.encode(_plain(value))
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        except ValueError:
            raise ValueError("it holds a number of too many digits") from None
    if isinstance(value, bytes | bytearray | memoryview):
        return binascii.b2a_base64(value, newline=False).decode()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"it is of the type {type(value).__name__}, which no column has")


def as_field(value: Any, spec: ColumnSpec) -> Any:
    """A canonical value as the column's field in Milvus holds it; see the module for which is how.

    Raises:
        ValueError: The field cannot hold it. The message does not quote it.
        TypeError: It is of a type that no column has.
    """
    return None if value is None else _FIELDS[spec.type](value, spec)


# What Debezium writes where JSON has no number: a double's NaN, and a numeric's under
# decimal.handling.mode=string.
_NOT_FINITE = {
    "NaN": math.nan,
    "NAN": math.nan,
    "Infinity": math.inf,
    "POSITIVE_INFINITY": math.inf,
    "-Infinity": -math.inf,
    "NEGATIVE_INFINITY": -math.inf,
}
_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_INT_LIMITS = {"int64": 2**63, "int32": 2**31}
_REAL_LIMITS = {"double": sys.float_info.max, "float": 3.4028234663852886e38}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?", re.ASCII)
_MAX_PRINTED = 10**4_000
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _digits(number: int) -> str:
    # Python refuses to print an integer of more than 4,300 digits; a Decimal has no such limit.
    return str(number) if -_MAX_PRINTED < number < _MAX_PRINTED else f"{Decimal(number):f}"


def _plain(value: Any) -> Any:
    """What JSON can say of a value, as the types that JSON has."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal) and not value.is_finite():
        return None
    if isinstance(value, Mapping):
        return {as_text(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, Moment):
        return [_plain(each) for each in value]
    return as_text(value)


def _varchar(value: Any, spec: ColumnSpec) -> str:
    text = as_text(value)
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("it is not valid Unicode (a lone surrogate)") from None
    if size > spec.max_length:
        raise ValueError(f"it has more than max_length = {spec.max_length} bytes")
    return text


def _integer(value: Any, spec: ColumnSpec) -> int:
    limit = _INT_LIMITS[spec.type]
    if isinstance(value, _Temporal):
        value = _counted(value)
        if isinstance(value, float):  # PostgreSQL's infinity is later than every moment.
            return limit - 1 if value > 0 else -limit
    number = _whole(value)
    if not -limit <= number < limit:
        raise ValueError("it is out of range")
    return number


def _counted(value: _Temporal) -> int | float:
    kind, ticks, _ = _from_python(value)
    return ticks if kind == "date" or isinstance(ticks, float) else ticks // 1_000


def _whole(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    number = _as_decimal(value)
    if number is None or not number.is_finite():
        raise ValueError("it is not a whole number")
    if not number:
        return 0
    if number != number.to_integral_value():
        raise ValueError("it has a fraction")
    if number.adjusted() > 20:  # As an int, a number of a million digits takes a minute to make.
        raise ValueError("it is out of range")
    return int(number)


def _as_decimal(value: Any) -> Decimal | None:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, float):
        return Decimal(value)
    if isinstance(value, str):
        text = value.strip()
        if text in _NOT_FINITE:
            return Decimal(_NOT_FINITE[text])
        if _NUMBER.fullmatch(text):
            return Decimal(text)
    return None


def _real(value: Any, spec: ColumnSpec) -> float | None:
    if isinstance(value, _Temporal):
        value = _counted(value)
    number = value if isinstance(value, int | float) else _as_decimal(value)
    if number is None:
        raise ValueError("it is not a number")
    if number != number or number in (math.inf, -math.inf):
        return None
    try:
        real = float(number)
    except OverflowError:
        real = math.inf
    if abs(real) > _REAL_LIMITS[spec.type]:
        raise ValueError("it is out of range")
    return real


def _boolean(value: Any, _spec: ColumnSpec) -> bool:
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ValueError("it is not a boolean")


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


# parse_constant is what happens to NaN, which is no JSON, and yet what many write.
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None)


def _json(value: Any, _spec: ColumnSpec) -> Any:
    try:
        if not isinstance(value, str):
            return _plain(value)
        try:
            return _DECODER.decode(value)
        except json.JSONDecodeError:
            return value
        except ValueError:
            raise ValueError("it holds a number of too many digits") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


_FIELDS: Mapping[ColumnType, Callable[[Any, ColumnSpec], Any]] = {
    "varchar": _varchar,
    "int64": _integer,
    "int32": _integer,
    "double": _real,
    "float": _real,
    "bool": _boolean,
    "json": _json,
}
