"""Changes that no position orders, from several partitions and topics; and a log that goes back."""

import logging

import orjson
import pytest

from operators.changes.events import Delete, KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.version import (
    NO_POSITION,
    Version,
    has_position,
    make_version,
    place_of_partition,
    tail_of,
)
from operators.errors import FatalError
from operators.retry import RetryPolicy
from operators.stages.look_up import LookUp
from operators.stages.meeting import STALE_ROWS, Places
from operators.stages.window import Window
from operators.state.version_map import VersionMap
from operators.telemetry import Telemetry
from tests.changes import TOPIC, doc, gone, key, put, source, table, tombstone
from tests.unit.stages.test_dedup import ONE, Shard
from tests.unit.stages.test_look_up import came, stored

BOTH = [(TOPIC, 0), (TOPIC, 1)]


def shard(**more) -> Shard:
    made = Shard(whole=True, partitions=BOTH, **more)
    for _, partition in BOTH:
        made.take(partition=partition, resumed=True)
    return made


def document(id_: int, text: str, op: str = "u") -> tuple[bytes, bytes | None]:
    """A change of MongoDB: nothing but its offset orders it."""
    value = {
        "op": op,
        "after": None if op == "d" else orjson.dumps(doc(id_, text)).decode(),
        "source": {"connector": "mongodb", "name": "app", "db": "app", "collection": "docs"},
    }
    return key(id=id_), orjson.dumps(value)


def read(id_: int, lsn: int, text: str, **more) -> tuple[bytes, bytes | None]:
    """A snapshot read."""
    block = source(lsn, snapshot="true", **more)
    return key(id=id_), orjson.dumps({"op": "r", "after": doc(id_, text), "source": block})


def text_of(made: Shard) -> str | None:
    """The text of row 1 after the window closes; None if the row is deleted."""
    window = made.closed()
    row = window.rows.get(ONE)
    return None if row is None else row.text.partition("\n")[2]  # type: ignore[union-attr]


# Tombstones.


