"""The last version of each row wins: windows over the changes of one shard."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators.carrying import MOVE_WAIT_S, Moves
from operators.dedup_state import (
    STATE_FORMAT,
    DedupState,
    Pending,
    check_format,
    pack,
    pack_letter,
    pack_truncate,
    unpack,
    unpack_letter,
    unpack_truncate,
)
from operators.errors import RecordError
from operators.events import (
    NO_POSITION,
    DeadLetter,
    Delete,
    Ignored,
    KafkaPosition,
    Move,
    PartialRow,
    Row,
    RowKey,
    Tombstone,
    Truncate,
    Upsert,
    Version,
    at_offset,
    has_position,
    make_version,
    offset_of,
)
from operators.keys import key_prefix
from operators.rendering import Rendered, Rules, texts_of
from operators.shards import RawChange, ShardRecords, Window
from operators.telemetry import Telemetry, TraceContext
from operators.versions import VersionMap
from operators.windows import WindowClock

MAX_DEAD_LETTER_BYTES = 256 * 1024
"""A larger key or value is left out of its dead letter; the position still finds it in the topic."""


@dataclass(frozen=True, slots=True)
class DedupContext:
    """What all shards of a process share.

    Attributes:
        rules: By topic.
        whole: The collections were empty when the process started.
        partitions: All that the sources of the flow read, in every process: (topic, partition).
        moves: See `Moves`.
    """

    rules: Mapping[str, Rules]
    clock: WindowClock
    telemetry: Telemetry
    horizon_s: float
    whole: bool
    partitions: frozenset[tuple[str, int]] = frozenset()
    moves: Moves = field(default_factory=Moves)


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
        # What pending rows have superseded in this window, should they turn out to be bad or partial.
        self._superseded: dict[RowKey, list[Pending]] = {}
        self._truncates: dict[str, Truncate] = {}
        self._moves: list[Move] = []
        self._dead: list[DeadLetter] = []
        self._held = set(shared.partitions)
        # Until when rows wait that need what their old key held.
        self._waiting: dict[RowKey, datetime] = {}
        self._contexts: dict[TraceContext, None] = {}
        self._due: datetime | None = None
        now = self._clock.now().timestamp()
        if state is None:
            self._versions = VersionMap(whole=shared.whole, horizon_s=shared.horizon_s, now=now)
        else:
            self._restore(state, now)

    def on_batch(self, values: list[ShardRecords]) -> tuple[list[Window], bool]:
        """Take in records; nothing is emitted before the window closes."""
        self._versions.rotate(self._clock.now().timestamp())
        waiting = len(self._pending)
        dropped: Counter[str] = Counter()
        for records in values:
            if records.resumed:
                self._held.discard((records.topic, records.partition))
            if records.context is not None and records.changes:
                self._contexts[records.context] = None
            for change in records.changes:
                reason = self._take(records, change)
                if reason:
                    dropped[reason] += 1
        for reason, count in dropped.items():
            self._shared.telemetry.rows_dropped.add(count, {"reason": reason})
        self._clock.waiting_rows += len(self._pending) - waiting
        if self._flushable():
            due = self._clock.deadline()
            self._due = due if self._due is None else min(self._due, due)
        return [], False

    def on_notify(self) -> tuple[list[Window], bool]:
        """The window closes."""
        return self._close(), False

    def on_eof(self) -> tuple[list[Window], bool]:
        """The sources ended (a clean stop): flush what may be flushed; the rest stays in the state."""
        return self._close(), False

    def notify_at(self) -> datetime | None:
        """When the open window closes."""
        return self._due

    def snapshot(self) -> DedupState:
        """The state as plain values that later changes do not touch.

        Pending rows are rendered first: only what the store may hold gets into a recovery file.
        """
        self._render()
        return (
            STATE_FORMAT,
            self._versions.pack(),
            tuple(map(pack, self._pending.values())),
            tuple(map(pack_truncate, self._truncates.values())),
            tuple(map(pack_letter, self._dead)),
        )

    def _restore(self, state: DedupState, now: float) -> None:
        check_format(state)
        _, versions, pending, truncates, dead = state
        self._versions = VersionMap.unpack(versions, horizon_s=self._shared.horizon_s, now=now)
        for values in pending:
            winner = unpack(values)
            self._pending[winner.row_key] = winner
        for truncate in map(unpack_truncate, truncates):
            self._truncates[truncate.table] = truncate
        self._dead = [unpack_letter(values) for values in dead]
        self._held |= {_partition(winner) for winner in self._pending.values()}
        self._clock.waiting_rows += len(self._pending)

    def _take(self, records: ShardRecords, change: RawChange) -> str | None:
        """Let one record take its row's place; returns why it, or the one before, was dropped."""
        offset, key, raw_key, raw_value, other_key = change
        decoder = self._shared.rules[records.topic].decoder
        position = KafkaPosition(records.topic, records.partition, offset)
        try:
            if not key:
                # The router could not read it, or it is about no row: reading it again tells.
                decoder.row_keys(raw_key, raw_value)
            decoded = decoder.event(key, raw_value, position, other_key)
        except RecordError as error:
            if key:
                pending = self._pending.get(key)
                newest = pending.version if pending is not None else self._versions.newest(key)
                unknown = make_version(0, NO_POSITION, offset)
                self._versions.taint(key, at_offset(newest or unknown, offset))
            self._bury(position, "decode", error, key, raw_key, raw_value)
            return None
        match decoded:
            case Ignored():
                return decoded.reason
            case Truncate():
                self._empty(decoded)
                return None
            case Tombstone():
                event: Upsert | Delete | None = self._delete_of(decoded)
            case _:
                event = decoded
        return None if event is None else self._enter(event)

    def _enter(self, event: Upsert | Delete) -> str | None:
        key = event.row_key
        pending = self._pending.get(key)
        newest = pending.version if pending is not None else self._versions.newest(key)
        if event.lone and pending is None:
            known = self._versions.get(key)
            newest = None if known is None else known[0]
        if event.lone and newest is not None:
            # Without a source position, the offset tells whether it came later: a row stays on its
            # partition.
            if offset_of(newest) > event.position.offset:
                return "stale"
            lone = not has_position(newest) and (
                pending.lone if pending is not None else self._versions.must_look_up(key)
            )
            event = event._replace(version=at_offset(newest, event.position.offset), lone=lone)
        elif newest is not None and event.version < newest:
            if isinstance(event, Delete):
                self._versions.dropped_delete(key)
            return "stale"
        self._pending[key] = event
        if pending is None:
            return None
        self._superseded.setdefault(key, []).append(pending)
        return "superseded"

    def _empty(self, truncate: Truncate) -> None:
        """Let a TRUNCATE take the place of every older row of its table."""
        prefix = key_prefix(truncate.table)
        before = self._truncates.get(truncate.table)
        if before is None or before.version < truncate.version:
            self._truncates[truncate.table] = truncate
        self._versions.truncate(prefix, truncate.version)
        for key in [k for k in self._pending if k.startswith(prefix)]:
            if _before(self._pending[key], truncate):
                del self._pending[key]
                self._superseded.pop(key, None)
            elif key in self._superseded:
                kept = [p for p in self._superseded[key] if not _before(p, truncate)]
                self._superseded[key] = kept

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
        return (
            None
            if digest is None
            else Delete(key, at_offset(version, position.offset), position, 0)
        )

    def _flushable(self) -> bool:
        if self._dead:
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

    def _close(self) -> list[Window]:
        self._due = None
        self._render()
        if not self._flushable():
            return []
        window = Window({}, {}, self._dead, set(), self._versions, tuple(self._contexts))
        held: dict[RowKey, Pending] = {}
        topics = self._held_topics()
        for table, truncate in list(self._truncates.items()):
            if truncate.position.topic not in topics:
                window.truncates.append(self._truncates.pop(table))
        moves, self._moves = self._moves, []
        for move in moves:
            held_back = move.delete.position.topic in topics
            (self._moves if held_back else window.moves).append(move)
        for key, winner in self._pending.items():
            if (topics and winner.position.topic in topics) or self._must_wait(winner):
                held[key] = winner
            else:
                self._send(window, winner)
        self._clock.waiting_rows -= len(self._pending) - len(held)
        self._pending = held
        self._dead = []
        self._contexts = {}
        if self._waiting:
            self._due = self._clock.deadline()
        return [window]

    def _must_wait(self, winner: Pending) -> bool:
        """Whether a row needs what its old key held, and that may yet become known.

        The delete of the old key may lie in a partition that is read more slowly.
        """
        if not isinstance(winner, PartialRow) or winner.old_key is None:
            return False
        assert winner.after is not None
        now = self._clock.now()
        until = self._waiting.setdefault(winner.row_key, now + timedelta(seconds=MOVE_WAIT_S))
        known = self._shared.moves.is_announced(winner.old_key, Version(winner.after))
        if known or now >= until:
            del self._waiting[winner.row_key]
            return False
        return True

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
                known = self._versions.get(key)
                if winner.old_key is not None:
                    pass  # it follows a version of another key
                elif self._versions.is_tainted(key):
                    winner = winner._replace(after="")
                elif known is not None:
                    winner = winner._replace(after=known[0])
                window.rows[key] = winner
                self._versions.put(key, winner.version, "")
            case Delete():
                # A delete is always sent on, also of a row that is known to be gone: what the last,
                # uncommitted epoch before a crash wrote is in no map.
                window.deletes[key] = winner
                if winner.moved:
                    self._announce(window.moves, winner, None)
                self._versions.put(key, winner.version, None)

    def _announce(self, moves: list[Move], delete: Delete, held: PartialRow | None) -> None:
        """Let the lane read what a row held whose key changed, and keep it."""
        if self._shared.moves.is_known(delete.row_key, delete.version):
            return
        if self._versions.is_tainted(delete.row_key):
            self._shared.moves.put(delete.row_key, delete.version, None)
        else:
            self._shared.moves.announce(delete.row_key, delete.version)
            moves.append(Move(delete, held))

    def _render(self) -> None:
        """Turn pending upserts into rows; those that cannot be rendered become dead letters.

        A bad change leaves its row as it was, and that is what it superseded in this window: whether
        the two met in one window must not decide what is seen.
        """
        waiting = len(self._pending)
        superseded = self._superseded
        for key, winner in list(self._pending.items()):
            earlier = superseded.get(key, []) if superseded else []
            if earlier:
                self._pass_on(earlier, winner)
            while isinstance(winner, Upsert):
                rendered = self._rendered(winner)
                if rendered is not None:
                    winner = rendered
                elif earlier:
                    winner = earlier.pop()
                else:
                    del self._pending[key]
                    break
            else:
                if isinstance(winner, PartialRow):
                    winner = self._completed(winner, earlier)
                self._pending[key] = winner
        self._superseded.clear()
        self._clock.waiting_rows += len(self._pending) - waiting

    def _rendered(self, upsert: Upsert) -> Rendered | None:
        """The row, or None if it is bad, which its dead letter tells."""
        try:
            return self._shared.rules[upsert.position.topic].renderer.render(upsert)
        except RecordError as error:
            self._versions.taint(upsert.row_key, upsert.version)
            self._bury(upsert.position, "render", error, upsert.row_key, None, upsert.raw)
            return None

    def _completed(self, partial: PartialRow, earlier: list[Pending]) -> Rendered:
        """What Debezium left out, from the versions that the row superseded in this window."""
        renderer = self._shared.rules[partial.position.topic].renderer
        row: Rendered = partial
        while isinstance(row, PartialRow) and row.old_key is None and earlier:
            donor = earlier.pop()
            if isinstance(donor, Upsert):
                try:
                    donor = renderer.render(donor)
                except RecordError:
                    # It was superseded, so no letter; but what came before it is not its like.
                    self._versions.taint(row.row_key, row.version)
                    break
                if isinstance(donor, Delete):
                    continue  # it was only kept out; the store still holds what it was
            if isinstance(donor, Delete):
                # What the store holds is from before the delete.
                self._versions.taint(row.row_key, row.version)
                row = row._replace(reborn=True)
                break
            texts = donor.texts if isinstance(donor, PartialRow) else texts_of(donor)
            row = renderer.complete(row, texts, donor.columns)
            if isinstance(row, PartialRow) and isinstance(donor, PartialRow):
                row = row._replace(old_key=donor.old_key, after=donor.after, reborn=donor.reborn)
        return row

    def _pass_on(self, earlier: list[Pending], winner: Pending) -> None:
        """Look for changes of the key among what a row went through in this window."""
        chain = [*earlier, winner]
        for index, each in enumerate(chain):
            if isinstance(each, Delete) and each.moved:
                if index:
                    self._hand_over(each, chain[:index])
                else:
                    self._announce(self._moves, each, None)

    def _hand_over(self, delete: Delete, earlier: list[Pending]) -> None:
        """Keep what a row held whose key changed, as far as this window knows it."""
        row = earlier[-1]
        if isinstance(row, Upsert):
            try:
                row = self._shared.rules[row.position.topic].renderer.render(row)
            except RecordError:
                self._shared.moves.put(delete.row_key, delete.version, None)
                return
        if isinstance(row, PartialRow):
            row = self._completed(row, earlier[:-1])
        if isinstance(row, PartialRow) and row.old_key is None:
            known = self._versions.get(row.row_key)
            after = row.after if known is None else known[0]
            self._announce(self._moves, delete, row._replace(after=after))
        else:
            held = None if isinstance(row, Delete) else row
            self._shared.moves.put(delete.row_key, delete.version, held)

    def _bury(
        self,
        position: KafkaPosition,
        stage: str,
        error: RecordError,
        row_key: str,
        key: bytes | None,
        value: bytes | None,
    ) -> None:
        """Make a dead letter. What is too large, or may hold what is masked, stays in the topic."""
        masked = bool(self._shared.rules[position.topic].table.masks)
        if masked or (key is not None and len(key) > MAX_DEAD_LETTER_BYTES):
            key = None
        if masked or (value is not None and len(value) > MAX_DEAD_LETTER_BYTES):
            value = None
        self._dead.append(
            DeadLetter(position, stage, error.subject, error.cause, error.hint, key, value, row_key)
        )


@operator
def dedup(step_id: str, up: KeyedStream[ShardRecords], shared: DedupContext) -> KeyedStream[Window]:
    """Windows of winners, by shard.

    Args:
        step_id: Constant for ever: recovery files are keyed by it.
        up: Records by shard.
        shared: What all shards share.
    """
    return op.stateful_batch("logic", up, lambda state: DedupLogic(shared, state))


def _before(winner: Pending, truncate: Truncate) -> bool:
    """Whether a TRUNCATE took a row; one without a position is not known to be older."""
    return has_position(winner.version) and winner.version < truncate.version


def _partition(winner: Pending) -> tuple[str, int]:
    return winner.position.topic, winner.position.partition
