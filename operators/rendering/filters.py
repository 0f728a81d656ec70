"""Which rows belong into a collection: the contract's filters, and soft deletion.

Values are canonical ones, see `operators.codec.logical_types`. The contract's scalars are compared with
them by what they mean:

- a number with a number, exactly: 12.3 is the decimal 12.30; and with a text that spells one, since
  connectors write decimals as text (`decimal.handling.mode=string`). Where the value is a number, one
  in quotes will do.
- a text with a text, by code point. ISO text without `encodings` is a text like any other.
- a text with a date, time or timestamp, as the moment that it writes: "2024-01-02" is its midnight.
  One without a zone is in UTC.
- a text with anything else that has one (an interval, a UUID, bytes as base64): equal or not.
- true and false with themselves alone; a number is neither.

Whatever has no such comparison, as an array or NULL, is equal to nothing, below and above nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from operators.codec.logical_types import Logical, logical_value
from operators.codec.temporal import Moment
from operators.codec.text import as_text
from operators.contract.table import Condition, Scalar

Test: TypeAlias = Callable[[Any], bool]

_SPELLED = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?\s*", re.ASCII)

_NUMBERS = (int, float, Decimal)

_TEMPORALS = (Moment, date, time, timedelta)

_NOT_DELETED = frozenset({"", "false", "f", "no", "n", "off"})


def compile_filter(conditions: Sequence[Condition]) -> Callable[[Mapping[str, Any]], bool]:
    """A function that tells whether a row passes all of the conditions; there may be none.

    The function raises KeyError if the row lacks any of their columns, whatever the others say, and
    nothing else.
    """
    tests = [(condition.column, _test(condition)) for condition in conditions]

    def passes(columns: Mapping[str, Any]) -> bool:
        # All are looked up first: whether a column is missing must not depend on other values.
        values = [columns[name] for name, _ in tests]
        return all(test(value) for (_, test), value in zip(tests, values, strict=True))

    return passes


def is_soft_deleted(value: Any) -> bool:
    """Whether a value of the soft-delete column marks its row as deleted.

    Anything does but NULL, false, 0, "", and the texts in which databases without booleans say the
    same: a spelled 0, and false, f, no, n, off in any case. The moment 0, 1970-01-01, is how MySQL's
    zero dates arrive, and marks nothing either.
    """
    if isinstance(value, str):
        text = value.strip()
        number = _number(text)
        return number != 0 if number is not None else text.lower() not in _NOT_DELETED
    if isinstance(value, Moment):
        return value.kind not in ("date", "timestamp") or value.ticks != 0
    if isinstance(value, bytes):
        return any(value)
    return bool(value)


def _test(condition: Condition) -> Test:
    if condition.null is not None:
        wanted = condition.null
        return lambda value: (value is None) == wanted
    if condition.one_of is not None:
        return _any_of(condition.one_of)
    if condition.none_of is not None:
        unwanted = _any_of(condition.none_of)
        return lambda value: not unwanted(value)
    if condition.at_least is not None:
        least = _Compared(condition.at_least)
        return lambda value: (order := least.order(value)) is not None and order >= 0
    if condition.at_most is not None:
        most = _Compared(condition.at_most)
        return lambda value: (order := most.order(value)) is not None and order <= 0
    assert condition.equals is not None
    return _any_of((condition.equals,))


def _any_of(scalars: Sequence[Scalar]) -> Test:
    compared = [_Compared(scalar) for scalar in scalars]
    return lambda value: any(each.equals(value) for each in compared)


class _Compared:
    """A scalar of the contract, read once in every way in which a value can ask for it."""

    def __init__(self, scalar: Scalar) -> None:
        self._scalar = scalar
        self._number = None if isinstance(scalar, bool) else _number(scalar)
        self._moments = {
            kind: _moment(kind, scalar) if isinstance(scalar, str) else None
            for kind in ("date", "time", "timestamp")
        }

    def equals(self, value: Any) -> bool:
        if isinstance(value, bool) or isinstance(self._scalar, bool):
            return value is self._scalar
        if self.order(value) is not None:
            return self.order(value) == 0
        # What has no order here may still have a text: an interval, a NaN.
        return (
            isinstance(self._scalar, str)
            and isinstance(value, (*_NUMBERS, *_TEMPORALS, UUID, bytes))
            and as_text(value) == self._scalar
        )

    def order(self, value: Any) -> int | None:
        """Below 0 if the value is less than the scalar, 0 if they are equal; None if it is neither."""
        if isinstance(value, bool) or isinstance(self._scalar, bool):
            return None
        if isinstance(value, str) and isinstance(self._scalar, str):
            return _sign(value, self._scalar)
        if isinstance(value, str | int | float | Decimal):
            number = None if self._number is None else _number(value)
            return None if number is None else _sign(number, self._number)
        if isinstance(value, _TEMPORALS):
            kind = _kind(value)
            moment = _moment(kind, value)
            bound = self._moments.get(kind)
            return None if moment is None or bound is None else _sign(moment, bound)
        return None


def _sign(value: Any, scalar: Any) -> int:
    return int(value > scalar) - int(value < scalar)


def _number(value: Any) -> Decimal | None:
    """A number, or a text that spells one. As decimals they compare exactly, and by what is written."""
    if isinstance(value, Decimal):
        return None if value.is_nan() else value
    if isinstance(value, float):
        return None if value != value else Decimal(repr(value))
    if isinstance(value, int):
        return Decimal(value)
    return Decimal(value.strip()) if _SPELLED.fullmatch(value) else None


def _kind(value: Moment | date | time | timedelta) -> str:
    match value:
        case Moment():
            return value.kind
        case datetime():
            return "timestamp"
        case date():
            return "date"
        case time():
            return "time"
        case _:
            return "interval"


def _moment(kind: str, value: Any) -> int | float | None:
    """Where a moment lies on the scale of its kind, as `Moment.ticks`."""
    try:
        moment: Moment = logical_value(Logical(kind, "iso"), value)
    except ValueError:
        return None
    return moment.ticks
