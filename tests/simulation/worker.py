"""One process of a flow: the real stages, and the queues that Bytewax keeps between them."""

import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from operators.model.text_vectors import Texts
from operators.ownership.ledger import Ledger
from operators.stages.dedup import DedupLogic
from operators.stages.embed import EmbedStep
from operators.stages.lane_writer import Writer
from operators.stages.look_up import LookUp
from operators.stages.settle import DedupContext
from operators.stages.window import ShardRecords, Window
from operators.stages.window_clock import WindowClock
from operators.state import dedup_checkpoint
from operators.state.dedup_checkpoint import DedupState
from operators.store.row_requests import Requests
from operators.telemetry import Telemetry
from operators.toast.completer import Completer, Database
from tests.changes import TOPIC
from tests.simulation.clock import Clock
from tests.simulation.queues import Item, Lane, Model
from tests.simulation.store import FaultyStore, Letters, PowerCut, PunctualEmbedder, VirtualRetry
from tests.simulation.tables import Table


class Knobs(NamedTuple):
    """Settings that may differ at every start."""

    workers: int
    batch_size: int
    epoch_records: int
    epoch_bytes: int
    window_s: float
    window_rows: int
    lanes: int
    batch_rows: int
    retry_s: float
    cache_texts: int


ALL = 999_999
"""A count for all items that there are."""


@lru_cache(maxsize=1)
def telemetry() -> Telemetry:
    """Telemetry that records nothing."""
    return Telemetry()


@contextmanager
def acting(worker: "Worker", lane: Lane | None = None) -> Iterator[None]:
    """Mark a thread as busy during a request: the lane's if given, else the worker's."""
    actor: Worker | Lane = worker if lane is None else lane
    actor.busy = True
    try:
        yield
    except PowerCut as error:
        if error.victim is None:
            error.victim = worker.number
        raise
    finally:
        actor.busy = False


