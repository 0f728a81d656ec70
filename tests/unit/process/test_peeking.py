"""What the first records of a topic say about the contract: fit, refusal, warning."""

from typing import Any

import orjson
import pytest

from flows.process.peeking import peek
from flows.sync import rules_of
from operators.contract.sections import Contract
from operators.errors import FatalError
from operators.kafka.log_reader import Record
from operators.postgres.hidden_changes import Hidden, partition_warnings
from operators.rendering.renderer import Rules
from tests.changes import TOPIC, contract, doc, envelope, key, put, table, tombstone

ROW = {"id": 1, "name": "a", "doc": "b", "kind": "page", "size": 1, "__op": "c"}


def rules(**settings: Any) -> Rules:
    whole = contract().model_dump()
    tables = [table(**settings).model_dump()]
    return rules_of(Contract.model_validate({**whole, "tables": tables}))[TOPIC]


def records(*pairs: tuple[bytes | None, bytes | None]) -> list[Record]:
    return [(offset, raw_key, raw, None) for offset, (raw_key, raw) in enumerate(pairs)]


def test_one_record_that_fits_is_enough() -> None:
    found = peek(rules(), records((key(id=9), b"no json"), tombstone(1), put(1, 5)))
    assert (found.fits, found.origin) == ("ordered by PostgreSQL's LSN", ("public", "docs"))
    assert found.warnings == []
    assert peek(rules(), records(tombstone(1))).origin is None


def test_if_none_fits_the_contract_is_wrong() -> None:
    with pytest.raises(
        FatalError, match=r"table docs, key of app\.public\.docs: it has no column 'no'"
    ):
        peek(rules(key=["no"]), records(put(1, 5), put(2, 6)))


# A converter writes a column's default in place of NULL.


def wrapped(*, optional: bool = True, default: Any = "n/a", **columns: Any) -> bytes:
    fields = [
        {"type": "string", "field": name, "optional": True} for name in ("name", "doc", "unused")
    ]
    fields += [
        {"type": "int32", "field": "id", "optional": False, "default": 0},
        {"type": "string", "field": "kind", "optional": optional, "default": default},
        {"type": "string", "field": "unnamed", "optional": True, "default": "x"},
    ]
    row = {**doc(1), "kind": "page", **columns}
    after = {"type": "struct", "field": "after", "fields": fields}
    payload = orjson.loads(envelope("c", 5, row))
    return orjson.dumps({"schema": {"type": "struct", "fields": [after]}, "payload": payload})


def test_a_default_that_may_stand_for_null_is_warned_of_once() -> None:
    (warning,) = peek(rules(), records((key(id=1), wrapped()), (key(id=2), wrapped()))).warnings
    assert "table docs: " in warning
    assert "'kind' may be NULL" in warning
    assert "replace.null.with.default=false" in warning
    assert "ignore.default.for.nullables=true" in warning
    # A key is never NULL; and what the contract does not use is of no interest.
    assert "'id'" not in warning
    assert "'unnamed'" not in warning


@pytest.mark.parametrize(
    "raw",
    [
        wrapped(optional=False),
        wrapped(default=None),
        wrapped(kind=None),  # the converter writes NULL, and so is set right
        put(1, 5)[1],  # without a schema nothing can be told
    ],
)
def test_no_default_can_stand_for_null(raw: bytes) -> None:
    found = peek(rules(), records((key(id=1), raw)))
    assert found.fits
    assert found.warnings == []


def test_a_null_in_any_of_the_records_shows_that_the_converter_is_set_right() -> None:
    found = peek(rules(), records((key(id=1), wrapped()), (key(id=2), wrapped(kind=None))))
    assert found.warnings == []


# Keys where the row's own columns identify it.


@pytest.mark.parametrize("written", [b'{"id":1}', b"1"])
def test_keys_that_name_the_row_are_right(written: bytes) -> None:
    found = peek(rules(key_from="row"), records((written, orjson.dumps(ROW)), (written, None)))
    assert found.fits
    assert found.warnings == []


