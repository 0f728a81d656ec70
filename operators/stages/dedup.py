"""Deduplication: of the changes of a row in one window, only the newest goes on."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators import crash_points
from operators.changes.events import Delete, KafkaPosition, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Followed, Follows, Move, PartialRow, Pending, Row
from operators.changes.version import (
    NO_POSITION,
    Version,
    borrowed,
    make_version,
    origin_of,
    place_of_partition,
)
from operators.codec.decoder import Decoder
from operators.errors import RecordError
from operators.stages.parked import ParkedChanges
from operators.stages.pending import PendingChanges
from operators.stages.settle import DedupContext, Settler
from operators.stages.unchanged_text import expect_stored
from operators.stages.window import RawChange, ShardRecords, Window
from operators.state.dedup_checkpoint import (
    STATE_FORMAT,
    DedupState,
    PackedShard,
    pack,
    pack_letter,
    pack_truncate,
    read,
    unpack,
    unpack_letter,
    unpack_truncate,
)
from operators.state.version_map import VersionMap
from operators.telemetry import TraceContext
from operators.toast.key_changes import MOVE_WAIT_S, MoveStage


class DedupLogic(StatefulBatchLogic[ShardRecords, Window, DedupState]):
    """Keeps the newest version of each row of one shard; emits the winners when the window closes.

    An event is dropped if a strictly newer version of its row, or a later TRUNCATE of its table, is
    known.

    After a start, a topic's rows are held back until every partition of the topic has delivered all
    records that may have been written before a crash. So the first write of a row is never older than
    what the store has. Every partition counts, because a TRUNCATE is a record of one partition but
    empties the rows of all.
    """

    def __init__(self, shared: DedupContext, state: DedupState | None) -> None:
        self._shared = shared
        self._clock = shared.clock
        self._held = set(shared.partitions)
        # Deadline by row key: how long a row waits for the delete of its old key.
        self._waiting: dict[RowKey, datetime] = {}
        self._contexts: dict[TraceContext, None] = {}
        self._due: datetime | None = None
        self._ending = False
        now = self._clock.now().timestamp()
        record = None if state is None else read(state)
        if record is None:
            self._versions = VersionMap(whole=shared.whole, horizon_s=shared.horizon_s, now=now)
        else:
            self._versions = VersionMap.unpack(
                record["versions"], horizon_s=shared.horizon_s, now=now
            )
            if shared.distrust:
                self._versions.distrust()  # guard: distrust
        self._settler = Settler(shared, self._versions)
        self._pending = PendingChanges(shared, self._versions, self._settler, shared.moves)
        names = {rules.table.name for rules in shared.rules.values()}
        self._parked = ParkedChanges(shared.rules.keys(), names)
        if record is not None:
            self._restore(record)

    def on_batch(self, values: list[ShardRecords]) -> tuple[list[Window], bool]:
        """Take in records; nothing is emitted before the window closes."""
        # Bytewax calls this for a few records at a time, so a call must be cheap.
        now = self._clock.now()
        self._versions.rotate(now.timestamp())
        waiting = len(self._pending.rows)
        dropped: dict[str, int] = {}
        last = False
        for records in values:
            last |= records.last
            if records.resumed:
                # guard: held-by-each-partition
                self._held.discard((records.topic, records.partition))
            if records.context is not None and records.changes:
                self._contexts[records.context] = None
            decoder = self._shared.rules[records.topic].decoder
            for change in records.changes:
                reason = self._take(decoder, records, change)
                if reason is not None:
                    dropped[reason] = dropped.get(reason, 0) + 1
        for reason, count in dropped.items():
            self._shared.telemetry.rows_dropped.add(count, {"reason": reason})
        self._clock.count(len(self._pending.rows) - waiting)
        if self._flushable():
            # No more records come before the next checkpoint, so waiting would gain nothing.
            due = now if last else self._clock.deadline(now)
            self._due = due if self._due is None else min(self._due, due)
        return [], False

    def on_notify(self) -> tuple[list[Window], bool]:
        """Close the window."""
        crash_points.reach("before_window_close")
        windows = self._close(ending=False)
        crash_points.reach("after_window_close")
        return windows, False

    def on_eof(self) -> tuple[list[Window], bool]:
        """Flush at a clean stop; rows that may not be flushed yet stay in the state."""
        self._ending = True
        return self._close(ending=True), False

    def notify_at(self) -> datetime | None:
        """When the open window closes."""
        return self._due

    def snapshot(self) -> DedupState:
        """The state as plain values, independent of later changes.

        Pending rows are rendered first: a recovery file has only columns that the store may hold.
        """
        crash_points.reach("in_snapshot")
        self._settle()
        fallbacks = chain(*self._settler.superseded.values())
        # guard: fallbacks-in-state, parked-in-state
        pending = (*fallbacks, *self._pending.rows.values(), *self._parked.rows)
        truncates = (*self._pending.truncates.values(), *self._parked.truncates)
        # guard: dead-letter-over-crash
        record = PackedShard(
            versions=self._versions.pack(ending=self._ending),
            pending=tuple(map(pack, pending)),
            truncates=tuple(map(pack_truncate, truncates)),
            dead_letters=tuple(map(pack_letter, self._settler.dead)),
        )
        return STATE_FORMAT, record

    def _restore(self, record: PackedShard) -> None:
        crash_points.reach("in_recovery")
        for winner in map(unpack, record["pending"]):
            if not self._parked.keeps_row(winner):
                self._pending.restore(winner)
        for truncate in map(unpack_truncate, record["truncates"]):
            if not self._parked.keeps_truncate(truncate):
                name = truncate.table, origin_of(truncate.version)
                self._pending.truncates[name] = truncate
        self._settler.dead = list(map(unpack_letter, record["dead_letters"]))
        # A partition that is gone will never be gathered, so nothing is held back for it.
        self._held |= {
            part
            for part in map(_partition, self._pending.rows.values())
            if not self._shared.partitions or part in self._shared.partitions  # guard: held-gone
        }
        self._clock.count(len(self._pending.rows))

    def _settle(self) -> None:
        # Refusals first: no row may be completed, sent or packed before they are known.
        self._versions.apply_refusals()  # guard: refusals-applied
        waiting = len(self._pending.rows)
        self._settler.settle(self._pending.rows)
        self._clock.count(len(self._pending.rows) - waiting)

    def _take(self, decoder: Decoder, records: ShardRecords, change: RawChange) -> str | None:
        """Make one record the newest change of its row.

        Returns:
            Why the record, or the one that it replaces, was dropped; None if neither was.
        """
        offset, key, raw_key, raw_value, other_key = change
        position = KafkaPosition(records.topic, records.partition, offset)
        try:
            if not key:
                # The router could not read it, or it concerns no row: this raises in the first case.
                decoder.require_no_row(raw_key, raw_value)
            decoded = decoder.event(key, raw_value, position, other_key)
        except RecordError as error:  # guard: dead-letter
            if key:
                newest = self._pending.newest(key) or make_version(0, NO_POSITION, offset)
                place = place_of_partition(records.topic, records.partition)
                self._versions.taint(key, borrowed(newest, offset, place))  # guard: taint-read
                if decoder.row_keys(raw_key, raw_value)[-1] != key:
                    return None  # the shard of its other row makes the dead letter
            self._settler.dead_letter(position, "decode", error, key, raw_key, raw_value)
            return None
        try:
            return self._pending.take(decoded)
        except RecordError as error:
            self._settler.dead_letter(position, "dedup", error, key, raw_key, raw_value)
            return None

    def _flushable(self) -> bool:
        if self._settler.dead:
            return True
        if not self._held:
            return bool(self._pending.rows or self._pending.truncates)
        held = self._held_topics()
        return any(
            waiting.position.topic not in held
            for waiting in (*self._pending.rows.values(), *self._pending.truncates.values())
        )

    def _held_topics(self) -> set[str]:
        return {topic for topic, _ in self._held}

    def _close(self, *, ending: bool) -> list[Window]:
        self._due = None
        self._settle()
        if not self._flushable():
            return []
        settler = self._settler
        window = Window({}, {}, settler.dead, set(), self._versions, tuple(self._contexts))
        settler.dead, self._contexts = [], {}
        topics = self._held_topics()
        for name, truncate in list(self._pending.truncates.items()):
            if truncate.position.topic not in topics:  # guard: held-truncates
                window.truncates.append(self._pending.truncates.pop(name))
        held: dict[RowKey, Pending] = {}
        waiting: dict[RowKey, datetime] = {}
        # True: a whole row can be sent without further checks. It has no fallbacks.
        nothing_waits = not (topics or settler.moves)  # guard: held-rows-short, moves-short
        for key, winner in self._pending.rows.items():
            if nothing_waits and type(winner) is Row:
                self._send(window, winner)
                continue
            if topics and winner.position.topic in topics:  # guard: held-rows
                held[key] = winner
                continue
            if settler.moves:
                # Even if the row itself has to wait: two rows that swap keys wait for each other.
                for move in settler.moves.pop(key, ()):
                    self._hand_over(window, move)
            fallbacks = settler.superseded.get(key, ())
            until = self._waits_until((*fallbacks, winner), ending)
            if until is not None:
                held[key] = winner
                waiting[key] = until
                continue
            settler.superseded.pop(key, None)
            for each in fallbacks:
                self._send_fallback(window, each)
            self._send(window, winner)
        self._clock.count(len(held) - len(self._pending.rows))
        self._pending.rows, self._waiting = held, waiting
        if waiting:
            self._due = self._clock.end(self._clock.now())
        return [window] if window.holds_anything() else []

    def _waits_until(self, changes: Sequence[Pending], ending: bool) -> datetime | None:
        """Deadline of a row that waits for the delete of its old key; None if it need not wait.

        That delete may be in a partition that is read more slowly. When the flow ends, everything that
        was read is sent, and the lanes wait for one another. At the end of all partitions no row waits:
        nothing will come, and each start would begin to wait anew.
        """
        if ending and self._shared.read_to_end():  # guard: no-wait-at-the-end
            return None
        enough = MoveStage.ANNOUNCED if ending else MoveStage.DISPATCHED
        for each in changes:
            if not isinstance(each, PartialRow) or each.key_change is None:
                continue
            if self._shared.moves.stage(*each.key_change).value < enough.value:
                now = self._clock.now()
                until = self._waiting.get(each.row_key, now + timedelta(seconds=MOVE_WAIT_S))
                return until if now < until else None
        return None

    def _send(self, window: Window, winner: Pending) -> None:
        key = winner.row_key
        match winner:
            case Row():
                known = self._versions.get(key)
                if known is not None:
                    expect_stored(window, winner, known[1])
                window.rows[key] = winner
                self._versions.put(key, winner.version, winner.text_hash)
            case PartialRow():
                window.rows[key] = self._following(winner)
                self._versions.put(key, winner.version, "")
            case Delete():
                # Sent even if the row is known as deleted: the epoch that a crash interrupted may have
                # written the row, and no version map has those writes.
                window.deletes[key] = winner  # guard: delete-always-sent
                if winner.moved:
                    self._hand_over(window, Move(winner))
                self._versions.put(key, winner.version, None)  # guard: delete-marker

        if self._versions.must_look_up(key):
            window.unverified.add(key)

    def _send_fallback(self, window: Window, fallback: Pending) -> None:
        """Add an older change to the window, for the lane to write if the row is refused."""
        assert not isinstance(fallback, Upsert)  # `settle` has rendered all of them
        digest: str | None = None
        if isinstance(fallback, PartialRow):
            fallback, digest = self._following(fallback), ""
        elif isinstance(fallback, Row):
            digest = fallback.text_hash
        window.fallbacks.setdefault(fallback.row_key, []).append(fallback)
        self._versions.put(fallback.row_key, fallback.version, digest)

    def _hand_over(self, window: Window, move: Move) -> None:
        """Have the lane keep the old row of a key change, for the row with the new key."""
        delete, held = move.delete, move.held
        if held is None:
            move = move._replace(follows=self._last(delete.row_key, delete.version))
        else:
            move = move._replace(held=self._following(held))
        self._shared.moves.dispatch(delete.row_key, delete.version)
        window.moves.append(move)

    def _following(self, partial: PartialRow) -> PartialRow:
        """The row with `follows` set: the only version that may give the columns it lacks."""
        if partial.old_key is not None or partial.follows is Follows.REFUSED:
            return partial
        return partial._replace(follows=self._last(partial.row_key, partial.version))

    def _last(self, key: RowKey, version: Version) -> Followed:
        """The version before this one, or why it cannot be named."""
        if self._versions.is_tainted(key, version):  # guard: taint-asked
            return Follows.REFUSED
        known = self._versions.get(key)
        return Follows.UNKNOWN if known is None else known[0]


@operator
def dedup(step_id: str, up: KeyedStream[ShardRecords], shared: DedupContext) -> KeyedStream[Window]:
    """Windows of winners, by shard.

    Args:
        step_id: Must never change: recovery files are keyed by it.
        up: Records by shard.
        shared: What all shards share.
    """
    return op.stateful_batch("logic", up, lambda state: DedupLogic(shared, state))


def _partition(winner: Pending) -> tuple[str, int]:
    return winner.position.topic, winner.position.partition
