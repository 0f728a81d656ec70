"""Fills shards and recovery files with a given number of known rows, and resumes the flow from them.

Run each function in a new process: memory figures are meaningless in a process that has done other
work before. They come from Linux's `/proc`.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.recovery import init_db_dir
from bytewax.testing import TestingSink, TestingSource

from benchmarks.contracts import TABLE, idle_contract
from benchmarks.envelopes import DOC, update
from benchmarks.measuring import Clocks, clocks
from benchmarks.memory import NoStore, Timing, run_in, source_of, whole_flow
from flows.sync import DEDUP, FLOW_ID, rules_of
from operators.changes.row_key import RowKey, key_prefix
from operators.changes.shards import ALL_SHARDS, shard_of
from operators.changes.text_hash import text_hash
from operators.changes.version import make_version
from operators.kafka.log_reader import BEGINNING, Bounds, Record
from operators.stages.dedup import DedupLogic
from operators.stages.settle import DedupContext
from operators.stages.window_clock import WindowClock
from operators.state.dedup_checkpoint import STATE_FORMAT, DedupState, PackedShard
from operators.state.version_map import VersionMap
from operators.store.protocol import Entity, Stored
from operators.telemetry import Telemetry

Maps = dict[str, VersionMap]
"""Shard → its version map."""

HORIZON_S = 3_600.0
_MIN_SKIPPED = 2
"""After the first write, at least this many epochs are not counted."""

_CAUGHT_UP_S = 0.25
"""A flow that lags behind the load by no more than this many seconds has caught up."""

_SPREAD = 2_654_435_761
"""Multiplier of Knuth's multiplicative hashing: consecutive records change rows far apart."""


def resident_bytes() -> int:
    """The resident memory of this process."""
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def empty_maps() -> Maps:
    """A version map for each shard, in the state long after the initial load of the table."""
    return {name: VersionMap(whole=False, horizon_s=HORIZON_S, now=0.0) for name in ALL_SHARDS}


def enter(maps: Maps, numbers: range) -> None:
    """Enter one insert of each row, as `dedup` does, and the store's answer that the row is new.

    Takes a checkpoint whenever an epoch has its full number of records; the writes of the last rows are
    still in flight at the end.
    """
    prefix = key_prefix(TABLE)
    per_epoch = idle_contract().flow.max_epoch_records
    for count, number in enumerate(numbers):
        if count and count % per_epoch == 0:
            for versions in maps.values():
                versions.pack(ending=False)
        key = RowKey(f"{prefix}{number}")
        versions = maps[shard_of(key)]
        version = make_version(0, f"{number:016x}.{number + 1:016x}", number)
        versions.put(key, version, text_hash(f"row {number}\n{DOC}"))
        if versions.must_look_up(key):
            versions.learn(key, None)


@dataclass(frozen=True, slots=True)
class Filled:
    """The size of the version maps and recovery files of a given number of rows."""

    resident_bytes: int
    recovery_bytes: int
    write_s: float


def fill(rows: int, recovery: Path) -> Filled:
    """Fill all shards, and let Bytewax write recovery files from which the flow can resume.

    Args:
        rows: Number of rows, which are numbered from 0; none is pending.
        recovery: An empty directory.
    """
    maps = empty_maps()
    gc.collect()
    before = resident_bytes()
    enter(maps, range(rows))
    gc.collect()
    held = resident_bytes() - before
    assert sum(map(len, maps.values())) == rows, "a row is missing"
    contract = idle_contract()
    init_db_dir(recovery, contract.recovery.partitions)  # type: ignore[no-untyped-call]
    shared = DedupContext(
        rules=rules_of(contract),
        clock=WindowClock(1.0, 1, lambda: datetime.now(UTC)),
        telemetry=Telemetry(),
        horizon_s=HORIZON_S,
        whole=False,
    )
    flow = Dataflow(FLOW_ID)
    given = op.input("shards", flow, TestingSource(list(maps.items()), 1))
    op.output("nowhere", op.key_rm("all", _known(DEDUP, given, shared)), TestingSink([]))
    began = time.perf_counter()
    run_in(recovery, flow, HORIZON_S)
    write_s = time.perf_counter() - began
    return Filled(held, sum(file.stat().st_size for file in recovery.iterdir()), write_s)


