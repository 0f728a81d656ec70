"""Envelopes → events: messages that Debezium really sent, and messages that are wrong."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import example, given

from operators.changes.events import (
    ChangeEvent,
    Delete,
    Ignored,
    KafkaPosition,
    Tombstone,
    Truncate,
    Upsert,
)
from operators.changes.row_key import RowKey
from operators.changes.version import (
    NO_POSITION,
    has_position,
    make_version,
    offset_of,
    place_of,
    position_key,
    tail_of,
)
from operators.codec.decoder import Decoder
from operators.codec.log_positions import position_of
from operators.codec.logical_types import Logical
from operators.contract.table import TableSection
from operators.errors import RecordError
from operators.kafka.reader import NEW_KEY_HEADER, OLD_KEY_HEADER
from tests.changes import envelope, key, source, table

DATA = Path(__file__).parents[2] / "data" / "debezium"
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
    other_key: bytes | None

    @property
    def table(self) -> TableSection:
        name = self.position.topic.rsplit(".", 1)[-1]
        return table(topic=self.position.topic, name=name, key=KEYS[name], columns={})

    def decoded(self) -> Any:
        decoder = Decoder(self.table)
        (row_key,) = decoder.row_keys(self.key, self.value)
        return decoder.event(row_key, self.value, self.position, self.other_key)


def decode(
    table: TableSection, row_key: RowKey, raw: bytes | None, position: KafkaPosition = AT
) -> ChangeEvent:
    return Decoder(table).event(row_key, raw, position)


def messages(variant: str, case: str) -> list[Message]:
    lines = (DATA / f"schemas_{variant}.{case}.jsonl").read_text("utf-8").splitlines()
    return [
        Message(
            KafkaPosition(line["topic"], line["partition"], line["offset"]),
            None if line["key"] is None else line["key"].encode(),
            None if line["value"] is None else line["value"].encode(),
            _other_key(dict(line["headers"])),
        )
        for line in map(json.loads, lines)
    ]


def _other_key(headers: dict[str, str]) -> bytes | None:
    found = headers.get(OLD_KEY_HEADER) or headers.get(NEW_KEY_HEADER)
    return None if found is None else found.encode()


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


# Captured messages.


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_insert(variant):
    (event,) = events(variant, "insert")
    assert isinstance(event, Upsert)
    assert (event.row_key, event.op) == ("articles:10", "c")
    assert event.parsed()[0]["title"] == "New"
    assert event.parsed()[0]["published"] is False
    assert event.parsed()[0]["tags"] is None
    assert event.source_ts_ms > 1_700_000_000_000
    assert event.raw == messages(variant, "insert")[0].value


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update(variant):
    (event,) = events(variant, "update")
    assert (event.row_key, event.op) == ("articles:10", "u")
    assert (event.parsed()[0]["title"], event.parsed()[0]["views"]) == ("Newer", 5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_delete_and_its_tombstone(variant):
    delete, tombstone = events(variant, "delete")
    assert isinstance(delete, Delete)
    assert not delete.unpositioned
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
    assert found["Mixed_Case:1"].parsed()[0] == {"Id": 1, "Full Name": "Jane Doe"}
    assert found["articles:3"].parsed()[0]["title"] == 'Ünïcödé 漢字 🎉 "quotes" \\back\\ \nnewline'
    # All rows have one LSN; only the offset orders them.
    assert len({position_key(event.version) for event in found.values()}) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_incremental_snapshot_orders_by_its_window(variant):
    by_row: dict[str, list[Any]] = {}
    for event in events(variant, "incremental_snapshot"):
        by_row.setdefault(event.row_key, []).append(event)
    assert [event.op for event in by_row["inc:4"]] == ["r"]
    update, read = by_row["inc:5"]
    assert (update.op, read.op) == ("u", "r")
    assert update.version < read.version
    # Its `lsn` is null: the position is the LSN that closed the window, not `ts_ms`.
    assert int(read.version.split(".")[2], 16) == 28_267_976


@pytest.mark.parametrize("variant", VARIANTS)
def test_interleaved_transactions_keep_each_rows_order(variant):
    found = sorted(events(variant, "interleaved"), key=lambda event: event.row_key)
    first, second, other = found
    assert (first.row_key, second.row_key, other.row_key) == ("users:ilA", "users:ilA", "users:ilB")
    assert first.version < second.version
    assert first.parsed()[0]["full_name"] == "a"
    # B began after A and committed before it; its LSN lies between A's two.
    assert other.version < first.version


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_value_left_out_stays_as_it_came(variant):
    (event,) = events(variant, "toast")
    assert event.parsed()[0]["body"] == "__debezium_unavailable_value"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_truncate_is_about_all_rows(variant):
    (message,) = messages(variant, "truncate")
    decoder = Decoder(message.table)
    assert message.key is None
    assert decoder.row_keys(message.key, message.value) == ()
    assert decoder.truncates(message.value)
    event = decoder.event(RowKey(""), message.value, message.position)
    assert isinstance(event, Truncate)
    assert event.table == "order_items"
    assert has_position(event.version)
    assert event.source_ts_ms > 1_700_000_000_000


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_key_change_tells_the_other_key(variant):
    found = {type(e): e for e in events(variant, "pk_change")}
    assert found[Upsert].old_key == "users:a%40example.com"
    assert found[Delete].moved
    # A delete that is not part of a key change.
    assert not events(variant, "delete")[0].moved


@pytest.mark.parametrize(
    "case",
    sorted({path.name.split(".")[1] for path in DATA.glob("*.jsonl")} - {"truncate"}),
)
def test_with_and_without_schemas_it_is_the_same(case):
    def plain(event: Any) -> tuple[Any, ...]:
        # The two runs wrote to different partitions; everything but offset and clock is equal.
        if isinstance(event, Tombstone):
            return ("tombstone", event.row_key)
        version = position_key(event.version)
        if isinstance(event, Delete):
            return ("delete", event.row_key, version)
        return (event.op, event.row_key, version, orjson.dumps(event.parsed()[0]))

    assert sorted(map(plain, events("off", case))) == sorted(map(plain, events("on", case)))


# Versions. `test_positions` has the order of each database.


def version(position: int | None = 7, offset: int = 0, generation: int = 0, **more: Any) -> str:
    value = json.dumps({"op": "d", "source": source(position, **more)}).encode()
    at = KafkaPosition(AT.topic, AT.partition, offset)
    event = decode(table(generation=generation), ROW, value, at)
    assert isinstance(event, Delete)
    return event.version


def test_equal_positions_are_ordered_by_offset():
    assert version(7, 9) < version(7, 10) < version(7, 2**40) < version(8, 0)


@pytest.mark.parametrize("op", ["c", "u", "d", "t"])
def test_a_streamed_change_has_its_own_place_in_the_log(op):
    """Restarted during an incremental snapshot, Debezium writes `snapshot: true` into every change."""
    versions = [
        decode(
            DOCS,
            ROW,
            orjson.dumps({"op": op, "after": {"id": 1}, "source": source(9, snapshot=said)}),
        ).version
        for said in ("false", "true", "last")
    ]
    assert len(set(versions)) == 1


def test_a_generation_goes_before_all_positions():
    assert version(2**64 - 1, generation=9) < version(0, generation=10)


def test_a_version_ends_with_its_offset():
    assert offset_of(version(7, 123_456)) == 123_456  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source",
    [
        {"connector": "vitess", "ts_ms": 1_700_000_000_123, "vgtid": "[]"},
        {
            "connector": "mongodb",
            "ts_ms": 1_700_000_000_123,
            "ord": 3,
            "wallTime": 1_700_000_000_123,
        },
        {"connector": "postgresql", "ts_ms": 1_700_000_000_123, "lsn": None, "sequence": None},
    ],
)
def test_a_source_without_an_order_leaves_it_to_the_offset(source):
    """As a position, milliseconds since 1970 exceed any LSN, so no later change could ever win."""
    for value in ({"op": "d", "source": source}, {"op": "u", "after": {"id": 1}, "source": source}):
        event = decode(DOCS, ROW, orjson.dumps(value))
        assert isinstance(event, Delete | Upsert)
        assert event.unpositioned
        assert not has_position(event.version)
        assert event.source_ts_ms == 1_700_000_000_123


def test_a_truncate_without_a_position_is_refused_and_told_once():
    # Its offset does not order it against rows in other partitions.
    raw = orjson.dumps({"op": "t", "source": {"connector": "vitess"}})
    decoder = Decoder(DOCS)
    assert decoder.row_keys(None, raw) == ()
    assert not decoder.truncates(raw)  # or every shard would make a dead letter of it
    with pytest.raises(RecordError, match=f"TRUNCATE of {DOCS.topic}") as caught:
        decoder.event(RowKey(""), raw, AT)
    assert "DELETE" in caught.value.hint
    raw = orjson.dumps({"op": "t", "source": source("no lsn")})  # type: ignore[arg-type]
    assert not decoder.truncates(raw)
    with pytest.raises(RecordError, match="no usable position"):
        decoder.event(RowKey(""), raw, AT)


def test_a_truncate_whose_position_is_unusable_is_told_once():
    # As a snapshot read it would have a position; a restart during a snapshot marks it as one.
    place = {"connector": "oracle", "snapshot": "last", "scn": "7", "commit_scn": True}
    raw = orjson.dumps({"op": "t", "source": place})
    decoder = Decoder(DOCS)
    assert not decoder.truncates(raw)
    with pytest.raises(RecordError, match="commit_scn"):
        decoder.event(RowKey(""), raw, AT)


# Shapes.


def the_row(decoder: Decoder, raw_key: bytes | None, raw: bytes | None) -> ChangeEvent:
    (row_key,) = decoder.row_keys(raw_key, raw)
    return decoder.event(row_key, raw, AT)


PLACE = {"lsn": 120, "sequence": '["100","120"]'}
ENVELOPE = {"before": None, "after": {"id": 1, "name": "a"}, "op": "u", "source": source(**PLACE)}
FLAT = {
    "id": 1,
    "name": "a",
    "__deleted": "false",
    "__op": "u",
    "__lsn": 120,
    "__source_sequence": '["100","120"]',
    "__source_ts_ms": 1_700_000_000_120,
}
FIELDS = [{"field": "id", "type": "int32"}, {"field": "name", "type": "string"}]


def test_every_shape_gives_the_same_event():
    bare = the_row(Decoder(DOCS), key(id=1), orjson.dumps(ENVELOPE))
    shapes = [
        ENVELOPE,
        {"payload": ENVELOPE},
        {"schema": None, "payload": ENVELOPE},
        {
            "schema": {"type": "struct", "fields": [{"field": "after", "fields": FIELDS}]},
            "payload": ENVELOPE,
        },
        FLAT,
        {"schema": {"type": "struct", "fields": FIELDS}, "payload": FLAT},
        {**FLAT, "__connector": "postgresql", "__source_lsn": 120, "__lsn": None},
    ]
    for shape in shapes:
        event = the_row(Decoder(DOCS), key(id=1), orjson.dumps(shape))
        assert isinstance(event, Upsert)
        assert event[:5] == bare[:5]
        assert event.parsed()[0] == bare.parsed()[0]
        assert not event.unpositioned


def test_the_schema_of_a_row_goes_with_it():
    flat = {"schema": {"type": "struct", "fields": FIELDS}, "payload": FLAT}
    whole = {
        "schema": {
            "fields": [
                {"field": "before", "fields": []},
                {"field": "after", "fields": FIELDS},
                {"field": "op", "type": "string"},
            ]
        },
        "payload": ENVELOPE,
    }
    for shape in (flat, whole):
        event = the_row(Decoder(DOCS), key(id=1), orjson.dumps(shape))
        assert isinstance(event, Upsert)
        assert event.schema == FIELDS
    event = the_row(Decoder(DOCS), key(id=1), orjson.dumps({"payload": FLAT}))
    assert isinstance(event, Upsert)
    assert event.schema is None


def test_an_unwrapped_delete_in_both_its_forms():
    for mark in ({"__deleted": "true"}, {"__deleted": True}, {"__deleted": "false", "__op": "d"}):
        event = the_row(Decoder(DOCS), key(id=1), orjson.dumps({**FLAT, **mark}))
        assert isinstance(event, Delete)
        assert event.version == the_row(Decoder(DOCS), key(id=1), orjson.dumps(FLAT)).version
    # With `delete.tombstone.handling.mode=tombstone` a delete is only a tombstone.
    assert isinstance(the_row(Decoder(DOCS), key(id=1), None), Tombstone)


def test_an_unwrapped_row_without_a_position_is_lone():
    event = the_row(Decoder(DOCS), key(id=1), b'{"id":1,"name":"a","__op":"c"}')
    assert isinstance(event, Upsert)
    assert event.unpositioned
    assert event.parsed()[0] == {"id": 1, "name": "a"}


def test_an_unwrapped_row_without_any_mark_needs_the_contracts_word():
    raw = b'{"id":1,"name":"a"}'
    with pytest.raises(RecordError, match="ExtractNewRecordState"):
        the_row(Decoder(DOCS), key(id=1), raw)
    event = the_row(Decoder(table(shape="unwrapped")), key(id=1), raw)
    assert isinstance(event, Upsert)
    assert (event.unpositioned, event.op) == (True, "u")
    with pytest.raises(RecordError, match="no Debezium envelope"):
        the_row(Decoder(table(shape="envelope")), key(id=1), orjson.dumps(FLAT))


def test_an_unwrapped_snapshot_is_older_than_what_was_open_while_it_read():
    """An unwrapped row has no `__snapshot` unless it is configured; its op `r` says the same."""

    def place(op: str, lsn: int | None, sequence: str | None) -> ChangeEvent:
        flat = {**FLAT, "__op": op, "__lsn": lsn, "__source_sequence": sequence}
        return the_row(Decoder(DOCS), key(id=1), orjson.dumps(flat))

    read, open_then = place("r", 200, '["190","200"]'), place("u", 100, '["190","100"]')
    assert isinstance(read, Upsert)
    assert isinstance(open_then, Upsert)
    assert read.version < open_then.version
    # An incremental read has no LSN of its own; it sorts after the changes that its window saw.
    incremental = place("r", None, '["200","200"]')
    assert isinstance(incremental, Upsert)
    assert open_then.version < incremental.version < place("u", 230, '["210","230"]').version  # type: ignore[union-attr]
    # Without the sequence, an LSN does not order a snapshot read.
    alone = place("r", 200, None)
    assert isinstance(alone, Upsert)
    assert alone.unpositioned


@pytest.mark.parametrize(
    "columns", [{"op": "t", "source": None}, {"before": {"id": 9}}, {"op": "c"}]
)
def test_an_unwrapped_row_may_have_columns_of_an_envelopes_names(columns):
    raw = orjson.dumps({**FLAT, **columns})
    for decoder in (Decoder(DOCS), Decoder(table(key_from="row"))):
        assert decoder.row_keys(key(id=1), raw) == (ROW,)
        assert isinstance(decoder.event(ROW, raw, AT), Upsert)
        assert not decoder.truncates(raw)


class Registry:
    """A framed decoder: the bytes after the frame's first byte are JSON."""

    def __init__(self, types: dict[str, Logical] | None = None) -> None:
        self.types = types
        self.asked: list[tuple[str, bool]] = []

    def decode(self, raw: bytes, topic: str, *, key: bool) -> tuple[Any, Any]:
        self.asked.append((topic, key))
        return orjson.loads(raw[1:]), self.types


