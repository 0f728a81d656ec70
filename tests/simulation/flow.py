"""The processes of one flow without Bytewax: the real Logic classes, driven step by step.

It does what Bytewax promises and nothing more. Items between two workers stay in order; of a step, any
part may be done before another step goes on; one epoch at the most is uncommitted, because a source
emits only when the one before is committed; the snapshots of all that an epoch touched are committed
together, once every lane has written what the epoch sent it; and of a process that dies, nothing is
left but what is committed and what the store has.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

from flows.sync import collection_specs, rules_of
from operators.contract.sections import Contract
from operators.errors import FatalError, RetriableError
from operators.model.text_vectors import Texts
from operators.ownership.accept import Accept
from operators.ownership.entries import Entry, Holder
from operators.ownership.ledger import Ledger
from operators.rendering.renderer import Rules
from operators.stages import source
from operators.stages.dedup import DedupLogic
from operators.stages.embed import EmbedStep
from operators.stages.lane_writer import Writer
from operators.stages.look_up import Resolver
from operators.stages.route import Router
from operators.stages.settle import DedupContext
from operators.stages.source import PartitionLogic, SourceSettings
from operators.stages.window import ShardRecords, Window
from operators.stages.window_clock import WindowClock
from operators.state import dedup_checkpoint, source_checkpoint
from operators.store.row_requests import Requests
from operators.telemetry import Telemetry
from operators.toast.completer import Completer
from tests.changes import TOPIC, contract, table
from tests.simulation.clock import Clock
from tests.simulation.history import Topic
from tests.simulation.oracle import CHUNK, OVERLAP
from tests.simulation.store import (
    FaultyLedger,
    FaultyStore,
    Letters,
    PowerCut,
    PunctualEmbedder,
    Surroundings,
    VirtualRetry,
)


class Knobs(NamedTuple):
    """What may be another at every start."""

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


Step: TypeAlias = tuple[int, str, Callable[[], object]]
"""What can be done: (weight, name, how)."""


@lru_cache(maxsize=2)
def contract_of(chunks: bool) -> tuple[Contract, dict[str, Rules]]:
    """The contract, and how its messages are read; both are never changed."""
    cut = {"max_tokens": CHUNK, "overlap_tokens": OVERLAP} if chunks else None
    made = contract().model_copy(update={"tables": (table(chunks=cut),)})
    return made, rules_of(made)


@lru_cache(maxsize=1)
def telemetry() -> Telemetry:
    """Instruments of nothing."""
    return Telemetry()


class Item(NamedTuple):
    """A window on its way, with the epoch that it belongs to."""

    epoch: int
    shard: str
    window: Window


@dataclass(eq=False)
class Lane:
    """What one thread has before it.

    Attributes:
        later: What waits for another lane to tell.
        busy: It is in a request.
        error: What ended it; its worker finds out later.
    """

    queue: deque[Item] = field(default_factory=deque)
    later: tuple[Window, ...] = ()
    busy: bool = False
    error: BaseException | None = None


class Model(Executor):
    """The model's thread: what it is given is done when its turn comes."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Keep a call."""
        self.calls.append(partial(fn, *args, **kwargs))
        return Future()


@dataclass(eq=False)
class Worker:
    """One process, and all that is gone with it.

    Attributes:
        arrived: What the worker of each number has sent here, in order.
        closed: Windows that wait for `resolve`; `resolved` for `embed`, `embedded` for a lane.
        busy: Its thread is in a request.
        snapshotted: It has no more to do with the epoch but to wait for its lanes.
        dead: It was killed, and the others have not noticed yet.
    """

    number: int
    ledger: Ledger
    shared: DedupContext
    resolver: Resolver
    embed: EmbedStep
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
    snapshotted: bool = False
    dead: bool = False

    def lane_of(self, shard: str) -> Lane:
        """The lane of a shard, always the same one."""
        return self.lanes[int(shard) % len(self.lanes)]

    def under_way(self) -> bool:
        """Whether anything lies between `dedup` and the store."""
        lanes = any(lane.queue or lane.later or lane.busy for lane in self.lanes)
        return bool(self.closed or self.resolved or self.embedded) or lanes


