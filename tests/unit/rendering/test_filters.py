"""Filters and soft deletion: each kind of value against each kind of scalar."""

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.codec.temporal import Moment
from operators.contract.table import Condition
from operators.rendering.filters import compile_filter, is_soft_deleted

DAY = 86_400 * 10**9
UUID_TEXT = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


def passes(value: Any, **test: Any) -> bool:
    return compile_filter([Condition(column="c", **test)])({"c": value})


EQUAL: list[tuple[Any, Any]] = [
    ("a", "a"),
    ("", ""),
    (True, True),
    (False, False),
    (1, 1),
    (1, 1.0),
    (1.5, 1.5),
    (0.1, 0.1),
    (2**63, 2**63),
    (9_007_199_254_740_993, 9_007_199_254_740_993),
    (Decimal("12.30"), 12.3),
    (Decimal("0.1"), 0.1),
    (Decimal("12.30"), "12.3"),
    (Decimal(5), 5),
    (Decimal("Infinity"), math.inf),
    ("12.30", 12.3),
    (" -7 ", -7),
    (5, "5"),
    (0.1, "0.10"),
    (math.nan, "NaN"),
    (Moment("date", 1), "1970-01-02"),
    (Moment("timestamp", DAY), "1970-01-02"),
    (Moment("timestamp", DAY), "1970-01-02T00:00:00.000"),
    (Moment("timestamp", DAY, True), "1970-01-02 00:00Z"),
    (Moment("timestamp", DAY, True), "1970-01-02T00:00:00"),
    (Moment("timestamp", DAY, True), "1970-01-02T02:00+02:00"),
    (Moment("timestamp", math.inf), "infinity"),
    (Moment("time", 3_600 * 10**9), "01:00"),
    (Moment("interval", 36 * 3_600 * 10**9), "PT36H"),
    (date(1970, 1, 2), "1970-01-02"),
    (datetime(1970, 1, 2, 2, tzinfo=timezone(timedelta(hours=2))), "1970-01-02T00:00Z"),
    (datetime(1970, 1, 2), "1970-01-02"),
    (time(1), "01:00"),
    (timedelta(hours=1), "PT1H"),
    (UUID(UUID_TEXT), UUID_TEXT),
    (b"\x00\xff", "AP8="),
]

UNEQUAL: list[tuple[Any, Any]] = [
    ("a", "A"),
    ("a", "b"),
    (True, 1),
    (False, 0),
    (1, True),
    (0, False),
    (1.0, True),
    (Decimal(1), True),
    (True, "true"),
    ("true", True),
    ("1", True),
    (9_007_199_254_740_993, 9_007_199_254_740_992),
    (9_007_199_254_740_993, 9_007_199_254_740_992.0),
    (Decimal("0.1000000000000000055"), 0.1),
    ("1x", 1),
    ("", 0),
    ("0x10", 16),
    ("1_0", 10),
    ("٣", 3),
    (math.nan, math.nan),
    (Decimal("NaN"), 1),
    (Decimal("sNaN"), 1),
    (math.nan, 0),
    (5, "five"),
    (Moment("date", 1), "1970-01-03"),
    (Moment("date", 1), "no date"),
    (Moment("date", 1), 1),
    (Moment("timestamp", DAY), "1970-02-30"),
    (Moment("time", 0), "1970-01-01"),
    ([1], 1),
    (["a"], "a"),
    ({"a": 1}, "a"),
    ((), ""),
    (object(), "x"),
    (None, ""),
    (None, 0),
    (None, False),
]


class TestEquals:
    @pytest.mark.parametrize(("value", "scalar"), EQUAL)
    def test_of_the_same_meaning(self, value: Any, scalar: Any) -> None:
        assert passes(value, equals=scalar)
        assert passes(value, one_of=["other", scalar])
        assert not passes(value, none_of=["other", scalar])

    @pytest.mark.parametrize(("value", "scalar"), UNEQUAL)
    def test_of_another_meaning_or_none(self, value: Any, scalar: Any) -> None:
        assert not passes(value, equals=scalar)
        assert not passes(value, one_of=["other", scalar])
        assert passes(value, none_of=["other", scalar])

    def test_one_of_none(self) -> None:
        assert not passes("a", one_of=[])
        assert passes("a", none_of=[])


class TestBounds:
    @pytest.mark.parametrize(
        ("below", "scalar", "above"),
        [
            (1, 2, 3),
            (-1.5, 0, 0.5),
            (Decimal("12.29"), 12.3, Decimal("12.31")),
            ("9", 10, "11"),
            (9, "10", 11),
            ("a", "b", "c"),
            ("10", "9", "9a"),  # texts
            (9_007_199_254_740_991, 9_007_199_254_740_992.0, 9_007_199_254_740_993),
            (-math.inf, 0, math.inf),
            (Decimal("-Infinity"), 0, Decimal("Infinity")),
            (Moment("date", 0), "1970-01-02", Moment("date", 2)),
            (Moment("timestamp", -math.inf), "1970-01-02", Moment("timestamp", math.inf)),
            (Moment("timestamp", DAY - 1), "1970-01-02", Moment("timestamp", DAY + 1)),
            (Moment("timestamp", -1, True), "1970-01-01T02:00+02", Moment("timestamp", 1, True)),
            (time(0, 59), "01:00", time(1, 1)),
            (date(1969, 1, 1), "1970-01-02", date(2024, 1, 1)),
        ],
    )
    def test_include_themselves(self, below: Any, scalar: Any, above: Any) -> None:
        assert not passes(below, at_least=scalar)
        assert passes(above, at_least=scalar)
        assert passes(below, at_most=scalar)
        assert not passes(above, at_most=scalar)
        if type(below) is type(scalar):
            assert passes(scalar, at_least=scalar)
            assert passes(scalar, at_most=scalar)

    @pytest.mark.parametrize(
        "value",
        [
            *(None, True, False, "x", "", math.nan, Decimal("NaN"), Decimal("sNaN"), [1], {"a": 1}),
            *(b"1", object(), UUID(int=1), Moment("date", 1), Moment("interval", 1), timedelta(1)),
        ],
    )
    @pytest.mark.parametrize("scalar", [-1, 0.5])
    def test_hold_for_nothing_that_has_no_order(self, value: Any, scalar: Any) -> None:
        assert not passes(value, at_least=scalar)
        assert not passes(value, at_most=scalar)


