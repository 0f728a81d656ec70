"""Numbers keep every digit from the message to the row key, the text and the field, or are refused."""

import json
import math
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.changes import exact_json
from operators.changes.events import KafkaPosition, Upsert
from operators.changes.rows import Row
from operators.codec.decoder import Decoder
from operators.codec.mongodb import document_of
from operators.errors import RecordError
from operators.rendering.renderer import Renderer
from tests.changes import TOPIC, envelope, table

DECIMAL = "org.apache.kafka.connect.data.Decimal"


def row_of(row: str, schema: str | None = None, **changed: Any) -> Row:
    """A row, from the bytes of a record whose columns are this JSON."""
    settings = {"text": "{t} {n}", "columns": {"n": "varchar"}, **changed}
    section = table(**settings)
    raw = f'{{"op":"u","source":{{"connector":"postgresql","lsn":1}},"after":{row}}}'
    if schema is not None:
        raw = f'{{"schema":{{"fields":[{{"field":"after","fields":[{schema}]}}]}},"payload":{raw}}}'
    decoder, renderer = Decoder(section), Renderer(section)
    (key,) = decoder.row_keys(b'{"id":1}', raw.encode())
    event = decoder.event(key, raw.encode(), KafkaPosition(TOPIC, 0, 0))
    assert isinstance(event, Upsert)
    found = renderer.render(event)
    assert isinstance(found, Row)
    return found


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("12345678901234567.89", "12345678901234567.89"),
        ("-12345678901234567890123", "-12345678901234567890123"),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("9007199254740993.5", "9007199254740993.5"),
        ("1234567890.123456789012345", "1234567890.123456789012345"),
        ("1E+400", "1" + "0" * 400),
        ("1e-400", "0." + "0" * 399 + "1"),
        ("9" * 5_000, "9" * 5_000),
        # What a double holds is shown as before.
        ("0.1", "0.1"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("1.7976931348623157E308", "1.7976931348623157e+308"),
        ("1e23", "1e+23"),
        ("-0.0", "-0.0"),
        ("18446744073709551615", "18446744073709551615"),
    ],
)
@pytest.mark.parametrize("schema", [None, '{"field":"t","type":"string"}'])
def test_a_number_in_a_text_and_in_a_field(written, shown, schema):
    found = row_of(
        f'{{"t":"x","n":{written}}}',
        schema,
        columns={"n": {"type": "varchar", "max_length": 9_000}},
    )
    assert found.text == f"x {shown}"
    assert found.columns == {"n": shown}


def test_two_keys_that_one_double_stands_for_are_two_rows():
    decoder = Decoder(table())
    names = [f"1234567890123456789012{last}" for last in range(3)]
    keys = [decoder.row_keys(f'{{"id":{name}}}'.encode(), None) for name in names]
    assert keys == [(f"docs:{name}",) for name in names]


@pytest.mark.parametrize("number", ["0.12345678901234567", "1e-320", "123456789.1234567891"])
def test_a_key_with_a_fraction_that_no_double_holds(number):
    (key,) = Decoder(table()).row_keys(f'{{"id":{number}}}'.encode(), None)
    assert Decimal(key.removeprefix("docs:")) == Decimal(number)


def test_keys_in_the_row_itself_are_exact():
    section = table(key_from="row")
    raw = envelope("u", 1, {"id": 1.5}).replace(b"null", b'{"id":12345678901234567890121}', 1)
    assert Decoder(section).row_keys(None, raw) == ("docs:12345678901234567890121", "docs:1.5")


@pytest.mark.parametrize(
    ("scale", "written", "shown"),
    [
        (2, "12345678901234567.89", "12345678901234567.89"),
        (2, "12345678901234567.8", "12345678901234567.80"),
        (0, "12345678901234567890123", "12345678901234567890123"),
        (2, "12.3", "12.30"),
        (38, "0.1", "0.1" + "0" * 37),
        (2, "1E+30", "1" + "0" * 30 + ".00"),
    ],
)
def test_a_decimal_as_a_number_has_its_scale(scale, written, shown):
    schema = json.dumps(
        {"field": "n", "type": "bytes", "name": DECIMAL, "parameters": {"scale": str(scale)}}
    )
    assert row_of(f'{{"t":"x","n":{written}}}', schema).columns == {"n": shown}