@dataclass(eq=False)
class Worker:
    """One process, and all state that is lost with it.

    Attributes:
        arrived: By number of the sending worker: its items that wait here, in order.
        closed: Windows that wait for `resolve`; `resolved` for `embed`, `embedded` for a lane.
        epoch: Epoch of the records it receives: the flow's, or after its snapshot the next.
        busy: Whether its thread is in a request.
        dead: Whether it was killed and the others have not noticed yet.
    """

    number: int
    epoch: int
    clock: Clock
    ledger: Ledger
    shared: DedupContext
    resolver: LookUp
    embed_step: EmbedStep
    model: Model
    writer: Writer
    lanes: list[Lane]
    shards: dict[str, DedupLogic] = field(default_factory=dict)
    touched: dict[str, None] = field(default_factory=dict)
    arrived: list[deque[tuple[str, ShardRecords]]] = field(default_factory=list)
    closed: list[Item] = field(default_factory=list)
    resolved: list[Item] = field(default_factory=list)
    embedded: list[Item] = field(default_factory=list)
    busy: bool = False
    dead: bool = False

    def lane_of(self, shard: str) -> Lane:
        """The lane of a shard; always the same one."""
        return self.lanes[int(shard) % len(self.lanes)]

    def restore(self, shard: str, state: DedupState) -> None:
        """Restore a shard from a checkpoint."""
        with acting(self):
            self.shards[shard] = DedupLogic(self.shared, state)

    # ------------------------------------------------------------------ the steps

    def deliver(self, sender: int, count: int = ALL) -> None:
        """Let `dedup` receive items of a worker."""
        queue = self.arrived[sender]
        taken = [queue.popleft() for _ in range(min(count, len(queue)))]
        by_shard: dict[str, list[ShardRecords]] = {}
        for shard, records in taken:
            by_shard.setdefault(shard, []).append(records)
        with acting(self):
            for shard in sorted(by_shard):
                logic = self.shards.get(shard)
                if logic is None:
                    logic = self.shards[shard] = DedupLogic(self.shared, None)
                self._touch(shard, logic.on_batch(by_shard[shard])[0])

    def due(self) -> list[str]:
        """The shards whose windows are due."""
        now = self.clock.now()
        return [
            shard
            for shard, logic in sorted(self.shards.items())
            if (due := logic.notify_at()) is not None and due <= now
        ]

    def notify(self, *, everywhere: bool = False) -> None:
        """Close due windows, in all shards or sometimes only in the first."""
        everywhere = everywhere or self.clock.rng.random() < 0.7
        due = self.due()
        with acting(self):
            for shard in due if everywhere else due[:1]:
                self._touch(shard, self.shards[shard].on_notify()[0])

    def _touch(self, shard: str, windows: Sequence[Window]) -> None:
        self.touched[shard] = None
        self.closed += [Item(self.epoch, shard, window) for window in windows]

    def resolve(self, count: int = ALL) -> None:
        """Run `resolve` on closed windows."""
        items, self.closed = self.closed[:count], self.closed[count:]
        with acting(self):
            # Lanes may take steps meanwhile.
            self.resolver([(item.shard, item.window) for item in items])
        self.resolved += items

    def embed(self, count: int = ALL) -> None:
        """Run `embed` on resolved windows."""
        items, self.resolved = self.resolved[:count], self.resolved[count:]
        with acting(self):
            for item in items:
                parts = self.embed_step([(item.shard, item.window)])
                self.embedded += [Item(item.epoch, shard, window) for shard, window in parts]

    def calculate(self) -> None:
        """Let the model embed all queued texts."""
        calls, self.model.calls = self.model.calls, []
        try:
            for call in calls:
                call()
        except PowerCut as error:
            error.victim = self.number if error.victim is None else error.victim
            raise

    def submit(self, count: int = ALL) -> None:
        """Queue windows for their lanes.

        Raises:
            Exception: The error that ended a lane.
        """
        items, self.embedded = self.embedded[:count], self.embedded[count:]
        for item in items:
            lane = self.lane_of(item.shard)
            if lane.error is not None:
                raise lane.error
            lane.queue.append(item)

    def notice(self) -> None:
        """Notice that a lane has ended.

        Raises:
            Exception: The error that ended it.
        """
        for lane in self.lanes:
            if lane.error is not None:
                raise lane.error

    def write(self, lane: Lane, count: int = ALL) -> bool:
        """Let a lane write its next windows; returns whether it succeeded."""
        windows = [*lane.later, *(item.window for item in lane.take(count))]
        with acting(self, lane):
            try:
                receipt = self.writer.write(windows)
            except Exception as error:
                lane.error = error
                return False
        lane.later = receipt.later
        return True

    def snapshot(self, *, ending: bool) -> dict[str, bytes]:
        """End the epoch; returns the pickled states of its touched shards, by name."""
        with acting(self):
            if ending:
                for shard, logic in sorted(self.shards.items()):
                    self._touch(shard, logic.on_eof()[0])
            states = {
                f"s{shard}": pickle.dumps(self.shards[shard].snapshot())
                for shard in sorted(self.touched)
            }
        self.touched.clear()
        self.epoch += 1
        return states

    # ------------------------------------------------------------------ what is left

    def under_way(self) -> bool:
        """Whether any window is between `dedup` and the store."""
        lanes = any(lane.queue or lane.later or lane.busy for lane in self.lanes)
        return bool(self.closed or self.resolved or self.embedded) or lanes

    def has_written(self, epoch: int) -> bool:
        """Whether all windows of an epoch are in the store."""
        items = (*self.closed, *self.resolved, *self.embedded)
        if any(item.epoch <= epoch for item in items):
            return False
        return not any(
            lane.busy
            or lane.later
            or lane.error is not None
            or any(item.epoch <= epoch for item in lane.queue)
            for lane in self.lanes
        )

    def left_behind(self) -> list[str]:
        """State that it keeps although nothing needs it any more."""
        names = ["clock"] * (self.shared.clock.waiting_rows != 0)
        names += ["moves"] * len(self.shared.moves._coming)
        for shard, logic in self.shards.items():
            # Pending rows, their fallbacks, TRUNCATEs and dead letters are in the checkpoint.
            kept = dedup_checkpoint.read(logic.snapshot())
            pending = (kept["pending"], kept["truncates"], kept["dead_letters"])
            if any((*pending, logic._waiting, logic._settler.moves)):
                names.append(shard)
        return names


def worker_of(
    number: int,
    table: Table,
    store: FaultyStore,
    ledger: Ledger,
    letters: Letters,
    clock: Clock,
    retry: VirtualRetry,
    knobs: Knobs,
    *,
    epoch: int,
    partitions: int,
    horizon_s: float,
    whole: bool,
    database: Database | None = None,
) -> Worker:
    """A new process with its stages, before it has read any state."""
    embedder = PunctualEmbedder()
    shared = DedupContext(
        rules=table.rules,
        clock=WindowClock(knobs.window_s, knobs.window_rows, clock.now),
        telemetry=telemetry(),
        horizon_s=horizon_s,
        whole=whole,
        partitions=frozenset((TOPIC, each) for each in range(partitions)),
        distrust=ledger.start.distrusts,
    )
    texts = Texts(
        embedder, telemetry(), {table.section.name: table.section.chunks}, knobs.cache_texts
    )
    writer = Writer(
        table.rules,
        Requests(store, retry, telemetry(), batch_rows=knobs.batch_rows),
        Completer(table.rules, shared.moves, retry, database),
        texts,
        embedder.model,
        letters,
        telemetry(),
        now=clock.seconds,
    )
    model = Model()
    return Worker(
        number,
        epoch,
        clock,
        ledger,
        shared,
        LookUp({TOPIC: table.section}, store, retry, telemetry(), shared.places),
        EmbedStep(embedder, texts, telemetry(), model),
        model,
        writer,
        [Lane() for _ in range(knobs.lanes)],
        arrived=[deque() for _ in range(knobs.workers)],
    )
