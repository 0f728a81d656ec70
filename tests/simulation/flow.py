"""The one driver of the stages without Bytewax: the real Logic classes, one step at a time.

It does what Bytewax promises and nothing more. Items between two workers stay in order; of a step, any
part may be done before another step goes on; one epoch at the most is uncommitted, because a source
emits only when the one before is committed; the snapshots of all that an epoch touched are committed
together, once every lane has written what the epoch sent it; and of a process that dies, nothing is
left but what is committed and what the store has.

Who takes which step is left to others: `world.py` draws them from a seed, `script.py` lets a test say.
"""

import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from flows.sync import collection_specs
from operators.errors import FatalError, RetriableError
from operators.ownership.accept_options import Accept
from operators.ownership.ledger import Ledger
from operators.ownership.ledger_entries import Entry, Holder
from operators.stages import source
from operators.stages.route import Router
from operators.stages.source import PartitionLogic, SourceSettings
from operators.state import dedup_checkpoint, source_checkpoint
from tests.changes import TOPIC, Log
from tests.simulation.clock import Clock
from tests.simulation.store import (
    FaultyLedger,
    FaultyStore,
    Letters,
    PunctualEmbedder,
    Surroundings,
    VirtualRetry,
)
from tests.simulation.tables import Table
from tests.simulation.worker import Knobs, Worker, acting, telemetry, worker_of