def framed(value: Any) -> bytes:
    return b"\0" + orjson.dumps(value)


def test_a_framed_message():
    registry = Registry({"price": Logical("decimal", scale=2)})
    decoder = Decoder(DOCS, registry)
    (row_key,) = decoder.row_keys(framed({"id": 1}), framed(ENVELOPE))
    event = decoder.event(row_key, framed(ENVELOPE), AT, framed({"id": 2}))
    assert isinstance(event, Upsert)
    assert (event.row_key, event.old_key) == (ROW, "docs:2")
    assert event.schema == registry.types
    assert registry.asked == [(DOCS.topic, True), (DOCS.topic, False), (DOCS.topic, True)]
    # JSON keys with framed values, a common set-up of Connect workers.
    assert decoder.row_keys(key(id=1), framed(ENVELOPE)) == (ROW,)


@pytest.mark.parametrize("value", [7, "text", [1]])
def test_a_framed_message_that_is_no_object(value):
    for call in (
        lambda d: d.row_keys(framed(value), None),
        lambda d: d.event(ROW, framed(value), AT),
    ):
        with pytest.raises(RecordError, match=r"it is (a number|a string|an array), not an? "):
            call(Decoder(DOCS, Registry()))


def test_a_framed_message_without_a_registry():
    for call in (
        lambda d: d.row_keys(framed({"id": 1}), None),
        lambda d: d.event(ROW, framed(ENVELOPE), AT),
    ):
        with pytest.raises(RecordError, match="framed by a schema registry") as caught:
            call(Decoder(DOCS))
        assert "[schema_registry]" in caught.value.hint
        with pytest.raises(RecordError, match="no JSON"):
            call(Decoder(table(format="json")))


