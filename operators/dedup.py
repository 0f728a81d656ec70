"""The last version of each row wins: windows over the changes of one shard."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators import debezium
from operators.errors import FatalError, RecordError
from operators.events import (
    NO_POSITION,
    DeadLetter,
    Delete,
    KafkaPosition,
    Row,
    RowKey,
    Tombstone,
    Upsert,
    at_offset,
    make_version,
)
from operators.rendering import Renderer
from operators.shards import RawChange, ShardRecords, Window
from operators.table import TableSection
from operators.telemetry import Telemetry, TraceContext
from operators.versions import PackedVersions, VersionMap

STATE_FORMAT = 1

MAX_DEAD_LETTER_BYTES = 256 * 1024
"""A larger key or value is left out of its dead letter; the position still finds it in the topic."""

Packed: TypeAlias = tuple[Any, ...]

DedupState: TypeAlias = tuple[int, PackedVersions, tuple[Packed, ...], tuple[Packed, ...]]
"""(STATE_FORMAT, version map, pending winners, dead letters): plain values, as recovery files hold."""


@dataclass(slots=True)
class WindowClock:
    """When windows close: aligned over all shards of a process, so that they close together.

    A window closes `length_s` after its first row at the latest, and early once `max_rows` rows wait
    in the process.
    """

    length_s: float
    max_rows: int
    now: Callable[[], datetime]
    waiting_rows: int = 0

    def deadline(self) -> datetime:
        """The end of the window that a row arriving now belongs to."""
        now = self.now()
        if self.waiting_rows >= self.max_rows:
            return now
        end = (math.floor(now.timestamp() / self.length_s) + 1) * self.length_s
        return datetime.fromtimestamp(end, UTC)


@dataclass(frozen=True, slots=True)
class DedupContext:
    """What all shards of a process share.

    Attributes:
        tables: By topic.
        whole: The collections were empty when the process started.
    """

    tables: Mapping[str, tuple[TableSection, Renderer]]
    clock: WindowClock
    telemetry: Telemetry
    horizon_s: float
    whole: bool


class DedupLogic(StatefulBatchLogic[ShardRecords, Window, DedupState]):
    """Keeps the newest version of each row of one shard; emits the winners when the window closes.

    An event is dropped if a strictly newer version of its row is known. After a resume, rows pending
    from before are held until the whole range that may have been written before the crash is here:
    the first thing written is then at least as new as anything written before.
    """

    def __init__(self, shared: DedupContext, state: DedupState | None) -> None:
        self._shared = shared
        self._clock = shared.clock
        self._pending: dict[RowKey, Upsert | Row | Delete] = {}
        # What pending rows have superseded in this window, should they turn out to be bad.
        self._superseded: dict[RowKey, list[Upsert | Row | Delete]] = {}
        self._dead: list[DeadLetter] = []
        self._held: set[tuple[str, int]] = set()
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
            tuple(_pack(pending) for pending in self._pending.values()),
            tuple((tuple(letter.position), *letter[1:]) for letter in self._dead),
        )

    def _restore(self, state: DedupState, now: float) -> None:
        if state[0] != STATE_FORMAT:
            raise FatalError(
                subject="recovery state of the step 'dedup'",
                cause=f"it has format {state[0]}, and this release reads format {STATE_FORMAT}",
                hint="run the release that wrote it, or start with an empty recovery directory",
            )
        _, versions, pending, dead = state
        self._versions = VersionMap.unpack(versions, horizon_s=self._shared.horizon_s, now=now)
        for values in pending:
            winner = _unpack(values)
            self._pending[winner.row_key] = winner
        self._dead = [DeadLetter(KafkaPosition(*position), *rest) for position, *rest in dead]
        self._held = {_partition(winner) for winner in self._pending.values()}
        self._clock.waiting_rows += len(self._pending)

    def _take(self, records: ShardRecords, change: RawChange) -> str | None:
        """Let one record take its row's place; returns why it, or the one before, was dropped."""
        offset, key, raw_key, raw_value = change
        table, _ = self._shared.tables[records.topic]
        position = KafkaPosition(records.topic, records.partition, offset)
        try:
            if not key and raw_key is None and raw_value is not None:
                # A TRUNCATE has no key; its value tells that it is one.
                debezium.decode(table, key, raw_value, position)
            # An empty key could not be read by the router; reading it again tells why.
            row_key = key or debezium.row_key(table, raw_key)
            decoded = debezium.decode(table, row_key, raw_value, position)
        except RecordError as error:
            self._dead.append(_dead_letter(position, "decode", error, raw_key, raw_value))
            return None
        event = self._delete_of(decoded) if isinstance(decoded, Tombstone) else decoded
        if event is None:
            return None
        pending = self._pending.get(row_key)
        if pending is not None:
            newest = pending.version
        else:
            known = self._versions.get(row_key)
            newest = known[0] if known is not None else event.version
        if event.version < newest:
            if isinstance(event, Delete):
                self._versions.dropped_delete(row_key)
            return "stale"
        self._pending[row_key] = event
        if pending is None:
            return None
        self._superseded.setdefault(row_key, []).append(pending)
        return "superseded"

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
            return Delete(key, at_offset(pending.version, position.offset), position, 0)
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
            return bool(self._pending)
        return any(_partition(winner) not in self._held for winner in self._pending.values())

    def _close(self) -> list[Window]:
        self._due = None
        self._render()
        if not self._flushable():
            return []
        rows: dict[RowKey, Row] = {}
        deletes: dict[RowKey, Delete] = {}
        unchanged: set[RowKey] = set()
        held: dict[RowKey, Upsert | Row | Delete] = {}
        for key, winner in self._pending.items():
            if self._held and _partition(winner) in self._held:
                held[key] = winner
            elif isinstance(winner, Row):
                rows[key] = winner
                known = self._versions.get(key)
                if known is not None and known[1] == winner.text_hash:
                    unchanged.add(key)
                self._versions.put(key, winner.version, winner.text_hash)
            elif isinstance(winner, Delete):
                # A delete is always sent on, also of a row that is known to be gone: what the last,
                # uncommitted epoch before a crash wrote is in no map.
                deletes[key] = winner
                self._versions.put(key, winner.version, None)
        self._clock.waiting_rows -= len(self._pending) - len(held)
        self._pending = held
        dead, self._dead = self._dead, []
        contexts, self._contexts = tuple(self._contexts), {}
        return [Window(rows, deletes, dead, unchanged, self._versions, contexts)]

    def _render(self) -> None:
        """Turn pending upserts into rows; those that cannot be rendered become dead letters.

        A bad change leaves its row as it was, and that is what it superseded in this window: whether
        the two met in one window must not decide what is seen.
        """
        waiting = len(self._pending)
        for key, winner in list(self._pending.items()):
            while isinstance(winner, Upsert):
                _, renderer = self._shared.tables[winner.position.topic]
                try:
                    rendered = renderer.render(winner)
                except RecordError as error:
                    self._dead.append(
                        _dead_letter(winner.position, "render", error, None, winner.raw)
                    )
                    earlier = self._superseded.get(key)
                    if not earlier:
                        del self._pending[key]
                        break
                    winner = earlier.pop()
                else:
                    winner = rendered
            else:
                self._pending[key] = winner
        self._superseded.clear()
        self._clock.waiting_rows += len(self._pending) - waiting


