"""Which rows belong in a collection: the contract's filters, and soft deletion.

Values are canonical ones, see `operators.codec.logical_types`. The contract's scalars are compared with
them by meaning:

- a number with a number, exactly: 12.3 equals the decimal 12.30; and with a text that spells one, since
  connectors write decimals as text (`decimal.handling.mode=string`). If the value is a number, the
  contract's may be in quotes.
- a text with a text, by code point. ISO text without `encodings` is a text like any other.
- a text with a date, time or timestamp, as the moment that it spells: "2024-01-02" is its midnight.
  One without a zone is in UTC.
- a text with any other value that has a text (an interval, a UUID, bytes as base64): equal or not.
- true and false only with booleans; a number equals neither.

Values without such a comparison, such as arrays and NULL, pass no test for equality or range.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from operators.codec.big_numbers import decimal_of
from operators.codec.logical_types import Logical, logical_value
from operators.codec.temporal import Moment
from operators.codec.text import as_text
from operators.contract.table import Condition, Scalar

Test: TypeAlias = Callable[[Any], bool]

_SPELLED = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?\s*", re.ASCII)

_NUMBERS = (int, float, Decimal)

_TEMPORALS = (Moment, date, time, timedelta)

_YEAR_1 = -719_162
"""0001-01-01 in days since 1970."""

_ZERO_TICKS = {"date": (0, _YEAR_1), "timestamp": (0, _YEAR_1 * 86_400 * 10**9)}

_ZERO_DATE = re.compile(r"0000-00-00([T ][0:.]+)?(Z|[+-][0:]+)?")

_NOT_DELETED = frozenset({"", "false", "f", "no", "n", "off"})


def compile_filter(conditions: Sequence[Condition]) -> Callable[[Mapping[str, Any]], bool]:
    """A function that tells whether a row passes all of the conditions; there may be none.

    The function raises KeyError if the row lacks any of their columns, even if another condition
    already fails, and raises nothing else.
    """
    tests = [(condition.column, _test(condition)) for condition in conditions]

    def passes(columns: Mapping[str, Any]) -> bool:
        # All are looked up first: whether a column is missing must not depend on other values.
        values = [columns[name] for name, _ in tests]
        return all(test(value) for (_, test), value in zip(tests, values, strict=True))

    return passes


def is_soft_deleted(value: Any) -> bool:
    """Whether a value of the soft-delete column marks its row as deleted.

    Every value does except NULL, false, 0, "", and the texts by which databases without booleans say
    false: a spelled 0, and false, f, no, n, off in any case. The moments that stand for no moment do
    not either: midnight of 1970-01-01, as which MySQL's zero dates arrive, of 0001-01-01, and the zero
    date itself, 0000-00-00; whether as a text, or as what the column's type makes of it.
    """
    if isinstance(value, str):
        text = value.strip()
        number = _number(text)
        if number is not None:
            return number != 0
        return text.lower() not in _NOT_DELETED and not _is_zero_date(text)  # guard: zero-dates
    if isinstance(value, Moment):
        return not (value.kind in _ZERO_TICKS and value.ticks in _ZERO_TICKS[value.kind])
    if isinstance(value, bytes):
        return any(value)
    return bool(value)


def _is_zero_date(text: str) -> bool:
    if _ZERO_DATE.fullmatch(text):
        return True
    ticks = _moment("timestamp", text)
    return ticks is not None and ticks in _ZERO_TICKS["timestamp"]


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
    """A scalar of the contract, parsed once as every type that it may be compared with."""

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
        # A value without an order here, such as an interval or NaN, may still have a text.
        return (
            isinstance(self._scalar, str)
            and isinstance(value, (*_NUMBERS, *_TEMPORALS, UUID, bytes))
            and as_text(value) == self._scalar
        )

    def order(self, value: Any) -> int | None:
        """Below 0, 0 or above 0: the value against the scalar; None if they cannot be compared."""
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
    """A number, or a text that spells one, as a decimal: those compare exactly. None for others."""
    if isinstance(value, Decimal):
        return None if value.is_nan() else value
    if isinstance(value, float):
        return None if value != value else Decimal(repr(value))
    if isinstance(value, int):
        return decimal_of(value)
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
    """The `Moment.ticks` of a value; None if it is no moment of this kind."""
    try:
        moment: Moment = logical_value(Logical(kind, "iso"), value)
    except ValueError:
        return None
    return moment.ticks
