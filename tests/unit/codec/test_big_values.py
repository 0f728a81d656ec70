"""Values that would take long: refused before the work begins, or done in time that grows with their size."""

import base64
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.codec.big_numbers import decimal_of
from operators.codec.logical_types import MAX_BITS_BYTES, MAX_DECIMAL_BYTES, Logical, logical_value
from operators.codec.text import MAX_CHARACTERS, as_text, plain
from operators.contract.table import Condition
from operators.errors import RecordError
from operators.rendering.filters import compile_filter, is_soft_deleted
from operators.rendering.renderer import Renderer
from tests.changes import table
from tests.unit.rendering.test_renderer import upsert

BITS = Logical("bits")
BITS_SCHEMA = [{"field": "a", "type": "bytes", "name": "io.debezium.data.Bits"}]


def spelled(size: int) -> str:
    return base64.b64encode(b"\x7f" * size).decode()


@given(st.integers() | st.binary(max_size=2_000).map(lambda raw: int.from_bytes(raw, "big")))
def test_an_integer_as_a_decimal_is_itself(number: int) -> None:
    assert decimal_of(number) == number
    assert decimal_of(-number) == -number


@pytest.mark.parametrize("bits", [1_023, 1_024, 1_025, 2_048, 5_000, 65_535, 65_536, 200_000])
def test_an_integer_of_many_bits(bits: int) -> None:
    for number in (2**bits - 1, 2**bits, 2**bits + 1, -(2**bits)):
        # Equal numbers have equal hashes in Python; comparing them would take quadratic time.
        assert hash(decimal_of(number)) == hash(number)
        assert decimal_of(number).as_tuple().exponent == 0


@pytest.mark.parametrize("size", [MAX_BITS_BYTES + 1, 700_000, 10_000_000])
@pytest.mark.parametrize(
    "wanted",
    [
        {"text": "{a}"},
        {"text": "{b}", "columns": {"a": "varchar"}},
        {"text": "{b}", "columns": {"a": "int64"}},
        {"text": "{b}", "columns": {"a": "json"}},
        {"text": "{b}", "filter": [{"column": "a", "at_least": 5}]},
        {"text": "{b}", "soft_delete": "a"},
    ],
)
def test_a_bit_string_that_is_too_long_for_a_number_is_refused(size: int, wanted: Any) -> None:
    renderer = Renderer(table(**{"columns": {}, **wanted}))
    with pytest.raises(RecordError, match="more than 524,288 bits"):
        renderer.render(upsert(a=spelled(size), b="x")._replace(schema=BITS_SCHEMA))


def test_a_bit_string_that_is_not() -> None:
    number = logical_value(BITS, spelled(MAX_BITS_BYTES))
    assert len(as_text(number)) == 157_827
    assert compile_filter([Condition(column="a", at_least=5)])({"a": number})
    assert is_soft_deleted(number)


def test_the_largest_numerics_of_postgresql() -> None:
    numeric = Logical("decimal", scale=16_383)
    digits = MAX_DECIMAL_BYTES * b"\x7f"
    value = logical_value(numeric, digits)
    assert value.as_tuple().exponent == -16_383
    assert len(as_text(value)) == 157_827 + len(".")
    with pytest.raises(ValueError, match="no decimal"):
        logical_value(numeric, digits + b"\x7f")


def test_numerics_of_an_array_have_one_limit() -> None:
    numerics = Logical("array", parts=(("", Logical("decimal", scale=2)),))
    assert len(logical_value(numerics, ["AQ=="] * 100_000)) == 100_000
    with pytest.raises(ValueError, match="more than 1,048,576 characters"):
        logical_value(numerics, [spelled(MAX_DECIMAL_BYTES)] * 200)


@pytest.mark.parametrize("count", [200, 10_000, 100_000])
def test_zeros_that_only_printing_would_make_are_not_printed(count: int) -> None:
    numerics = Logical("array", parts=(("", Logical("decimal", scale=131_072)),))
    value = logical_value(numerics, ["AQ=="] * count)
    for show in (as_text, plain):
        with pytest.raises(ValueError, match=f"more than {MAX_CHARACTERS:,} digits"):
            show({"a": value})
    assert len(as_text(value[:2])) > 2 * 131_072


@pytest.mark.parametrize("number", ["1e999999999", "-1E+16777300", "1e-999999999"])
def test_an_exponent_is_not_printed_as_zeros(number: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        as_text(Decimal(number))
    renderer = Renderer(table(text="{b}", columns={"a": "json"}))
    with pytest.raises(RecordError, match="does not fit into json"):
        renderer.render(upsert(a=f'{{"n":{number}}}', b="x"))
