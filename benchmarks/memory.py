"""Runs the flow, whole or only up to `dedup`, with a model and a store that do nothing."""

import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import numpy.typing as npt
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

from benchmarks.contracts import TOPIC
from benchmarks.envelopes import Change
from benchmarks.measuring import Rate, clocks
from flows.process.garbage_collector import seldom_collected
from flows.sync import DEDUP, FLOW_ID, ROUTE, SOURCE, Flow, Parts, build_flow, rules_of
from operators.changes.events import DeadLetter
from operators.changes.vector import Vector
from operators.changes.version import Version
from operators.contract.sections import Contract
from operators.contract.table import ColumnSpec
from operators.kafka.log_reader import BEGINNING, Bounds, LogReader, Record
from operators.retry import RetryPolicy
from operators.stages.dedup import dedup
from operators.stages.lane_writer import Receipt
from operators.stages.partitions import PartitionedSource
from operators.stages.route import Router, route
from operators.stages.settle import DedupContext
from operators.stages.source import SourceSettings
from operators.stages.window import Window
from operators.stages.window_clock import WindowClock
from operators.store.protocol import CollectionSpec, Entity, Stored, VectorStore
from operators.telemetry import Telemetry

_DIM = 384


class MemoryReader:
    """A `LogReader` over a list; its offsets count from 0."""

    def __init__(self, changes: Sequence[Change], offset: int) -> None:
        self._changes = changes
        self._next = 0 if offset == BEGINNING else offset

    def read(self, max_records: int) -> tuple[Sequence[Record], Sequence[Any]]:
        """See `LogReader.read`."""
        first = self._next
        batch = self._changes[first : first + max_records]
        self._next += len(batch)
        return [(first + i, key, value, None) for i, (key, value) in enumerate(batch)], ()

    def at_end(self) -> bool:
        """See `LogReader.at_end`."""
        return self._next == len(self._changes)

    def lag(self) -> int | None:
        """See `LogReader.lag`."""
        return len(self._changes) - self._next

    def bounds(self) -> Bounds | None:
        """See `LogReader.bounds`."""
        return Bounds(0, len(self._changes))

    def close(self) -> None:
        """See `LogReader.close`."""


@dataclass(slots=True)
class Timing:
    """Notes when the measured part begins and ends, and counts the flow's output.

    It begins with the first read after the checkpoint that ends the warm-up, and ends with the last
    item that reaches the sink.
    """

    warm_up: int
    records: int = 0
    winners: int = 0
    ids: set[str] = field(default_factory=set)
    dead: int = 0
    started: float = 0.0
    before: int = 0
    began: tuple[float, float] | None = None
    ended: tuple[float, float] = (0.0, 0.0)
    checkpoint: bool = False

    def on_epoch(self) -> None:
        """A checkpoint of the source."""
        self.checkpoint = True

    def before_read(self) -> None:
        """The source reads records."""
        if self.began is None and self.checkpoint and self.records >= self.warm_up:
            self.began, self.before = clocks(), self.records
        self.checkpoint = False

    @property
    def ramp_s(self) -> float:
        """Seconds that the warm-up took."""
        assert self.began is not None
        return self.began[0] - self.started

    @property
    def rate(self) -> Rate:
        """Records per second after the warm-up."""
        assert self.began is not None, "the warm-up took all records"
        return Rate.of(self.records - self.before, self.began, self.ended)

    def check(self, records: int, rows: int) -> None:
        """Fail if not all work was done."""
        assert self.records == records, f"read {self.records} records of {records}"
        assert len(self.ids) == rows, f"wrote {len(self.ids)} rows of {rows}"
        assert not self.dead, f"{self.dead} dead letters"


def run_in(recovery: Path, flow: Dataflow, epoch_s: float) -> None:
    """Run a dataflow to its end with one worker, resuming from the recovery directory."""
    config = RecoveryConfig(recovery, timedelta(0))  # type: ignore[no-untyped-call]
    interval = timedelta(seconds=epoch_s)
    with seldom_collected():  # As in `flows.runtime`.
        cluster_main(flow, [], 0, epoch_interval=interval, recovery_config=config)  # type: ignore[no-untyped-call]


