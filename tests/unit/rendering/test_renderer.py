"""Rows → text and columns. A value that does not fit is refused, and no error message quotes it."""

import json
import math
from typing import Any

import pytest

from flows.sync import rules_of
from operators.changes.events import Delete, KafkaPosition, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import PartialRow, Row, texts_of
from operators.changes.text_hash import text_hash
from operators.changes.version import make_version
from operators.codec.mongodb import Document
from operators.contract.sections import MaskingSection
from operators.contract.table import MAX_VARCHAR_BYTES
from operators.errors import FatalError, RecordError
from operators.rendering.columns import ColumnReader
from operators.rendering.masks import Masker
from operators.rendering.renderer import Renderer
from tests.changes import TOPIC, contract, doc, table

UNAVAILABLE = "__debezium_unavailable_value"
SECRET = "s3cret-value"


def upsert(**columns: Any) -> Upsert:
    return Upsert(
        RowKey("docs:1"),
        make_version(0, f"{7:016x}.{7:016x}", 3),
        KafkaPosition("app.public.docs", 2, 3),
        1_700_000_000_000,
        "u",
        columns,
        b"raw",
    )


def rendered(text: str, columns: dict[str, Any] | None, row: dict[str, Any]) -> Any:
    """The row; the second one of a shape goes a shorter way, and must come to the same."""
    contract = table(text=text, columns=columns or {})
    # As in the flow: every table has a masker, even if it masks nothing.
    renderer, event = Renderer(contract, Masker(contract, MaskingSection())), upsert(**row)

    def outcome() -> Any:
        try:
            return renderer.render(event)
        except (RecordError, FatalError) as error:
            return type(error), str(error), error.hint

    first = outcome()
    assert outcome() == first
    return renderer.render(event)


def render(text: str, columns: dict[str, Any] | None = None, **row: Any) -> Row:
    return rendered(text, columns, row)


def field(type_: str, value: Any, **spec: Any) -> Any:
    return render("{t}", {"c": {"type": type_, **spec}}, t="x", c=value).columns["c"]


def refusal(text: str, columns: dict[str, Any] | None = None, **row: Any) -> RecordError:
    with pytest.raises(RecordError) as caught:
        render(text, columns, **row)
    assert caught.value.hint
    return caught.value


def partly(text: str, columns: dict[str, Any] | None = None, **row: Any) -> PartialRow:
    partial = rendered(text, columns, row)
    assert isinstance(partial, PartialRow)
    return partial


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
    # The hash is stored with every vector: another function would embed every text again.
    assert text_hash("Grüße") == "c483baa27a9abd2202924662a88aaf32"


def test_a_column_that_is_not_there():
    error = refusal("{a}{titel}", a=1, title=SECRET)
    assert "'titel' of app.public.docs" in error.subject
    assert "'a', 'title'" in error.cause
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
    for text, columns in (("{a}", {}), ("{b}", {"a": "json"}), ("{b}", {"a": "varchar"})):
        partial = partly(text, columns, a=value, b="x")
        assert partial.missing == ("a",)
        assert UNAVAILABLE not in str(partial)


# Rows that were sent whole, by what the decoder says of them.
LITERAL = {name: value for name, value in PLACEHOLDERS.items() if name not in ("int[]", "uuid[]")}


@pytest.mark.parametrize("value", LITERAL.values(), ids=LITERAL)
def test_in_a_row_that_was_sent_whole_it_is_the_value(value):
    renderer = Renderer(table(text="{b} {a}", columns={"a": "varchar"}))
    inserted = upsert(a=value, b="x")._replace(inserted=True)
    row = renderer.render(inserted)
    shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    assert isinstance(row, Row)
    assert (row.text, row.columns) == (f"x {shown}", {"a": shown})
    assert renderer.values_in(inserted, ["a"]) == ({"a": shown}, {"a": shown})
    assert isinstance(renderer.render(upsert(a=value, b="x")), PartialRow)


@pytest.mark.parametrize("name", ["int[]", "uuid[]"])
def test_where_headers_are_not_read_an_insert_may_be_a_changed_key(name):
    renderer = Renderer(table(text="{b}", columns={"a": "varchar"}))
    inserted = upsert(a=PLACEHOLDERS[name], b="x")._replace(inserted=True)
    assert isinstance(renderer.render(inserted), PartialRow)


def test_a_filter_and_a_soft_delete_see_the_value():
    section = table(
        text="{b}", columns={}, soft_delete="a", filter=[{"column": "c", "equals": UNAVAILABLE}]
    )
    renderer = Renderer(section)
    row = upsert(a=None, b="x", c=UNAVAILABLE)
    assert isinstance(renderer.render(row._replace(inserted=True)), Row)
    with pytest.raises(RecordError, match="left the unchanged large value out"):
        renderer.render(row)