def test_headers_are_looked_at_in_every_framed_message():
    assert Decoder(table(format="avro")).header_needles is None
    needles = Decoder(DOCS).header_needles
    assert needles is not None
    delete = envelope("d", 1, None)
    assert any(needle in delete for needle in needles)
    assert not any(needle in envelope("u", 1, {"id": 1}) for needle in needles)


# MongoDB.


def mongodb(op: str, after: Any, **more: Any) -> bytes:
    place = {"connector": "mongodb", "ts_ms": 1_700_000_000_000, "ord": 1, "snapshot": "false"}
    return orjson.dumps({"before": None, "after": after, "op": op, "source": place, **more})


DOCUMENT_KEY = orjson.dumps({"id": '{"$oid":"596e275826f08b2730779e1f"}'})


def test_a_document_is_json_in_a_string():
    document = {
        "_id": {"$oid": "596e275826f08b2730779e1f"},
        "long": {"$numberLong": "-9007199254740993"},
        "int": {"$numberInt": "7"},
        "decimal": {"$numberDecimal": "12.30"},
        "double": {"$numberDouble": "1.5"},
        "nan": {"$numberDouble": "NaN"},
        "date": {"$date": 1_700_000_000_000},
        "canonical date": {"$date": {"$numberLong": "1700000000000"}},
        "old bytes": {"$binary": "3q2+7w==", "$type": "00"},
        "bytes": {"$binary": {"base64": "3q2+7w==", "subType": "00"}},
        "tags": ["a", {"$numberLong": "1"}],
        "nested": {"a": {"b": {"$numberInt": "2"}}},
        "no number": {"$numberLong": "--5"},
        "nothing": None,
    }
    event = the_row(Decoder(DOCS), DOCUMENT_KEY, mongodb("c", orjson.dumps(document).decode()))
    assert isinstance(event, Upsert)
    columns = dict(event.parsed()[0])
    assert str(columns.pop("nan")) == "nan"
    assert columns == {
        "_id": "596e275826f08b2730779e1f",
        "long": -9_007_199_254_740_993,
        "int": 7,
        "decimal": "12.30",
        "double": 1.5,
        "date": 1_700_000_000_000,
        "canonical date": 1_700_000_000_000,
        "old bytes": "3q2+7w==",
        "bytes": "3q2+7w==",
        "tags": ["a", 1],
        "nested": {"a": {"b": 2}},
        "no number": "--5",
        "nothing": None,
    }