class _Known(StatefulBatchLogic[VersionMap, None, DedupState]):
    """Has the state of a shard that `dedup` would have."""

    def __init__(self, shared: DedupContext) -> None:
        self._shared = shared
        self._versions = VersionMap(whole=False, horizon_s=HORIZON_S, now=0.0)

    def on_batch(self, values: list[VersionMap]) -> tuple[list[None], bool]:
        (self._versions,) = values
        return [], False

    def snapshot(self) -> DedupState:
        self._versions.pack(ending=False)  # A checkpoint: after it no write is in flight.
        record = PackedShard(
            versions=self._versions.pack(ending=True), pending=(), truncates=(), dead_letters=()
        )
        logic = DedupLogic(self._shared, (STATE_FORMAT, record))
        # As at a clean stop: only then does the checkpoint hold all known rows.
        logic.on_eof()
        return logic.snapshot()


@operator
def _known(step_id: str, up: KeyedStream[VersionMap], shared: DedupContext) -> KeyedStream[None]:
    """A step that has the name of `dedup` in the recovery files."""
    return op.stateful_batch("logic", up, lambda _state: _Known(shared))


def rotate_through(rows: int, horizons: int) -> list[int]:
    """Resident memory of the maps at the end of each horizon, if no row ever changes twice.

    Args:
        rows: Inserts within a horizon.
        horizons: Number of horizons.
    """
    maps = empty_maps()
    gc.collect()
    before = resident_bytes()
    held = []
    for horizon in range(horizons):
        enter(maps, range(horizon * rows, (horizon + 1) * rows))
        gc.collect()
        held.append(resident_bytes() - before)
        for versions in maps.values():
            versions.rotate((horizon + 1) * HORIZON_S)
    assert sum(map(len, maps.values())) == rows, "rotation forgot too much, or too little"
    return held


@dataclass(frozen=True, slots=True)
class Load:
    """Updates of uniformly drawn rows at a fixed rate, however fast the flow reads.

    Attributes:
        rows: Number of rows that the flow knows.
        per_s: Updates that become due per second.
        epochs, seconds: At least so much is measured after the resume.
        catch_up_s: Measuring starts after this long even if the flow has not caught up with the load.
    """

    rows: int
    per_s: float
    epochs: int
    seconds: float
    catch_up_s: float = 12.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch, from the snapshot of the source before it to its own.

    Attributes:
        lost_s: Time from its beginning until the source could read again, in which the epoch before was
            drained, snapshot, pickled, written and committed.
        lost_cpu_s: The CPU time of this process within `lost_s`.
        records: How many records were read from the log.
    """

    took_s: float
    lost_s: float
    lost_cpu_s: float
    records: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The figures of a resumed flow.

    Attributes:
        resume_s: From before the flow was built to the first row passed to the store.
        resident_bytes: Growth of the resident memory from before the build to that moment.
        peak_bytes: Growth of the resident memory from before the build to its peak.
        due: Updates that became due within `epochs`.
    """

    resume_s: float
    resident_bytes: int
    peak_bytes: int
    due: float
    epochs: Sequence[Epoch]


def resume(recovery: Path, load: Load, epoch_s: float) -> Resumed:
    """Resume the whole flow, with a model and a store that do nothing, and keep it under load.

    Fails if the flow looks up a row in the store, since then it did not know its rows.
    """
    gc.collect()
    before, began = resident_bytes(), time.perf_counter()
    watch = _Watch(load)
    store = _Store(watch.timing, watch.wrote)
    contract = idle_contract()
    source = source_of(
        contract,
        [0],
        lambda _partition, offset: _Due(load, offset, watch),
        epoch_s,
        watch.on_epoch,
        stop=watch.is_over,
    )
    flow = whole_flow(contract, source, watch.timing, store=store, partitions=[0], whole=False)
    try:
        run_in(recovery, flow.dataflow, epoch_s)
    finally:
        flow.close()
    assert watch.first is not None, "nothing was written"
    assert not store.looked_up, f"{store.looked_up} rows were not known after the resume"
    watch.timing.check(watch.timing.records, len(watch.rows))
    return Resumed(
        resume_s=watch.first - began,
        resident_bytes=watch.resident_bytes - before,
        peak_bytes=_status("VmHWM") - before,
        due=load.per_s * sum(epoch.took_s for epoch in watch.epochs),
        epochs=watch.epochs,
    )


