"""The router sends each record to the shard of its row, even if its value is bad."""

from typing import Any

import orjson
import pytest

from operators.changes.events import Ignored, KafkaPosition, Truncate
from operators.changes.shards import ALL_SHARDS, shard_of
from operators.codec.decoder import Decoder
from operators.errors import RecordError
from operators.stages.route import Router
from operators.stages.window import RawChange, ShardRecords, SourceBatch
from tests.changes import (
    PAIRS_TOPIC,
    TOPIC,
    doc,
    envelope,
    gone,
    key,
    put,
    source,
    table,
    tombstone,
)

ONE, TWO = "docs:1", "docs:2"
DECODERS = {
    TOPIC: Decoder(table()),
    PAIRS_TOPIC: Decoder(table(topic=PAIRS_TOPIC, name="pairs", key=["a", "b"], key_from="row")),
}
TRUNCATE = orjson.dumps({"op": "t", "before": None, "after": None, "source": source(9)})


def batch(*records: tuple[Any, ...], topic: str = TOPIC, resumed: bool = False) -> SourceBatch:
    numbered = tuple(
        (offset, raw_key, raw_value, other[0] if other else None)
        for offset, (raw_key, raw_value, *other) in enumerate(records)
    )
    return SourceBatch(topic, 4, resumed, numbered, (1, 2, 1))


def routed(*batches: SourceBatch) -> list[tuple[str, ShardRecords]]:
    return list(Router(DECODERS)(list(batches)))


def changes(*batches: SourceBatch) -> dict[str, tuple[RawChange, ...]]:
    return {shard: records.changes for shard, records in routed(*batches)}


def test_a_row_keeps_its_shard_and_its_order():
    items = dict(routed(batch(put(1, 1), put(2, 2), put(1, 3), gone(1, 4), tombstone(1))))
    assert set(items) == {shard_of(ONE), shard_of(TWO)}
    mine = items[shard_of(ONE)]
    assert [change[:2] for change in mine.changes] == [(0, ONE), (2, ONE), (3, ONE), (4, ONE)]
    assert (mine.topic, mine.partition, mine.resumed, mine.context) == (TOPIC, 4, False, (1, 2, 1))


def test_a_record_goes_on_with_all_it_has():
    raw_key, value = put(1, 1)
    found = changes(batch((raw_key, value, key(id=2))))
    assert found == {shard_of(ONE): ((0, ONE, raw_key, value, key(id=2)),)}


def test_batches_of_several_topics_stay_apart():
    row = orjson.dumps({"op": "c", "after": {"a": 1, "b": 2}, "source": source(1)})
    found = routed(batch(put(1, 1)), batch((None, row), topic=PAIRS_TOPIC), batch(put(1, 2)))
    assert [(records.topic, records.changes[0][1]) for _, records in found] == [
        (TOPIC, ONE),
        (PAIRS_TOPIC, "pairs:1,2"),
        (TOPIC, ONE),
    ]


def test_the_batch_after_a_resume_goes_to_every_shard():
    items = routed(batch(put(1, 1), resumed=True))
    assert [shard for shard, _ in items] == list(ALL_SHARDS)
    assert all(records.resumed for _, records in items)
    assert sum(len(records.changes) for _, records in items) == 1


def test_a_truncate_goes_to_every_shard_and_keeps_its_place():
    found = changes(batch(put(1, 1), (None, TRUNCATE), put(1, 12)))
    assert set(found) == set(ALL_SHARDS)
    assert [change[:2] for change in found[shard_of(ONE)]] == [(0, ONE), (1, ""), (2, ONE)]
    assert all((1, "", None, TRUNCATE, None) in each for each in found.values())
    at = KafkaPosition(TOPIC, 4, 1)
    assert isinstance(DECODERS[TOPIC].event(found["000"][0][1], TRUNCATE, at), Truncate)


def test_a_truncate_that_cannot_be_applied_is_told_by_one_shard():
    for block in ({"connector": "vitess"}, {"connector": "postgresql", "lsn": "none"}):
        raw = orjson.dumps({"op": "t", "source": block})
        ((_, change),) = changes(batch((None, raw))).items()
        with pytest.raises(RecordError):
            DECODERS[TOPIC].event(change[0][1], raw, KafkaPosition(TOPIC, 4, 0))


@pytest.mark.parametrize("settings", [{}, {"key_from": "row"}])
def test_a_message_about_no_row_goes_to_one_shard(settings):
    raw = orjson.dumps({"op": "m", "source": source(9), "message": {}})
    decoder = Decoder(table(**settings))
    ((_, records),) = Router({TOPIC: decoder})([batch((key(prefix="app"), raw))])
    ((offset, row_key, *_),) = records.changes
    assert (offset, row_key) == (0, "")
    assert decoder.event(row_key, raw, KafkaPosition(TOPIC, 4, 0)) == Ignored("message")


@pytest.mark.parametrize(
    "record",
    [
        (b"\xff", b"value"),
        (None, put(1, 1)[1]),
        (None, None),
        (b"{}", None),
        (key(id=None), b"\xff"),
        (b'{"schema":{"fields":[7]},"payload":{"id":1}}', None),
    ],
)
def test_a_record_that_tells_no_row_goes_somewhere_with_all_it_has(record):
    ((_, found),) = changes(batch(record)).items()
    assert found == ((0, "", *record, None),)
    # The shard decodes the record again and finds the same error.
    with pytest.raises(RecordError):
        DECODERS[TOPIC].row_keys(*record)


def test_records_that_tell_no_row_do_not_all_go_to_one_shard():
    assert len(changes(batch(*[(b"\xff", b"")] * 50))) > 10


def test_a_key_change_without_a_primary_key_goes_to_both_rows():
    before, after = {"a": 1, "b": 2}, {"a": 1, "b": 3}
    raw = orjson.dumps({"op": "u", "before": before, "after": after, "source": source(9)})
    found = changes(batch((None, raw), topic=PAIRS_TOPIC))
    assert found == {
        shard_of(row): ((0, row, None, raw, None),) for row in ("pairs:1,2", "pairs:1,3")
    }


def test_a_bad_value_does_not_move_its_row():
    """A bad value has to reach the shard of its row, where it is ordered among the row's versions."""
    for value in (b"\xff", b"[]", envelope("x", 1, doc(1)), envelope("u", 1, None)):
        assert set(changes(batch((key(id=1), value)))) == {shard_of(ONE)}