def test_an_update_without_the_document_names_the_setting():
    raw = mongodb("u", None, updateDescription={"updatedFields": '{"a":1}'})
    with pytest.raises(RecordError, match="needs the row") as caught:
        the_row(Decoder(DOCS), DOCUMENT_KEY, raw)
    assert "change_streams_update_full" in caught.value.hint


def test_a_deleted_document():
    assert isinstance(the_row(Decoder(DOCS), DOCUMENT_KEY, mongodb("d", None)), Delete)


@pytest.mark.parametrize(
    ("after", "cause"),
    [
        ("no json", "no JSON"),
        ("[1]", "a string"),
        ('{"a":' * 1_500 + "1" + "}" * 1_500, "nested too deep"),
    ],
    ids=["no json", "array", "deep"],
)
def test_a_document_that_is_none(after, cause):
    with pytest.raises(RecordError) as caught:
        the_row(Decoder(DOCS), DOCUMENT_KEY, mongodb("u", after))
    assert cause in caught.value.cause


# Messages that are about no row.


def marker(status: str, **more: Any) -> dict[str, Any]:
    nothing = {"event_count": None, "data_collections": None}
    return {"status": status, "id": "571:53195832", **nothing, "ts_ms": 1, **more}


@pytest.mark.parametrize(
    ("raw_key", "value", "reason"),
    [
        (key(serverName="app"), {"ts_ms": 1, "ts_us": 2, "ts_ns": 3}, "heartbeat"),
        (key(id="571"), marker("BEGIN"), "transaction"),
        (key(id="571"), marker("END", event_count=1, data_collections=[]), "transaction"),
        (
            key(prefix="app"),
            {"op": "m", "source": source(5), "message": {"prefix": "app", "content": "aGk="}},
            "message",
        ),
        (
            key(databaseName="shop"),
            {"source": {"connector": "mysql"}, "ddl": "DROP TABLE t", "tableChanges": []},
            "ddl",
        ),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"key_from": "row"}])