@pytest.mark.parametrize("nothing", [None, b"null", b'{"schema":{"type":"struct"},"payload":null}'])
def test_tombstones_that_name_no_row_are_refused(nothing: bytes | None) -> None:
    other = key(region="eu")
    for order in (1, -1):
        seen = records(*[(other, orjson.dumps(ROW)), (other, nothing)][::order])
        with pytest.raises(
            FatalError, match=r"table docs, key of .*a tombstone names its row"
        ) as caught:
            peek(rules(key_from="row"), seen)
        assert "tombstones.on.delete=false" in caught.value.hint


def test_keys_that_name_no_row_are_warned_of_before_a_tombstone_has_come() -> None:
    (warning,) = peek(
        rules(key_from="row"), records((key(region="eu"), orjson.dumps(ROW)))
    ).warnings
    assert "a tombstone names its row by it alone, and it has no column 'id'" in warning


@pytest.mark.parametrize(
    ("written", "raw", "warned"),
    [
        (None, orjson.dumps(ROW), True),
        (None, orjson.dumps({**ROW, "__deleted": "false"}), False),
        (None, put(1, 5)[1], False),
        (key(id=1), orjson.dumps(ROW), False),
    ],
)
def test_deletes_that_will_name_no_row_are_warned_of(
    written: bytes | None, raw: bytes, warned: bool
) -> None:
    found = peek(rules(key_from="row"), records((written, raw)))
    assert found.fits
    assert ["delete.tombstone.handling.mode=rewrite" in each for each in found.warnings] == (
        [True] if warned else []
    )


# Partitions of PostgreSQL.


@pytest.mark.parametrize(
    ("hidden", "told"),
    [
        (Hidden(), None),
        (Hidden(False, True), None),
        (Hidden(True, True), "dropped, detached or truncated"),
        (Hidden(True, False), "publish.via.partition.root=true"),
    ],
)
def test_what_partitions_do_without_a_message_is_told(hidden: Hidden, told: str | None) -> None:
    found = list(partition_warnings(table(), ("public", "docs"), hidden))
    assert len(found) == (told is not None)
    assert told is None or told in found[0]


# Several physical tables in one topic.


def of_table(id_: int, physical: str) -> tuple[bytes | None, bytes | None]:
    raw_key, raw = put(id_, id_)
    message = orjson.loads(raw or b"")
    message["source"] |= {"name": "app", "db": "app", "schema": "public", "table": physical}
    return raw_key, orjson.dumps(message)


def test_several_tables_in_a_topic_are_warned_of() -> None:
    found = records(of_table(1, "docs"), of_table(2, "docs"), of_table(3, "notes"))
    (warning,) = peek(rules(), found).warnings
    assert f"topic {TOPIC} has changes of several tables" in warning
    assert "source_tables" in warning
    assert peek(rules(), found[:2]).warnings == []
    assert peek(rules(source_tables=["app.public.*"]), found).warnings == []


# Documents of MongoDB.


def of_document(id_: int, **fields: Any) -> tuple[bytes | None, bytes | None]:
    source = {"connector": "mongodb", "name": "app", "db": "app", "collection": "docs", "ts_ms": 1}
    after = orjson.dumps({"_id": id_, **fields}).decode()
    message = {"before": None, "after": after, "source": source, "op": "c", "ts_ms": 1}
    return key(id=id_), orjson.dumps(message)


def test_a_field_that_no_document_has_is_warned_of() -> None:
    found = records(of_document(1, name="a"), of_document(2, name="b", doc="c", kind="d"))
    (warning,) = peek(rules(), found).warnings
    assert "none of the first 2 documents has 'size'" in warning
    assert peek(rules(drift={"missing": "null"}), found).warnings == []
    with pytest.raises(FatalError, match="no such column"):
        peek(rules(drift={"missing": "dead-letter"}), found)
