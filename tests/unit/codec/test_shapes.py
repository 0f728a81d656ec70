"""What kind of message a value is: the whole shape decides, and columns may have any name."""

import json
import lzma
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from operators.changes.events import ChangeEvent, Delete, Ignored, KafkaPosition, Tombstone, Upsert
from operators.changes.row_key import RowKey
from operators.codec.decoder import Decoder
from operators.errors import RecordError
from tests.changes import envelope, key, table

CAPTURED = Path(__file__).parents[2] / "data" / "debezium" / "unwrap" / "modes.jsonl.xz"
AT = KafkaPosition("app.public.docs", 3, 42)
ROW = RowKey("docs:1")
SCHEMA = {"type": "struct", "fields": [{"type": "int32", "field": "id"}], "optional": True}
MARKED = {"id": 1, "name": "a", "__op": "u", "__lsn": 9, "__source_sequence": '["8","9"]'}


def docs(text: str = "{name}", **changed: Any) -> Decoder:
    return Decoder(table(text=text, columns={}, **changed))


def the_row(decoder: Decoder, raw: bytes | None, raw_key: bytes = key(id=1)) -> ChangeEvent:
    (row_key,) = decoder.row_keys(raw_key, raw)
    return decoder.event(row_key, raw, AT)


# What the transforms make of deletes.


def captured() -> list[dict[str, Any]]:
    with lzma.open(CAPTURED, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


SQL_SAYS = {"docs:3": "two", "docs:9": "end"}
KINDS = sorted({(each["mode"], each["schemas"]) for each in captured()})


def octets(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def kept(messages: list[dict[str, Any]], decoder: Decoder) -> dict[str, str]:
    """The rows that are left when the messages of one topic are applied in their order."""
    rows: dict[str, str] = {}
    for message in messages:
        raw_key, raw = octets(message["key"]), octets(message["value"])
        try:
            keys = decoder.row_keys(raw_key, raw)
        except RecordError as error:
            # A TRUNCATE that the transform has emptied: neither key nor row.
            assert raw_key is None
            assert re.search("has no key|names no row", error.cause)
            continue
        for row_key in keys:
            event = decoder.event(row_key, raw, AT)
            if isinstance(event, Upsert):
                rows[row_key] = str(event.parsed()[0]["title"])
            else:
                assert isinstance(event, Tombstone | Delete)
                rows.pop(row_key, None)
    return rows


@pytest.mark.parametrize(("mode", "schemas"), KINDS)
def test_deletes_and_key_changes_as_each_transform_writes_them(mode: str, schemas: bool) -> None:
    mine = [each for each in captured() if (each["mode"], each["schemas"]) == (mode, schemas)]
    assert len(mine) >= 7
    # Without add.fields nothing marks a row as unwrapped, and the contract has to say it.
    said: dict[str, Any] = {"shape": "unwrapped"} if mode in ("default", "extract-field") else {}
    # The table has columns that are called `after` and `op`, with "d" in one row.
    decoder = docs("{title}", **said)
    if mode == "drop":
        # No message says that rows 1 and 2 are gone.
        assert kept(mine, decoder) == {**SQL_SAYS, "docs:1": "uno", "docs:2": "two"}
    else:
        assert kept(mine, decoder) == SQL_SAYS
    by_row = docs("{title}", key_from="row", **said)
    assert kept(mine, by_row) == kept(mine, decoder)


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"null",
        b" null\n",
        b"\t\r\n  null" + b" " * 200,
        orjson.dumps({"schema": SCHEMA, "payload": None}),
        b'{ "payload" : null , "schema" : {"type" : "struct"} }',
        b'{"schema":null,"payload":null}',
    ],
)
@pytest.mark.parametrize("settings", [{}, {"shape": "envelope"}, {"shape": "unwrapped"}])
@pytest.mark.parametrize("key_from", ["record", "row"])
def test_connects_null_is_a_tombstone(raw: bytes | None, settings: Any, key_from: str) -> None:
    decoder = docs(key_from=key_from, **settings)
    assert the_row(decoder, raw) == Tombstone(ROW, AT)
    assert not decoder.truncates(raw)


