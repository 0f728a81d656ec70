"""Rows → text and columns. What does not fit is refused, and no message quotes what was in the row."""

import math
from typing import Any

import pytest

from operators.errors import RecordError
from operators.events import KafkaPosition, Row, RowKey, Upsert, make_version
from operators.rendering import Renderer, text_hash
from operators.table import MAX_VARCHAR_BYTES
from tests.changes import table

UNAVAILABLE = "__debezium_unavailable_value"
SECRET = "s3cret-value"


def upsert(**columns: Any) -> Upsert:
    return Upsert(
        RowKey("docs:1"),
        make_version(0, (7, 7), 3),
        KafkaPosition("app.public.docs", 2, 3),
        1_700_000_000_000,
        "u",
        columns,
        b"raw",
    )


def render(text: str, columns: dict[str, Any] | None = None, **row: Any) -> Row:
    return Renderer(table(text=text, columns=columns or {})).render(upsert(**row))


def field(type_: str, value: Any, **spec: Any) -> Any:
    return render("{t}", {"c": {"type": type_, **spec}}, t="x", c=value).columns["c"]


def refusal(text: str, columns: dict[str, Any] | None = None, **row: Any) -> RecordError:
    with pytest.raises(RecordError) as caught:
        render(text, columns, **row)
    assert caught.value.hint
    return caught.value


# Texts.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("{braces} {0} {{", "{braces} {0} {{"),
        ("", ""),
        (None, ""),
        (0, "0"),
        (-7, "-7"),
        (9_007_199_254_740_993, "9007199254740993"),
        (1.5, "1.5"),
        (0.1, "0.1"),
        (True, "true"),
        (False, "false"),
        ([], "[]"),
        ({"b": [1, None, "ü"], "a": {"x": True}}, '{"b":[1,null,"ü"],"a":{"x":true}}'),
        (["a", "b"], '["a","b"]'),
        ("漢字 🎉", "漢字 🎉"),
    ],
)
def test_a_value_in_the_text(value, text):
    assert render("<{c}>", c=value).text == f"<{text}>"


def test_a_template():
    row = render("{{{a}}}\n{Full Name} %s {a}", a=1, **{"Full Name": "Jane"})
    assert row.text == "{1}\nJane %s 1"


def test_all_but_text_and_columns_is_taken_over():
    row = render("{a}", a="x")
    event = upsert()
    assert (row.row_key, row.version, row.position) == (
        event.row_key,
        event.version,
        event.position,
    )
    assert (row.source_ts_ms, row.op, row.table) == (event.source_ts_ms, event.op, "docs")
    assert row.text_hash == text_hash("x")


def test_equal_texts_have_equal_hashes_and_others_have_others():
    assert render("{a}", a="1").text_hash == render("{a}", a=1).text_hash
    assert len({render("{a}", a=text).text_hash for text in ("", "a", "b", "ab")}) == 4
    # Stored beside every vector: another hash would embed every text again.
    assert text_hash("Grüße") == "c483baa27a9abd2202924662a88aaf32"


def test_a_column_that_is_not_there():
    error = refusal("{a}{titel}", a=1, title=SECRET)
    assert "'titel' of app.public.docs" in error.subject
    assert "a, title" in error.cause
    assert SECRET not in str(error)


@pytest.mark.parametrize("length", [MAX_VARCHAR_BYTES - 1, MAX_VARCHAR_BYTES])
def test_the_longest_text(length):
    assert len(render("{a}", a="x" * length).text) == length