@operator
def dedup(step_id: str, up: KeyedStream[ShardRecords], shared: DedupContext) -> KeyedStream[Window]:
    """Windows of winners, by shard.

    Args:
        step_id: Constant for ever: recovery files are keyed by it.
        up: Records by shard.
        shared: What all shards share.
    """
    return op.stateful_batch("logic", up, lambda state: DedupLogic(shared, state))


def _partition(winner: Upsert | Row | Delete) -> tuple[str, int]:
    return winner.position.topic, winner.position.partition


def _dead_letter(
    position: KafkaPosition, stage: str, error: RecordError, key: bytes | None, value: bytes | None
) -> DeadLetter:
    if key is not None and len(key) > MAX_DEAD_LETTER_BYTES:
        key = None
    if value is not None and len(value) > MAX_DEAD_LETTER_BYTES:
        value = None
    return DeadLetter(position, stage, error.subject, error.cause, error.hint, key, value)


def _pack(winner: Upsert | Row | Delete) -> Packed:
    assert not isinstance(winner, Upsert)  # all are rendered by now
    key, version, position, *rest = winner
    return ("row" if isinstance(winner, Row) else "delete", key, version, tuple(position), *rest)


def _unpack(values: Packed) -> Row | Delete:
    kind, key, version, position, *rest = values
    if kind == "row":
        return Row(key, version, KafkaPosition(*position), *rest)
    return Delete(key, version, KafkaPosition(*position), *rest)