def test_a_null_in_a_registrys_frame_is_a_tombstone() -> None:
    class Nothing:
        def decode(self, raw: bytes, topic: str, *, key: bool) -> tuple[Any, Any]:
            return ({"id": 1} if key else None), None

    decoder = Decoder(table(), Nothing())
    assert the_row(decoder, b"\0\0\0\0\7\0", b"\0\0\0\0\7\2") == Tombstone(ROW, AT)


@pytest.mark.parametrize("raw", [b"", b" ", b"nul", b'""', b"false", b"0", b'{"payload":null}'])
def test_what_is_no_null_deletes_nothing(raw: bytes) -> None:
    with pytest.raises(RecordError):
        the_row(docs(), raw)


# Columns that are called like the protocol's fields.

NAMES: Mapping[str, Any] = {
    "op": "d",
    "source": {"kind": "web", "connector": "postgresql", "lsn": 1},
    "before": {"id": 7},
    "after": {"id": 8, "name": "not the row"},
    "ts_ms": 5,
    "payload": {"id": 9},
    "schema": {"type": "struct"},
    "ddl": "drop",
    "tableChanges": [],
    "status": "END",
    "event_count": 1,
    "data_collections": [],
    "transaction": None,
    "specversion": "1.0",
}


@pytest.mark.parametrize("names", [*([name] for name in NAMES), list(NAMES)])
@pytest.mark.parametrize("settings", [{}, {"shape": "unwrapped"}])
@pytest.mark.parametrize("key_from", ["record", "row"])
def test_a_marked_row_may_have_any_columns(names: list[str], settings: Any, key_from: str) -> None:
    row = {"id": 1, "name": "a", **{name: NAMES[name] for name in names}}
    raw = orjson.dumps({**MARKED, **row})
    decoder = docs(key_from=key_from, **settings)
    event = the_row(decoder, raw)
    assert isinstance(event, Upsert)
    assert event.parsed()[0] == row
    assert not event.unpositioned
    assert not decoder.truncates(raw)


@pytest.mark.parametrize("names", [*([name] for name in NAMES), list(NAMES)])
def test_a_bare_row_may_have_any_columns_where_the_contract_says_so(names: list[str]) -> None:
    row = {"id": 1, "name": "a", **{name: NAMES[name] for name in names}}
    event = the_row(docs(shape="unwrapped"), orjson.dumps(row))
    assert isinstance(event, Upsert)
    assert event.parsed()[0] == row


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"ts_ms": 5}, "{ts_ms}"),
        ({"id": "571:5", "status": "END", "event_count": 1, "data_collections": []}, "{status}"),
        ({"ddl": "drop", "tableChanges": [], "source": "x"}, "{ddl}"),
        ({"payload": {"id": 9}}, "{payload}"),
        ({"payload": {"id": 9}, "schema": "public"}, "{payload}{schema}"),
        ({"payload": None, "schema": None}, "{payload}{schema}"),
        ({"op": "d", "source": {"connector": "x"}, "after": {}}, "{op}{source}{after}"),
    ],
)
def test_a_table_whose_columns_are_those_of_a_message(columns: dict[str, Any], text: str) -> None:
    """The whole row looks like a heartbeat, a marker, a wrapper or an envelope."""
    raw, first = orjson.dumps(columns), next(iter(columns))
    the_key = key(**{first: 1})
    row = the_row(docs(text, key=[first], shape="unwrapped"), raw, the_key)
    assert isinstance(row, Upsert)
    assert row.parsed()[0] == columns
    marked = orjson.dumps({**columns, "__op": "c"})
    assert isinstance(the_row(docs(text, key=[first]), marked, the_key), Upsert)


@pytest.mark.parametrize(
    ("raw", "text", "other"),
    [
        (b'{"ts_ms":5}', "{ts_ms}", "heartbeat"),
        (
            b'{"id":"1","status":"END","event_count":1,"data_collections":[]}',
            "{status}",
            "transaction",
        ),
        (b'{"ddl":"","tableChanges":[],"source":"x"}', "{ddl}", "ddl"),
    ],
)
def test_what_could_be_a_row_and_a_message_is_refused(raw: bytes, text: str, other: str) -> None:
    first = next(iter(orjson.loads(raw)))
    for settings in ({"shape": "auto"}, {"shape": "envelope"}):
        with pytest.raises(RecordError, match=f"could be Debezium's {other}, and a row") as caught:
            the_row(docs(text, key=[first], **settings), raw, key(**{first: 1}))
        assert 'shape = "unwrapped"' in caught.value.hint