@pytest.mark.parametrize("keyed", [True, False])
def test_a_message_about_no_row(raw_key, value, reason, settings, keyed):
    # The key of a transaction marker has a column `id`; this table's key has another.
    decoder = Decoder(table(key=["number"], **settings))
    for raw in (orjson.dumps(value), orjson.dumps({"schema": None, "payload": value})):
        assert decoder.row_keys(raw_key if keyed else None, raw) == ()
        assert not decoder.truncates(raw)
        assert decoder.event(RowKey(""), raw, AT) == Ignored(reason)


def test_a_marker_whose_key_could_be_a_rows_is_ignored_all_the_same():
    raw = orjson.dumps(marker("END"))
    assert the_row(Decoder(DOCS), key(id="571"), raw) == Ignored("transaction")


@pytest.mark.parametrize(
    "columns", [{"status": "END"}, marker("END"), {"ddl": "", "tableChanges": ""}]
)
def test_a_row_with_a_markers_columns_is_a_row(columns):
    raw = orjson.dumps({**FLAT, **columns, "id": 1})
    decoder = Decoder(table(key_from="row"))
    assert decoder.row_keys(None, raw) == (ROW,)
    assert isinstance(decoder.event(ROW, raw, AT), Upsert)


# No primary key: the row key comes from the row's columns.

