"""Any value of a column as text."""

import binascii
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from operators.codec.temporal import Moment, Temporal, from_python, iso_text

_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

_MAX_PRINTED = 10**4_000

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


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
    if isinstance(value, Temporal):
        return iso_text(from_python(value))
    if isinstance(value, Mapping | list | tuple):
        try:
            return _ENCODER.encode(plain(value))
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        except ValueError:
            raise ValueError("it holds a number of too many digits") from None
    if isinstance(value, bytes | bytearray | memoryview):
        return binascii.b2a_base64(value, newline=False).decode()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"it is of the type {type(value).__name__}, which no column has")


def _digits(number: int) -> str:
    # Python refuses to print an integer of more than 4,300 digits; a Decimal has no such limit.
    return str(number) if -_MAX_PRINTED < number < _MAX_PRINTED else f"{Decimal(number):f}"


def plain(value: Any) -> Any:
    """A value in the types that JSON has: NaN and the infinities become None, other types text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal) and not value.is_finite():
        return None
    if isinstance(value, Mapping):
        return {as_text(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, Moment):
        return [plain(each) for each in value]
    return as_text(value)
