"""How a canonical value becomes text, and a field in Milvus.

`operators.codec.logical_types` makes the canonical values.

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

A bool field takes a boolean, and 0 and 1 from databases without booleans. A string for a json field
is parsed as JSON, since SQL's json arrives as a string, and stays a string if it is not JSON; JSON's
null is NULL. Inside json, NaN and the infinities become null, and types that JSON lacks become text, as
do numbers that readers of JSON would round: decimals that no double holds, and integers of more than
64 bits.
Numbers that are not finite become NULL, because Milvus cannot filter by NaN. UUID, enum, set, XML,
year, and PostgreSQL's interval as a string are plain strings or numbers already; geometries are maps,
vectors are arrays.

A fraction of a second ends with its last digit that is not 0. An int64 has microseconds, rounded
down. Years below 1 and above 9999 have ISO 8601's expanded form: -0044, +12024.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

from operators.changes.exact_json import number_of
from operators.codec.logical_types import NOT_FINITE
from operators.codec.temporal import Temporal, from_python
from operators.codec.text import as_text, plain
from operators.contract.table import ColumnSpec, ColumnType

INT_LIMITS = {"int64": 2**63, "int32": 2**31}

_REAL_LIMITS = {"double": sys.float_info.max, "float": 3.4028234663852886e38}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?", re.ASCII)


def as_field(value: Any, spec: ColumnSpec) -> Any:
    """A canonical value as its field in Milvus stores it; the module's docstring has the rules.

    Raises:
        ValueError: The field cannot hold it. The message does not quote it.
        TypeError: It is of a type that no column has.
    """
    return None if value is None else _FIELDS[spec.type](value, spec)


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
    limit = INT_LIMITS[spec.type]
    if isinstance(value, Temporal):
        value = _counted(value)
        if isinstance(value, float):  # PostgreSQL's infinity is later than any other moment.
            return limit - 1 if value > 0 else -limit
    number = _whole(value)
    if not -limit <= number < limit:
        raise ValueError("it is out of range")
    return number


def _counted(value: Temporal) -> int | float:
    kind, ticks, _ = from_python(value)
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
    if number.adjusted() > 20:  # Making an int of a million digits takes a minute.
        raise ValueError("it is out of range")
    return int(number)


def _as_decimal(value: Any) -> Decimal | None:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, float):
        return Decimal(value)
    if isinstance(value, str):
        text = value.strip()
        if text in NOT_FINITE:
            return Decimal(NOT_FINITE[text])
        if _NUMBER.fullmatch(text):
            return Decimal(text)
    return None


def _real(value: Any, spec: ColumnSpec) -> float | None:
    if isinstance(value, Temporal):
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


# parse_constant makes NaN and Infinity null: they are not JSON, but many programs write them.
_DECODER = json.JSONDecoder(
    parse_float=number_of, parse_int=number_of, parse_constant=lambda _: None
)


def _json(value: Any, spec: ColumnSpec) -> Any:
    try:
        if isinstance(value, str):
            with suppress(json.JSONDecodeError):
                value = _DECODER.decode(value)
        found = plain(value, wide_integers=False)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if spec.scalars == "wrap" and not isinstance(found, dict | list | None):
        return {"value": found}
    return found


_FIELDS: Mapping[ColumnType, Callable[[Any, ColumnSpec], Any]] = {
    "varchar": _varchar,
    "int64": _integer,
    "int32": _integer,
    "double": _real,
    "float": _real,
    "bool": _boolean,
    "json": _json,
}
