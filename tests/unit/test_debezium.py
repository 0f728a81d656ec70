"""Envelopes → events: messages that Debezium really sent, and everything that could arrive instead."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import example, given, settings

from operators.debezium import MAX_ROW_KEY_BYTES, decode, row_key
from operators.errors import RecordError
from operators.events import Delete, KafkaPosition, RowKey, Tombstone, Upsert, offset_of
from operators.table import TableSection
from tests.changes import envelope, key, source, table

DATA = Path(__file__).parent.parent / "data" / "debezium"
VARIANTS = ["off", "on"]
AT = KafkaPosition("app.public.docs", 3, 42)
DOCS = table()
ROW = RowKey("docs:1")
KEYS = {
    "articles": ["id"],
    "order_items": ["order_id", "line_no"],
    "users": ["email"],
    "docs_default": ["id"],
    "inc": ["id"],
    "Mixed_Case": ["Id"],
}


@dataclass(frozen=True)
class Message:
    position: KafkaPosition
    key: bytes | None
    value: bytes | None

    @property
    def table(self) -> TableSection:
        name = self.position.topic.rsplit(".", 1)[-1]
        return table(topic=self.position.topic, name=name, key=KEYS[name], columns={})

    def decoded(self) -> Any:
        return decode(self.table, row_key(self.table, self.key), self.value, self.position)


def messages(variant: str, case: str) -> list[Message]:
    lines = (DATA / f"schemas_{variant}.{case}.jsonl").read_text("utf-8").splitlines()
    return [
        Message(
            KafkaPosition(line["topic"], line["partition"], line["offset"]),
            None if line["key"] is None else line["key"].encode(),
            None if line["value"] is None else line["value"].encode(),
        )
        for line in map(json.loads, lines)
    ]


def events(variant: str, case: str) -> list[Any]:
    return [message.decoded() for message in messages(variant, case)]


CAPTURED = [
    message
    for variant in VARIANTS
    for path in sorted(DATA.glob(f"schemas_{variant}.*.jsonl"))
    for message in messages(variant, path.name.split(".")[1])
]


def test_the_data_is_there():
    assert len(CAPTURED) > 30
    wrapped = [m for m in CAPTURED if m.value is not None and b'"payload":' in m.value]
    assert 10 < len(wrapped) < len(CAPTURED)


# What Debezium sent.


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_insert(variant):
    (event,) = events(variant, "insert")
    assert isinstance(event, Upsert)
    assert (event.row_key, event.op) == ("articles:10", "c")
    assert event.columns["title"] == "New"
    assert event.columns["published"] is False
    assert event.columns["tags"] is None
    assert event.source_ts_ms > 1_700_000_000_000
    assert event.raw == messages(variant, "insert")[0].value


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update(variant):
    (event,) = events(variant, "update")
    assert (event.row_key, event.op) == ("articles:10", "u")
    assert (event.columns["title"], event.columns["views"]) == ("Newer", 5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_delete_and_its_tombstone(variant):
    delete, tombstone = events(variant, "delete")
    assert isinstance(delete, Delete)
    assert not delete.lone
    assert isinstance(tombstone, Tombstone)
    assert delete.row_key == tombstone.row_key == "articles:10"
    assert tombstone.position.offset == delete.position.offset + 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_versions_of_a_row_rise(variant):
    versions = [events(variant, case)[0].version for case in ("insert", "update", "delete")]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_key_change_is_a_delete_and_a_create(variant):
    found = {(type(e), e.row_key) for e in events(variant, "pk_change")}
    old, new = "users:a%40example.com", "users:ann%40example.com"
    assert found == {(Delete, old), (Tombstone, old), (Upsert, new)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_key_change_of_a_composite_key(variant):
    found = {(type(e), e.row_key) for e in events(variant, "pk_change_composite")}
    old, new = "order_items:1,2", "order_items:1,9"
    assert found == {(Delete, old), (Tombstone, old), (Upsert, new)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_initial_snapshot(variant):
    found = {event.row_key: event for event in events(variant, "snapshot")}
    assert set(found) == {
        "Mixed_Case:1",
        "articles:2",
        "articles:3",
        "order_items:1,1",
        "order_items:1,2",
    }
    assert {event.op for event in found.values()} == {"r"}
    assert found["Mixed_Case:1"].columns == {"Id": 1, "Full Name": "Jane Doe"}
    assert found["articles:3"].columns["title"] == 'Ünïcödé 漢字 🎉 "quotes" \\back\\ \nnewline'
    # One LSN for all rows; only the offset tells them apart.
    assert len({event.version[:-16] for event in found.values()}) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_incremental_snapshot_orders_by_its_window(variant):
    by_row: dict[str, list[Any]] = {}
    for event in events(variant, "incremental_snapshot"):
        by_row.setdefault(event.row_key, []).append(event)
    assert [event.op for event in by_row["inc:4"]] == ["r"]
    update, read = by_row["inc:5"]
    assert (update.op, read.op) == ("u", "r")
    assert update.version < read.version
    # Its lsn is null: the position is the LSN that closed the window, not the time.
    assert int(read.version.split(".")[2], 16) == 28_267_976


@pytest.mark.parametrize("variant", VARIANTS)
def test_interleaved_transactions_keep_each_rows_order(variant):
    found = sorted(events(variant, "interleaved"), key=lambda event: event.row_key)
    first, second, other = found
    assert (first.row_key, second.row_key, other.row_key) == ("users:ilA", "users:ilA", "users:ilB")
    assert first.version < second.version
    assert first.columns["full_name"] == "a"
    # B began after A and committed before it; its LSN lies between A's two.
    assert other.version < first.version


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_value_left_out_stays_as_it_came(variant):
    (event,) = events(variant, "toast")
    assert event.columns["body"] == "__debezium_unavailable_value"


@pytest.mark.parametrize("variant", VARIANTS)
def test_truncate_is_refused_with_the_way_out(variant):
    (message,) = messages(variant, "truncate")
    assert message.key is None
    with pytest.raises(RecordError, match=r"TRUNCATE of src\.public\.order_items") as caught:
        decode(message.table, ROW, message.value, message.position)
    assert "DELETE" in caught.value.hint


@pytest.mark.parametrize(
    "case",
    sorted({path.name.split(".")[1] for path in DATA.glob("*.jsonl")} - {"truncate"}),
)
def test_with_and_without_schemas_it_is_the_same(case):
    def plain(event: Any) -> tuple[Any, ...]:
        # The two runs wrote to other partitions; all but offset and clock is equal.
        if isinstance(event, Tombstone):
            return ("tombstone", event.row_key)
        version = event.version[:-16]
        if isinstance(event, Delete):
            return ("delete", event.row_key, version)
        return (event.op, event.row_key, version, orjson.dumps(event.columns))

    assert sorted(map(plain, events("off", case))) == sorted(map(plain, events("on", case)))


# Versions.


def version(position: int | None = 7, offset: int = 0, generation: int = 0, **more: Any) -> str:
    value = json.dumps({"op": "d", "source": source(position, **more)}).encode()
    at = KafkaPosition(AT.topic, AT.partition, offset)
    return decode(table(generation=generation), ROW, value, at).version  # type: ignore[union-attr]


def test_equal_positions_are_ordered_by_offset():
    assert version(7, 9) < version(7, 10) < version(7, 2**40) < version(8, 0)


def test_positions_are_compared_as_numbers():
    assert version(9) < version(10) < version(2**33) < version(2**64 - 1)


def test_a_generation_goes_before_all_positions():
    assert version(2**64 - 1, generation=9) < version(0, generation=10)


def test_a_version_ends_with_its_offset():
    assert offset_of(version(7, 123_456)) == 123_456  # type: ignore[arg-type]


def test_the_last_of_the_sequence_stands_in_for_the_lsn():
    assert version(None, sequence='["5","6"]') == version(6, sequence='["5","6"]')
    assert version(None, sequence='[null,"6"]') == version(6)


def pair(commit: int | None, own: int, snapshot: str = "false") -> str:
    """The version of a change at a pair of positions, as Debezium tells them."""
    first = "null" if commit is None else f'"{commit}"'
    lsn = None if snapshot == "incremental" else own
    return version(lsn, sequence=f'[{first},"{own}"]', snapshot=snapshot)


def test_a_commit_after_a_snapshot_read_is_newer_than_the_read():
    # A transaction writes the row at 100 and stays open. A snapshot reads the row as it was, at 200.
    # The transaction commits; the last commit before its change is then the snapshot's own, or later.
    for kind in ("incremental", "first", "true", "last"):
        assert pair(190, 200, kind) < pair(205, 100)
    assert pair(190, 200, "true") < pair(190, 100)
    # And what was committed and streamed before the read is older than it.
    for kind in ("incremental", "true"):
        assert pair(150, 170) < pair(190, 200, kind)


def test_a_stream_after_an_initial_snapshot_is_newer():
    for kind in ("first", "true", "last_in_data_collection", "last"):
        assert pair(None, 130, kind) < pair(None, 140) < pair(150, 141)
    # Offsets lost, a second snapshot: newer than all that was streamed before it.
    assert pair(150, 160) < pair(None, 200, "true")


def test_commit_time_stands_in_where_a_source_has_no_lsn():
    value = orjson.dumps({"op": "d", "source": {"connector": "mysql", "ts_ms": 1_700_000_000_123}})
    event = decode(DOCS, ROW, value, AT)
    assert isinstance(event, Delete)
    assert int(event.version.split(".")[2], 16) == 1_700_000_000_123


@pytest.mark.parametrize("sequence", [None, "", "null", "[]", "[null,null]", "no", '["x"]', "7"])
def test_time_never_stands_in_for_a_lost_lsn(sequence):
    # Milliseconds since 1970 are far above any LSN: no later change of the row would ever win.
    with pytest.raises(RecordError, match="no usable position"):
        version(None, sequence=sequence)


def test_a_position_that_no_version_has_room_for():
    with pytest.raises(RecordError, match="no usable position"):
        version(None, sequence=f'[null,"{2**64}"]')
    assert version(None, sequence=f'[null,"{2**64 - 1}"]') == version(2**64 - 1)


@pytest.mark.parametrize("lsn", [-1, 2**64, True, "7", 7.5, [7]])
def test_a_position_that_is_none(lsn):
    with pytest.raises(RecordError, match="no usable position") as caught:
        version(lsn)
    assert "source.lsn" in caught.value.hint


# Keys.


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
        (b"", "no JSON"),
        (b"7", "a number out of range, not a JSON object"),
        (b'"7"', "a string, not a JSON object"),
        (b"[7]", "an array, not a JSON object"),
        (b"null", "null, not a JSON object"),
        (b'{"schema":null,"payload":null}', "no column 'id'"),
        (b"\xff\xfe", "no JSON"),
        (b'{"id":"\\ud800"}', "no JSON"),
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


@given(st.text(), st.text())
def test_two_texts_never_share_a_key(one, other):
    pair = table(key=["left", "right"])
    keys = {row_key(pair, key(left=a, right=b)) for a, b in [(one, other), (other, one)]}
    assert len(keys) == (1 if one == other else 2)
    assert all(set(k) <= set(SAFE) for k in keys)


SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-%:,"


# Values.


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "no JSON"),
        (b"null", "null, not a JSON object"),
        (b"[]", "an array, not a JSON object"),
        (b'{"id":1,"title":"x"}', "no Debezium envelope: it has 'id', 'title'"),
        (b'{"op":"u","after":{}}', "no Debezium envelope"),
        (b'{"op":7,"source":{}}', "no Debezium envelope"),
        (b'{"op":"u","source":[]}', "no Debezium envelope"),
        (b'{"op":"u","source":{}}', "no usable position"),
        (envelope("u", 1, None), "op 'u' needs the row in `after`, which is null"),
        (envelope("c", 1, []), "an array"),  # type: ignore[arg-type]
        (envelope("m", 1, {}), "op 'm' is unknown"),
        (envelope("t", 1, None), "it names no rows"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "no JSON"),
    ],
)
def test_a_value_that_cannot_be_applied(raw, cause):
    with pytest.raises(RecordError) as caught:
        decode(DOCS, ROW, raw, AT)
    assert cause in caught.value.cause
    assert caught.value.hint


def test_the_unwrapping_transform_is_named_as_the_likely_cause():
    with pytest.raises(RecordError, match="ExtractNewRecordState"):
        decode(DOCS, ROW, b'{"id":1,"title":"x"}', AT)


def test_messages_stay_short_whatever_is_in_the_record():
    many = orjson.dumps({f"column {i} {'x' * 500}": 1 for i in range(500)})
    for call in (lambda: decode(DOCS, ROW, many, AT), lambda: row_key(DOCS, many)):
        with pytest.raises(RecordError) as caught:
            call()
        assert len(str(caught.value)) < 1_500
    with pytest.raises(RecordError) as caught:
        decode(DOCS, ROW, envelope("x" * 500, 1, {}), AT)
    assert len(str(caught.value)) < 200


def test_a_delete_needs_no_before_image():
    event = decode(DOCS, ROW, orjson.dumps({"op": "d", "source": source(5)}), AT)
    assert isinstance(event, Delete)


@pytest.mark.parametrize("ts_ms", [None, "x", 1.5, []])
def test_a_commit_time_that_is_none_is_zero(ts_ms):
    value = orjson.dumps({"op": "d", "source": {**source(5), "ts_ms": ts_ms}})
    event = decode(DOCS, ROW, value, AT)
    assert isinstance(event, Delete)
    assert event.source_ts_ms == 0


# Anything at all: a RecordError, or an event whose version is what the contract promises.

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
WORDS = ["op", "source", "after", "before", "lsn", "sequence", "ts_ms", "payload", "schema", "id"]
ENVELOPE_LIKE = st.recursive(
    JSON | st.sampled_from(["c", "u", "r", "d", "t", '["1","2"]', "[null]", "{}", "[]"]),
    lambda inner: st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)


def feed(raw_key: bytes | None, raw_value: bytes | None) -> None:
    try:
        found = row_key(DOCS, raw_key)
        assert set(found) <= set(SAFE)
        assert len(found) <= MAX_ROW_KEY_BYTES
    except RecordError as error:
        assert error.cause
        assert error.hint
    try:
        event = decode(DOCS, ROW, raw_value, AT)
    except RecordError as error:
        assert error.cause
        assert error.hint
        return
    assert event.row_key == ROW
    if not isinstance(event, Tombstone):
        assert len(event.version) == 4 + 3 * (1 + 16)
        assert offset_of(event.version) == AT.offset
    if isinstance(event, Upsert):
        assert isinstance(event.columns, dict)


@given(st.none() | st.binary(max_size=200), st.none() | st.binary(max_size=200))
@settings(max_examples=600, deadline=None)
@example(b"1e999", b'{"op":"u","source":{"lsn":1e999}}')
@example(
    b'{"id":1e999}', b'{"op":"u","source":{"lsn":null,"sequence":"[\\"' + b"9" * 5000 + b'\\"]"}}'
)
@example(b'{"id":-0.0}', b'{"op":"d","source":{"lsn":null,"sequence":"{\\"-1\\":1}"}}')
def test_any_bytes(raw_key, raw_value):
    feed(raw_key, raw_value)


@given(ENVELOPE_LIKE)
@settings(max_examples=800, deadline=None)
def test_any_json(value):
    raw = orjson.dumps(value)
    feed(raw, raw)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes | None, bytes | None]:
    """A captured message with a few bytes, or one of its values, replaced."""
    message = draw(st.sampled_from(CAPTURED))
    raw = message.value or message.key or b"{}"
    if draw(st.booleans()):
        changed = bytearray(raw)
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(changed) - 1))
            match draw(st.sampled_from("rdi")):
                case "r":
                    changed[at] = draw(st.integers(0, 255))
                case "d":
                    del changed[at : at + draw(st.integers(1, 40))]
                case "i":
                    changed[at:at] = draw(st.binary(max_size=6))
            if not changed:
                break
        return message.key, bytes(changed)
    value = orjson.loads(raw)
    node = value
    while isinstance(node, dict) and node:
        name = draw(st.sampled_from(sorted(node)))
        if not isinstance(node[name], dict) or draw(st.booleans()):
            if draw(st.booleans()):
                node[name] = draw(ENVELOPE_LIKE)
            else:
                del node[name]
            break
        node = node[name]
    return orjson.dumps(value), orjson.dumps(value)


@given(mutated())
@settings(max_examples=1_200, deadline=None)
def test_any_mutation_of_a_real_message(pair):
    feed(*pair)