def test_an_envelope_beside_the_tables_own_key_is_refused_until_the_contract_says_which() -> None:
    raw = orjson.dumps({**orjson.loads(envelope("d", 5, None)), "id": 1, "name": "a"})
    with pytest.raises(RecordError, match="could be Debezium's envelope, and a row") as caught:
        the_row(docs(), raw)
    assert 'shape = "envelope"' in caught.value.hint
    assert isinstance(the_row(docs(shape="envelope"), raw), Delete)
    assert isinstance(the_row(docs(shape="unwrapped"), raw), Upsert)
    # A field that a transform has inserted is no column of the key.
    inserted = orjson.dumps({**orjson.loads(envelope("d", 5, None)), "region": "eu"})
    assert isinstance(the_row(docs(), inserted), Delete)


@pytest.mark.parametrize("op", ["c", "d", "t"])
def test_an_envelope_is_not_taken_for_the_row_that_the_contract_promises(op: str) -> None:
    """As a row it would have no columns; with `drift.missing = "null"` it would be one of NULLs."""
    decoder = docs(shape="unwrapped", drift={"missing": "null"})
    raw = envelope(op, 5, {"id": 1, "name": "a"})
    with pytest.raises(RecordError, match="it is an envelope, but the contract"):
        decoder.event(ROW, raw, AT)


def test_the_schema_of_an_audit_table_is_that_of_its_row() -> None:
    """Its column `after` is a struct (a point), and its own fields say nothing of the row's types."""
    after = {"type": "struct", "field": "after", "fields": [{"type": "double", "field": "x"}]}
    fields = [{"type": "int32", "field": "id"}, after, {"type": "string", "field": "op"}]
    wrapped = {"schema": {"type": "struct", "fields": fields}, "payload": {**MARKED, "after": {}}}
    event = the_row(docs(), orjson.dumps(wrapped))
    assert isinstance(event, Upsert)
    assert event.schema == fields
    event = the_row(docs(shape="unwrapped"), orjson.dumps({**wrapped, "payload": {"id": 1}}))
    assert isinstance(event, Upsert)
    assert event.schema == fields
    # A key with such a column, too.
    wrapped_key = {"schema": {"type": "struct", "fields": fields}, "payload": {"id": 1, "after": 2}}
    decoder = Decoder(table(key=["id", "after"], encodings={}))
    assert decoder.row_keys(orjson.dumps(wrapped_key), None) == ("docs:1,2",)


def test_a_column_that_is_named_like_metadata_belongs_to_the_row_if_the_contract_names_it() -> None:
    raw = orjson.dumps({**MARKED, "__v": 3, "__other": 4})
    event = the_row(docs("{name}{__v}"), raw)
    assert isinstance(event, Upsert)
    assert event.parsed()[0] == {"id": 1, "name": "a", "__v": 3}


def test_a_message_of_debeziums_own_is_about_no_row_as_before() -> None:
    heartbeat = b'{"ts_ms":1,"ts_us":2,"ts_ns":3}'
    for settings in ({}, {"shape": "unwrapped"}, {"shape": "envelope"}):
        decoder = docs(**settings)
        assert decoder.row_keys(key(serverName="app"), heartbeat) == ()
        assert decoder.event(RowKey(""), heartbeat, AT) == Ignored("heartbeat")


# Headers are read where they matter.


@pytest.mark.parametrize(
    "raw",
    [
        b'{"op":"d"}',
        b'{"op": "d"}',
        b'{ "op" : "d" }',
        b'{"__deleted":"true"}',
        b'{"__deleted": "true"}',
        b'{"__deleted":true}',
        b'{"source":{}, "__op" :\t"d"}',
    ],
)
def test_the_headers_of_a_delete_are_read_however_its_json_is_written(raw: bytes) -> None:
    needles = Decoder(table()).header_needles
    assert needles is not None
    assert any(needle in raw for needle in needles)


# The order of unwrapped rows.

