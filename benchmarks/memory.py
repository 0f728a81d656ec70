"""The flow of Rowvec over a list of records, with a model and a store that do nothing."""

import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

from benchmarks.envelopes import Change, topic_of
from benchmarks.measuring import Rate, clocks
from flows.sync import Parts, build_flow
from operators.contract import Contract
from operators.events import DeadLetter, Version
from operators.retry import RetryPolicy
from operators.source import BEGINNING, LogReader, PartitionedSource, Record, SourceSettings
from operators.store import CollectionSpec, Entity, Stored, Vector
from operators.table import ColumnSpec
from operators.telemetry import Telemetry
from operators.writer import Receipt

TABLE = "docs"
TOPIC = topic_of(TABLE)
_DIM = 384


def idle_contract(bootstrap_servers: str = "127.0.0.1:1") -> Contract:
    """One table, every setting at its default."""
    return Contract.model_validate(
        {
            "kafka": {"bootstrap_servers": bootstrap_servers},
            "milvus": {"uri": "nowhere"},
            "embedding": {"model": "none"},
            "tables": [
                {
                    "topic": TOPIC,
                    "collection": TABLE,
                    "key": ["id"],
                    "text": "{name}\n{doc}",
                    "columns": {"kind": "varchar", "size": "int64"},
                }
            ],
        }
    )


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

    def close(self) -> None:
        """See `LogReader.close`."""


@dataclass(slots=True)
class Timing:
    """When the measured part began and ended, and what came out.

    It begins with the first read after the checkpoint that ends the warm-up, and ends with the last
    thing that reaches the sink.
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
        """The source asks for records."""
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
        """Records per second once warm."""
        assert self.began is not None, "the warm-up took all records"
        return Rate.of(self.records - self.before, self.began, self.ended)

    def check(self, records: int, rows: int) -> None:
        """Refuse a figure for work that was not done."""
        assert self.records == records, f"read {self.records} records of {records}"
        assert len(self.ids) == rows, f"wrote {len(self.ids)} rows of {rows}"
        assert not self.dead, f"{self.dead} dead letters"


def run_worker(flow: Dataflow, epoch_s: float, partitions: int) -> None:
    """Run a dataflow to its end: one worker, recovery on, in a directory that is new."""
    with tempfile.TemporaryDirectory() as folder:
        init_db_dir(Path(folder), partitions)  # type: ignore[no-untyped-call]
        recovery = RecoveryConfig(folder, timedelta(0))  # type: ignore[no-untyped-call]
        interval = timedelta(seconds=epoch_s)
        cluster_main(flow, [], 0, epoch_interval=interval, recovery_config=recovery)  # type: ignore[no-untyped-call]


def run_path(
    contract: Contract,
    open_reader: Callable[[int], LogReader],
    warm_up: int,
    epoch_s: float,
) -> Timing:
    """Run the flow to the end of the log."""
    timing = Timing(warm_up)
    telemetry = Telemetry()
    source = PartitionedSource(
        [(TOPIC, 0)],
        lambda topic, partition, offset: _Timed(open_reader(offset), timing),
        SourceSettings(
            batch_size=contract.kafka.source_batch_size,
            max_epoch_records=contract.flow.max_epoch_records,
            max_epoch_bytes=contract.flow.max_epoch_bytes,
            epoch_interval_s=epoch_s,
            exit_at_end=True,
            stop=lambda: False,
            now=time.monotonic,
            telemetry=telemetry,
            on_epoch=timing.on_epoch,
        ),
    )
    flow = build_flow(
        Parts(
            contract=contract,
            source=source,
            embedder=_NoEmbedder(),
            store=_NoStore(timing),
            dead_letters=_NoLetters(timing),
            receipts=_Receipts(timing),
            retry=RetryPolicy(1.0, telemetry),
            telemetry=telemetry,
            whole=True,
        )
    )
    timing.started = time.perf_counter()
    try:
        run_worker(flow.dataflow, epoch_s, contract.recovery.partitions)
    finally:
        flow.lanes.close()
    return timing


class _Timed:
    """A reader that counts, and notes when the warm-up is over."""

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

    def close(self) -> None:
        self._reader.close()


class _NoEmbedder:
    """Zeros, all in one piece."""

    model = "none@0"
    dim = _DIM
    tokens_total = 0
    padded_tokens_total = 0

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.zeros((len(texts), _DIM), np.float32)

    def chunks(self, text: str, max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        return [(0, len(text))]


class _NoStore:
    """Takes everything and keeps but the ids, to be able to tell that all came."""

    max_writers = None
    can_add_fields = False

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def fields(self, collection: str) -> dict[str, ColumnSpec]:
        return {}

    def add_field(self, collection: str, name: str, spec: ColumnSpec) -> None:
        raise NotImplementedError

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        return {}

    def delete_older(
        self,
        collection: str,
        table: str,
        version: Version,
        shards: Collection[int] | None = None,
    ) -> None:
        pass

    def ensure(self, spec: CollectionSpec) -> bool:
        return True

    def identity(self, collection: str) -> str:
        return ""

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        return {}

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        return {}

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        self._timing.ids.update([entity.id for entity in entities])

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        pass

    def count(self, collection: str) -> int:
        return 0

    def close(self) -> None:
        pass


class _NoLetters:
    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def send(self, letters: Sequence[DeadLetter]) -> None:
        self._timing.dead += len(letters)


class _Receipts(DynamicSink[Receipt]):
    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_ReceiptsPartition":
        return _ReceiptsPartition(self._timing)


class _ReceiptsPartition(StatelessSinkPartition[Receipt]):
    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def write_batch(self, items: list[Receipt]) -> None:
        self._timing.winners += sum(receipt.rows for receipt in items)
        self._timing.ended = clocks()