def run_worker(flow: Dataflow, epoch_s: float, partitions: int) -> None:
    """Run a dataflow to its end with one worker and a new recovery directory."""
    with tempfile.TemporaryDirectory() as folder:
        init_db_dir(Path(folder), partitions)  # type: ignore[no-untyped-call]
        run_in(Path(folder), flow, epoch_s)


def source_of(
    contract: Contract,
    partitions: Sequence[int],
    open_reader: Callable[[int, int], LogReader],
    epoch_s: float,
    on_epoch: Callable[[], None],
    stop: Callable[[], bool] | None = None,
) -> PartitionedSource:
    """The flow's source over the readers of a benchmark.

    Args:
        contract: Has the source's settings.
        partitions: Partitions of the topic.
        open_reader: Opens a reader for a partition at an offset.
        epoch_s: The interval of the epochs.
        on_epoch: Called at every checkpoint of every partition.
        stop: Ends the source when it returns true; without it, the source ends with the log.
    """
    return PartitionedSource(
        [(TOPIC, number) for number in partitions],
        lambda _topic, partition, offset: open_reader(partition, offset),
        SourceSettings(
            batch_size=contract.kafka.source_batch_size,
            max_epoch_records=contract.flow.max_epoch_records,
            max_epoch_bytes=contract.flow.max_epoch_bytes,
            epoch_interval_s=epoch_s,
            exit_at_end=stop is None,
            stop=stop or (lambda: False),
            now=time.monotonic,
            telemetry=Telemetry(),
            on_epoch=on_epoch,
        ),
    )


def whole_flow(
    contract: Contract,
    source: PartitionedSource,
    timing: Timing,
    *,
    store: VectorStore | None = None,
    partitions: Sequence[int] = (),
    whole: bool = True,
) -> Flow:
    """The whole flow; its receipts are counted.

    Args:
        contract: An idle contract.
        source: The source of the records.
        timing: Counts the receipts.
        store: Replaces the store that does nothing.
        partitions: See `Parts.partitions`.
        whole: See `Parts.whole`.
    """
    telemetry = Telemetry()
    return build_flow(
        Parts(
            contract=contract,
            source=source,
            embedder=NoEmbedder(),
            store=store or NoStore(timing),
            dead_letters=NoLetters(timing),
            receipts=Receipts(timing),
            retry=RetryPolicy(1.0, telemetry),
            telemetry=telemetry,
            whole=whole,
            partitions=[(TOPIC, number) for number in partitions],
        )
    )


def flow_to_winners(contract: Contract, source: PartitionedSource, timing: Timing) -> Dataflow:
    """Source, route and dedup as `build_flow` wires them; the closed windows are counted."""
    rules = rules_of(contract)
    flow = contract.flow
    shared = DedupContext(
        rules=rules,
        clock=WindowClock(flow.window_ms / 1000, flow.window_max_rows, lambda: datetime.now(UTC)),
        telemetry=Telemetry(),
        horizon_s=flow.horizon_s,
        whole=True,
    )
    made = Dataflow(FLOW_ID)
    batches = op.input(SOURCE, made, source)
    shards = route(ROUTE, batches, Router({t: rule.decoder for t, rule in rules.items()}))
    op.output("winners", dedup(DEDUP, shards, shared), Winners(timing))
    return made


def run_whole(
    contract: Contract, open_reader: Callable[[int], LogReader], warm_up: int, epoch_s: float
) -> Timing:
    """Run the whole flow to the end of the log."""
    timing = Timing(warm_up)
    source = _timed(contract, open_reader, timing, epoch_s)
    flow = whole_flow(contract, source, timing)
    timing.started = time.perf_counter()
    try:
        run_worker(flow.dataflow, epoch_s, contract.recovery.partitions)
    finally:
        flow.close()
    return timing


def run_to_winners(
    contract: Contract, open_reader: Callable[[int], LogReader], warm_up: int, epoch_s: float
) -> Timing:
    """Run the flow up to `dedup`, to the end of the log."""
    timing = Timing(warm_up)
    flow = flow_to_winners(contract, _timed(contract, open_reader, timing, epoch_s), timing)
    timing.started = time.perf_counter()
    run_worker(flow, epoch_s, contract.recovery.partitions)
    return timing