KEYLESS = table(key_from="row", key=["a", "b"])


def changed(op: str, before: Any, after: Any, lsn: int = 5) -> bytes:
    return orjson.dumps({"op": op, "before": before, "after": after, "source": source(lsn)})


def test_without_a_primary_key():
    decoder = Decoder(KEYLESS)
    one, other = {"a": 1, "b": "x"}, {"a": 1, "b": "y", "c": 0}
    one_key, other_key = RowKey("docs:1,x"), RowKey("docs:1,y")

    insert = changed("c", None, one)
    assert decoder.row_keys(None, insert) == (one_key,)
    assert isinstance(decoder.event(one_key, insert, AT), Upsert)

    same = changed("u", one, {**one, "c": 1})
    assert decoder.row_keys(None, same) == (one_key,)
    event = decoder.event(one_key, same, AT)
    assert isinstance(event, Upsert)
    assert event.parsed()[0]["c"] == 1

    moved = changed("u", one, other)
    assert decoder.row_keys(None, moved) == (one_key, other_key)
    gone = decoder.event(one_key, moved, AT)
    assert isinstance(gone, Delete)
    assert gone.moved
    assert gone.row_key == one_key
    there = decoder.event(other_key, moved, AT)
    assert isinstance(there, Upsert)
    assert there.parsed()[0] == other
    assert there.version == gone.version

    delete = changed("d", other, None)
    assert decoder.row_keys(None, delete) == (other_key,)
    event = decoder.event(other_key, delete, AT)
    assert isinstance(event, Delete)
    assert not event.moved

    assert decoder.row_keys(None, None) == ()
    assert decoder.event(RowKey(""), None, AT) == Ignored("tombstone")


def test_without_a_primary_key_a_kafka_key_says_nothing():
    assert Decoder(KEYLESS).row_keys(b"\xff", changed("c", None, {"a": 1, "b": "x"})) == (
        "docs:1,x",
    )