class Flow:
    """The flow of one topic: its committed state, and its processes while they live.

    Args:
        table: Of the topic.
        logs: The topic's partitions.
        store, ledger, letters: What it writes to.
        around: What happens while a process waits.
        horizon_s: For how long a version is remembered.
        relevant: Only these shards are sent anything; None for all.

    Attributes:
        committed: Names of partitions and shards → pickled states.
        older: What was committed before that, the oldest first.
        epoch: The one that runs.
        emitted: Next offset of each partition, as far as any process ever got.
        untold: Partitions whose process has emitted nothing since state was accepted that is not right.
    """

    def __init__(
        self,
        table: Table,
        logs: Sequence[Log],
        store: FaultyStore,
        ledger: FaultyLedger,
        letters: Letters,
        around: Surroundings,
        clock: Clock,
        *,
        horizon_s: float,
        relevant: frozenset[str] | None = None,
    ) -> None:
        self.table = table
        self.logs = logs
        self.store = store
        self.committed: dict[str, bytes] = {}
        self.older: list[dict[str, bytes]] = []
        self.epoch = 0
        self.stopping = False
        self.ended = False
        self.workers: list[Worker] = []
        self.partitions: list[PartitionLogic] = []
        self.closed: dict[int, bytes] = {}
        self.emitted = [0] * len(logs)
        self.pending_at_start = 0
        self.untold: set[int] = set()
        self._starts = 0
        self._ledger = ledger
        self._letters = letters
        self._around = around
        self._clock = clock
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
        table = self.table
        (spec,) = collection_specs(table.contract, PunctualEmbedder())
        whole = self.store.ensure(spec)
        retry = VirtualRetry(knobs.retry_s, telemetry(), around=self._around)
        ledgers = [
            Ledger(self._ledger, retry, table.contract.tables, number, accepted)
            for number in range(knobs.workers)
        ]
        self._check(ledgers)
        for number, ledger in enumerate(ledgers):
            self.workers.append(
                worker_of(
                    number,
                    table,
                    self.store,
                    ledger,
                    self._letters,
                    self._clock,
                    retry,
                    knobs,
                    epoch=self.epoch,
                    partitions=len(self.logs),
                    horizon_s=self._horizon_s,
                    whole=whole,
                )
            )
        self._owner = [number % knobs.workers for number in range(len(self.logs))]
        self._restore(knobs)
        if accepted:
            self.emitted = [offset for offset, _ in self.offsets()]
            self.older.clear()
            self.untold = set(range(len(self.logs)))

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

    def _restore(self, knobs: Knobs) -> None:
        """Read the recovery state: sources first, since they may refuse it."""
        self._router = Router({TOPIC: self.table.rules[TOPIC].decoder})
        for number, log in enumerate(self.logs):
            state = self.committed.get(f"p{number}")
            loaded = None if state is None else pickle.loads(state)
            owner = self.owner_of(number)
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
            with acting(owner):
                logic = PartitionLogic(TOPIC, number, log.reader, settings, loaded)
            self.partitions.append(logic)
        self.pending_at_start = 0
        for name, state in sorted(self.committed.items()):
            if name.startswith("s"):
                loaded = pickle.loads(state)
                self.pending_at_start += len(dedup_checkpoint.read(loaded)["pending"])
                self._worker_of(name[1:]).restore(name[1:], loaded)

    def kill(self) -> None:
        """Lose all processes."""
        self.workers, self.partitions = [], []
        self.closed, self._snapshots = {}, {}
        self.stopping = self.ended = False

    def owner_of(self, number: int) -> Worker:
        """The worker that reads a partition."""
        return self.workers[self._owner[number]]

    def _worker_of(self, shard: str) -> Worker:
        # Not the modulus that the lanes go by.
        return self.workers[(int(shard) * 2654435761 >> 9) % len(self.workers)]

    # ------------------------------------------------------------------ the steps

    def poll(self, number: int) -> int:
        """Let one partition emit, to the workers of the shards. Returns how many records."""
        logic, owner = self.partitions[number], self.owner_of(number)
        with acting(owner):
            batches = logic.next_batch()
            if not batches:
                return 0
            for shard, records in self._router(batches):
                if self._relevant is None or shard in self._relevant:
                    self._worker_of(shard).arrived[owner.number].append((shard, records))
        self.untold -= {n for n, each in enumerate(self._owner) if each == owner.number}
        self.emitted[number] = max(self.emitted[number], logic._next)
        return sum(len(batch.records) for batch in batches)

    def close(self, number: int) -> None:
        """End the epoch of one partition: it emits no more before the commit."""
        with acting(self.owner_of(number)):
            self.closed[number] = pickle.dumps(self.partitions[number].snapshot())

    def may_snapshot(self, worker: Worker) -> bool:
        """Whether a worker has taken in all that the epoch sent it."""
        closed = len(self.closed) == len(self.partitions)
        return closed and worker.epoch == self.epoch and not any(worker.arrived)

    def snapshot(self, worker: Worker) -> None:
        """Take the states of all shards of a worker that the epoch has touched."""
        self._snapshots |= worker.snapshot(ending=self.stopping)

    def may_commit(self) -> bool:
        """Whether every snapshot of the epoch has returned: the lanes have written all of it."""
        return bool(self.workers) and all(map(self._through, self.workers))

    def _through(self, worker: Worker) -> bool:
        if worker.epoch == self.epoch or worker.dead or worker.busy:
            return False
        return worker.has_written(self.epoch)

    def commit(self) -> None:
        """Commit the epoch; the next one may emit. A flow that was asked to stop has ended."""
        self.older.append(self.committed)
        taken = {f"p{number}": state for number, state in self.closed.items()}
        self.committed = {**self.committed, **taken, **self._snapshots}
        self.closed, self._snapshots = {}, {}
        self.epoch += 1
        if self.stopping:
            self._let_go()

    def _let_go(self) -> None:
        """The flow has ended cleanly: each process tells so, if it gets that far."""
        self.ended = True
        for worker in self.workers:
            worker.ledger.epochs.ended()
            with acting(worker), suppress(RetriableError, FatalError):
                worker.ledger.entries.write(lambda _, entry: replace(entry, holder=Holder()))

    # ------------------------------------------------------------------ what is left

    def read(self) -> list[int]:
        """Next offset of each partition, as its process has got."""
        return [logic._next for logic in self.partitions]

    def is_writing(self) -> bool:
        """Whether a write is half done: of a lane that is in it, that failed, or that was cut off."""
        return any(
            worker.dead or any(lane.busy or lane.error is not None for lane in worker.lanes)
            for worker in self.workers
        )

    def gathering(self) -> bool:
        """Whether a partition is still reading what may have been written before the start."""
        return any(logic._gathered is not None for logic in self.partitions)

    def has_read(self, number: int) -> bool:
        """Whether a partition is read to its end."""
        logic, end = self.partitions[number], self.logs[number].end()
        return logic._gathered is None and (end == 0 or logic._next == end)

    def idle(self) -> bool:
        """Whether everything is read, and nothing waits."""
        return all(map(self.has_read, range(len(self.partitions)))) and not any(
            worker.under_way()
            or any(worker.arrived)
            or any(logic.notify_at() is not None for logic in worker.shards.values())
            for worker in self.workers
        )

    def left_behind(self) -> list[str]:
        """What is kept though nothing waits for it any more."""
        return [name for worker in self.workers for name in worker.left_behind()]

    def offsets(self) -> list[tuple[int, int]]:
        """(next offset, records that one epoch may take from there) as committed, by partition."""
        found: list[tuple[int, int]] = []
        for number in range(len(self.logs)):
            state = self.committed.get(f"p{number}")
            if state is None:
                found.append((0, source.FIRST_CAP))
            else:
                record = source_checkpoint.read(pickle.loads(state), f"p{number}")
                found.append((max(0, record["next_offset"]), record["epoch_records"]))
        return found
