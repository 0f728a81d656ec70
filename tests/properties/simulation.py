"""One process of the flow without Bytewax: the real Logic classes, driven step by step.

It does what Bytewax promises and nothing more: items in order, one epoch uncommitted at the most,
snapshots of what was touched, all of them committed together, and after a crash everything but the
committed snapshots and the store is gone.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from flows.sync import collection_specs, rules_of
from operators.contract.sections import Contract
from operators.contract.table import TableSection
from operators.errors import FatalError
from operators.model.text_vectors import Texts
from operators.retry import RetryPolicy
from operators.stages.dedup import DedupLogic
from operators.stages.embed import EmbedStep
from operators.stages.lane_writer import Writer
from operators.stages.look_up import Resolver
from operators.stages.route import Router
from operators.stages.settle import DedupContext
from operators.stages.source import PartitionLogic, SourceSettings
from operators.stages.window import Window
from operators.stages.window_clock import WindowClock
from operators.store.protocol import entity_id
from operators.store.row_requests import Requests
from operators.telemetry import Telemetry
from operators.toast.completer import Completer
from tests.changes import TOPIC, LetterBox, Log, contract, table
from tests.fakes import HashEmbedder, MemoryStore

PATIENCE = 400
"""Windows after which a flow that has read everything must have nothing left to do."""


@dataclass
class Process:
    """What a crash takes away.

    Attributes:
        waiting: Closed windows on their way to the store, by shard, in order.
        later: What a lane could not write yet.
    """

    partitions: dict[str, PartitionLogic]
    shards: dict[str, DedupLogic] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    waiting: list[tuple[str, Window]] = field(default_factory=list)
    later: dict[int, tuple[Window, ...]] = field(default_factory=dict)


class Simulation:
    """A flow over one topic, with its log, its store, and its committed recovery state.

    Args:
        logs: One for each partition.
        section: The topic's table, if it is another than that of `tests.changes`.
        store: Where the rows go.
        lanes: A shard's windows are written in order; those of other lanes may overtake them.
    """

    def __init__(
        self,
        logs: list[Log],
        *,
        batch_size: int = 3,
        cap: int = 1_000,
        horizon_s: float = 3600,
        section: TableSection | None = None,
        store: MemoryStore | None = None,
        lanes: int = 1,
    ) -> None:
        self.logs = logs
        self.store = store or MemoryStore()
        self.letters = LetterBox()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.committed: dict[str, Any] = {}
        self.embedder = HashEmbedder()
        self._section = section or table()
        self._contract: Contract = contract().model_copy(update={"tables": (self._section,)})
        self._rules = rules_of(self._contract)
        self._cap = cap
        self._batch_size = batch_size
        self._horizon_s = horizon_s
        self._lanes = lanes
        self.process = self._start()

    def _start(self) -> Process:
        telemetry = Telemetry()
        retry = RetryPolicy(0.0, telemetry)
        (spec,) = collection_specs(self._contract, self.embedder)
        whole = self.store.ensure(spec)
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
        self.shared = DedupContext(
            rules=self._rules,
            clock=WindowClock(0.2, 1_000, lambda: self.now),
            telemetry=telemetry,
            horizon_s=self._horizon_s,
            whole=whole,
            partitions=frozenset((TOPIC, number) for number in range(len(self.logs))),
        )
        self._router = Router({TOPIC: self._rules[TOPIC].decoder})
        self._resolver = Resolver({TOPIC: self._section}, self.store, retry, telemetry)
        texts = Texts(self.embedder, telemetry, {"docs": self._section.chunks}, 0)
        self._embed = EmbedStep(self.embedder, texts, telemetry)
        self._writer = Writer(
            self._rules,
            Requests(self.store, retry, telemetry, batch_rows=2),
            Completer(self._rules, self.shared.moves, retry),
            texts,
            self.embedder.model,
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
                process.shards[name[1:]] = DedupLogic(self.shared, self._loaded(name))
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
                process.shards[shard] = DedupLogic(self.shared, None)
            process.touched.add(shard)
            windows, _ = process.shards[shard].on_batch([records])
            process.waiting += [(shard, window) for window in windows]
        return bool(batches)

    def tick(self, seconds: float = 0.2) -> None:
        """Let time pass, and the windows that are due close."""
        self.now += timedelta(seconds=seconds)
        self._each_shard(
            lambda logic: (
                logic.on_notify()[0]
                if (due := logic.notify_at()) is not None and due <= self.now
                else None
            )
        )

    def _each_shard(self, call: Callable[[DedupLogic], Any]) -> None:
        """In the order in which Bytewax calls them."""
        process = self.process
        for shard, logic in sorted(process.shards.items()):
            windows = call(logic)
            if windows is not None:
                process.touched.add(shard)
                process.waiting += [(shard, window) for window in windows]

    def write(self, count: int | None = None, *, lane: int | None = None) -> None:
        """Bring up to `count` closed windows to the store; one lane's are written together.

        Raises:
            FatalError: The store failed; the process must crash.
        """
        process = self.process
        mine = [each for each in process.waiting if lane is None or self._lane(each[0]) == lane]
        items = mine[:count]
        taken = {id(window) for _, window in items}
        process.waiting = [each for each in process.waiting if id(each[1]) not in taken]
        windows = [window for _, window in self._embed(self._resolver(items))]
        if lane is not None:
            self._apply(lane, windows)
            return
        # The windows of a TRUNCATE are many; those with nothing else in them may as well pile up.
        piles: dict[int, list[Window]] = {}
        for window in windows:
            lane = self._lane(window.shard)
            pile = piles.setdefault(lane, [])
            pile.append(window)
            if window.rows or window.deletes or window.moves:
                self._apply(lane, piles.pop(lane))
        for lane, pile in piles.items():
            self._apply(lane, pile)

    def _apply(self, lane: int, windows: list[Window]) -> None:
        later = self.process.later
        receipt = self._writer.write([*later.pop(lane, ()), *windows])
        if receipt.later:
            later[lane] = receipt.later

    def _lane(self, shard: str) -> int:
        return int(shard) % self._lanes

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
        for _ in range(self._lanes):
            for lane in list(process.later):
                self._apply(lane, [])
        assert not process.later, "a lane waits for what nobody will tell it"
        process.touched.clear()
        self.committed |= snapshots

    def stop(self) -> None:
        """A clean stop and another start."""
        self._each_shard(lambda logic: logic.on_eof()[0])
        self.process.touched |= self.process.shards.keys()
        self.commit()
        self.crash()

    def crash(self) -> None:
        """Lose the process, start the next one from what is committed."""
        self.process = self._start()

    def crash_while_writing(self, operation: str, *, applied: bool) -> None:
        """Let the next request of a kind fail, and the process with it."""
        self.store.fail_next(FatalError(subject="power", cause="cut"), operation, applied=applied)
        try:
            self.write(lane=0)
        except FatalError:
            self.crash()
        self.store._failures.clear()

    def read_all(self) -> None:
        """Let every partition be read to its end, and commit."""
        for log in self.logs:
            log.written = None
        while not all(self._read_to_the_end(number) for number in range(len(self.logs))):
            for number in range(len(self.logs)):
                self.poll(number)
            self.tick()
            self.commit()  # it also makes room: the epoch may be full

    def drain(self) -> None:
        """Go on until nothing is left to do."""
        self.read_all()
        for _ in range(PATIENCE):
            self.tick()
            self.commit()
            if all(logic.notify_at() is None for logic in self.process.shards.values()):
                return
        raise AssertionError("a window never closes")

    def _read_to_the_end(self, number: int) -> bool:
        partition, end = self.process.partitions[f"p{number}"], self.logs[number].end()
        return partition._gathered is None and (end == 0 or partition._next == end)

    def left_behind(self) -> list[str]:
        """What is kept though nothing waits for it any more."""
        names = ["clock"] * (self.shared.clock.waiting_rows != 0)
        names += ["moves"] * len(self.shared.moves._coming)
        for shard, logic in self.process.shards.items():
            settler = logic._settler
            kept = (logic._pending.rows, logic._pending.truncates, logic._waiting)
            if any((*kept, settler.superseded, settler.moves, settler.dead)):
                names.append(shard)
        return names

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
            if not np.array_equal(vector, self.embedder.embed([texts[id_]])[0])
        ]


def id_of(row: int, chunk: int = 0) -> str:
    """Entity id of a row of the first table."""
    return entity_id(f"docs:{row}", chunk)  # type: ignore[arg-type]