PLACES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"lsn": 9}, {"lsn": 9}, "postgresql"),
    ({"source_lsn": 9}, {"lsn": 9}, "postgresql"),
    ({"file": "b.000005", "pos": 7}, {"file": "b.000005", "pos": 7}, "mysql"),
    (
        {"source_file": "b.000005", "source_pos": 7},
        {"file": "b.000005", "pos": 7},
        "mariadb",
    ),
    (
        {"commit_lsn": "00000025:00000d98:00a2"},
        {"commit_lsn": "00000025:00000d98:00a2"},
        "sqlserver",
    ),
    ({"commit_scn": "9", "scn": "8"}, {"commit_scn": "9", "scn": "8"}, "oracle"),
    ({"commit_scn": None, "scn": "8"}, {"scn": "8"}, "oracle"),
]


@pytest.mark.parametrize(("added", "block", "connector"), PLACES)
@pytest.mark.parametrize("sequence", [{}, {"__source_sequence": None}, {"__sequence": None}])
def test_the_fields_beside_a_null_sequence_order_a_row(
    added: dict[str, Any], block: dict[str, Any], connector: str, sequence: dict[str, Any]
) -> None:
    """ExtractNewRecordState adds `source.sequence` for every connector; only PostgreSQL's has one."""
    marks = {f"__{name}": value for name, value in added.items()}
    raw = orjson.dumps({"id": 1, "name": "a", "__op": "u", **sequence, **marks})
    event = the_row(docs(), raw)
    whole = the_row(
        docs(),
        orjson.dumps({"op": "u", "after": {"id": 1}, "source": {"connector": connector, **block}}),
    )
    assert isinstance(event, Upsert)
    assert isinstance(whole, Upsert)
    assert (event.version, event.unpositioned) == (whole.version, False)


@pytest.mark.parametrize(
    ("marks", "cause"),
    [
        ({"__source_sequence": None}, "are null, or not all that it takes: 'sequence'"),
        ({"__lsn": None, "__source_sequence": None}, "'lsn', 'sequence'"),
        ({"__commit_lsn": None}, "'commit_lsn'"),
        ({"__scn": "5"}, "not all that it takes: 'scn'"),
        ({"__lsn": 5, "__file": "b.000001", "__pos": 3}, "several databases: 'lsn', 'file'"),
        ({"__lsn": 5, "__file": "report.001"}, "several databases"),
        ({"__file": "report.001"}, "'pos' is out of range"),
        ({"__file": "report"}, "'file'"),
    ],
)
@pytest.mark.parametrize("op", ["c", "u", "d"])
def test_an_order_that_is_named_but_not_there_is_refused(
    marks: dict[str, Any], cause: str, op: str
) -> None:
    raw = orjson.dumps({"id": 1, "name": "a", "__op": op, **marks})
    with pytest.raises(RecordError) as caught:
        the_row(docs(), raw)
    assert cause in caught.value.cause
    assert caught.value.hint


@pytest.mark.parametrize("marks", [{"__lsn": None}, {"__lsn": None, "__source_sequence": None}])
def test_a_read_of_an_incremental_snapshot_may_have_no_lsn(marks: dict[str, Any]) -> None:
    """Debezium writes none there; without `source.sequence` only the offset orders the row."""
    event = the_row(docs(), orjson.dumps({"id": 1, "name": "a", "__op": "r", **marks}))
    assert isinstance(event, Upsert)
    assert event.unpositioned


# Keys of records where the row's own columns identify it.


@pytest.mark.parametrize(
    "written", [b'{"id":1}', b"1", b'"1"', b'{"schema":{"type":"int32"},"payload":1}']
)
def test_a_tombstone_deletes_the_row_that_its_key_names(written: bytes) -> None:
    decoder = docs(key_from="row")
    assert decoder.row_keys(written, orjson.dumps(MARKED)) == (ROW,)
    for nothing in (None, b"null"):
        assert decoder.row_keys(written, nothing) == (ROW,)
        assert decoder.event(ROW, nothing, AT) == Tombstone(ROW, AT)
    assert decoder.row_keys(None, None) == ()


@pytest.mark.parametrize("written", [b'{"other":1}', b"[1]", b"1.5", b"\xff", b"\0\0\0\1", b"{}"])
def test_a_tombstone_whose_key_names_no_row_is_refused_with_the_fix(written: bytes) -> None:
    decoder = docs(key_from="row", format="json")
    # A row tells its key itself, whatever the record's is.
    assert decoder.row_keys(written, orjson.dumps(MARKED)) == (ROW,)
    with pytest.raises(RecordError, match="a tombstone names its row by it alone") as caught:
        decoder.row_keys(written, None)
    assert "tombstones.on.delete=false" in caught.value.hint


