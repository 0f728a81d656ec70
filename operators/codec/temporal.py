"""Dates, times, timestamps and intervals: read from counts, ISO text and Python's own types.

They are whole numbers of nanoseconds, or of days for a date: no database has a finer unit. The
calendar has no end, because Python's covers the years 1 to 9999, but PostgreSQL's 4713 BC to 294276.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple, TypeAlias


class Moment(NamedTuple):
    """A date, time, timestamp or interval. Two of one kind sort by their `ticks`.

    Attributes:
        kind: `date`, `time`, `timestamp` or `interval`.
        ticks: Of a date, days since 1970-01-01. Otherwise nanoseconds: of a timestamp since
            1970-01-01, of a time since midnight, of an interval its length. The infinities are
            `math.inf` and `-math.inf`, the only floats.
        zoned: It is an instant in UTC; otherwise a local date and time without a zone.
    """

    kind: str
    ticks: int | float
    zoned: bool = False


Temporal: TypeAlias = Moment | date | time | timedelta
"""Every type that `from_python` reads; `datetime` is a subclass of `date`."""

_NANOS = {"ms": 1_000_000, "us": 1_000, "ns": 1}

_SECOND = 1_000_000_000

_DAY = 86_400 * _SECOND

_INFINITE = {"infinity": math.inf, "-infinity": -math.inf}

# The counts that PostgreSQL's connector sends for the infinities; as ISO text it sends the dates that
# these counts would be. Those of a date come from the JDBC driver, its overflow included.
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

# The Gregorian calendar repeats every 400 years, so Python's limited one can compute any year.
_ERA_DAYS = 146_097

_EPOCH = date(1970, 1, 1).toordinal()


def moment_of(kind: str, unit: str, raw: Any) -> Moment:
    """The moment that a raw value stands for.

    Args:
        kind: That of a `Logical`: the moment's kind, with `zoned ` before it if the zone in the text
            counts.
        unit: `days`, `ms`, `us`, `ns` or `iso`.
        raw: A count, a text, or already a moment of this kind.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: The raw value is no moment of this kind.
    """
    zoned, kind = kind.startswith("zoned "), kind.removeprefix("zoned ")
    if isinstance(raw, Temporal):
        moment = from_python(raw)
        if moment.kind != kind:
            raise TypeError
    elif isinstance(raw, str) and raw in _INFINITE and kind in ("date", "timestamp"):
        moment = Moment(kind, _INFINITE[raw], zoned)
    elif unit == "iso":
        moment = _from_iso(kind, raw)
    else:
        return _from_count(kind, unit, raw)
    return moment if zoned else moment._replace(zoned=False)


def from_python(value: Temporal) -> Moment:
    """The same moment as a `Moment`."""
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


def iso_text(moment: Moment) -> str:
    """A moment as ISO 8601 text, with years below 0 and above 9999 in its expanded form.

    A fraction ends with its last digit that is not 0. The infinities are named as in SQL.
    """
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


def _from_count(kind: str, unit: str, raw: Any) -> Moment:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise TypeError
    count = int(raw)
    if count != raw:
        raise ValueError
    if kind == "date":
        return Moment(kind, _INFINITE_DAYS.get(count, count))
    if kind == "timestamp" and count in _INFINITE_COUNTS[unit]:
        return Moment(kind, _INFINITE_COUNTS[unit][count])
    return Moment(kind, count * _NANOS[unit])


def _from_iso(kind: str, text: str) -> Moment:
    match = _PATTERNS[kind].fullmatch(text)
    if match is None:
        raise ValueError
    part = match.groupdict()
    if kind == "date":
        days = _days(part)
        return Moment(kind, _INFINITE_DAYS.get(days, days))
    seconds = _seconds(part["h"], part["m"], part["s"])
    nanos = seconds * _SECOND + int((part["fraction"] or "").ljust(9, "0"))
    offset = _seconds(part["zh"], part["zm"], part["zs"]) * _SECOND if part["sign"] else 0
    offset = -offset if part["sign"] == "-" else offset
    zoned = part["sign"] is not None or text.endswith("Z")
    if kind == "time":
        # 24:00 stays: it is not 00:00. But a time that its offset moves past midnight wraps around.
        nanos = (nanos - offset) % _DAY if offset else nanos
        return Moment(kind, -nanos if part["minus"] else nanos, zoned)
    if nanos > _DAY:
        raise ValueError
    count = _days(part) * _DAY + nanos - offset
    return Moment(kind, _INFINITE_MICROS.get(count // 1_000, count), zoned)


def _days(part: Mapping[str, str]) -> int:
    era, year = divmod(int(part["year"]) - 1, 400)
    ordinal = date(year + 1, int(part["month"]), int(part["day"])).toordinal()
    return ordinal - _EPOCH + era * _ERA_DAYS


def _seconds(hours: str | None, minutes: str | None, seconds: str | None) -> int:
    return (int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)


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