@pytest.mark.parametrize("value", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_the_database_may_answer_with_what_looks_like_a_placeholder(value):
    renderer = Renderer(table(text="{a}", columns={"a": "json"}))
    partial = renderer.render(upsert(a=UNAVAILABLE))
    assert isinstance(partial, PartialRow)
    row = renderer.complete_from_values(partial, {"a": value})
    assert isinstance(row, Row)
    assert row.text


@pytest.mark.parametrize("scalar", ["text", "3", '"3"', "true", "1.5", 7, False])
def test_a_scalar_in_a_json_column(scalar):
    value = json.loads(scalar) if isinstance(scalar, str) and scalar != "text" else scalar
    assert field("json", scalar) == value
    assert field("json", scalar, scalars="wrap") == {"value": value}


@pytest.mark.parametrize("value", [None, "null", {"a": 1}, [1], "{}", "[]"])
def test_what_is_no_scalar_is_not_wrapped(value):
    assert field("json", value, scalars="wrap") == field("json", value)


def test_another_placeholder_is_what_the_contract_says():
    other = table(text="{a}", columns={}, unavailable_value="<gone>")
    assert isinstance(Renderer(other).render(upsert(a="<gone>")), PartialRow)
    assert Renderer(other).render(upsert(a=UNAVAILABLE)).text == UNAVAILABLE


def test_a_partial_row_is_completed_from_another_version():
    rules = {"text": "{title}: {body}\n{title}", "columns": {"body": "varchar", "size": "int64"}}
    renderer = Renderer(table(**rules))
    before = renderer.render(upsert(title="Old", body="The body", size=1))
    partial = renderer.render(upsert(title="New", body=UNAVAILABLE, size=2))
    assert texts_of(before) == {"title": "Old", "body": "The body"}
    row = renderer.complete(partial, texts_of(before), before.columns)
    whole = renderer.render(upsert(title="New", body="The body", size=2))
    assert row == whole


def test_null_carried_forward_stays_null():
    renderer = Renderer(table(text="{a}|{b}", columns={}, defaults={"a": "none"}))
    before = renderer.render(upsert(a=None, b="x"))
    assert before.text == "none|x"
    partial = renderer.render(upsert(a=UNAVAILABLE, b="y"))
    assert renderer.complete(partial, texts_of(before), {}).text == "none|y"


def test_what_another_version_cannot_give_is_still_missing():
    renderer = Renderer(table(text="{a}{b}", columns={"c": "varchar"}))
    partial = renderer.render(upsert(a=UNAVAILABLE, b=UNAVAILABLE, c=UNAVAILABLE))
    less = renderer.complete(partial, {"b": "x"}, {"c": "y"})
    assert less.missing == ("a",)
    error = renderer.left_out(less, "nobody knows it")
    assert error.subject == "column 'a' of app.public.docs"
    assert "TOAST" in error.cause
    assert "REPLICA IDENTITY FULL" in error.hint
    assert "dsn in [source]" in error.hint


def test_values_of_the_database_are_masked_and_typed():
    contract = table(
        text="{note}",
        columns={"n": "int64"},
        masks={"note": {"redact": "s3cret", "replacement": "*"}},
    )
    renderer = Renderer(contract, Masker(contract, MaskingSection()))
    partial = renderer.render(upsert(note=UNAVAILABLE, n=1))
    row = renderer.complete_from_values(partial, {"note": "my s3cret"})
    assert row.text == "my *"


def test_what_a_change_says_of_some_columns_is_masked_and_typed():
    """The change may be one whose row cannot be rendered, and it may leave columns out itself."""
    contract = table(
        text="{note}{doc}",
        columns={"n": "int64", "m": "int64"},
        masks={"note": {"redact": "s3cret", "replacement": "*"}},
    )
    renderer = Renderer(contract, Masker(contract, MaskingSection()))
    change = upsert(note="my s3cret", doc=UNAVAILABLE, n=1, m="?")
    assert renderer.values_in(change, ("note", "doc", "n")) == ({"note": "my *"}, {"n": 1})
    with pytest.raises(RecordError, match="column 'm'"):
        renderer.values_in(change, ("note", "m"))
    with pytest.raises(RecordError, match="no such column"):
        renderer.values_in(change, ("other",))


@pytest.mark.parametrize(("drift", "refused"), [({}, False), ({"missing": "dead-letter"}, True)])
def test_a_field_that_a_document_lacks_is_null(drift, refused):
    renderer = Renderer(table(text="{a}{b}", columns={}, drift=drift))
    lacking = upsert(a="x")._replace(row=Document(a="x"))
    if refused:
        with pytest.raises(RecordError, match="no such column"):
            renderer.render(lacking)
    else:
        assert renderer.render(lacking).text == "x"


def test_a_field_that_a_row_lacks_is_told_the_setting_where_rows_may_be_documents():
    with pytest.raises(RecordError, match="no such column") as caught:
        render("{a}{b}", a="x", _id=1)
    assert 'drift = { missing = "null" }' in caught.value.hint
    with pytest.raises(RecordError, match="no such column") as caught:
        render("{a}{b}", a="x")
    assert "drift" not in caught.value.hint


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
        ("int64", "9" * 5_000, "out of range"),
        ("int64", [SECRET], "int64"),
        ("int64", {SECRET: 1}, "int64"),
        ("int32", 2**31, "out of range"),
        ("int32", -(2**31) - 1, "out of range"),
        ("double", SECRET, "not a number"),
        ("double", [SECRET], "double"),
        ("float", {SECRET: 1}, "float"),
        ("bool", 2, "not a boolean"),
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


# Rows that are kept out of the collection.


@pytest.mark.parametrize(
    ("more", "row", "there"),
    [
        ({"filter": [{"column": "s", "equals": "on"}]}, {"s": "on"}, True),
        ({"filter": [{"column": "s", "equals": "on"}]}, {"s": "off"}, False),
        ({"filter": [{"column": "s", "equals": "on"}]}, {"s": None}, False),
        ({"soft_delete": "gone"}, {"gone": None}, True),
        ({"soft_delete": "gone"}, {"gone": "2026-01-01T00:00:00Z"}, False),
        ({"soft_delete": "gone"}, {"gone": False}, True),
        ({"empty_text": "skip"}, {"a": " \n"}, False),
        ({"empty_text": "skip"}, {"a": None}, False),
        ({"empty_text": "keep"}, {"a": ""}, True),
    ],
)
def test_a_row_that_is_kept_out_is_a_delete_of_its_version(more, row, there):
    event = upsert(**{"a": "x", **row})
    rendered = Renderer(table(text="{a}", columns={}, **more)).render(event)
    assert isinstance(rendered, Row if there else Delete)
    assert rendered.version == event.version


def test_a_masked_value_never_goes_the_short_way():
    contract = table(text="{a}", columns={"b": "varchar"}, masks={"a": "hmac", "b": "hmac"})
    renderer = Renderer(contract, Masker(contract, MaskingSection(hmac_key="k" * 16)))
    first, again = (renderer.render(upsert(a=SECRET, b=SECRET)) for _ in range(2))
    assert first == again
    assert SECRET not in repr(again)


def test_the_filter_sees_masked_values():
    contract = table(
        text="{a}", columns={}, filter=[{"column": "a", "equals": "s3cret"}], masks={"a": "hmac"}
    )
    masking = MaskingSection(hmac_key="k" * 16)
    assert isinstance(
        Renderer(contract, Masker(contract, masking)).render(upsert(a="s3cret")), Delete
    )


# Columns that changed.


def test_a_strict_contract_refuses_a_column_it_does_not_name():
    strict = {"text": "{a}", "columns": {}, "key": ["id"], "unmirrored": ["b"]}
    row = upsert(id=1, a="x", b="y", c=SECRET)
    for policy, error in (("dead-letter", RecordError), ("halt", FatalError)):
        renderer = Renderer(table(**strict, drift={"added": policy}))
        assert renderer.render(upsert(id=1, a="x", b="y")).text == "x"
        with pytest.raises(error, match=r"column 'c' of app\.public\.docs") as caught:
            renderer.render(row)
        assert SECRET not in str(caught.value)
    assert Renderer(table(**strict)).render(row).text == "x"


@pytest.mark.parametrize(
    ("drift", "outcome"),
    [({}, RecordError), ({"missing": "null"}, ""), ({"missing": "halt"}, FatalError)],
)
def test_a_column_that_is_gone(drift, outcome):
    renderer = Renderer(table(text="{a}", columns={}, drift=drift))
    if isinstance(outcome, str):
        assert renderer.render(upsert(b=1)).text == outcome
    else:
        with pytest.raises(outcome, match="the row has no such column"):
            renderer.render(upsert(b=1))


@pytest.mark.parametrize(
    ("drift", "outcome"),
    [({}, RecordError), ({"retyped": "null"}, None), ({"retyped": "halt"}, FatalError)],
)
def test_a_value_of_another_type(drift, outcome):
    renderer = Renderer(table(text="{a}", columns={"n": "int64"}, drift=drift))
    event = upsert(a="x", n="many")
    if outcome is None:
        assert renderer.render(event).columns == {"n": None}
    else:
        with pytest.raises(outcome, match="column 'n': it does not fit into int64"):
            renderer.render(event)


def test_encodings_say_what_the_message_does_not():
    renderer = Renderer(
        table(
            text="{price} {at}",
            columns={"at": "int64"},
            encodings={"price": "decimal(2)", "at": "timestamp-ms"},
        )
    )
    row = renderer.render(upsert(price="BNI=", at=1_500))
    assert row.text == "12.34 1970-01-01T00:00:01.5"
    assert row.columns == {"at": 1_500_000}


def test_the_flow_takes_the_short_way_of_plain_rows(monkeypatch):
    renderer = rules_of(contract())[TOPIC].renderer
    event = upsert(**doc(1, "text"))
    first = renderer.render(event)
    # The long way asks for each value.
    monkeypatch.setattr(ColumnReader, "value", None)
    assert renderer.render(event) == first
