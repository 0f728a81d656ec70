"""One process of the flow without Bytewax: the real Logic classes, driven step by step.

It does what Bytewax promises and nothing more: items in order, one epoch uncommitted at the most,
snapshots of what was touched, all of them committed together, and after a crash everything but the
committed snapshots and the store is gone.
"""

import pickle
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from flows.sync import rules_of
from operators.carrying import Completer
from operators.dedup import DedupLogic
from operators.embed import EmbedStep
from operators.requests import Requests
from operators.resolve import Resolver
from operators.retry import RetryPolicy
from operators.route import Router
from operators.settling import DedupContext
from operators.shards import Window
from operators.source import PartitionLogic, SourceSettings
from operators.store import CollectionSpec, entity_id
from operators.telemetry import Telemetry
from operators.texts import Texts
from operators.windows import WindowClock
from operators.writer import Writer
from tests.changes import TOPIC, LetterBox, Log, contract
from tests.fakes import HashEmbedder, MemoryStore


@dataclass
class Process:
    """What a crash takes away."""

    partitions: dict[str, PartitionLogic]
    shards: dict[str, DedupLogic] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    waiting: list[tuple[str, Window]] = field(default_factory=list)


class Simulation:
    """A flow over one topic, with its log, its store, and its committed recovery state."""

    def __init__(
        self, logs: list[Log], *, batch_size: int = 3, cap: int = 1_000, horizon_s: float = 3600
    ) -> None:
        self.logs = logs
        self.store = MemoryStore()
        self.letters = LetterBox()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.committed: dict[str, Any] = {}
        self._contract = contract()
        self._tables = {TOPIC: self._contract.tables[0]}
        self._rules = rules_of(self._contract)
        self._cap = cap
        self._batch_size = batch_size
        self._horizon_s = horizon_s
        self._embedder = HashEmbedder()
        self.process = self._start()

    def _start(self) -> Process:
        telemetry = Telemetry()
        retry = RetryPolicy(0.0, telemetry)
        whole = self.store.ensure(
            CollectionSpec(
                "docs",
                {
                    f: self._tables[TOPIC].columns[c]
                    for c, f in self._tables[TOPIC].fields().items()
                },
                8,
                "COSINE",
                self._embedder.model,
            )
        )
        settings = SourceSettings(
            batch_size=self._batch_size,
            max_epoch_records=self._cap,
            max_epoch_bytes=1 << 20,
            epoch_interval_s=1.0,
            exit_at_end=False,
            stop=lambda: False,
            now=lambda: self.now.timestamp(),
            telemetry=telemetry,
        )
        self._shared = DedupContext(
            rules=self._rules,
            clock=WindowClock(0.2, 1_000, lambda: self.now),
            telemetry=telemetry,
            horizon_s=self._horizon_s,
            whole=whole,
            partitions=frozenset((TOPIC, number) for number in range(len(self.logs))),
        )
        self._router = Router({TOPIC: self._rules[TOPIC].decoder})
        self._resolver = Resolver(self._tables, self.store, retry, telemetry)
        texts = Texts(self._embedder, telemetry, {"docs": None}, 0)
        self._embed = EmbedStep(self._embedder, texts, telemetry)
        self._writer = Writer(
            self._rules,
            Requests(self.store, retry, telemetry, batch_rows=2),
            Completer(self._rules, self._shared.moves, retry),
            texts,
            self._embedder.model,
            self.letters,
            telemetry,
        )
        process = Process(
            {
                f"p{number}": PartitionLogic(
                    TOPIC, number, log.reader, settings, self._loaded(f"p{number}")
                )
                for number, log in enumerate(self.logs)
            }
        )
        for name in self.committed:
            if name.startswith("s"):
                process.shards[name[1:]] = DedupLogic(self._shared, self._loaded(name))
        return process

    def _loaded(self, name: str) -> Any:
        return pickle.loads(self.committed[name]) if name in self.committed else None

    def append(self, number: int, count: int) -> None:
        """Let the database write: `count` more records of a partition are there."""
        log = self.logs[number]
        log.written = min(len(log.records), log.end() + count)

    def poll(self, number: int) -> bool:
        """Let one partition emit, up to `dedup`. Returns whether it did."""
        process = self.process
        batches = process.partitions[f"p{number}"].next_batch()
        for shard, records in self._router(batches):
            if shard not in process.shards:
                process.shards[shard] = DedupLogic(self._shared, None)
            process.touched.add(shard)
            windows, _ = process.shards[shard].on_batch([records])
            process.waiting += [(shard, window) for window in windows]
        return bool(batches)

    def tick(self, seconds: float = 0.2) -> None:
        """Let time pass, and the windows that are due close."""
        self.now += timedelta(seconds=seconds)
        process = self.process
        for shard, logic in process.shards.items():
            due = logic.notify_at()
            if due is not None and due <= self.now:
                process.touched.add(shard)
                windows, _ = logic.on_notify()
                process.waiting += [(shard, window) for window in windows]

    def write(self, count: int | None = None) -> None:
        """Bring up to `count` closed windows to the store, one after another."""
        process = self.process
        take = len(process.waiting) if count is None else count
        items, process.waiting = process.waiting[:take], process.waiting[take:]
        for _, window in self._embed(self._resolver(items)):
            self._writer.write([window])

    def commit(self) -> None:
        """End the epoch: the barrier, the snapshots, the commit."""
        process = self.process
        snapshots = {n: pickle.dumps(p.snapshot()) for n, p in process.partitions.items()}
        snapshots |= {
            f"s{shard}": pickle.dumps(process.shards[shard].snapshot())
            for shard in sorted(process.touched)
        }
        # `dedup` snapshots when its input is through, before the steps after it have run.
        self.write()
        process.touched.clear()
        self.committed |= snapshots

    def crash(self) -> None:
        """Lose the process, start the next one from what is committed."""
        self.process = self._start()

    def drain(self) -> None:
        """Go on until nothing is left to do."""
        for log in self.logs:
            log.written = None
        while not all(self._read_to_the_end(number) for number in range(len(self.logs))):
            for number in range(len(self.logs)):
                self.poll(number)
            self.tick()
            self.commit()  # it also makes room: the epoch may be full
        self.tick()
        self.commit()

    def _read_to_the_end(self, number: int) -> bool:
        partition, end = self.process.partitions[f"p{number}"], self.logs[number].end()
        return partition._gathered is None and (end == 0 or partition._next == end)

    def visible(self) -> dict[str, str]:
        """Entity id → stored text."""
        return {row["id"]: row["text"] for row in self.store.scan("docs", ["text"])}

    def foreign_vectors(self) -> list[str]:
        """Entities whose vector is not that of the text beside it."""
        texts = self.visible()
        stored = self.store.vectors("docs", list(texts))
        return [
            id_
            for id_, (_, vector) in stored.items()
            if not np.array_equal(vector, self._embedder.embed([texts[id_]])[0])
        ]


def id_of(row: int) -> str:
    """Entity id of a row of the first table."""
    return entity_id(f"docs:{row}")  # type: ignore[arg-type]
