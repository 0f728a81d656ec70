"""The last version of each row wins: windows over the changes of one shard."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators import crash_points
from operators.changes.events import Delete, Ignored, KafkaPosition, Tombstone, Truncate, Upsert
from operators.changes.row_key import RowKey, key_prefix
from operators.changes.rows import Followed, Follows, Move, PartialRow, Pending, Row
from operators.changes.version import (
    NO_POSITION,
    Version,
    at_offset,
    has_position,
    is_before,
    make_version,
    offset_of,
    same_position,
)
from operators.codec.decoder import Decoder
from operators.errors import RecordError
from operators.stages.settle import DedupContext, Settler
from operators.stages.window import RawChange, ShardRecords, Window
from operators.state.dedup_checkpoint import (
    STATE_FORMAT,
    DedupState,
    check_format,
    pack,
    pack_letter,
    pack_truncate,
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
    known. After a start, the rows of a topic are held until the whole range that may have been written
    before is here, of each of its partitions: the first thing written is then at least as new as
    anything written before. Of each partition, because a TRUNCATE lies on one, and concerns the rows of
    all.
    """

    def __init__(self, shared: DedupContext, state: DedupState | None) -> None:
        self._shared = shared
        self._clock = shared.clock
        self._pending: dict[RowKey, Pending] = {}
        self._truncates: dict[str, Truncate] = {}
        self._held = set(shared.partitions)
        # Until when rows wait that need what their old key held.
        self._waiting: dict[RowKey, datetime] = {}
        self._contexts: dict[TraceContext, None] = {}
        self._due: datetime | None = None
        self._ending = False
        now = self._clock.now().timestamp()
        if state is None:
            self._versions = VersionMap(whole=shared.whole, horizon_s=shared.horizon_s, now=now)
        else:
            check_format(state)
            self._versions = VersionMap.unpack(state[1], horizon_s=shared.horizon_s, now=now)
            if shared.distrust:
                self._versions.distrust()  # guard: distrust
        self._settler = Settler(shared, self._versions)
        if state is not None:
            self._restore(state)

    def on_batch(self, values: list[ShardRecords]) -> tuple[list[Window], bool]:
        """Take in records; nothing is emitted before the window closes."""
        # This is called for a few records at a time: what it costs by itself counts.
        now = self._clock.now()
        self._versions.rotate(now.timestamp())
        waiting = len(self._pending)
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
        self._clock.count(len(self._pending) - waiting)
        if self._flushable():
            # What no more can join before the next checkpoint has nothing to wait for.
            due = now if last else self._clock.deadline(now)
            self._due = due if self._due is None else min(self._due, due)
        return [], False

    def on_notify(self) -> tuple[list[Window], bool]:
        """The window closes."""
        crash_points.reach("before_window_close")
        windows = self._close(ending=False)
        crash_points.reach("after_window_close")
        return windows, False

    def on_eof(self) -> tuple[list[Window], bool]:
        """The sources ended (a clean stop): flush what may be flushed; the rest stays in the state."""
        self._ending = True
        return self._close(ending=True), False

    def notify_at(self) -> datetime | None:
        """When the open window closes."""
        return self._due

    def snapshot(self) -> DedupState:
        """The state as plain values that later changes do not touch.

        Pending rows are rendered first: only what the store may hold gets into a recovery file.
        """
        crash_points.reach("in_snapshot")
        self._settle()
        return (  # guard: fallbacks-in-state
            STATE_FORMAT,
            self._versions.pack(ending=self._ending),
            tuple(map(pack, (*chain(*self._settler.superseded.values()), *self._pending.values()))),
            tuple(map(pack_truncate, self._truncates.values())),
            tuple(map(pack_letter, self._settler.dead)),  # guard: dead-letter-over-crash
        )

    def _restore(self, state: DedupState) -> None:
        crash_points.reach("in_recovery")
        _, _, pending, truncates, dead = state
        for winner in map(unpack, pending):
            before = self._pending.get(winner.row_key)
            if before is not None:
                self._settler.supersede(before)
            self._pending[winner.row_key] = winner
            if isinstance(winner, Delete) and winner.moved:
                self._shared.moves.announce(winner.row_key, winner.version)
        for truncate in map(unpack_truncate, truncates):
            self._truncates[truncate.table] = truncate
        self._settler.dead = [unpack_letter(values) for values in dead]
        self._held |= {_partition(winner) for winner in self._pending.values()}
        self._clock.count(len(self._pending))

    def _settle(self) -> None:
        waiting = len(self._pending)
        self._settler.settle(self._pending)
        self._clock.count(len(self._pending) - waiting)

    def _take(self, decoder: Decoder, records: ShardRecords, change: RawChange) -> str | None:
        """Let one record take its row's place; returns why it, or the one before, was dropped."""
        offset, key, raw_key, raw_value, other_key = change
        position = KafkaPosition(records.topic, records.partition, offset)
        try:
            if not key:
                # The router could not read it, or it is about no row: reading it again tells.
                decoder.row_keys(raw_key, raw_value)
            decoded = decoder.event(key, raw_value, position, other_key)
        except RecordError as error:  # guard: dead-letter
            if key:
                newest = self._newest(key) or make_version(0, NO_POSITION, offset)
                self._versions.taint(key, at_offset(newest, offset))  # guard: taint-read
                if decoder.row_keys(raw_key, raw_value)[-1] != key:
                    return None  # the shard of its other row tells of it
            self._settler.dead_letter(position, "decode", error, key, raw_key, raw_value)
            return None
        match decoded:
            case Upsert() | Delete():
                return self._enter(decoded)
            case Tombstone():
                delete = self._delete_of(decoded)
                return None if delete is None else self._enter(delete)
            case Truncate():
                self._empty(decoded)
                return None
            case Ignored():
                return decoded.reason

    def _enter(self, event: Upsert | Delete) -> str | None:
        key = event.row_key
        pending = self._pending.get(key)
        if event.lone:
            placed = self._placed(event, pending)
            if placed is None:
                return "stale"
            event = placed
        else:
            # A pending delete without a position (a tombstone alone) does not lift what a TRUNCATE
            # has set.
            if pending is not None and has_position(pending.version):
                fence: Version | None = pending.version
            else:
                fence = self._versions.newest(key)
            if fence is not None and event.version < fence:  # guard: version-compare
                if isinstance(event, Delete):
                    self._versions.dropped_delete(key)  # guard: stale-tombstone
                return "stale"
            if isinstance(event, Delete):
                if event.moved:
                    self._shared.moves.announce(key, event.version)
            elif event.old_key is not None and self._is_again(event):
                event = event._replace(old_key=None)
        # If the tombstone of a stale delete before this has not come, the next is not its.
        self._versions.ends_dropped_delete(key)  # guard: stale-tombstone-late
        self._pending[key] = event  # guard: newest-of-window
        if pending is None:
            return None
        self._settler.supersede(pending)
        return "superseded"

    def _placed(self, event: Upsert | Delete, pending: Pending | None) -> Upsert | Delete | None:
        """A change without a position at that of what is known of its row; None if it is stale."""
        key = event.row_key
        if isinstance(event, Delete):
            # Without a position of its own, one change of the key cannot be told from another.
            event = event._replace(moved=False)
        if pending is not None:
            newest = pending.version
        else:
            known = self._versions.get(key)
            if known is None:
                return event
            newest = known[0]
        # Without a source position, the offset tells whether it came later: a row stays on its
        # partition.
        if offset_of(newest) > event.position.offset:  # guard: lone-offset
            return None
        lone = not has_position(newest) and (
            pending.lone if pending is not None else self._versions.must_look_up(key)
        )
        # guard: lone-place
        return event._replace(version=at_offset(newest, event.position.offset), lone=lone)

    def _newest(self, key: RowKey) -> Version | None:
        pending = self._pending.get(key)
        return pending.version if pending is not None else self._versions.newest(key)

    def _is_again(self, event: Upsert) -> bool:
        """Whether a change of the key is here for the second time: its row is there, as it made it."""
        pending = self._pending.get(event.row_key)
        if pending is not None:
            return not isinstance(pending, Delete) and same_position(pending.version, event.version)
        known = self._versions.get(event.row_key)
        return known is not None and known[1] is not None and same_position(known[0], event.version)

    def _empty(self, truncate: Truncate) -> None:
        """Let a TRUNCATE take the place of every older row of its table."""
        prefix = key_prefix(truncate.table)
        before = self._truncates.get(truncate.table)
        if before is None or before.version < truncate.version:
            self._truncates[truncate.table] = truncate
        self._versions.truncate(prefix, truncate.version)
        for key in [k for k in self._pending if k.startswith(prefix)]:
            self._settler.truncate(key, truncate, self._pending[key])
            if is_before(self._pending[key].version, truncate.version):  # guard: truncate-pending
                del self._pending[key]

    def _delete_of(self, tombstone: Tombstone) -> Delete | None:
        """The delete that a tombstone stands for; None where its `d` event has been dealt with.

        Debezium sends a `d` and then the tombstone. Log compaction can leave the tombstone alone, and
        it carries no version: it deletes whatever came before it in its partition.
        """
        key, position = tombstone.row_key, tombstone.position
        if self._versions.ends_dropped_delete(key):
            return None
        pending = self._pending.get(key)
        if pending is not None:
            if isinstance(pending, Delete):
                return None
            version = at_offset(pending.version, position.offset)
            return Delete(key, version, position, 0, pending.lone)
        known = self._versions.get(key)
        if known is None:
            return Delete(
                key, make_version(0, NO_POSITION, position.offset), position, 0, lone=True
            )
        version, digest = known
        return (  # guard: tombstone-position
            None
            if digest is None
            else Delete(key, at_offset(version, position.offset), position, 0)
        )

    def _flushable(self) -> bool:
        if self._settler.dead:
            return True
        if not self._held:
            return bool(self._pending or self._truncates)
        held = self._held_topics()
        return any(
            waiting.position.topic not in held
            for waiting in (*self._pending.values(), *self._truncates.values())
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
        for table, truncate in list(self._truncates.items()):
            if truncate.position.topic not in topics:  # guard: held-truncates
                window.truncates.append(self._truncates.pop(table))
        held: dict[RowKey, Pending] = {}
        waiting: dict[RowKey, datetime] = {}
        # Then a whole row has nothing to wait for, and it has no fallbacks.
        nothing_waits = not (topics or settler.moves)  # guard: held-rows-short, moves-short
        for key, winner in self._pending.items():
            if nothing_waits and type(winner) is Row:
                self._send(window, winner)
                continue
            if topics and winner.position.topic in topics:  # guard: held-rows
                held[key] = winner
                continue
            if settler.moves:
                # Even if the row itself has to wait: rows that changed places wait for one another.
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
        self._clock.count(len(held) - len(self._pending))
        self._pending, self._waiting = held, waiting
        if waiting:
            self._due = self._clock.end(self._clock.now())
        return [window] if window.holds_anything() else []

    def _waits_until(self, changes: Sequence[Pending], ending: bool) -> datetime | None:
        """Until when a row waits for what its old key held; None if it is known, or time is over.

        The delete of the old key may lie in a partition that is read more slowly. When the flow ends,
        all that was read is sent, and the lanes wait for one another.
        """
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
                if known is not None and known[1] == winner.text_hash:
                    window.unchanged.add(key)
                window.rows[key] = winner
                self._versions.put(key, winner.version, winner.text_hash)
            case PartialRow():
                window.rows[key] = self._following(winner)
                self._versions.put(key, winner.version, "")
            case Delete():
                # A delete is always sent on, also of a row that is known to be gone: what the last,
                # uncommitted epoch before a crash wrote is in no map.
                window.deletes[key] = winner  # guard: delete-always-sent
                if winner.moved:
                    self._hand_over(window, Move(winner))
                self._versions.put(key, winner.version, None)  # guard: delete-marker

        if self._versions.must_look_up(key):
            window.unverified.add(key)

    def _send_fallback(self, window: Window, fallback: Pending) -> None:
        """Let an older change go with its row, for the lane to write if the row is refused."""
        assert not isinstance(fallback, Upsert)  # all are settled by now
        digest: str | None = None
        if isinstance(fallback, PartialRow):
            fallback, digest = self._following(fallback), ""
        elif isinstance(fallback, Row):
            digest = fallback.text_hash
        window.fallbacks.setdefault(fallback.row_key, []).append(fallback)
        self._versions.put(fallback.row_key, fallback.version, digest)

    def _hand_over(self, window: Window, move: Move) -> None:
        """Let the lane read what a row held whose key changed, and keep it."""
        delete, held = move.delete, move.held
        if held is None:
            move = move._replace(follows=self._last(delete.row_key, delete.version))
        else:
            move = move._replace(held=self._following(held))
        self._shared.moves.dispatch(delete.row_key, delete.version)
        window.moves.append(move)

    def _following(self, partial: PartialRow) -> PartialRow:
        """The row with the version from which alone it may take what it lacks."""
        if partial.old_key is not None or partial.follows is Follows.REFUSED:
            return partial
        return partial._replace(follows=self._last(partial.row_key, partial.version))

    def _last(self, key: RowKey, version: Version) -> Followed:
        """The version before this one, if it is known and was not refused."""
        if self._versions.is_tainted(key, version):  # guard: taint-asked
            return Follows.REFUSED
        known = self._versions.get(key)
        return Follows.UNKNOWN if known is None else known[0]


@operator
def dedup(step_id: str, up: KeyedStream[ShardRecords], shared: DedupContext) -> KeyedStream[Window]:
    """Windows of winners, by shard.

    Args:
        step_id: Constant for ever: recovery files are keyed by it.
        up: Records by shard.
        shared: What all shards share.
    """
    return op.stateful_batch("logic", up, lambda state: DedupLogic(shared, state))


def _partition(winner: Pending) -> tuple[str, int]:
    return winner.position.topic, winner.position.partition
