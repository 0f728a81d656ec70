"""Row keys: one for each row, the same in whichever way its key is written."""

from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given

from operators.changes.row_key import encoded, key_prefix, key_values
from operators.codec.decoder import Decoder
from operators.codec.logical_types import Logical
from operators.codec.row_keys import MAX_ROW_KEY_BYTES, KeyMaker, kind_of, names_of
from operators.contract.table import TableSection
from operators.errors import RecordError
from tests.changes import key, table

DOCS = table()
PARTS = st.text(max_size=30)
"""Two texts of this length fit into a key: an encoded character takes up to twelve."""

SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-%:,"


def row_key(section: TableSection, raw: bytes | None) -> str:
    (found,) = Decoder(section).row_keys(raw, None)
    return found


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (1, "1"),
        (-1, "-1"),
        (0, "0"),
        (9_007_199_254_740_993, "9007199254740993"),
        (2**63 - 1, "9223372036854775807"),
        (1.5, "1.5"),
        (1.0, "1.0"),
        (1e300, "1e%2B300"),
        (True, "true"),
        (False, "false"),
        ("", ""),
        ("plain-._~", "plain-._~"),
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("%41", "%2541"),
        ("a,b:c#0", "a%2Cb%3Ac%230"),
        ('it\'s "quoted"', "it%27s%20%22quoted%22"),
        ("'] or id != ['", "%27%5D%20or%20id%20%21%3D%20%5B%27"),
        ("a/b\\c", "a%2Fb%5Cc"),
        ("Grüße", "Gr%C3%BC%C3%9Fe"),
        ("漢字", "%E6%BC%A2%E5%AD%97"),
        ("🎉", "%F0%9F%8E%89"),
        ("\x00\n", "%00%0A"),
    ],
)
def test_a_key(value, part):
    assert row_key(DOCS, key(id=value)) == f"docs:{part}"


def test_the_contract_orders_the_parts_of_a_key():
    pair = table(key=["left", "right"])
    assert row_key(pair, b'{"right":2,"left":1}') == row_key(pair, b'{"left":1,"right":2}')
    assert row_key(pair, key(left="a", right="b,c")) != row_key(pair, key(left="a,b", right="c"))


def test_further_columns_of_a_key_are_not_of_interest():
    assert row_key(DOCS, key(id=1, shard="x")) == "docs:1"


def test_the_name_of_the_table_is_encoded_as_well():
    assert row_key(table(name="odd: name"), key(id=1)) == "odd%3A%20name:1"


def test_a_key_with_its_schema():
    assert row_key(DOCS, b'{"schema":{"type":"struct"},"payload":{"id":1}}') == "docs:1"
    assert row_key(DOCS, b'{"schema":null,"payload":{"id":1}}') == "docs:1"


def test_a_key_column_may_be_called_payload():
    assert row_key(table(key=["payload"]), b'{"payload":7}') == "docs:7"
    assert row_key(table(key=["payload"]), b'{"payload":"x"}') == "docs:x"
    assert row_key(table(key=["schema", "payload"]), b'{"schema":"s","payload":7}') == "docs:s,7"


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (None, "no key"),
        (b"", "it is empty"),
        (b"7", "a number, not an object with the key's columns"),
        (b'"7"', "a string, not an object"),
        (b"[7]", "an array, not an object"),
        (b'{"schema":{"type":"int32"},"payload":7}', "a number, not an object"),
        (b"null", "no key"),
        (b'{"schema":null,"payload":null}', "no key"),
        (b"\xff\xfe", "no JSON"),
        (b'{"id":"\\ud800"}', "half of a surrogate pair"),
        (b'{"id":"caf\xe9"}', "bytes that are no UTF-8"),
        (b'{"id":NaN}', "no JSON"),
        (b"{}", "no column 'id' but no fields"),
        (b'{"ID":1,"other":2}', "no column 'id' but 'ID', 'other'"),
        (b'{"id":null}', "column 'id' is null"),
        (b'{"id":[1]}', "column 'id' is an array"),
        (b'{"id":{"a":1}}', "column 'id' is an object"),
        (b'{"id":"' + b"x" * MAX_ROW_KEY_BYTES + b'"}', "characters long"),
        (b'{"id":"' + "é".encode() * (MAX_ROW_KEY_BYTES // 6) + b'"}', "characters long"),
    ],
)
def test_a_key_that_cannot_be_used(raw, cause):
    with pytest.raises(RecordError) as caught:
        row_key(DOCS, raw)
    assert cause in caught.value.cause
    assert caught.value.subject == f"key of {DOCS.topic}"
    assert caught.value.hint