class Flow:
    """The flow of one topic: its committed state, and its processes while they live.

    Attributes:
        committed: Names of partitions and shards → pickled states.
        older: What was committed before that, the oldest first.
        epoch: The one that runs.
        emitted: Next offset of each partition, as far as any process ever got.
        untold: Partitions whose process has emitted nothing since state was accepted that is not right.
        actors: Who is doing something, the innermost last.
    """

    def __init__(
        self,
        topic: Topic,
        store: FaultyStore,
        letters: Letters,
        around: Surroundings,
        clock: Clock,
        *,
        chunks: bool,
        horizon_s: float,
        relevant: frozenset[str],
        ledger: FaultyLedger,
    ) -> None:
        self.topic = topic
        self.store = store
        self._ledger = ledger
        self.committed: dict[str, bytes] = {}
        self.older: list[dict[str, bytes]] = []
        self.epoch = 0
        self.stopping = False
        self.ended = False
        self.workers: list[Worker] = []
        self.partitions: list[PartitionLogic] = []
        self.closed: dict[int, bytes] = {}
        self.emitted = [0] * topic.partitions
        self.actors: list[tuple[Worker, Lane | None]] = []
        self.pending_at_start = 0
        self.untold: set[int] = set()
        self._starts = 0
        self._letters = letters
        self._around = around
        self._clock = clock
        self._chunks = chunks
        self._horizon_s = horizon_s
        self._relevant = relevant
        self._snapshots: dict[str, bytes] = {}
        self._owner: list[int] = []

    # ------------------------------------------------------------------ start and end

    def start(self, knobs: Knobs, accepted: frozenset[Accept] = frozenset()) -> None:
        """Start all processes from what is committed.

        Args:
            knobs: Of this start.
            accepted: What the user goes on without.

        Raises:
            FatalError: The state does not belong to what the collection has seen.
            PowerCut: One of them is gone again already.
        """
        self.kill()
        self._starts += 1
        made, _ = contract_of(self._chunks)
        (spec,) = collection_specs(made, PunctualEmbedder())
        whole = self.store.ensure(spec)
        retry = VirtualRetry(knobs.retry_s, telemetry(), around=self._around)
        ledgers = [
            Ledger(self._ledger, retry, made.tables, number, accepted)
            for number in range(knobs.workers)
        ]
        self._check(ledgers)
        for number, ledger in enumerate(ledgers):
            self.workers.append(self._worker(number, ledger, knobs, retry, whole=whole))
        self._owner = [number % knobs.workers for number in range(self.topic.partitions)]
        self._restore(knobs)

    def _check(self, ledgers: Sequence[Ledger]) -> None:
        """What every process does with the ledger at its start; they do not wait for one another."""
        identity = {name: self.store.identity(name) for name in ledgers[0].entries.collections}
        together = self._clock.rng.random() < 0.5
        for step in (1, 2) if together else (3,):
            for ledger in ledgers:
                if step & 1:
                    ledger.entries.adopt(ledger.entries.read())
                    ledger.entries.write(self._held)
                if step & 2:
                    ledger.start.check(identity)

    def _held(self, _collection: str, entry: Entry) -> Entry:
        return replace(entry, holder=Holder(id=f"start {self._starts}"))

    def _worker(
        self, number: int, ledger: Ledger, knobs: Knobs, retry: VirtualRetry, *, whole: bool
    ) -> Worker:
        made, rules = contract_of(self._chunks)
        embedder = PunctualEmbedder()
        shared = DedupContext(
            rules=rules,
            clock=WindowClock(knobs.window_s, knobs.window_rows, self._clock.now),
            telemetry=telemetry(),
            horizon_s=self._horizon_s,
            whole=whole,
            partitions=frozenset((TOPIC, each) for each in range(self.topic.partitions)),
            distrust=ledger.start.distrusts,
        )
        cut = {made.tables[0].name: made.tables[0].chunks}
        texts = Texts(embedder, telemetry(), cut, knobs.cache_texts)
        writer = Writer(
            rules,
            Requests(self.store, retry, telemetry(), batch_rows=knobs.batch_rows),
            Completer(rules, shared.moves, retry),
            texts,
            embedder.model,
            self._letters,
            telemetry(),
            now=self._clock.seconds,
        )
        model = Model()
        return Worker(
            number,
            ledger,
            shared,
            Resolver({TOPIC: made.tables[0]}, self.store, retry, telemetry()),
            EmbedStep(embedder, texts, telemetry(), model),
            model,
            writer,
            [Lane() for _ in range(knobs.lanes)],
            arrived=[deque() for _ in range(knobs.workers)],
        )

    def _restore(self, knobs: Knobs) -> None:
        """Read the recovery state: sources first, since they may refuse it."""
        _, rules = contract_of(self._chunks)
        self._router = Router({TOPIC: rules[TOPIC].decoder})
        for number, log in enumerate(self.topic.logs):
            state = self.committed.get(f"p{number}")
            loaded = None if state is None else pickle.loads(state)
            owner = self.workers[self._owner[number]]
            settings = SourceSettings(
                batch_size=knobs.batch_size,
                max_epoch_records=knobs.epoch_records,
                max_epoch_bytes=knobs.epoch_bytes,
                epoch_interval_s=1.0,
                exit_at_end=False,
                stop=lambda: self.stopping,
                now=self._clock.seconds,
                telemetry=telemetry(),
                sleep=self._clock.advance,
                ledger=owner.ledger,
            )
            with self._acting(owner):
                logic = PartitionLogic(TOPIC, number, log.reader, settings, loaded)
            self.partitions.append(logic)
        self.pending_at_start = 0
        for name, state in sorted(self.committed.items()):
            if name.startswith("s"):
                worker = self._worker_of(name[1:])
                loaded = pickle.loads(state)
                self.pending_at_start += len(dedup_checkpoint.read(loaded)["pending"])
                with self._acting(worker):
                    worker.shards[name[1:]] = DedupLogic(worker.shared, loaded)

    def kill(self) -> None:
        """Lose all processes."""
        self.workers, self.partitions = [], []
        self.closed, self._snapshots = {}, {}
        self.actors.clear()
        self.stopping = self.ended = False

    def _worker_of(self, shard: str) -> Worker:
        # Not the modulus that the lanes go by.
        return self.workers[(int(shard) * 2654435761 >> 9) % len(self.workers)]

    @contextmanager
    def _acting(self, worker: Worker, lane: Lane | None = None) -> Iterator[None]:
        """Let nobody else use a thread while it is in a request."""
        actor: Worker | Lane = worker if lane is None else lane
        actor.busy = True
        self.actors.append((worker, lane))
        try:
            yield
        except BaseException as error:
            if isinstance(error, PowerCut) and error.victim is None:
                error.victim = worker.number
            raise
        finally:
            self.actors.pop()
            actor.busy = False

    # ------------------------------------------------------------------ the steps

    def enabled(self) -> list[Step]:
        """What can be done now."""
        steps: list[Step] = []
        if self.ended:
            return steps
        for number in range(len(self.partitions)):
            owner = self.workers[self._owner[number]]
            if number in self.closed or owner.busy or owner.dead:
                continue
            if not self.stopping:
                steps.append((8, f"poll {number}", partial(self.poll, number)))
            weight = 8 if self.stopping else 6 if self.closed else 2
            steps.append((weight, f"close {number}", partial(self.close, number)))
        for worker in self.workers:
            if worker.dead:
                continue
            steps += self._thread_steps(worker)
            if worker.model.calls:
                steps.append((4, f"model {worker.number}", partial(self.calculate, worker)))
            for number, lane in enumerate(worker.lanes):
                if not lane.busy and lane.error is None and (lane.later or _taken(lane, 1)[0]):
                    steps.append(
                        (
                            6,
                            f"lane {worker.number}.{number}",
                            self._with_some(self.write, worker, lane, counts=[1, 2, 99]),
                        )
                    )
        if self.may_commit():
            steps.append((20, "commit", self.commit))
        return steps

    def _with_some(
        self, step: Callable[..., object], *given: object, counts: Sequence[int]
    ) -> Callable[[], object]:
        """The step for one of so many items; which of the numbers, is left to the moment."""
        return lambda: step(*given, self._clock.rng.choice(counts))

    def _thread_steps(self, worker: Worker) -> list[Step]:
        """What the worker's own thread can do, one of it at a time."""
        steps: list[Step] = []
        if worker.busy:
            return steps
        n = worker.number
        for sender, queue in enumerate(worker.arrived):
            if queue:
                steps.append(
                    (
                        10,
                        f"deliver {sender}>{n}",
                        self._with_some(self.deliver, worker, sender, counts=[1, 3, 99]),
                    )
                )
        if self.due(worker):
            steps.append((8, f"notify {n}", partial(self.notify, worker)))
        if worker.closed:
            steps.append((8, f"resolve {n}", self._with_some(self.resolve, worker, counts=[1, 99])))
        if worker.resolved:
            steps.append((8, f"embed {n}", self._with_some(self.embed, worker, counts=[1, 99])))
        if worker.embedded:
            steps.append((8, f"submit {n}", self._with_some(self.submit, worker, counts=[1, 99])))
        if any(lane.error is not None for lane in worker.lanes):
            steps.append((8, f"notice {n}", partial(self.notice, worker)))
        if self._may_snapshot(worker):
            steps.append((16, f"snapshot {n}", partial(self.snapshot, worker)))
        return steps

    def poll(self, number: int) -> int:
        """Let one partition emit, to the workers of the shards. Returns how many records."""
        logic = self.partitions[number]
        owner = self.workers[self._owner[number]]
        with self._acting(owner):
            batches = logic.next_batch()
            if not batches:
                return 0
            for shard, records in self._router(batches):
                if shard in self._relevant:
                    self._worker_of(shard).arrived[owner.number].append((shard, records))
        self.untold -= {n for n, each in enumerate(self._owner) if each == owner.number}
        self.emitted[number] = max(self.emitted[number], logic._next)
        return sum(len(batch.records) for batch in batches)

    def deliver(self, worker: Worker, source: int, count: int) -> None:
        """Let `dedup` take in what another worker has sent."""
        queue = worker.arrived[source]
        taken = [queue.popleft() for _ in range(min(count, len(queue)))]
        by_shard: dict[str, list[ShardRecords]] = {}
        for shard, records in taken:
            by_shard.setdefault(shard, []).append(records)
        with self._acting(worker):
            for shard in sorted(by_shard):
                logic = worker.shards.get(shard)
                if logic is None:
                    logic = worker.shards[shard] = DedupLogic(worker.shared, None)
                worker.touched[shard] = None
                windows, _ = logic.on_batch(by_shard[shard])
                self._passed_on(worker, shard, windows)

    def due(self, worker: Worker) -> list[str]:
        """The shards whose windows are to close."""
        now = self._clock.now()
        return [
            shard
            for shard, logic in sorted(worker.shards.items())
            if (due := logic.notify_at()) is not None and due <= now
        ]

    def notify(self, worker: Worker, *, everywhere: bool = False) -> None:
        """Let windows close that are due, in all shards or, at times, in the first alone."""
        everywhere = everywhere or self._clock.rng.random() < 0.7
        due = self.due(worker)
        with self._acting(worker):
            for shard in due if everywhere else due[:1]:
                worker.touched[shard] = None
                windows, _ = worker.shards[shard].on_notify()
                self._passed_on(worker, shard, windows)

    def _passed_on(self, worker: Worker, shard: str, windows: Sequence[Window]) -> None:
        epoch = self.epoch + worker.snapshotted
        worker.closed += [Item(epoch, shard, window) for window in windows]

    def resolve(self, worker: Worker, count: int) -> None:
        """Let `resolve` look up what it does not know."""
        items, worker.closed = worker.closed[:count], worker.closed[count:]
        with self._acting(worker):
            # The lanes go on meanwhile.
            worker.resolver([(item.shard, item.window) for item in items])
        worker.resolved += items

    def embed(self, worker: Worker, count: int) -> None:
        """Let texts become vectors."""
        items, worker.resolved = worker.resolved[:count], worker.resolved[count:]
        with self._acting(worker):
            for item in items:
                parts = worker.embed([(item.shard, item.window)])
                worker.embedded += [Item(item.epoch, shard, window) for shard, window in parts]

    def calculate(self, worker: Worker) -> None:
        """Let the model do what it was given, and all that waits by then."""
        calls, worker.model.calls = worker.model.calls, []
        try:
            for call in calls:
                call()
        except PowerCut as error:
            error.victim = worker.number if error.victim is None else error.victim
            raise

    def submit(self, worker: Worker, count: int) -> None:
        """Queue windows for their lanes.

        Raises:
            Exception: Whatever has ended a lane.
        """
        items, worker.embedded = worker.embedded[:count], worker.embedded[count:]
        for item in items:
            lane = worker.lane_of(item.shard)
            if lane.error is not None:
                raise lane.error
            lane.queue.append(item)

    def notice(self, worker: Worker) -> None:
        """Find out that a lane has ended.

        Raises:
            Exception: Whatever has ended it.
        """
        for lane in worker.lanes:
            if lane.error is not None:
                raise lane.error

    def write(self, worker: Worker, lane: Lane, count: int) -> bool:
        """Let a lane write what it has before it. Returns whether it did."""
        items, lane.queue = _taken(lane, count)
        windows = [*lane.later, *(item.window for item in items)]
        with self._acting(worker, lane):
            try:
                receipt = worker.writer.write(windows)
            except Exception as error:
                lane.error = error
                return False
        lane.later = receipt.later
        return True

    def close(self, number: int) -> None:
        """End the epoch of one partition: it emits no more before the commit."""
        with self._acting(self.workers[self._owner[number]]):
            self.closed[number] = pickle.dumps(self.partitions[number].snapshot())

    def _may_snapshot(self, worker: Worker) -> bool:
        return (
            len(self.closed) == len(self.partitions)
            and not worker.snapshotted
            and not any(worker.arrived)
        )

    def snapshot(self, worker: Worker) -> None:
        """Take the states of all shards of a worker that the epoch has touched."""
        with self._acting(worker):
            if self.stopping:
                for shard, logic in sorted(worker.shards.items()):
                    worker.touched[shard] = None
                    windows, _ = logic.on_eof()
                    self._passed_on(worker, shard, windows)
            for shard in sorted(worker.touched):
                state = worker.shards[shard].snapshot()
                self._snapshots[f"s{shard}"] = pickle.dumps(state)
        worker.touched.clear()
        worker.snapshotted = True

    def may_commit(self) -> bool:
        """Whether every snapshot of the epoch has returned: the lanes have written all of it."""
        return bool(self.workers) and all(map(self._through, self.workers))

    def _through(self, worker: Worker) -> bool:
        if not worker.snapshotted or worker.dead or worker.busy:
            return False
        items = (*worker.closed, *worker.resolved, *worker.embedded)
        if any(item.epoch <= self.epoch for item in items):
            return False
        return not any(
            lane.busy
            or lane.later
            or lane.error is not None
            or any(item.epoch <= self.epoch for item in lane.queue)
            for lane in worker.lanes
        )

    def commit(self) -> None:
        """Commit the epoch; the next one may emit. A flow that was asked to stop has ended."""
        self.older.append(self.committed)
        taken = {f"p{number}": state for number, state in self.closed.items()}
        self.committed = {**self.committed, **taken, **self._snapshots}
        self.closed, self._snapshots = {}, {}
        self.epoch += 1
        for worker in self.workers:
            worker.snapshotted = False
        if self.stopping:
            self._let_go()

    def _let_go(self) -> None:
        """The flow has ended cleanly: each process tells so, if it gets that far."""
        self.ended = True
        for worker in self.workers:
            worker.ledger.epochs.ended()
            with self._acting(worker), suppress(RetriableError, FatalError):
                worker.ledger.entries.write(lambda _, entry: replace(entry, holder=Holder()))

    # ------------------------------------------------------------------ what is left

    def gathering(self) -> bool:
        """Whether a partition is still reading what may have been written before the start."""
        return any(logic._gathered is not None for logic in self.partitions)

    def idle(self) -> bool:
        """Whether everything is read, and nothing waits."""
        ends = [log.end() for log in self.topic.logs]
        read = all(
            logic._gathered is None and (end == 0 or logic._next == end)
            for logic, end in zip(self.partitions, ends, strict=True)
        )
        return read and not any(
            worker.under_way()
            or any(worker.arrived)
            or any(logic.notify_at() is not None for logic in worker.shards.values())
            for worker in self.workers
        )

    def left_behind(self) -> list[str]:
        """What is kept though nothing waits for it any more."""
        names: list[str] = []
        for worker in self.workers:
            names += ["clock"] * (worker.shared.clock.waiting_rows != 0)
            names += ["moves"] * len(worker.shared.moves._coming)
            for shard, logic in worker.shards.items():
                settler = logic._settler
                kept = (logic._pending.rows, logic._pending.truncates, logic._waiting)
                if any((*kept, settler.superseded, settler.moves, settler.dead)):
                    names.append(shard)
        return names

    def offsets(self) -> list[tuple[int, int]]:
        """(next offset, records that one epoch may take from there) as committed, by partition."""
        found: list[tuple[int, int]] = []
        for number in range(self.topic.partitions):
            state = self.committed.get(f"p{number}")
            if state is None:
                found.append((0, source.FIRST_CAP))
            else:
                record = source_checkpoint.read(pickle.loads(state), f"p{number}")
                found.append((max(0, record["next_offset"]), record["epoch_records"]))
        return found


def _taken(lane: Lane, count: int) -> tuple[list[Item], deque[Item]]:
    """The first of a lane's items that wait for no vectors, nor for one of their shard; and the rest."""
    items: list[Item] = []
    left: deque[Item] = deque()
    blocked: set[str] = set()
    for item in lane.queue:
        if len(items) == count or item.shard in blocked or not item.window.is_embedded():
            blocked.add(item.shard)
            left.append(item)
        else:
            items.append(item)
    return items, left