class TestNull:
    @pytest.mark.parametrize(
        ("test", "passed"),
        [
            ({"null": True}, True),
            ({"null": False}, False),
            ({"none_of": ["a"]}, True),
            ({"equals": ""}, False),
            ({"one_of": ["", 0, False]}, False),
            ({"at_least": 0}, False),
            ({"at_most": "z"}, False),
        ],
    )
    def test_passes_only_what_asks_for_it(self, test: dict[str, Any], passed: bool) -> None:
        assert passes(None, **test) == passed

    @pytest.mark.parametrize("value", ["", 0, False, "null", [], {}])
    def test_is_nothing_else(self, value: Any) -> None:
        assert passes(value, null=False)
        assert not passes(value, null=True)


class TestFilter:
    def test_without_conditions_passes_everything(self) -> None:
        assert compile_filter([])({})

    def test_needs_all_of_them(self) -> None:
        keep = compile_filter(
            [
                Condition(column="a", equals=1),
                Condition(column="a", at_most=5),
                Condition(column="b", null=True),
            ]
        )
        assert keep({"a": 1, "b": None, "c": 9})
        assert not keep({"a": 2, "b": None})
        assert not keep({"a": 1, "b": 0})

    @pytest.mark.parametrize("a", [1, 2])
    def test_a_missing_column_is_told_whatever_the_others_say(self, a: int) -> None:
        keep = compile_filter([Condition(column="a", equals=1), Condition(column="b", null=True)])
        with pytest.raises(KeyError):
            keep({"a": a})


SCALARS = st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS
    | st.none()
    | st.decimals()
    | st.binary()
    | st.uuids()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.times()
    | st.timedeltas()
    | st.builds(Moment, st.sampled_from(["date", "time", "timestamp", "interval"]), st.integers()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(VALUES, SCALARS)
def test_never_raises_and_one_of_is_the_opposite_of_none_of(value: Any, scalar: Any) -> None:
    assert passes(value, one_of=[scalar]) is not passes(value, none_of=[scalar])
    assert passes(value, equals=scalar) is passes(value, one_of=[scalar])
    if not isinstance(scalar, bool):
        both = passes(value, at_least=scalar) and passes(value, at_most=scalar)
        assert not both or passes(value, equals=scalar)
    assert is_soft_deleted(value) in (True, False)


@given(st.integers() | st.floats(allow_nan=False), st.integers() | st.floats(allow_nan=False))
def test_numbers_compare_as_numbers(value: Any, scalar: Any) -> None:
    # A float is compared as the decimal that it is written as, because its column holds that.
    left, right = Decimal(repr(value)), Decimal(repr(scalar))
    assert passes(value, at_least=scalar) == (left >= right)
    assert passes(value, at_most=scalar) == (left <= right)


class TestSoftDelete:
    @pytest.mark.parametrize(
        "value",
        [
            *(
                None,
                False,
                0,
                0.0,
                "",
                " ",
                "0",
                "0.00",
                "-0",
                "f",
                "F",
                "false",
                "FALSE",
                "n",
                "N",
            ),
            *("no", " No ", "off", Decimal(0), Decimal("0.00"), b"", b"\x00\x00"),
            *(Moment("timestamp", 0), Moment("timestamp", 0, True), Moment("date", 0)),
            # Zero dates, as MySQL's and others' connectors and converters write them.
            *("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z", "1970-01-01 00:00:00"),
            *("1970-01-01", "1970-01-01T08:00:00+08:00", " 1970-01-01T00:00:00Z "),
            *("0000-00-00", "0000-00-00 00:00:00", "0000-00-00T00:00:00.000Z"),
            *("0001-01-01", "0001-01-01T00:00:00Z", "0001-01-01 00:00:00.0000000"),
            *(Moment("date", -719_162), Moment("timestamp", -62_135_596_800 * 10**9, True)),
        ],
    )
    def test_a_row_that_is_kept(self, value: Any) -> None:
        assert not is_soft_deleted(value)

    @pytest.mark.parametrize(
        "value",
        [
            *(True, 1, -1, 0.5, "1", "t", "true", "Y", "yes", "on", "deleted", "2024-01-02", "00x"),
            *(Decimal("0.1"), Decimal("NaN"), math.nan, b"\x01", datetime(1970, 1, 1), "null"),
            *(Moment("timestamp", 1), Moment("date", -1), Moment("timestamp", math.inf)),
            Moment("time", 0),
            *("1970-01-01T00:00:01Z", "1970-01-02", "1969-12-31T23:59:59Z", "0001-01-02"),
            *("0000-00-01", "00:00:00", "2024-01-02T00:00:00Z", "1970-01-01T00:00:00+01:00"),
            *(Moment("date", -719_161), "0000-00-00 or so", "infinity"),
        ],
    )
    def test_a_row_that_is_gone(self, value: Any) -> None:
        assert is_soft_deleted(value)