def test_the_longest_key():
    room = MAX_ROW_KEY_BYTES - len("docs:")
    assert len(row_key(DOCS, key(id="x" * room))) == MAX_ROW_KEY_BYTES
    with pytest.raises(RecordError):
        row_key(DOCS, key(id="x" * (room + 1)))


@given(PARTS, PARTS)
def test_two_texts_never_share_a_key(one, other):
    pair = table(key=["left", "right"])
    keys = {row_key(pair, key(left=a, right=b)) for a, b in [(one, other), (other, one)]}
    assert len(keys) == (1 if one == other else 2)
    assert all(set(k) <= set(SAFE) for k in keys)


@given(st.lists(PARTS, min_size=2, max_size=2))
def test_a_key_gives_its_values_back(values):
    pair = table(key=["left", "right"])
    found = KeyMaker(pair)(dict(zip(pair.key, values, strict=True)))
    assert found.startswith(key_prefix(pair.name))
    assert key_values(pair, found) == dict(zip(pair.key, values, strict=True))


def test_no_tables_keys_begin_with_anothers_prefix():
    assert not KeyMaker(table(name="a"))({"id": 1}).startswith(key_prefix("a:"))
    assert not KeyMaker(table(name="a:b"))({"id": 1}).startswith(key_prefix("a"))


# Types: from the message's schema, else from the contract.


def with_schema(value: Any, **field: Any) -> bytes:
    schema = {"type": "struct", "fields": [{"field": "id", "optional": False, **field}]}
    return orjson.dumps({"schema": schema, "payload": {"id": value}})


DECIMAL = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal"}
VARIABLE = {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal"}


@pytest.mark.parametrize(
    ("raw", "encoding", "plain"),
    [
        # numeric(10,0) and numeric(10,2), as base64 and with decimal.handling.mode=string
        (with_schema("Aw==", **DECIMAL, parameters={"scale": "0"}), None, "3"),
        (with_schema("JwY=", **DECIMAL, parameters={"scale": "2"}), None, "99.90"),
        (key(id="JwY="), "decimal(2)", "99.90"),
        # Oracle's NUMBER
        (with_schema({"scale": 0, "value": "Kg=="}, **VARIABLE), None, 42),
        (with_schema({"scale": 1, "value": "Kg=="}, **VARIABLE), None, "4.2"),
        # dates and timestamps, as numbers and with time.precision.mode=isostring
        (with_schema(19_724, type="int32", name="io.debezium.time.Date"), None, "2024-01-02"),
        (key(id=19_724), "date-days", "2024-01-02"),
        (
            with_schema(
                1_704_164_645_678_901, type="int64", name="io.debezium.time.MicroTimestamp"
            ),
            None,
            "2024-01-02T03:04:05.678901",
        ),
        # bytes, as base64 and as hex
        (key(id="deadbeef"), "bytes-hex", "3q2+7w=="),
        (with_schema("3q2+7w==", type="bytes"), None, "3q2+7w=="),
        # values that need no type
        (with_schema(7, type="int32"), None, 7),
        (with_schema("a b", type="string"), None, "a b"),
        (with_schema(True, type="boolean"), None, True),
        (with_schema(1.5, type="double"), None, 1.5),
    ],
)
def test_a_key_is_the_same_however_it_is_written(raw, encoding, plain):
    section = table(encodings={} if encoding is None else {"id": encoding})
    assert row_key(section, raw) == row_key(DOCS, key(id=plain))


def test_a_contracts_encodings_hold_with_and_without_a_schema():
    section = table(encodings={"id": "date-days"})
    assert row_key(section, key(id=19_724)) == "docs:2024-01-02"
    assert row_key(section, with_schema("2024-01-02", type="string")) == "docs:2024-01-02"
    # ProtobufConverter gives a schema, but drops the names of Debezium's types.
    assert KeyMaker(section)({"id": 5}, {}) == "docs:1970-01-06"
    assert KeyMaker(section)({"id": 5}, None) == "docs:1970-01-06"


def test_values_that_a_registry_made():
    made = KeyMaker(DOCS)({"id": Decimal("99.90")}, {"id": Logical("decimal", scale=2)})
    assert made == row_key(DOCS, key(id="99.90"))


@pytest.mark.parametrize(
    ("raw", "encodings"),
    [
        (with_schema("no base64!", **DECIMAL, parameters={"scale": "0"}), {}),
        (with_schema({"scale": 0}, **VARIABLE), {}),
        (with_schema({"scale": "x", "value": "Kg=="}, **VARIABLE), {}),
        (key(id={"scale": 0, "value": "Kg=="}), {"id": "decimal(0)"}),
        (key(id="2024"), {"id": "date-days"}),
        (key(id=1.5), {"id": "date-days"}),
    ],
)
def test_a_key_that_is_not_what_its_type_says(raw, encodings):
    with pytest.raises(RecordError, match="column 'id'") as caught:
        row_key(table(encodings=encodings), raw)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["array", "map", "struct"])