def test_a_double_with_more_digits_than_it_needs_is_that_double():
    # Java before 19 wrote some doubles with all their digits.
    schema = '{"field":"n","type":"double"}'
    assert row_of('{"t":"x","n":2.98023223876953125E-8}', schema).text == "x 2.9802322387695312e-08"


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ('{"n":12345678901234567890123}', {"n": "12345678901234567890123"}),
        ('{"n":[12345678901234567.89]}', {"n": ["12345678901234567.89"]}),
        ('{"n":1e400}', {"n": "1" + "0" * 400}),
        ('{"n":18446744073709551615,"m":-9223372036854775808}', {"n": 2**64 - 1, "m": -(2**63)}),
        ('{"n":0.1,"m":1e30,"k":-0.0}', {"n": 0.1, "m": 1e30, "k": -0.0}),
        ('{"n":NaN,"m":Infinity}', {"n": None, "m": None}),
    ],
)
def test_json_readers_round_no_number(text, stored):
    """As text, or as an object of the message itself: what readers would round is text."""
    said = {"columns": {"n": "json"}, "text": "{t}"}
    found = row_of(json.dumps({"t": "x", "n": text}), **said).columns["n"]
    assert found == stored
    # pymilvus and its readers parse with orjson, or with something like it.
    assert orjson.loads(json.dumps(found)) == stored
    if "N" not in text and "I" not in text:
        assert row_of(f'{{"t":"x","n":{text}}}', **said).columns["n"] == stored


def test_a_document_of_mongodb():
    text = '{"a":12345678901234567890123,"b":{"$numberDecimal":"1.10"},"c":[0.12345678901234567]}'
    assert document_of(text) == {
        "a": 12345678901234567890123,
        "b": "1.10",
        "c": [Decimal("0.12345678901234567")],
    }


def test_digits_inside_of_strings_are_no_numbers():
    text = '{"a":"12345678901234567890123","b\\"1e999":1.5,"c":"x\\\\","d":1234567890123456.75}'
    assert exact_json.loads(text) == {
        "a": "12345678901234567890123",
        'b"1e999': 1.5,
        "c": "x\\",
        "d": Decimal("1234567890123456.75"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "01",
        "1.",
        ".5",
        "-",
        "1e",
        "[1e400",
        "NaN",
        '{"a":1e400,"b":"\\ud800"}',
        "1e400x",
        "--1",
        "1.5e+-3",
    ],
)
def test_what_is_no_json_stays_none(text):
    for raw in (text, text.encode()):
        with pytest.raises(orjson.JSONDecodeError):
            exact_json.loads(raw)


@pytest.mark.parametrize("number", ["1e99999999999999999999", "-1.5E-99999999999999999999"])
def test_a_number_that_nothing_can_hold_is_refused(number):
    with pytest.raises(orjson.JSONDecodeError, match="out of range"):
        exact_json.loads(f'{{"n":[{number},1.5]}}')
    with pytest.raises(RecordError, match="no JSON"):
        Decoder(table()).row_keys(f'{{"id":{number}}}'.encode(), None)
    with pytest.raises(RecordError, match="does not fit into json"):
        row_of(json.dumps({"t": "x", "n": f"[{number}]"}), columns={"n": "json"}, text="{t}")


def test_deep_values():
    for depth in (900, 1_000):
        text = '{"a":[' * (depth // 2) + "1234567890123456.7" + "]}" * (depth // 2)
        found = exact_json.loads(text)
        for _ in range(depth // 2):
            (found,) = found["a"]
        assert found == Decimal("1234567890123456.7")


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_what_is_written_is_read(value):
    assert exact_json.loads(exact_json.dumps(value)) == value


def test_numbers_are_written_with_all_digits():
    value = {"a": [Decimal("12345678901234567.89"), 1.5], "b": 2**70, "c": "x"}
    text = '{"a": [12345678901234567.89, 1.5], "b": 1180591620717411303424, "c": "x"}'
    assert exact_json.dumps(value) == text


@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
def test_any_number_is_what_was_written(text):
    found = exact_json.loads(text)
    exact = Decimal(text)
    assert Decimal(repr(found) if isinstance(found, float) else found) == exact
    if isinstance(found, float):
        assert math.isfinite(found)


def test_a_record_whose_number_is_no_json_is_refused():
    with pytest.raises(RecordError, match="it is no JSON"):
        Decoder(table()).row_keys(b'{"id":1e}', None)