@pytest.mark.parametrize("raw", [b"null", b'{"schema":null,"payload":null}'])
def test_a_delete_of_a_table_without_keys_that_names_no_row_is_refused(raw: bytes) -> None:
    """Kafka's null follows a delete that named its row; a converter's null is all there is of one."""
    with pytest.raises(RecordError, match="names no row") as caught:
        docs(key_from="row").row_keys(None, raw)
    assert "delete.tombstone.handling.mode=rewrite" in caught.value.hint
    with pytest.raises(RecordError, match="no key"):
        docs().row_keys(None, raw)


@pytest.mark.parametrize("written", [b"2", b'"one"', b'{"id":2}', b"true"])
def test_a_key_that_names_another_row_than_its_value_is_refused(written: bytes) -> None:
    """Else the tombstone that follows would delete that other row."""
    with pytest.raises(RecordError, match="names another row"):
        docs(key_from="row").row_keys(written, orjson.dumps(MARKED))


def test_a_bare_key_of_a_composite_key_says_nothing() -> None:
    decoder = docs(key_from="row", key=["id", "name"])
    assert decoder.row_keys(b"1", orjson.dumps(MARKED)) == ("docs:1,a",)
    with pytest.raises(RecordError, match="not an object with the key's columns"):
        decoder.row_keys(b"1", None)


# Messages of other tools.


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"specversion": "1.0", "id": "x", "type": "y", "source": "/z", "data": {}}, "CloudEvent"),
        (
            {"database": "a", "table": "b", "type": "INSERT", "isDdl": False, "data": [], "ts": 1},
            "Canal",
        ),
        ({"database": "a", "table": "b", "type": "insert", "ts": 1, "data": {}}, "Maxwell"),
        ({"u": {"id": {"t": 3, "v": 1}}}, "TiCDC's open protocol"),
        (
            {"version": 1, "database": "a", "table": "b", "type": "INSERT", "commitTs": 1},
            "TiCDC's simple protocol",
        ),
        ({"before": None, "after": {"id": 1}, "op": "c"}, "Flink's debezium-json"),
        ({"data": {"id": 1}, "metadata": {"operation": "insert"}}, "AWS DMS"),
        ({"table": "T", "op_type": "I", "op_ts": "", "pos": "1", "after": {}}, "GoldenGate"),
        ({"before": None, "after": {}, "op": "c", "source": {}}, "names no connector"),
    ],
)
def test_another_tools_message_is_called_by_its_name(message: dict[str, Any], name: str) -> None:
    with pytest.raises(RecordError) as caught:
        the_row(docs(), orjson.dumps(message))
    assert name in caught.value.cause
    assert caught.value.hint


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b'{"id":1,"name":"caf\xe9"}', "bytes that are no UTF-8"),
        (b'{"id":1,"name":"\xed\xa0\xbd\xed\xb8\x80"}', "bytes that are no UTF-8"),
        (b'{"id":1,"name":"cut \\ud83d"}', "half of a surrogate pair"),
        (b'{"id":1,"name":"\\udc00"}', "half of a surrogate pair"),
        (b"Struct{id=1,name=a}", "the text of a Struct"),
        (b"", "it is empty"),
    ],
)
def test_bytes_that_are_no_json_are_called_what_they_are(raw: bytes, cause: str) -> None:
    for call in (lambda: the_row(docs(), raw), lambda: docs().row_keys(raw, None)):
        with pytest.raises(RecordError) as caught:
            call()
        assert cause in caught.value.cause
        assert "caf" not in str(caught.value)


def test_a_valid_surrogate_pair_is_a_character() -> None:
    event = the_row(docs(), b'{"id":1,"name":"\\ud83d\\ude00","__op":"c"}')
    assert isinstance(event, Upsert)
    assert event.parsed()[0]["name"] == "😀"


@pytest.mark.parametrize(
    "written", [b"7", b'{"schema":{"type":"int32","optional":false},"payload":7}']
)
def test_a_bare_key_is_told_how_to_be_read(written: bytes) -> None:
    with pytest.raises(
        RecordError, match="a number, not an object with the key's columns"
    ) as caught:
        docs().row_keys(written, envelope("c", 1, {"id": 7}))
    assert 'key_from = "row"' in caught.value.hint
    assert "JsonConverter" not in caught.value.hint