def _timed(
    contract: Contract, open_reader: Callable[[int], LogReader], timing: Timing, epoch_s: float
) -> PartitionedSource:
    def opened(_partition: int, offset: int) -> LogReader:
        return _Timed(open_reader(offset), timing)

    return source_of(contract, [0], opened, epoch_s, timing.on_epoch)


class _Timed:
    """A reader that counts records, and notes when the warm-up is over."""

    def __init__(self, reader: LogReader, timing: Timing) -> None:
        self._reader = reader
        self._timing = timing

    def read(self, max_records: int) -> tuple[Sequence[Record], Sequence[Any]]:
        self._timing.before_read()
        records, contexts = self._reader.read(max_records)
        self._timing.records += len(records)
        return records, contexts

    def at_end(self) -> bool:
        return self._reader.at_end()

    def lag(self) -> int | None:
        return self._reader.lag()

    def bounds(self) -> Bounds | None:
        return self._reader.bounds()

    def close(self) -> None:
        self._reader.close()


class NoEmbedder:
    """An embedder that returns zeros, and never splits a text into chunks."""

    model = "none@0"
    dim = _DIM
    max_length = 10**6
    max_batch_tokens = 32_768
    calls_at_once = 1
    tokens_total = 0
    padded_tokens_total = 0

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See `Embedder.embed`."""
        return np.zeros((len(texts), _DIM), np.float32)

    def chunks(self, text: str, max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        """See `Embedder.chunks`."""
        return [(0, len(text))]


class NoStore:
    """A store that accepts all writes and keeps only the ids, to check that every row came."""

    max_writers = None
    can_add_fields = False

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def fields(self, collection: str) -> dict[str, ColumnSpec]:
        """See `VectorStore.fields`."""
        return {}

    def add_field(self, collection: str, name: str, spec: ColumnSpec) -> None:
        """See `VectorStore.add_field`."""
        raise NotImplementedError

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        """See `VectorStore.entities`."""
        return {}

    def delete_older(
        self,
        collection: str,
        table: str,
        version: Version,
        shards: Collection[int] | None = None,
    ) -> None:
        """See `VectorStore.delete_older`."""

    def ensure(self, spec: CollectionSpec) -> bool:
        """See `VectorStore.ensure`."""
        return True

    def identity(self, collection: str) -> str:
        """See `VectorStore.identity`."""
        return ""

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        """See `VectorStore.stored`."""
        return {}

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        """See `VectorStore.vectors`."""
        return {}

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        """See `VectorStore.upsert`."""
        self._timing.ids.update([entity.id for entity in entities])

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """See `VectorStore.delete`."""

    def count(self, collection: str) -> int:
        """See `VectorStore.count`."""
        return 0

    def close(self) -> None:
        """See `VectorStore.close`."""


class NoLetters:
    """A dead-letter sink that counts."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetterSink.send`."""
        self._timing.dead += len(letters)


class Receipts(DynamicSink[Receipt]):
    """A sink that counts the written rows, and notes the time."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_ReceiptsPartition":
        """See `DynamicSink.build`."""
        return _ReceiptsPartition(self._timing)


class _ReceiptsPartition(StatelessSinkPartition[Receipt]):
    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def write_batch(self, items: list[Receipt]) -> None:
        self._timing.winners += sum(receipt.rows for receipt in items)
        self._timing.ended = clocks()


class Winners(DynamicSink[tuple[str, Window]]):
    """A sink that counts the rows, deletes and dead letters of the windows of `dedup`."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_WinnersPartition":
        """See `DynamicSink.build`."""
        return _WinnersPartition(self._timing)


class _WinnersPartition(StatelessSinkPartition[tuple[str, Window]]):
    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def write_batch(self, items: list[tuple[str, Window]]) -> None:
        timing = self._timing
        for _, window in items:
            timing.winners += len(window.rows) + len(window.deletes)
            timing.dead += len(window.dead)
            timing.ids.update(window.rows)
        timing.ended = clocks()