@pytest.mark.parametrize(
    "text", ["x" * (MAX_VARCHAR_BYTES + 1), "é" * (MAX_VARCHAR_BYTES // 2 + 1)]
)
def test_a_text_that_is_too_long_in_bytes(text):
    error = refusal("{a}", a=text)
    assert "65,536 bytes" in error.cause
    assert error.subject == "docs:1"


def test_the_longest_text_counts_bytes_of_utf8():
    assert render("{a}", a="é" * (MAX_VARCHAR_BYTES // 2)).text


# Large values that Debezium left out.

PLACEHOLDERS = {
    "text and jsonb": UNAVAILABLE,
    "bytea": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
    "bytea in hex": UNAVAILABLE.encode().hex(),
    "text[]": [UNAVAILABLE],
    "bytea[]": ["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="],
    "int[]": list(UNAVAILABLE.encode()),
    "uuid[]": ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],
    "hstore as a map": {UNAVAILABLE: UNAVAILABLE},
    "hstore as json": f'{{"{UNAVAILABLE}":"{UNAVAILABLE}"}}',
}


@pytest.mark.parametrize("value", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_a_value_left_out_is_never_taken_for_the_value(value):
    for error in (
        refusal("{a}", a=value),
        refusal("{b}", {"a": "json"}, a=value, b="x"),
        refusal("{b}", {"a": "varchar"}, a=value, b="x"),
    ):
        assert "'a' of app.public.docs" in error.subject
        assert "TOAST" in error.cause
        assert error.hint == "ALTER TABLE docs REPLICA IDENTITY FULL"


@pytest.mark.parametrize("value", [f"see {UNAVAILABLE}", ["x", UNAVAILABLE], {"a": UNAVAILABLE}])
def test_a_value_that_only_speaks_of_it_is_a_value(value):
    assert UNAVAILABLE in render("{a}", a=value).text


def test_a_left_out_column_that_is_not_used_does_no_harm():
    assert render("{a}", a="x", b=UNAVAILABLE).text == "x"


# Columns.


@pytest.mark.parametrize(
    ("type_", "value", "stored"),
    [
        ("varchar", "x", "x"),
        ("varchar", 7, "7"),
        ("varchar", True, "true"),
        ("varchar", ["a"], '["a"]'),
        ("int64", 7, 7),
        ("int64", "-7", -7),
        ("int64", 7.0, 7),
        ("int64", 2**63 - 1, 2**63 - 1),
        ("int64", -(2**63), -(2**63)),
        ("int32", 2**31 - 1, 2**31 - 1),
        ("int32", -(2**31), -(2**31)),
        ("double", 1, 1.0),
        ("double", "12.5", 12.5),
        ("float", 0.5, 0.5),
        ("bool", True, True),
        ("bool", False, False),
        ("json", {"a": 1}, {"a": 1}),
        ("json", '{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        ("json", "[1]", [1]),
        ("json", "no json", "no json"),
    ],
)
def test_a_column(type_, value, stored):
    found = field(type_, value)
    assert found == stored
    assert type(found) is type(stored)


@pytest.mark.parametrize("type_", ["varchar", "int64", "int32", "double", "float", "bool", "json"])
def test_null_is_null_in_every_type(type_):
    assert field(type_, None) is None


@pytest.mark.parametrize(
    ("type_", "value", "cause"),
    [
        ("int64", SECRET, "not a whole number"),
        ("int64", "", "not a whole number"),
        ("int64", 7.5, "has a fraction"),
        ("int64", math.nan, "not a whole number"),
        ("int64", math.inf, "int64"),
        ("int64", 2**63, "out of range"),
        ("int64", -(2**63) - 1, "out of range"),
        ("int64", "9" * 5_000, "not a whole number"),
        ("int64", [SECRET], "int64"),
        ("int64", {SECRET: 1}, "int64"),
        ("int32", 2**31, "out of range"),
        ("int32", -(2**31) - 1, "out of range"),
        ("double", SECRET, "not a number"),
        ("double", [SECRET], "double"),
        ("float", {SECRET: 1}, "float"),
        ("bool", 1, "not a boolean"),
        ("bool", SECRET, "not a boolean"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_not_quoted(type_, value, cause):
    error = refusal("{t}", {"c": type_}, t="x", c=value)
    assert error.subject == "docs:1, column 'c'"
    assert cause in error.cause
    assert SECRET not in str(error)
    assert "999" not in str(error)
    assert error.__cause__ is None


def test_the_length_of_a_varchar_counts_bytes():
    assert field("varchar", "é" * 5, max_length=10) == "é" * 5
    for value in ("x" * 11, "é" * 6, [SECRET]):
        error = refusal("{t}", {"c": {"type": "varchar", "max_length": 10}}, t="x", c=value)
        assert "max_length = 10 bytes" in error.cause
        assert SECRET not in str(error)


def test_a_column_under_another_name():
    columns = {"vector": {"type": "varchar", "field": "docs_vector"}, "b": "int64"}
    row = render("{b}", columns, vector="x", b=1)
    assert row.columns == {"docs_vector": "x", "b": 1}


def test_a_mirrored_column_that_is_not_there():
    assert "'c' of app.public.docs" in refusal("{t}", {"c": "int64"}, t="x").subject
