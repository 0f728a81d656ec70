"""Dates and times in every encoding: one value for each, whose text other calendars agree with."""

import math
import re
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.codec.temporal import Moment, iso_text, moment_of


def test_they_compare_as_what_they_stand_for():
    counts = [-9223372036832400000, -1, 0, 1704164645678901, 9223372036825200000]
    moments = [moment_of("timestamp", "us", count) for count in reversed(counts)]
    ticks = [-math.inf, -1_000, 0, 1704164645678901_000, math.inf]
    assert [moment.ticks for moment in sorted(moments)] == ticks


def test_an_instant_is_not_what_a_clock_shows():
    iso = "2024-01-02T03:04:05Z"
    instant, clock = (moment_of(kind, "iso", iso) for kind in ("zoned timestamp", "timestamp"))
    assert instant != clock
    assert (iso_text(instant), iso_text(clock)) == (iso, iso[:-1])


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("2024-01-02", "2024-01-02T00:00:00"),
        ("2024-01-02T03:04Z", "2024-01-02T03:04:00Z"),
        ("2024-01-02T03:04:05.1234567Z", "2024-01-02T03:04:05.1234567Z"),
        ("2024-01-02T03:04:05.123456789Z", "2024-01-02T03:04:05.123456789Z"),
        ("2024-01-02 03:04:05+00", "2024-01-02T03:04:05Z"),
        ("1800-01-02T03:04:05+00:19:32", "1800-01-02T02:44:33Z"),
        ("-0044-03-15T12:00:00Z", "-0044-03-15T12:00:00Z"),
        ("+12024-02-29T12:00:00Z", "+12024-02-29T12:00:00Z"),
        ("9999-12-31T23:59:59-00:01", "+10000-01-01T00:00:59Z"),
        ("0001-01-01T00:00:00+00:01", "0000-12-31T23:59:00Z"),
        ("0000-02-29T00:00:00Z", "0000-02-29T00:00:00Z"),
        ("2024-12-31T24:00:00Z", "2025-01-01T00:00:00Z"),
        ("infinity", "infinity"),
    ],
)
def test_a_timestamp_as_text(raw, shown):
    assert iso_text(moment_of("zoned timestamp", "iso", raw)) == shown


@pytest.mark.parametrize(
    ("kind", "unit", "raw"),
    [
        ("zoned timestamp", "iso", "2024-02-30T00:00:00Z"),
        ("zoned timestamp", "iso", "2024-13-01T00:00:00Z"),
        ("zoned timestamp", "iso", "2024-01-01T25:00:00Z"),
        ("zoned timestamp", "iso", "2024-01-01T00:60:00Z"),
        ("zoned timestamp", "iso", "2024-01-01T00:00:00Z "),
        ("zoned timestamp", "iso", "٢٠٢٤-01-01T00:00:00Z"),
        ("zoned timestamp", "iso", 1704164645678),
        ("time", "iso", "٠٣:٠٤:٠٥"),
        ("time", "us", "infinity"),
        ("date", "days", 1.5),
        ("date", "days", True),
        ("date", "days", math.inf),
        ("date", "days", datetime(2024, 1, 2)),
        ("timestamp", "us", date(2024, 1, 2)),
    ],
)
def test_what_is_no_moment_of_its_kind(kind, unit, raw):
    with pytest.raises((ValueError, TypeError, KeyError, OverflowError)):
        moment_of(kind, unit, raw)


def in_numpy(count: int, unit: Any) -> str:
    """By NumPy's calendar, which has all years; years in ISO 8601's expanded form."""
    _, year, rest = re.split(r"^(-?\d+)", str(np.datetime64(count, unit)))
    number = int(year)
    return ("-" if number < 0 else "+" if number > 9_999 else "") + f"{abs(number):04d}{rest}"


@given(
    st.integers(-(10**12), 10**12),
    st.integers(0, 999_999),
    st.sampled_from(["ms", "us", "ns", "iso", "zoned"]),
)
def test_any_timestamp_in_any_encoding(seconds, fraction, way):
    if way == "ms":
        fraction -= fraction % 1_000
    micros = seconds * 10**6 + fraction
    iso = in_numpy(micros, "us")
    kind = "zoned timestamp" if way == "zoned" else "timestamp"
    counts = {"ms": micros // 1_000, "us": micros, "ns": micros * 1_000}
    unit = way if way in counts else "iso"
    moment = moment_of(kind, unit, counts.get(way, f"{iso}Z"))
    assert moment == Moment("timestamp", micros * 1_000, way == "zoned")
    shown = iso.rstrip("0").removesuffix(".") if fraction else iso.split(".")[0]
    assert iso_text(moment) == (f"{shown}Z" if way == "zoned" else shown)
    assert moment_of(kind, "iso", iso_text(moment)) == moment


@given(st.integers(-(10**7), 10**7))
def test_any_date_in_any_encoding(days):
    iso = in_numpy(days, "D")
    day = moment_of("date", "days", days)
    assert day == Moment("date", days)
    assert iso_text(day) == iso
    assert moment_of("date", "iso", f"{iso}Z") == day


@given(st.integers(-(10**15), 10**15))
def test_any_time_in_any_encoding(micros):
    moment = moment_of("time", "us", micros)
    assert moment_of("time", "ns", micros * 1_000) == moment
    if abs(micros) < 9_999 * 3_600 * 10**6:
        assert moment_of("time", "iso", iso_text(moment)) == moment


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [
        (0, "PT0S"),
        (1, "PT0.000000001S"),
        (-60 * 10**9, "-PT1M"),
        (3_600 * 10**9, "PT1H"),
        (129_600_500_000_000, "PT36H0.5S"),
    ],
)
def test_an_interval_as_text(nanos, shown):
    assert iso_text(moment_of("interval", "ns", nanos)) == shown