def test_without_a_primary_key_types_come_from_the_rows_schema():
    fields = [
        {"field": "a", "type": "bytes", "name": "org.apache.kafka.connect.data.Decimal"}
        | {"parameters": {"scale": "1"}},
        {"field": "b", "type": "string"},
    ]
    schema = {
        "fields": [{"field": "before", "fields": fields}, {"field": "after", "fields": fields}]
    }
    payload = {"op": "u", "before": {"a": "Ew==", "b": "x"}, "after": {"a": "FA==", "b": "x"}}
    raw = orjson.dumps({"schema": schema, "payload": {**payload, "source": source(5)}})
    decoder = Decoder(KEYLESS)
    assert decoder.row_keys(None, raw) == ("docs:1.9,x", "docs:2.0,x")
    assert isinstance(decoder.event(RowKey("docs:1.9,x"), raw, AT), Delete)
    assert isinstance(decoder.event(RowKey("docs:2.0,x"), raw, AT), Upsert)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (changed("d", {"a": 1, "b": None}, None), "column 'b' is null"),  # the default identity
        (changed("d", None, None), "needs the row"),
        (changed("u", None, "text"), "needs the row"),
        (changed("u", {"b": "x"}, {"a": 1, "b": "x"}), "no column 'a'"),
        (b"7", "not a JSON object"),
    ],
)
def test_without_a_primary_key_a_row_that_tells_none(raw, cause):
    with pytest.raises(RecordError) as caught:
        Decoder(KEYLESS).row_keys(None, raw)
    assert cause in caught.value.cause


def test_a_table_without_a_key_is_told_what_to_do():
    with pytest.raises(RecordError, match="the record has no key") as caught:
        Decoder(DOCS).row_keys(None, changed("c", None, {"a": 1}))
    assert "REPLICA IDENTITY FULL" in caught.value.hint
    with pytest.raises(RecordError, match="the record has no key"):
        Decoder(DOCS).row_keys(None, None)


# Key changes.


def test_the_other_key_from_the_headers():
    decoder = Decoder(DOCS)
    event = decoder.event(ROW, envelope("c", 5, {"id": 1}), AT, key(id=2))
    assert isinstance(event, Upsert)
    assert event.old_key == "docs:2"
    # The old key is optional: an unreadable one must not lose the row.
    for unusable in (b"no json", b"{}", b'{"schema":{"fields":[7]},"payload":{"id":1}}'):
        event = decoder.event(ROW, envelope("c", 5, {"id": 1}), AT, unusable)
        assert isinstance(event, Upsert)
        assert event.old_key is None
    event = decoder.event(ROW, envelope("d", 5, None), AT, key(id=2))
    assert isinstance(event, Delete)
    assert event.moved
    event = decoder.event(ROW, orjson.dumps({**FLAT, "__deleted": "true"}), AT, key(id=2))
    assert isinstance(event, Delete)
    assert event.moved


# Invalid schemas.


@pytest.mark.parametrize("fields", [[7], [{}], [{"field": "id"}], [{"type": "bytes", "field": []}]])
def test_a_schema_that_is_none_is_the_records_fault(fields):
    raw_key = orjson.dumps({"schema": {"fields": fields}, "payload": {"id": 1}})
    with pytest.raises(RecordError, match="schema"):
        Decoder(DOCS).row_keys(raw_key, None)
    raw = orjson.dumps(
        {"schema": {"fields": [{"field": "after", "fields": fields}]}, "payload": ENVELOPE}
    )
    for call in (lambda d: d.row_keys(None, raw), lambda d: d.event(ROW, raw, AT)):
        with pytest.raises(RecordError, match="schema"):
            call(Decoder(table(key_from="row")))


# Values.


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "it is empty"),
        (b"7", "a number, not a JSON object"),
        (b"[]", "an array, not a JSON object"),
        (b'{"id":1,"title":"x"}', "no Debezium envelope: it has 'id', 'title'"),
        (b'{"op":"u","after":{}}', "no Debezium envelope"),
        (b'{"op":7,"source":{}}', "no Debezium envelope"),
        (b'{"op":"u","source":[]}', "no Debezium envelope"),
        (b'{"op":"u","source":{}}', "no Debezium envelope"),
        (b'{"op":"u","source":{"connector":[]}}', "no Debezium envelope"),
        (b'{"op":"d","source":{"connector":["mysql"],"lsn":[]}}', "no Debezium envelope"),
        (b'{"op":"u","source":{"connector":"x"}}', "op 'u' needs the row in `after`"),
        (b'{"op":"d","source":{"connector":"postgresql","lsn":[]}}', "no usable position"),
        (b'{"op":{"a":1},"source":{}}', "no Debezium envelope"),
        (envelope("u", 1, None), "op 'u' needs the row in `after`, which is null"),
        (envelope("c", 1, []), "an array"),  # type: ignore[arg-type]
        (envelope("x", 1, {}), "its op is unknown"),
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
    for call in (lambda: decode(DOCS, ROW, many), lambda: Decoder(DOCS).row_keys(many, None)):
        with pytest.raises(RecordError) as caught:
            call()
        assert len(str(caught.value)) < 1_500
    with pytest.raises(RecordError) as caught:
        decode(DOCS, ROW, envelope("x" * 500, 1, {}), AT)
    assert len(str(caught.value)) < 200


