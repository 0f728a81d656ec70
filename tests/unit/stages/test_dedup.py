"""Windows of one shard: when they close, which change wins, and what a checkpoint keeps."""

import json
import pickle
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flows.sync import rules_of
from operators.changes.row_key import RowKey
from operators.changes.shards import ALL_SHARDS, shard_of
from operators.changes.text_hash import text_hash
from operators.changes.version import NO_POSITION, make_version, offset_of, same_position
from operators.contract.table import UNAVAILABLE, TableSection
from operators.errors import FatalError
from operators.stages.dedup import DedupLogic
from operators.stages.route import Router
from operators.stages.settle import MAX_DEAD_LETTER_BYTES, DedupContext
from operators.stages.window import ShardRecords, SourceBatch, Window
from operators.stages.window_clock import WindowClock
from operators.telemetry import Telemetry
from tests.changes import TOPIC, contract, doc, envelope, gone, key, put, tombstone

WINDOW = 0.2
START = datetime(2026, 1, 1, tzinfo=UTC)
ONE, TWO, THREE = RowKey("docs:1"), RowKey("docs:2"), RowKey("docs:3")
Pair = tuple[bytes | None, bytes | None]


class Shard:
    """A `DedupLogic` with a clock that only the test moves."""

    def __init__(
        self,
        *,
        whole: bool = False,
        horizon_s: float = 3600,
        max_rows: int = 1_000,
        other: "Shard | None" = None,
        partitions: Collection[tuple[str, int]] = (),
        **table: Any,
    ) -> None:
        if other is None:
            self.time = [START]
            self.reader = InMemoryMetricReader()
            self._meters = MeterProvider(metric_readers=[self.reader])
            self.shared = DedupContext(
                rules=rules_of(contract(**table)),
                clock=WindowClock(WINDOW, max_rows, lambda: self.time[0]),
                telemetry=Telemetry(meter_provider=self._meters),
                horizon_s=horizon_s,
                whole=whole,
                partitions=frozenset(partitions),
            )
        else:
            self.time, self.shared, self.reader = other.time, other.shared, other.reader
        self.logic = DedupLogic(self.shared, None)
        self.offset = 0

    def take(self, *records: Pair, partition: int = 0, resumed: bool = False, **more: Any) -> None:
        changes = []
        for raw_key, value in records:
            fields = json.loads(raw_key) if raw_key and raw_key.startswith(b"{") else {}
            row = RowKey(f"docs:{fields['id']}") if "id" in fields else RowKey("")
            changes.append((self.offset, row, raw_key, value, None))
            self.offset += 1
        context, last = more.get("context"), more.get("last", False)
        windows, done = self.logic.on_batch(
            [ShardRecords(TOPIC, partition, resumed, tuple(changes), context, last)]
        )
        assert windows == []
        assert not done

    def wait(self, seconds: float = WINDOW) -> None:
        self.time[0] += timedelta(seconds=seconds)

    def close(self) -> Window | None:
        """Notify the logic if it is due, as Bytewax does."""
        due = self.logic.notify_at()
        if due is None:
            return None
        self.time[0] = max(self.time[0], due)
        windows, done = self.logic.on_notify()
        assert not done
        (window,) = windows or [None]
        return window

    def closed(self) -> Window:
        window = self.close()
        assert window is not None
        return window

    def restart(self) -> None:
        """Restart from a checkpoint taken now."""
        state = pickle.loads(pickle.dumps(self.logic.snapshot()))
        self.shared.clock.waiting_rows = 0
        self.logic = DedupLogic(self.shared, state)

    def dropped(self) -> dict[str, int]:
        """Rows dropped so far, by reason."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            str(point.attributes["reason"]): int(point.value)  # type: ignore
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "rowvec.rows.dropped"
            for point in metric.data.data_points
        }


# When windows close.


def test_nothing_to_do_is_no_deadline():
    shard = Shard()
    assert shard.logic.notify_at() is None
    shard.take()
    assert shard.logic.notify_at() is None


def test_the_deadline_runs_from_the_first_row():
    shard = Shard()
    shard.wait(0.05)
    shard.take(put(1, 1))
    due = shard.logic.notify_at()
    assert due is not None
    assert START < due <= START + timedelta(seconds=WINDOW + 1e-3)
    shard.wait(0.1)
    shard.take(put(2, 2))
    assert shard.logic.notify_at() == due


def test_a_later_row_never_moves_the_deadline():
    shard = Shard()
    shard.take(put(1, 1))
    due = shard.logic.notify_at()
    for _ in range(5):
        shard.wait(0.15)
        shard.take(put(2, 2))
        assert shard.logic.notify_at() == due


def test_windows_are_aligned_over_shards():
    one = Shard()
    two = Shard(other=one)
    one.wait(0.03)
    one.take(put(1, 1))
    one.wait(0.11)
    two.take(put(2, 2))
    assert one.logic.notify_at() == two.logic.notify_at()


def test_a_window_closes_at_once_when_no_more_come_before_the_checkpoint():
    shard = Shard()
    shard.take(put(1, 1))
    assert shard.logic.notify_at() > shard.time[0]  # type: ignore[operator]
    shard.wait(WINDOW / 4)
    shard.take(put(2, 2), last=True)
    assert shard.logic.notify_at() == shard.time[0]
    assert list(shard.closed().rows) == ["docs:1", "docs:2"]


def test_a_closed_window_has_no_deadline_and_the_next_has_its_own():
    shard = Shard()
    shard.take(put(1, 1))
    first = shard.logic.notify_at()
    shard.closed()
    assert shard.logic.notify_at() is None
    shard.wait(0.01)
    shard.take(put(1, 2))
    second = shard.logic.notify_at()
    assert first is not None
    assert second is not None
    assert second > first


def test_many_rows_close_a_window_early():
    shard = Shard(max_rows=3)
    shard.take(put(1, 1), put(2, 2))
    assert shard.logic.notify_at() > shard.time[0]  # type: ignore[operator]
    shard.take(put(3, 3))
    assert shard.logic.notify_at() == shard.time[0]


def test_rows_that_wait_are_counted_over_all_shards():
    one = Shard(max_rows=3)
    two = Shard(other=one)
    one.take(put(1, 1), put(2, 2))
    two.take(put(3, 3))
    assert two.logic.notify_at() == two.time[0]


def test_rows_that_left_are_not_counted():
    shard = Shard(max_rows=3)
    for lsn in range(1, 10):
        # The third change cannot be rendered, and the second supersedes the first.
        shard.wait(0.05)
        shard.take(put(1, lsn), put(1, lsn), (key(id=2), envelope("u", lsn, {"id": 2})))
        assert shard.logic.notify_at() > shard.time[0]  # type: ignore[operator]
        shard.closed()
        assert shard.shared.clock.waiting_rows == 0


def test_rows_from_before_a_crash_are_counted():
    shard = Shard()
    shard.take(put(1, 1), put(2, 2))
    shard.restart()
    assert shard.shared.clock.waiting_rows == 2
    shard.take(resumed=True)
    shard.closed()
    assert shard.shared.clock.waiting_rows == 0


def test_a_notification_without_anything_to_send_sends_nothing():
    assert Shard().logic.on_notify() == ([], False)
    assert Shard().logic.on_eof() == ([], False)


def test_a_clean_stop_flushes_at_once():
    shard = Shard()
    shard.take(put(1, 1))
    (window,), done = shard.logic.on_eof()
    assert set(window.rows) == {ONE}
    assert not done
    assert shard.logic.notify_at() is None


@pytest.mark.parametrize("to_end", [False, True])
def test_only_at_the_end_of_all_partitions_no_row_waits_for_its_old_key(to_end):
    shard = Shard()
    logic = DedupLogic(replace(shard.shared, read_to_end=lambda: to_end), None)
    made = envelope("c", 5, {**doc(2), "doc": UNAVAILABLE})
    change = (0, TWO, key(id=2), made, key(id=1))
    logic.on_batch([ShardRecords(TOPIC, 0, False, (change,), None, True)])
    windows, _ = logic.on_eof()
    # Without its old row it becomes a dead letter; a checkpoint would keep it out of sight for ever.
    assert [set(window.rows) for window in windows] == ([{TWO}] if to_end else [])


# Which change wins.


def test_the_last_version_wins():
    shard = Shard()
    shard.take(put(1, 1, "a"), put(2, 2, "b"), put(1, 3, "c"))
    window = shard.closed()
    assert {k: row.text for k, row in window.rows.items()} == {ONE: "doc 1\nc", TWO: "doc 2\nb"}
    assert window.deletes == {}
    assert shard.dropped() == {"superseded": 1}


def test_the_position_decides_and_not_the_order_of_arrival():
    shard = Shard()
    shard.take(put(1, 9, "new"), put(1, 3, "old"))
    assert shard.closed().rows[ONE].text == "doc 1\nnew"
    assert shard.dropped() == {"stale": 1}


def test_the_later_offset_wins_a_tie():
    shard = Shard()
    shard.take(put(1, 5, "first"), put(1, 5, "second"))
    assert shard.closed().rows[ONE].text == "doc 1\nsecond"


def test_a_stale_change_is_dropped_after_its_window_as_well():
    shard = Shard()
    shard.take(put(1, 5, "new"))
    shard.closed()
    shard.take(put(1, 4, "old"))
    assert shard.close() is None
    assert shard.dropped() == {"stale": 1}


def test_a_record_that_comes_again_is_written_again():
    # The version map has lost what was written before a crash, so the same version must pass again.
    shard = Shard()
    shard.take(put(1, 5))
    shard.closed()
    shard.offset = 0
    shard.take(put(1, 5))
    assert set(shard.closed().rows) == {ONE}


def test_a_delete_takes_its_row_out():
    shard = Shard()
    shard.take(put(1, 1), gone(1, 2), tombstone(1))
    window = shard.closed()
    assert window.rows == {}
    assert window.deletes[ONE].version.startswith(make_version(0, f"{2:016x}.{2:016x}", 0)[:21])
    assert not window.deletes[ONE].unpositioned


def test_a_row_comes_back_after_its_delete():
    shard = Shard()
    shard.take(put(1, 1), gone(1, 2), tombstone(1), put(1, 3, "back"))
    window = shard.closed()
    assert window.rows[ONE].text == "doc 1\nback"
    assert window.deletes == {}


def test_a_deleted_row_does_not_come_back_by_an_older_change():
    shard = Shard()
    shard.take(put(1, 1), gone(1, 5), tombstone(1))
    shard.closed()
    shard.take(put(1, 4))
    assert shard.close() is None
    shard.restart()
    shard.take(put(1, 4), resumed=True)
    assert shard.close() is None


def test_a_delete_is_sent_on_even_of_a_row_that_is_gone():
    shard = Shard()
    for lsn in (5, 6):
        shard.take(gone(1, lsn))
        assert set(shard.closed().deletes) == {ONE}


# Tombstones.


def test_the_tombstone_after_a_delete_adds_nothing():
    shard = Shard()
    shard.take(gone(1, 5))
    version = shard.closed().deletes[ONE].version
    shard.take(tombstone(1))
    assert shard.close() is None
    shard.take(put(1, 6))
    assert shard.closed().rows[ONE].version > version


def test_a_tombstone_alone_deletes_what_waits():
    shard = Shard()
    shard.take(put(1, 5), tombstone(1))
    delete = shard.closed().deletes[ONE]
    assert offset_of(delete.version) == 1
    assert not delete.unpositioned


def test_a_tombstone_alone_deletes_what_was_written():
    shard = Shard()
    shard.take(put(1, 5))
    written = shard.closed().rows[ONE].version
    shard.take(tombstone(1))
    delete = shard.closed().deletes[ONE]
    assert delete.version > written
    assert not delete.unpositioned
    # A change that is newer than the row is newer than the row's tombstone.
    shard.take(put(1, 6))
    assert set(shard.closed().rows) == {ONE}


def test_a_tombstone_of_a_row_that_nobody_knows_has_its_offset_alone():
    shard = Shard()
    shard.take(put(2, 1), tombstone(1))
    delete = shard.closed().deletes[ONE]
    assert delete.unpositioned
    assert delete.version.startswith(make_version(0, NO_POSITION, 1))


def test_the_tombstone_of_a_stale_delete_deletes_nothing():
    shard = Shard()
    shard.take(put(1, 9, "new"))
    shard.closed()
    shard.take(gone(1, 5), tombstone(1))
    assert shard.close() is None
    # A second tombstone does not belong to the stale delete, so it deletes the row.
    shard.take(tombstone(1))
    assert set(shard.closed().deletes) == {ONE}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_stale_delete_without_a_tombstone_does_not_take_that_of_a_later_one(restarted: bool):
    shard = Shard()
    shard.take(put(1, 9, "new"))
    shard.closed()
    shard.take(gone(1, 5))
    if restarted:
        shard.restart()
    shard.take(put(1, 10, "newer"), tombstone(1), resumed=True)
    assert set(shard.closed().deletes) == {ONE}


def test_the_tombstone_of_a_stale_delete_is_known_after_a_restart():
    shard = Shard()
    shard.take(put(1, 9, "new"))
    shard.closed()
    shard.take(gone(1, 5))
    shard.restart()
    shard.take(tombstone(1), resumed=True)
    assert shard.close() is None


# Changes without a position.


def unpositioned(id_: int, text: str) -> Pair:
    source = {"connector": "postgresql"}
    return key(id=id_), json.dumps({"after": doc(id_, text), "source": source, "op": "u"}).encode()


def test_a_change_without_a_position_is_dropped_if_its_partition_said_more_since():
    shard = Shard()
    shard.offset = 7
    shard.take(unpositioned(1, "new"))
    assert set(shard.closed().rows) == {ONE}
    shard.offset = 3
    shard.take(unpositioned(1, "old"))
    assert shard.close() is None
    assert shard.dropped() == {"stale": 1}


def test_a_change_without_a_position_takes_the_place_of_what_is_known_of_its_row():
    shard = Shard()
    shard.take(put(1, 5, "first"))
    before = shard.closed().rows[ONE].version
    shard.take(unpositioned(1, "second"))
    version = shard.closed().rows[ONE].version
    assert same_position(before, version)
    assert before < version
    # An older change that is sent again is stale.
    shard.take(put(1, 4, "sent again"))
    assert shard.close() is None


# What a window passes on to the next steps.


def test_a_text_that_was_written_is_marked_as_unchanged():
    shard = Shard()
    shard.take(put(1, 1, "same"), put(2, 1, "other"))
    assert shard.closed().unchanged == set()
    shard.take(put(1, 2, "same"), put(2, 2, "new"))
    assert shard.closed().unchanged == {ONE}


def test_a_text_after_a_delete_is_not_unchanged():
    shard = Shard()
    shard.take(put(1, 1, "same"))
    shard.closed()
    shard.take(gone(1, 2), tombstone(1))
    shard.closed()
    shard.take(put(1, 3, "same"))
    assert shard.closed().unchanged == set()


def test_the_window_tells_the_shards_versions():
    shard = Shard()
    shard.take(put(1, 1, "a"), gone(2, 2))
    window = shard.closed()
    row, delete = window.rows[ONE], window.deletes[TWO]
    assert window.versions.get(ONE) == (row.version, text_hash("doc 1\na"))
    assert window.versions.get(TWO) == (delete.version, None)
    assert window.versions.must_look_up(ONE)


def test_a_first_load_looks_nothing_up():
    shard = Shard(whole=True)
    shard.take(put(1, 1))
    window = shard.closed()
    assert not window.versions.must_look_up(ONE)


def test_the_horizon_is_kept_by_the_clock():
    shard = Shard(whole=True, horizon_s=100)
    shard.take(put(1, 1))
    shard.closed()
    shard.wait(99)
    shard.take(put(2, 1))
    shard.closed()
    shard.wait(101)
    shard.take(put(3, 1))
    shard.closed()
    packed = shard.logic.snapshot()[1]["versions"]
    known = packed["young"]["recent"].keys() | packed["old"]["recent"].keys()
    assert known == {ONE, TWO, THREE}
    shard.wait(101)
    shard.take(put(3, 2))
    window = shard.closed()
    assert window.versions.get(ONE) is None
    assert not window.versions.whole


def test_the_polls_of_a_window_are_known_once_each():
    shard = Shard()
    shard.take(put(1, 1), context=(1, 2, 1))
    shard.take(put(1, 2), context=(1, 2, 1))
    shard.take(put(2, 2), context=(1, 3, 1))
    shard.take(context=(1, 4, 1))
    assert shard.closed().contexts == ((1, 2, 1), (1, 3, 1))
    shard.take(put(1, 3))
    assert shard.closed().contexts == ()


# Dead letters.

BAD = (key(id=9), b"{")


def test_a_record_that_cannot_be_read_becomes_a_dead_letter():
    shard = Shard()
    shard.take(put(1, 1), BAD)
    window = shard.closed()
    (letter,) = window.dead
    assert set(window.rows) == {ONE}
    assert (letter.stage, letter.position.offset, letter.value) == ("decode", 1, b"{")
    assert letter.hint


def test_a_row_that_cannot_be_rendered_becomes_a_dead_letter_with_its_record():
    value = envelope("u", 1, {"id": 9, "name": "x"})
    shard = Shard()
    shard.take((key(id=9), value), put(1, 1))
    window = shard.closed()
    (letter,) = window.dead
    assert set(window.rows) == {ONE}
    assert (letter.stage, letter.position.offset, letter.value) == ("render", 0, value)


def test_only_the_last_version_of_a_row_is_rendered():
    shard = Shard()
    shard.take((key(id=1), envelope("u", 1, {"id": 1})), put(1, 2))
    window = shard.closed()
    assert window.dead == []
    assert set(window.rows) == {ONE}


def test_a_dead_letter_alone_closes_a_window():
    shard = Shard()
    shard.take(BAD)
    assert shard.logic.notify_at() is not None
    assert len(shard.closed().dead) == 1
    assert shard.logic.snapshot()[1]["dead_letters"] == ()


def test_a_record_without_a_key():
    shard = Shard()
    shard.take((None, envelope("u", 1, doc(1))), (b"\xff", envelope("u", 1, doc(1))))
    first, second = shard.closed().dead
    assert "no key" in first.cause
    assert "no JSON" in second.cause
    assert second.key == b"\xff"


def truncate(lsn: int) -> Pair:
    return None, envelope("t", lsn, None)


def test_a_truncate_takes_every_older_row_and_no_newer_one():
    shard = Shard()
    shard.take(put(1, 5), put(2, 6, "late"), truncate(9), put(3, 12))
    shard.take(put(2, 7, "later still"), put(1, 11, "again"), partition=1)
    window = shard.closed()
    assert [(t.table, t.version[5:21]) for t in window.truncates] == [("docs", f"{9:016x}")]
    assert {key: row.text for key, row in window.rows.items()} == {
        ONE: "doc 1\nagain",
        THREE: "doc 3\ntext",
    }
    assert window.deletes == {}
    # Older changes of the table are stale, also after a restart.
    shard.restart()
    shard.take(put(4, 8), put(2, 8), resumed=True, partition=1)
    assert shard.close() is None
    assert shard.dropped()["stale"] == 3


def test_a_pending_truncate_outlives_a_crash():
    shard = Shard()
    shard.take(put(1, 5), truncate(9))
    shard.restart()
    shard.take(resumed=True)
    window = shard.closed()
    assert [t.table for t in window.truncates] == ["docs"]
    assert window.rows == {}


@pytest.mark.parametrize("size", [MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTER_BYTES + 1])
def test_a_large_value_or_key_is_left_out_of_its_letter(size):
    # The flow would stop if Kafka refused a dead letter for its size.
    large = b"x" * size
    shard = Shard()
    shard.take((key(id=9), large), (large, b"{}"))
    by_value, by_key = shard.closed().dead
    assert (by_value.value == large) == (size <= MAX_DEAD_LETTER_BYTES)
    assert (by_key.key == large) == (size <= MAX_DEAD_LETTER_BYTES)
    assert by_value.value is None or by_key.key is not None


def test_dead_letters_outlive_a_checkpoint():
    shard = Shard()
    shard.take(BAD, (key(id=8), envelope("u", 1, {"id": 8})))
    shard.restart()
    assert shard.close() is None
    shard.take(resumed=True)
    letters = shard.closed().dead
    assert [(letter.position.offset, letter.stage) for letter in letters] == [
        (0, "decode"),
        (1, "render"),
    ]
    assert letters[0].value == b"{"
    shard.restart()
    shard.take(resumed=True)
    assert shard.close() is None


# Restarts after a crash.


def test_rows_are_held_until_every_partition_of_their_topic_was_gathered():
    # A TRUNCATE on one partition applies to the rows of all partitions.
    shard = Shard(partitions={(TOPIC, 0), (TOPIC, 1), ("other", 0)})
    shard.take(put(1, 2, "mine"), partition=0, resumed=True)
    assert shard.logic.notify_at() is None
    assert shard.logic.on_eof() == ([], False)
    shard.take(put(2, 2, "other"), truncate(1), partition=1, resumed=True)
    assert set(shard.closed().rows) == {ONE, TWO}
    shard.take(put(1, 3, "more"), partition=0)
    shard.restart()
    shard.take(partition=1, resumed=True)
    assert shard.close() is None
    shard.take(partition=0, resumed=True)
    assert set(shard.closed().rows) == {ONE}


def test_a_held_row_is_replaced_by_what_was_gathered():
    shard = Shard()
    shard.take(put(1, 1, "old"))
    shard.restart()
    shard.take(put(1, 2, "new"), resumed=True)
    assert shard.closed().rows[ONE].text == "doc 1\nnew"


def restart_with(shard: Shard, table: dict[str, Any]) -> None:
    """Restart a shard under a contract that has this table alone."""
    only = contract().model_copy(update={"tables": (TableSection.model_validate(table),)})
    shard.shared = replace(shard.shared, rules=rules_of(only))
    shard.restart()


NOTES = {"topic": "app.public.notes", "collection": "docs", "key": ["id"], "text": "{doc}"}


def test_what_waits_of_a_table_that_left_the_contract_is_kept_until_it_comes_back():
    shard = Shard()
    before = shard.shared.rules
    shard.take(truncate(1), put(1, 2, "mine"), put(2, 3, "mine"), gone(2, 4))
    restart_with(shard, NOTES)
    for _ in range(2):
        shard.restart()
        shard.logic.on_batch([ShardRecords(NOTES["topic"], 0, True, (), None)])
        assert shard.close() is None
        assert shard.logic.on_eof() == ([], False)
    shard.shared = replace(shard.shared, rules=before)
    shard.restart()
    assert shard.close() is None
    shard.take(resumed=True)
    window = shard.closed()
    assert (set(window.rows), set(window.deletes)) == ({ONE}, {TWO})
    assert [each.table for each in window.truncates] == ["docs"]


@pytest.mark.parametrize(
    "waits", [put(1, 1), gone(1, 1), truncate(1)], ids=["row", "delete", "all"]
)
def test_what_waits_of_a_table_whose_topic_is_another_one_is_never_dropped(waits):
    shard = Shard()
    shard.take(waits)
    words = r"table docs: .*app\.public\.docs are not written yet"
    with pytest.raises(FatalError, match=words) as caught:
        restart_with(shard, {**NOTES, "name": "docs"})
    assert "put topic app.public.docs back" in caught.value.hint


def test_a_partition_that_is_gone_holds_nothing_back():
    shard = Shard(partitions={(TOPIC, 0), (TOPIC, 1)})
    shard.take(put(1, 1, "mine"), partition=1)
    shard.shared = replace(shard.shared, partitions=frozenset({(TOPIC, 0)}))
    shard.restart()
    shard.take(put(2, 1), partition=0, resumed=True)
    assert set(shard.closed().rows) == {ONE, TWO}


def test_held_rows_stay_in_the_state():
    shard = Shard()
    shard.take(put(1, 1, "mine"))
    for _ in range(3):
        shard.restart()
        assert shard.logic.on_notify() == ([], False)
        assert shard.logic.on_eof() == ([], False)
    shard.take(resumed=True)
    assert shard.closed().rows[ONE].text == "doc 1\nmine"


def test_a_dead_letter_does_not_take_along_what_is_held():
    shard = Shard(partitions={(TOPIC, 0), (TOPIC, 1)})
    shard.take(truncate(1), put(1, 2), (key(id=2), b"{"), resumed=True)
    window = shard.closed()
    assert [letter.position.offset for letter in window.dead] == [2]
    assert window.rows == {}
    assert window.truncates == []
    shard.take(partition=1, resumed=True)
    window = shard.closed()
    assert set(window.rows) == {ONE}
    assert len(window.truncates) == 1


def test_state_that_may_be_old_vouches_for_no_row():
    shard = Shard(whole=True)
    shard.take(put(1, 1))
    assert not shard.closed().versions.must_look_up(ONE)
    shard.shared = replace(shard.shared, distrust=True)
    shard.restart()
    shard.take(put(1, 2), put(2, 2), resumed=True)
    versions = shard.closed().versions
    assert versions.must_look_up(ONE)
    assert versions.must_look_up(TWO)


def test_the_first_windows_of_a_shard_are_held_by_nothing():
    shard = Shard()
    shard.take(put(1, 1), resumed=False)
    assert set(shard.closed().rows) == {ONE}


def test_a_checkpoint_holds_what_the_store_may_hold_and_no_more():
    # `secret` is in no template and no mirrored column, so it must not be written to disk.
    shard = Shard()
    shard.take((key(id=1), envelope("u", 1, doc(1, "text", secret="s3cret"))))
    assert b"s3cret" not in pickle.dumps(shard.logic.snapshot())


def test_a_checkpoint_is_not_touched_by_what_comes_after_it():
    shard = Shard()
    shard.take(put(1, 1), BAD)
    state = shard.logic.snapshot()
    frozen = pickle.dumps(state)
    shard.take(put(1, 2), put(2, 2), BAD)
    shard.closed()
    assert pickle.dumps(state) == frozen


def test_a_checkpoint_changes_nothing():
    shard = Shard()
    shard.take(put(1, 1, "a"), gone(2, 2))
    shard.logic.snapshot()
    shard.take(put(1, 3, "b"))
    window = shard.closed()
    assert window.rows[ONE].text == "doc 1\nb"
    assert set(window.deletes) == {TWO}


# With the router in front.


def batch(*records: tuple[bytes | None, bytes | None], resumed: bool = False) -> SourceBatch:
    numbered = tuple((i, k, v, None) for i, (k, v) in enumerate(records))
    return SourceBatch(TOPIC, 4, resumed, numbered, (1, 2, 1))


def test_records_go_to_the_shard_of_their_row_in_order():
    router = Router({TOPIC: rules_of(contract())[TOPIC].decoder})
    items = dict(router([batch(put(1, 1), put(2, 2), put(1, 3))]))
    assert set(items) == {shard_of(ONE), shard_of(TWO)}
    mine = items[shard_of(ONE)]
    assert [change[:2] for change in mine.changes] == [(0, ONE), (2, ONE)]
    assert (mine.topic, mine.partition, mine.resumed, mine.context) == (TOPIC, 4, False, (1, 2, 1))


def test_the_batch_after_a_resume_goes_to_every_shard():
    router = Router({TOPIC: rules_of(contract())[TOPIC].decoder})
    items = list(router([batch(put(1, 1), resumed=True)]))
    assert [shard for shard, _ in items] == list(ALL_SHARDS)
    assert all(records.resumed for _, records in items)
    assert sum(len(records.changes) for _, records in items) == 1


def test_a_record_whose_key_cannot_be_read_goes_somewhere_with_all_it_has():
    router = Router({TOPIC: rules_of(contract())[TOPIC].decoder})
    ((_, records),) = router([batch((b"\xff", b"value"))])
    assert records.changes == ((0, "", b"\xff", b"value", None),)


def test_a_record_whose_key_can_be_read_too_late_is_a_dead_letter():
    """Keys may show what others mean; but the router has sent the record to no row's shard."""
    shard = Shard()
    raw_key, value = put(1, 1)
    change = (0, RowKey(""), raw_key, value, None)
    shard.logic.on_batch([ShardRecords(TOPIC, 0, False, (change,), None, True)])
    (letter,) = shard.closed().dead
    assert "could not be read when it came" in letter.cause
