"""The one driver of the stages without Bytewax: the real Logic classes, one step at a time.

It keeps the guarantees of Bytewax and gives no others:

- Items between two workers stay in order.
- A step may handle some of its items before another step runs.
- At most one epoch is uncommitted, because a source emits only when the epoch before is committed.
- The snapshots of an epoch are committed together, once every lane has written its windows of it.
- A process that dies leaves only committed state and what the store has.

The order of the steps is decided elsewhere: `world.py` draws it from a seed, `script.py` takes it from a
test.
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
from operators.toast.completer import Database
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
    """The flow of one topic: its committed state, and its running processes.

    Args:
        table: The topic's table.
        logs: The topic's partitions.
        store, ledger, letters: What the flow writes to.
        around: What happens while a process waits.
        horizon_s: For how long a version is kept.
        relevant: Only these shards get records; None for all.
        database: Is asked for columns that Debezium left out.

    Attributes:
        committed: Names of partitions and shards → pickled states.
        older: Earlier committed states, oldest first.
        epoch: Number of the current epoch.
        emitted: The highest next offset of each partition that any process has reached.
        known: How many partitions the topic has at the next start; the others are added later.
        untold: Partitions whose process has emitted nothing since a wrong state was accepted, so that the
            ledger does not know of it yet.
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
        database: Database | None = None,
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
        self.known = len(logs)
        self._starts = 0
        self._ledger = ledger
        self._letters = letters
        self._around = around
        self._clock = clock
        self._horizon_s = horizon_s
        self._relevant = relevant
        self._database = database
        self._snapshots: dict[str, bytes] = {}
        self._owner: list[int] = []

    # ------------------------------------------------------------------ start and end

    def start(self, knobs: Knobs, accepted: frozenset[Accept] = frozenset()) -> None:
        """Start all processes from what is committed.

        Args:
            knobs: Settings of this start.
            accepted: Findings that the user accepts.

        Raises:
            FatalError: The state does not match what was written to the collection.
            PowerCut: A process died during the start.
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
                    partitions=self.known,
                    horizon_s=self._horizon_s,
                    whole=whole,
                    database=self._database,
                )
            )
        self._owner = [number % knobs.workers for number in range(len(self.logs))]
        self._restore(knobs)
        if accepted:
            self.emitted = [offset for offset, _ in self.offsets()]
            self.older.clear()
            self.untold = set(range(self.known))

    def _check(self, ledgers: Sequence[Ledger]) -> None:
        """Check the ledger in every process, as at its start; processes do not wait for one another."""
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
        for number, log in enumerate(self.logs[: self.known]):
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
        """Kill all processes."""
        self.workers, self.partitions = [], []
        self.closed, self._snapshots = {}, {}
        self.stopping = self.ended = False

    def owner_of(self, number: int) -> Worker:
        """The worker that reads a partition."""
        return self.workers[self._owner[number]]

    def _worker_of(self, shard: str) -> Worker:
        # Independent of how shards are assigned to lanes.
        return self.workers[(int(shard) * 2654435761 >> 9) % len(self.workers)]

    # ------------------------------------------------------------------ the steps

    def poll(self, number: int) -> int:
        """Let one partition emit to the workers of the shards; returns the number of records."""
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
        """End the epoch of one partition: it emits nothing before the commit."""
        with acting(self.owner_of(number)):
            self.closed[number] = pickle.dumps(self.partitions[number].snapshot())

    def may_snapshot(self, worker: Worker) -> bool:
        """Whether a worker has received all items of the epoch."""
        closed = len(self.closed) == len(self.partitions)
        return closed and worker.epoch == self.epoch and not any(worker.arrived)

    def snapshot(self, worker: Worker) -> None:
        """Take the states of all shards of a worker that the epoch has touched."""
        self._snapshots |= worker.snapshot(ending=self.stopping)

    def may_commit(self) -> bool:
        """Whether all snapshots of the epoch have returned: the lanes have written all its windows."""
        return bool(self.workers) and all(map(self._through, self.workers))

    def _through(self, worker: Worker) -> bool:
        if worker.epoch == self.epoch or worker.dead or worker.busy:
            return False
        return worker.has_written(self.epoch)

    def commit(self) -> None:
        """Commit the epoch, so that the next one may emit. A flow that was asked to stop ends here."""
        self.older.append(self.committed)
        taken = {f"p{number}": state for number, state in self.closed.items()}
        self.committed = {**self.committed, **taken, **self._snapshots}
        self.closed, self._snapshots = {}, {}
        self.epoch += 1
        if self.stopping:
            self._let_go()

    def _let_go(self) -> None:
        """Let each process report the clean end, unless it dies before that."""
        self.ended = True
        for worker in self.workers:
            worker.ledger.epochs.ended()
            with acting(worker), suppress(RetriableError, FatalError):
                worker.ledger.entries.write(lambda _, entry: replace(entry, holder=Holder()))

    # ------------------------------------------------------------------ what is left

    def read(self) -> list[int]:
        """Next offset of each partition in its process; 0 if it is not read yet."""
        unread = len(self.logs) - len(self.partitions)
        return [*(logic._next for logic in self.partitions), *[0] * unread]

    def is_writing(self) -> bool:
        """Whether a write is half done: it runs, it failed, or its process died."""
        return any(
            worker.dead or any(lane.busy or lane.error is not None for lane in worker.lanes)
            for worker in self.workers
        )

    def gathering(self) -> bool:
        """Whether a partition still gathers records that may have been written before the start."""
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
        """State that is kept although nothing needs it any more."""
        return [name for worker in self.workers for name in worker.left_behind()]

    def offsets(self) -> list[tuple[int, int]]:
        """Committed (next offset, record cap of the epoch from there) of each partition."""
        found: list[tuple[int, int]] = []
        for number in range(len(self.logs)):
            state = self.committed.get(f"p{number}")
            if state is None:
                found.append((0, source.FIRST_CAP))
            else:
                record = source_checkpoint.read(pickle.loads(state), f"p{number}")
                found.append((max(0, record["next_offset"]), record["epoch_records"]))
        return found