def test_a_delete_needs_no_before_image():
    event = decode(DOCS, ROW, orjson.dumps({"op": "d", "source": source(5)}), AT)
    assert isinstance(event, Delete)


@pytest.mark.parametrize("ts_ms", [None, "x", 1.5, [], True, -1, 2**63, 2**64 - 1])
def test_a_commit_time_that_is_none_is_zero(ts_ms):
    value = orjson.dumps({"op": "d", "source": {**source(5), "ts_ms": ts_ms}})
    event = decode(DOCS, ROW, value, AT)
    assert isinstance(event, Delete)
    assert event.source_ts_ms == 0


NUMBERS = st.integers(0, 2**64 - 1) | st.integers(0, 9) | st.sampled_from([-1, 2**64 - 1, 2**64])
TEXTS = ["", "5", '["5","', '["5","6"', '["5", "6"]', '["a","b"]', '[null,"6"]', '["5","6","7"]']
ODD = st.sampled_from([None, True, 1.5, [5, 6], *TEXTS])


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    """A source block of PostgreSQL's; in some of them a field is odd or missing."""
    block: dict[str, Any] = {
        "connector": "postgresql",
        "snapshot": draw(st.sampled_from(["false", "false", "true", "last", "incremental"])),
        "lsn": draw(NUMBERS),
        "sequence": f'["{draw(NUMBERS)}","{draw(NUMBERS)}"]',
    }
    for field in draw(st.lists(st.sampled_from(sorted(block)), max_size=1)):
        block[field] = draw(ODD)
    for field in draw(st.lists(st.sampled_from(sorted(block)), max_size=1)):
        del block[field]
    return block


@given(
    op=st.sampled_from("crud"),
    generation=st.integers(0, 9),
    offset=st.integers(0, 2**63),
    source=blocks(),
)
@example("r", 0, 3, source(7, snapshot="true", sequence='["5","7"]'))
@example("u", 0, 3, source(7, sequence='xx5","7yy'))
def test_the_short_way_to_a_version_comes_to_the_same(op, generation, offset, source):
    # The shape is said, because a block that names no connector is nobody's envelope otherwise.
    decoder = Decoder(table(generation=generation, shape="envelope"))
    at = KafkaPosition("app.public.docs", 3, offset)
    raw = json.dumps({"before": None, "after": {"id": 1}, "op": op, "source": source}).encode()
    # As orjson reads it: a number of more than 64 bits becomes a float.
    source = orjson.loads(raw)["source"]
    try:
        place = position_of(source, streamed=op != "r")
    except RecordError as error:
        with pytest.raises(RecordError) as caught:
            decoder.event(ROW, raw, at)
        assert str(caught.value) == str(error)
        return
    event = decoder.event(ROW, raw, at)
    assert isinstance(event, Upsert | Delete)
    assert event.version == make_version(
        generation,
        NO_POSITION if place is None else place,
        offset,
        tail_of(place_of(event.version)),
    )
    assert event.unpositioned == (place is None)


def test_what_postgresql_streams_goes_before_by_generation_then_commit_then_lsn_then_offset():
    def version(generation: int, commit: int, lsn: int, offset: int) -> str:
        block = source(lsn) | {"sequence": f'["{commit}","{lsn}"]'}
        raw = orjson.dumps({"after": {"id": 1}, "op": "u", "source": block})
        at = KafkaPosition("app.public.docs", 3, offset)
        event = Decoder(table(generation=generation)).event(ROW, raw, at)
        assert isinstance(event, Upsert)
        return event.version

    rising = [(0, 1, 9, 9), (0, 2, 3, 9), (0, 2, 4, 7), (0, 2, 4, 8), (1, 1, 1, 1)]
    assert [version(*each) for each in rising] == sorted(version(*each) for each in rising)