@dataclass(slots=True)
class _Watch:
    """Notes when the source waits for a checkpoint, and ends the flow when enough was measured.

    After the resume every shard is touched once, the source's cap starts small, and the updates that
    became due meanwhile have to be caught up with. Measuring starts when that is done, or when it is
    clear that the flow cannot catch up.
    """

    load: Load
    timing: Timing = field(default_factory=lambda: Timing(0))
    epochs: list[Epoch] = field(default_factory=list)
    rows: set[int] = field(default_factory=set)
    first: float | None = None
    resident_bytes: int = 0
    lag: Callable[[], int] = lambda: 0
    _skipped: int = 0
    _steady: bool = False
    _closed: Clocks | None = None
    _lost: Clocks | None = None
    _records: int = 0

    def wrote(self) -> None:
        """The store has received rows."""
        if self.first is None:
            self.first = time.perf_counter()
            self.resident_bytes = resident_bytes()

    def on_epoch(self) -> None:
        """The source was asked for its snapshot: it reads no record before that is committed."""
        now, records = clocks(), self.timing.records
        if self._closed is not None and self._lost is not None and self.first is not None:
            took = now[0] - self._closed[0]
            if self._steady:
                self.epochs.append(Epoch(took, *self._lost, records - self._records))
            else:
                self._skipped += 1
                self._steady = self._is_steady(now[0] - self.first)
        self._closed, self._lost, self._records = now, None, records

    def _is_steady(self, since_first_s: float) -> bool:
        caught_up = self.lag() <= 1 + self.load.per_s * _CAUGHT_UP_S
        return self._skipped >= _MIN_SKIPPED and (caught_up or since_first_s > self.load.catch_up_s)

    def before_read(self) -> None:
        """The source reads records again."""
        if self._closed is not None and self._lost is None:
            now = clocks()
            self._lost = (now[0] - self._closed[0], now[1] - self._closed[1])

    def is_over(self) -> bool:
        """Whether enough was measured."""
        seen_s = sum(epoch.took_s for epoch in self.epochs)
        return len(self.epochs) >= self.load.epochs and seen_s >= self.load.seconds


class _Due:
    """A `LogReader` over updates that become due one after another."""

    def __init__(self, load: Load, offset: int, watch: _Watch) -> None:
        self._load = load
        self._watch = watch
        self._next = 0 if offset == BEGINNING else offset
        self._resumed_at = self._next
        # The source first reads its last record again, to compare its digest with the stored one.
        self._new_from = self._next + (offset != BEGINNING)
        self._began = time.perf_counter()
        watch.lag = self.lag

    def _due(self) -> int:
        """The offset up to which records are due; one new record is due at once."""
        passed_s = time.perf_counter() - self._began
        return self._resumed_at + 2 + int(passed_s * self._load.per_s)

    def read(self, max_records: int) -> tuple[Sequence[Record], Sequence[Any]]:
        self._watch.before_read()
        first, count = self._next, min(max_records, self._due() - self._next)
        self._next += count
        made = [self._record(offset) for offset in range(first, self._next)]
        new = range(max(first, self._new_from), self._next)
        self._watch.rows.update(map(self._number, new))
        self._watch.timing.records += len(new)
        return made, ()

    def _number(self, offset: int) -> int:
        return offset * _SPREAD % self._load.rows

    def _record(self, offset: int) -> Record:
        # An LSN above all those that `enter` has used.
        lsn = self._load.rows + offset + 1
        return offset, *update(TABLE, self._number(offset), lsn), None

    def at_end(self) -> bool:
        return self._next >= self._due()

    def lag(self) -> int:
        return self._due() - self._next

    def bounds(self) -> Bounds:
        return Bounds(0, self._due())

    def close(self) -> None:
        pass


class _Store(NoStore):
    """A store that notes the first write, and the rows that are looked up."""

    def __init__(self, timing: Timing, wrote: Callable[[], None]) -> None:
        super().__init__(timing)
        self._wrote = wrote
        self.looked_up = 0

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        self.looked_up += len(ids)
        return {}

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        self._wrote()
        super().upsert(collection, entities)