@pytest.mark.parametrize("window_between", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_lone_tombstone_of_a_partition_that_was_added_deletes(window_between, restart, caplog):
    made = shard()
    made.offset = 50
    made.take(put(1, 5, "one"))
    if window_between:
        assert text_of(made) == "one"
    if restart:
        made.restart()
        made.take(partition=0, resumed=True)
        made.take(partition=1, resumed=True)
    made.offset = 0
    with caplog.at_level(logging.WARNING):
        made.take(tombstone(1), partition=1)
    assert text_of(made) is None
    assert [each.message.partition(":")[0] for each in caplog.records] == [f"topic {TOPIC}"]


@pytest.mark.parametrize("restart", [False, True])
def test_the_tombstone_of_a_delete_says_nothing_whichever_partition_it_comes_from(restart):
    made = shard()
    made.take(put(1, 1, "first life"), gone(1, 2), put(1, 3, "second life"))
    assert text_of(made) == "second life"
    if restart:
        made.restart()
        made.take(partition=0, resumed=True)
        made.take(partition=1, resumed=True)
    made.take(tombstone(1), partition=1)
    assert made.close() is None
    made.take(tombstone(1), partition=1)  # and the next one is another delete's
    assert text_of(made) is None


def test_a_tombstone_deletes_a_row_at_its_position_so_that_a_repeat_stays_deleted():
    made = shard()
    made.take(put(1, 5, "one"))
    made.take(tombstone(1), partition=1)
    assert text_of(made) is None
    made.take(put(1, 5, "one"))
    assert made.close() is None
    made.take(put(1, 6, "two"))
    assert text_of(made) == "two"


def test_a_tombstone_of_the_same_partition_is_ordered_by_its_offset():
    made = shard()
    made.offset = 7
    made.take(put(1, 5, "one"))
    made.offset = 3
    made.take(tombstone(1))
    assert text_of(made) == "one"


# MongoDB, and whatever else has no position.


@pytest.mark.parametrize("op", ["u", "d"])
def test_a_document_of_another_partition_counts_as_newer(op, caplog):
    made = shard()
    made.offset = 50
    made.take(document(1, "one"))
    assert text_of(made) == "one"
    made.offset = 0
    with caplog.at_level(logging.WARNING):
        made.take(document(1, "two", op), document(2, "other"), partition=1)
    assert text_of(made) == (None if op == "d" else "two")
    assert len(caplog.records) == 1


def test_in_one_partition_the_offset_orders_documents():
    made = shard()
    made.offset = 50
    made.take(document(1, "one"))
    assert text_of(made) == "one"
    made.offset = 0
    made.take(document(1, "two"))
    assert made.close() is None
    assert made.dropped() == {"stale": 1}


def test_a_topic_that_is_not_read_any_more_is_older(caplog):
    made = shard()
    made.logic._versions.put(
        ONE, make_version(0, NO_POSITION, 900, tail_of(place_of_partition("old.docs", 0))), "x"
    )
    with caplog.at_level(logging.WARNING):
        made.take(document(1, "new"))
    assert text_of(made) == "new"
    assert caplog.records == []


# What the store holds.


def looked_up(winner: Delete, *, stored_at: Version) -> Window:
    store = stored(lsn=4, offset=40)
    for row in store._collections["docs"].rows.values():
        row["rv_version"] = stored_at
    versions = VersionMap(whole=False, horizon_s=100, now=0)
    window = Window({}, {ONE: winner}, [], set(), versions, (), unverified={ONE})
    telemetry = Telemetry()
    resolver = LookUp(
        {TOPIC: table()}, store, RetryPolicy(0.0, telemetry), telemetry, Places(BOTH, telemetry)
    )
    ((_, window),) = resolver([("000", window)])
    return window


@pytest.mark.parametrize(
    ("partition", "kept"), [(0, False), (1, True)], ids=["same partition", "other partition"]
)
@pytest.mark.parametrize("with_tail", [False, True], ids=["release before", "this release"])
def test_a_tombstone_is_compared_with_the_stored_row_of_its_partition_alone(
    partition, kept, with_tail
):
    place = place_of_partition(TOPIC, 0)
    position = f"{4:016x}.{4:016x}"
    stored_at = make_version(0, position, 40, tail_of(place) if with_tail else "")
    tail = tail_of(place_of_partition(TOPIC, partition))
    delete = Delete(
        ONE,
        make_version(0, NO_POSITION, 3, tail),
        KafkaPosition(TOPIC, partition, 3),
        0,
        unpositioned=True,
    )
    window = looked_up(delete, stored_at=stored_at)
    assert (ONE in window.deletes) == kept
    known = window.versions.get(ONE)
    assert known is not None
    assert has_position(known[0])


# The log goes back.


def test_a_snapshot_read_below_what_is_known_stops_the_flow():
    made = shard()
    made.take(put(1, 900, "old"))
    assert text_of(made) == "old"
    with pytest.raises(FatalError, match=r"the database's log has gone back") as caught:
        made.take(read(1, 5, "new"))
    assert f"{900:016x}" in str(caught.value)
    assert f"{5:016x}" in str(caught.value)
    assert "raise `generation` of the table to 1" in caught.value.hint


def test_a_snapshot_read_below_what_the_store_holds_stops_the_flow():
    row = came(3, 50)._replace(op="r", old_key=None)
    versions = VersionMap(whole=False, horizon_s=100, now=0)
    window = Window({ONE: row}, {}, [], set(), versions, (), unverified={ONE})
    telemetry = Telemetry()
    store = stored(lsn=4, offset=40)
    place = tail_of(place_of_partition(TOPIC, 0))
    window.rows[ONE] = row._replace(version=Version(row.version + place))
    for each in store._collections["docs"].rows.values():
        each["rv_version"] += place
    resolver = LookUp(
        {TOPIC: table()}, store, RetryPolicy(0.0, telemetry), telemetry, Places(BOTH, telemetry)
    )
    with pytest.raises(FatalError, match="gone back"):
        resolver([("000", window)])


@pytest.mark.parametrize(
    ("partition", "offset", "lsn"),
    [(0, 0, 5), (1, 99, 5), (0, 99, 900)],
    ids=["the record again", "other partition", "the same read again"],
)
def test_a_snapshot_read_that_only_looks_old_does_not(partition, offset, lsn):
    made = shard()
    made.offset = 50
    made.take(read(1, 900, "old"))
    assert text_of(made) == "old"
    made.offset = offset
    made.take(read(1, lsn, "new"), partition=partition)


def test_a_higher_generation_is_newer_than_what_the_old_log_left():
    before = shard()
    before.take(put(1, 900, "old"))
    assert text_of(before) == "old"
    state = before.logic.snapshot()
    after = shard(tables=[{**table(generation=1).model_dump()}])
    after.logic = type(after.logic)(after.shared, state)
    for _, partition in BOTH:
        after.take(partition=partition, resumed=True)
    after.offset = 1
    after.take(read(1, 5, "new"))
    assert text_of(after) == "new"


@pytest.mark.parametrize("restart", [False, True])
def test_with_a_raised_generation_the_records_of_both_logs_are_read_again(restart):
    # The old log's last records were not committed when the flow stopped, and come again.
    made = shard(tables=[{**table(generation=1).model_dump()}])
    made.take(put(1, 900, "old"), put(2, 901, "old"), put(3, 902, "old"))
    made.take(read(1, 5, "new"))
    assert text_of(made) == "new"
    if restart:
        made.restart()
        for _, partition in BOTH:
            made.take(partition=partition, resumed=True)
    made.take(put(1, 6, "newer"), gone(2, 7))
    window = made.closed()
    assert window.rows[ONE].text == "doc 1\nnewer"  # type: ignore[union-attr]
    assert [*window.deletes] == ["docs:2"]
    with pytest.raises(FatalError, match="gone back"):
        made.take(read(1, 2, "a second time"))


def test_with_a_raised_generation_another_server_takes_the_table_over_once():
    names = {"db": "db", "schema": "public", "table": "docs"}
    made = shard(tables=[{**table(generation=1).model_dump()}])
    made.take(read(1, 900, "old", name="app", **names), read(2, 901, "old", name="app", **names))
    made.take(read(1, 5, "new", name="other", **names))
    made.take(read(2, 5, "new", name="other", **names))
    assert text_of(made) == "new"
    with pytest.raises(FatalError, match="comes from another log"):
        made.take(read(1, 950, "old again", name="app", **names))


def test_another_server_under_the_same_table_stops_the_flow():
    names = {"name": "app", "db": "db", "schema": "public", "table": "docs"}
    made = shard()
    made.take(read(1, 5, "old", **names))
    assert text_of(made) == "old"
    with pytest.raises(FatalError, match="comes from another log"):
        made.take(read(1, 900, "new", **names | {"name": "other"}))


def test_many_stale_changes_are_said_once_and_their_end_as_well(caplog):
    made = shard()
    rows = range(1, STALE_ROWS + 20)
    made.take(*(put(i, 1_000 + i) for i in rows))
    made.closed()
    with caplog.at_level(logging.WARNING):
        made.take(*(put(i, i) for i in rows))
        assert [f"the last {STALE_ROWS} rows" in each.message for each in caplog.records] == [True]
        made.take(put(1, 5_000))
    assert len(caplog.records) == 2
    assert "newer than what is known again" in caplog.records[1].message


def test_a_stretch_that_is_sent_again_is_not_said(caplog):
    made = shard()
    rows = range(1, STALE_ROWS // 2)
    changes = [put(i, 10 * i + turn) for i in rows for turn in range(3)]
    made.take(*changes)
    made.closed()
    with caplog.at_level(logging.WARNING):
        made.take(*changes)
    assert caplog.records == []


# Keys that are swapped in one transaction.


def swap(id_: int, op: str, lsn: int, text: str):
    row = doc(id_, text)
    images = {"before": row, "after": None} if op == "d" else {"before": None, "after": row}
    block = source(lsn, sequence=f'["90","{lsn}"]')
    return key(id=id_), orjson.dumps({"op": op, "source": block, **images})


def swapping(identity: str = "full") -> Shard:
    return shard(tables=[{**table().model_dump(), "replica_identity": identity}])


@pytest.mark.parametrize("windows", [1, 4])
def test_rows_that_swap_their_keys_in_one_transaction_both_stay(windows):
    made = swapping()
    made.take(put(1, 10, "a"), put(2, 11, "b"))
    made.closed()
    changes = [swap(1, "d", 100, "a"), swap(2, "c", 101, "a")]
    changes += [swap(2, "d", 102, "b"), swap(1, "c", 103, "b")]
    held: dict[RowKey, str] = {}
    for change in changes:
        made.take(change)
        if windows > 1 and (window := made.close()) is not None:
            held |= {k: row.text for k, row in window.rows.items()}  # type: ignore[union-attr]
            held = {k: text for k, text in held.items() if k not in window.deletes}
    if windows == 1:
        held = {k: row.text for k, row in made.closed().rows.items()}  # type: ignore[union-attr]
    assert held == {"docs:1": "doc 1\nb", "docs:2": "doc 2\na"}


def test_a_row_that_is_made_and_deleted_in_one_transaction_is_gone():
    made = swapping()
    made.take(swap(1, "c", 100, "a"), swap(1, "d", 101, "a"), tombstone(1))
    assert text_of(made) is None


def test_without_the_old_row_a_delete_is_a_delete():
    made = swapping("default")
    # With the default identity, columns that may not be NULL have their defaults.
    made.take(swap(1, "c", 100, "a"), swap(1, "d", 101, ""))
    assert text_of(made) is None
