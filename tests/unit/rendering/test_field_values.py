"""Canonical values as text and as fields. No error message quotes a value."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from operators.codec.temporal import Moment
from operators.codec.text import as_text
from operators.contract.table import ColumnSpec
from operators.rendering.field_values import as_field

SECRET = "s3cret-value"


def stored(type_: str, canonical: Any, **spec: Any) -> Any:
    return as_field(canonical, ColumnSpec(type=type_, **spec))


@pytest.mark.parametrize(
    ("canonical", "shown"),
    [
        (None, ""),
        ("plain", "plain"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1.5, "1.5"),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("NaN"), "NaN"),
        (b"\xde\xad\xbe\xef", "3q2+7w=="),
        (UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T00:00:00Z"),
        (date(2024, 1, 2), "2024-01-02"),
        ([], "[]"),
        ({"b": [1, None, "ü"], "a": {"x": True}}, '{"b":[1,null,"ü"],"a":{"x":true}}'),
        ([Decimal("1.50"), Moment("date", 0), b"x", math.nan], '["1.50","1970-01-01","eA==",null]'),
        ({1: 2**70}, '{"1":1180591620717411303424}'),
    ],
)
def test_a_value_as_text(canonical, shown):
    assert as_text(canonical) == shown


def test_an_integer_of_thousands_of_digits():
    # Python refuses to print more than 4,300 digits, because that takes long.
    assert as_text(10**5_000) == "1" + "0" * 5_000
    assert as_text([10**5_000]) == f'["1{"0" * 5_000}"]'


@pytest.mark.parametrize(
    ("type_", "canonical", "in_field"),
    [
        ("varchar", 7, "7"),
        ("varchar", ["a"], '["a"]'),
        ("int64", "-7", -7),
        ("int64", "7.00", 7),
        ("int64", "0E-10", 0),
        ("int64", 7.0, 7),
        ("int64", True, 1),
        ("int64", Decimal("12.00"), 12),
        ("int64", Decimal(2**63 - 1), 2**63 - 1),
        ("int64", -(2**63), -(2**63)),
        ("int32", 2**31 - 1, 2**31 - 1),
        ("int32", Moment("date", math.inf), 2**31 - 1),
        ("double", 1, 1.0),
        ("double", "12.5", 12.5),
        ("double", "NaN", None),
        ("double", "NAN", None),
        ("double", "POSITIVE_INFINITY", None),
        ("double", "-Infinity", None),
        ("double", math.nan, None),
        ("float", -math.inf, None),
        ("double", Decimal("NaN"), None),
        ("double", Decimal("Infinity"), None),
        ("double", Decimal("0.1"), 0.1),
        ("double", Moment("timestamp", 1_500), 1.0),
        ("double", Moment("timestamp", math.inf), None),
        ("float", 3.4e38, 3.4e38),
        ("bool", True, True),
        ("bool", 1, True),
        ("bool", 0, False),
        ("json", {"a": 1}, {"a": 1}),
        ("json", '{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        ("json", " [1] ", [1]),
        ("json", "no json", "no json"),
        ("json", "", ""),
        ("json", '{"n": 123456789012345678901234567890}', {"n": "123456789012345678901234567890"}),
        ("json", '{"n": NaN, "m": -Infinity}', {"n": None, "m": None}),
        ("json", '{"n": 1e30, "l": 1e400}', {"n": 1e30, "l": "1" + "0" * 400}),
        ("json", "NaN", None),
        ("json", {"n": [math.nan, Decimal("1.50")]}, {"n": [None, "1.50"]}),
        ("json", Decimal("NaN"), None),
        ("json", Moment("date", 0), "1970-01-01"),
        ("json", True, True),
    ],
)
def test_a_value_in_a_field(type_, canonical, in_field):
    found = stored(type_, canonical)
    assert found == in_field
    assert type(found) is type(in_field)


def test_an_int64_has_microseconds_rounded_down():
    assert stored("int64", Moment("timestamp", 1_900)) == 1
    assert stored("int64", Moment("timestamp", -100)) == -1


@pytest.mark.parametrize("type_", ["varchar", "int64", "int32", "double", "float", "bool", "json"])
def test_null_is_null_in_every_field(type_):
    assert stored(type_, None) is None


@pytest.mark.parametrize(
    ("type_", "canonical", "cause"),
    [
        ("int64", SECRET, "not a whole number"),
        ("int64", "", "not a whole number"),
        ("int64", "1_0", "not a whole number"),
        ("int64", "٣", "not a whole number"),
        ("int64", [SECRET], "not a whole number"),
        ("int64", b"12", "not a whole number"),
        ("int64", math.nan, "not a whole number"),
        ("int64", math.inf, "not a whole number"),
        ("int64", "NaN", "not a whole number"),
        ("int64", 7.5, "fraction"),
        ("int64", Decimal("12.34"), "fraction"),
        ("int64", "12.34", "fraction"),
        ("int64", "1e-999999", "fraction"),
        ("int64", 2**63, "out of range"),
        ("int64", -(2**63) - 1, "out of range"),
        ("int64", Decimal(2**63), "out of range"),
        ("int64", "9" * 5_000, "out of range"),
        ("int64", Moment("timestamp", 2**63 * 1_000), "out of range"),
        ("int32", 2**31, "out of range"),
        ("int32", Moment("timestamp", 10**18), "out of range"),
        ("double", SECRET, "not a number"),
        ("double", "nan", "not a number"),
        ("double", {SECRET: 1}, "not a number"),
        ("double", "1e999", "out of range"),
        ("double", 10**400, "out of range"),
        ("double", Decimal("-1e400"), "out of range"),
        ("float", 3.5e38, "out of range"),
        ("float", Decimal("-3.5e38"), "out of range"),
        ("bool", SECRET, "not a boolean"),
        ("bool", "true", "not a boolean"),
        ("bool", 2, "not a boolean"),
        ("bool", 1.0, "not a boolean"),
        ("varchar", "a\ud800", "not valid Unicode"),
        ("json", "[" * 100_000, "too deep"),
        ("json", "[1e99999999]", "more than 16,777,216 digits"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_not_quoted(type_, canonical, cause):
    with pytest.raises(ValueError, match=cause) as caught:
        stored(type_, canonical)
    assert SECRET not in str(caught.value)
    assert "999" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.timeout(20)
def test_a_few_characters_do_not_become_a_million_digits():
    for huge in ("1e999999", Decimal("1e999999")):
        with pytest.raises(ValueError, match="out of range"):
            stored("int64", huge)


def test_the_length_of_a_varchar_counts_bytes():
    assert stored("varchar", "é" * 5, max_length=10) == "é" * 5
    for canonical in ("x" * 11, "é" * 6, [SECRET], Decimal("1E+10")):
        with pytest.raises(ValueError, match="max_length = 10 bytes") as caught:
            stored("varchar", canonical, max_length=10)
        assert SECRET not in str(caught.value)


def test_a_value_without_end():
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    for make in (as_text, lambda each: stored("json", each), lambda each: stored("varchar", each)):
        with pytest.raises(ValueError, match="too deep"):
            make(deep)


def test_a_type_that_no_column_has():
    for make in (as_text, lambda each: stored("json", [each])):
        with pytest.raises(TypeError, match="set"):
            make({SECRET})
