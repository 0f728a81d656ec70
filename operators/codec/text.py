"""Any value of a column as text."""

import binascii
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from operators.codec.big_numbers import decimal_of
from operators.codec.temporal import Moment, Temporal, from_python, iso_text

_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

_MAX_PRINTED = 10**4_000

MAX_CHARACTERS = 2**24
"""The longest text that a value's numbers become: an array of a few bytes each could fill the memory,
since a decimal of a huge scale has as many zeros. A Milvus field holds a 256th of it."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def as_text(value: Any) -> str:
    """A canonical value as text, for templates and varchar fields; None is empty.

    Raises:
        ValueError: It is nested too deep, or its numbers have too many digits.
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
        return _printed(value, _Budget())
    if isinstance(value, Temporal):
        return iso_text(from_python(value))
    if isinstance(value, Mapping | list | tuple):
        try:
            return _ENCODER.encode(plain(value))
        except RecursionError:
            raise ValueError("it is nested too deep") from None
    if isinstance(value, bytes | bytearray | memoryview):
        return binascii.b2a_base64(value, newline=False).decode()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"it is of the type {type(value).__name__}, which no column has")


def _digits(number: int) -> str:
    # Python refuses to print an integer of more than 4,300 digits; a Decimal has no such limit.
    small = -_MAX_PRINTED < number < _MAX_PRINTED
    return str(number) if small else _printed(decimal_of(number), _Budget())


class _Budget:
    """How many more characters the numbers of one value may have, and whether any integer stays one."""

    def __init__(self, *, wide_integers: bool = True) -> None:
        self.left = MAX_CHARACTERS
        self.wide_integers = wide_integers


def _printed(number: Decimal, budget: _Budget) -> str:
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int):
        budget.left -= max(number.adjusted(), 0) + max(-exponent, 0)
        if budget.left < 0:  # guard: printed-digits
            raise ValueError(f"its numbers have more than {MAX_CHARACTERS:,} digits")
    return f"{number:f}"


def plain(value: Any, *, wide_integers: bool = True) -> Any:
    """A value in the types that JSON has: NaN and the infinities become None, other types text.

    Args:
        value: Canonical.
        wide_integers: Integers of more than 64 bits stay numbers. Most readers of JSON round them.

    Raises:
        ValueError: Its numbers have too many digits.
    """
    return _plain(value, _Budget(wide_integers=wide_integers))


def _plain(value: Any, budget: _Budget) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if -_MAX_PRINTED < value < _MAX_PRINTED and (
            budget.wide_integers or -(2**63) <= value < 2**64  # guard: json-digits
        ):
            return value
        return _printed(decimal_of(value), budget)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return _printed(value, budget) if value.is_finite() else None
    if isinstance(value, Mapping):
        return {as_text(name): _plain(each, budget) for name, each in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, Moment):
        return [_plain(each, budget) for each in value]
    return as_text(value)