def test_an_array_or_a_map_is_no_key(kind):
    logical = Logical(kind, parts=(("", Logical("float")),))
    value: Any = [1.5] if kind == "array" else {"a": 1.5}
    with pytest.raises(RecordError, match="column 'id' is an"):
        KeyMaker(DOCS)({"id": value}, {"id": logical})


# Masks.


def test_a_masked_key_column_never_shows():
    masks = {"id": lambda value: f"masked {str(value)[::-1]}"}
    decoder = Decoder(table(key=["id", "part"]), key_masks=masks)
    (found,) = decoder.row_keys(key(id="secret", part="open"), None)
    assert found == "docs:masked%20terces,open"
    with pytest.raises(RecordError, match="column 'id' is null"):
        decoder.row_keys(key(id=None, part="open"), None)
    with pytest.raises(RecordError, match="column 'id' is an array"):
        decoder.row_keys(key(id=["secret"], part="open"), None)


def test_a_mask_sees_the_value_that_the_type_stands_for():
    seen: list[Any] = []

    def mask(value: Any) -> str:
        seen.append(value)
        return "x"

    decoder = Decoder(DOCS, key_masks={"id": mask})
    decoder.row_keys(with_schema("JwY=", **DECIMAL, parameters={"scale": "2"}), None)
    assert seen == ["99.90"]


# Error messages.


def test_an_error_says_the_kind_and_never_the_value():
    assert [kind_of(v) for v in (None, True, 7, 1.5, "x", [1], {"a": 1})] == [
        "null",
        "a boolean",
        "a number out of range",
        "a number with a fraction",
        "a string",
        "an array",
        "an object",
    ]
    for value in (["hidden"], {"a": "hidden"}):
        with pytest.raises(RecordError) as caught:
            row_key(DOCS, key(id=value))
        assert "hidden" not in str(caught.value)


def test_names_are_few_and_short():
    assert names_of({}) == "no fields"
    assert names_of(["b", "a"]) == "'a', 'b'"
    assert len(names_of([f"{n}{'x' * 500}" for n in range(500)])) < 1_000
    assert names_of({1: "a registry's map"}) == "'1'"  # type: ignore[dict-item]


def test_half_a_character_is_no_key():
    with pytest.raises(RecordError, match="lone surrogate"):
        encoded("\ud800")
