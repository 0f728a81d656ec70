"""A flow whose steps are chosen by a test, or drawn by Hypothesis."""

from collections.abc import Sequence
from random import Random

from operators.toast.completer import Database
from tests.changes import Log
from tests.simulation.clock import Clock
from tests.simulation.flow import Flow
from tests.simulation.oracle import Oracle
from tests.simulation.queues import Lane
from tests.simulation.store import CALM, FaultyLedger, FaultyStore, Letters, PowerCut
from tests.simulation.tables import PLAIN, Table
from tests.simulation.topic import Topic
from tests.simulation.worker import ALL, Knobs, Worker

PATIENCE = 400
"""After this many windows, a flow that has read everything must be idle."""


class Script:
    """A flow with one worker, and a store without random faults.

    Args:
        source: A topic, which the oracle checks after every step; or plain logs.
        table: The table of plain logs.
        batch_size: Most records of one poll.
        cap: Most records of one epoch.
        horizon_s: For how long a version is kept.
        lanes: Number of lanes.
        database: Is asked for columns that Debezium left out.
    """

    def __init__(
        self,
        source: Topic | Sequence[Log],
        table: Table = PLAIN,
        *,
        batch_size: int = 3,
        cap: int = 1_000,
        horizon_s: float = 3600.0,
        lanes: int = 1,
        database: Database | None = None,
    ) -> None:
        rng = Random(0)
        self.clock = Clock(rng)
        self.store = FaultyStore(rng, self, CALM)
        self.ledger = FaultyLedger(rng, self, rate=0.0)
        self.letters = Letters(rng, self, rate=0.0)
        self.oracle: Oracle | None = None
        relevant = None
        if isinstance(source, Topic):
            self.logs: Sequence[Log] = source.logs
            table, relevant = source.table, source.shards()
            self.oracle = Oracle(source, self.store)
        else:
            self.logs = source
        self.flow = Flow(
            table,
            self.logs,
            self.store,
            self.ledger,
            self.letters,
            self,
            self.clock,
            horizon_s=horizon_s,
            relevant=relevant,
            database=database,
        )
        self._knobs = Knobs(
            workers=1,
            batch_size=batch_size,
            epoch_records=cap,
            epoch_bytes=1 << 20,
            window_s=0.2,
            window_rows=1_000,
            lanes=lanes,
            batch_rows=2,
            retry_s=0.0,
            cache_texts=0,
        )
        self._start()

    @property
    def worker(self) -> Worker:
        """The only worker."""
        return self.flow.workers[0]

    # Called by the store.

    def pause(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.clock.advance(seconds)

    def happened(self, fault: str) -> None:
        """Do nothing: faults are not counted here."""

    def seconds(self) -> float:
        """Virtual time."""
        return self.clock.seconds()

    # The steps.

    def append(self, number: int, count: int) -> None:
        """Append the next `count` records to a partition."""
        log = self.logs[number]
        log.written = min(len(log.records), log.end() + count)

    def poll(self, number: int) -> None:
        """Let one partition emit, and `dedup` receive the records."""
        self.flow.poll(number)
        self.worker.deliver(0)

    def tick(self, seconds: float = 0.2) -> None:
        """Let time pass, and the windows that are due close."""
        self.clock.advance(seconds)
        self.worker.notify(everywhere=True)

    def write(self, count: int = ALL, *, lane: int | None = None) -> None:
        """Bring closed windows to the store.

        Args:
            count: This many windows of a lane, in one write.
            lane: Only this lane; None for all windows of all lanes in their order, each in a write of its
                own. Then a lane that waits for another one gets no turn until all are written.
        """
        worker = self.worker
        if lane is None:
            for each in worker.lanes:
                while each.queue:
                    self._write(each, 1)
            self._embed(ALL)
            while worker.embedded:
                each = worker.lane_of(worker.embedded[0].shard)
                worker.submit(1)
                self._write(each, 1)
        else:
            mine = worker.lanes[lane]
            closed = [
                i for i, item in enumerate(worker.closed) if worker.lane_of(item.shard) is mine
            ]
            missing = closed[: max(0, count - len(mine.queue))]
            self._embed(missing[-1] + 1 if missing else 0)
            worker.submit()
            self._write(mine, count)
        self.look()

    def _embed(self, count: int) -> None:
        """Look up and embed the first closed windows."""
        self.worker.resolve(count)
        self.worker.embed()
        self.worker.calculate()

    def _write(self, lane: Lane, count: int) -> None:
        """Let a lane write; an error that ends the lane fails the test."""
        self.worker.write(lane, count)
        self.worker.notice()

    def commit(self) -> None:
        """End the epoch: the snapshots, the barrier, the commit."""
        flow, worker = self.flow, self.worker
        for number in range(len(self.logs)):
            flow.close(number)
        flow.snapshot(worker)
        # `dedup` takes its snapshot after its last input, before the next steps have run.
        self.write()
        for lane in worker.lanes * len(worker.lanes):
            if lane.later:
                self._write(lane, 0)
        assert flow.may_commit(), "a lane waits for what nobody will tell it"
        flow.commit()
        self.look()

    # Stops and starts.

    def stop(self) -> None:
        """Stop cleanly and start again."""
        if self.oracle is not None:
            self.oracle.stopped(self.flow)
        self.flow.stopping = True
        self.commit()
        self._start()

    def crash(self) -> None:
        """Kill the process, and start the next one from the committed state."""
        if self.oracle is not None:
            self.oracle.crashed()
        self._start()

    def cut_off(self, operation: str, *, applied: bool) -> None:
        """Let the first lane write, and crash in its first request of a kind.

        Args:
            operation: The name of the store's method.
            applied: Whether the store carries out the request.
        """
        self.store.cut_at = (operation, applied)
        try:
            self.write(lane=0)
        except PowerCut:
            self.crash()
        self.store.cut_at = None

    def lose_state(self) -> None:
        """Crash, and lose the recovery state and the ledger's entries.

        Without entries no start check distrusts the rows, so only the usual rules have them looked up.
        """
        self.flow.committed = {}
        self.flow.emitted = [0 for _ in self.logs]
        self.ledger.entries.clear()
        if self.oracle is not None:
            self.oracle.accepted()
        self._start()

    def _start(self) -> None:
        if self.oracle is not None:
            self.oracle.starting()
        self.flow.start(self._knobs)
        if self.oracle is not None:
            self.oracle.started(self.flow)

    # Running to the end.

    def read_all(self) -> None:
        """Read every partition to its end, and commit."""
        for log in self.logs:
            log.written = None
        for _ in range(4 * PATIENCE):
            if all(map(self.flow.has_read, range(len(self.logs)))):
                return
            for number in range(len(self.logs)):
                self.poll(number)
            self.tick()
            self.commit()  # also starts the next epoch, if this one is full
        raise AssertionError("a record is never read")

    def drain(self) -> None:
        """Run until the flow is idle, and let the oracle check the store at rest."""
        self.read_all()
        if self.oracle is not None:
            self.oracle.took(self.clock.seconds())
        for _ in range(PATIENCE):
            self.tick()
            self.commit()
            if self.flow.idle():
                break
        assert self.flow.idle(), "a window never closes"
        assert self.flow.left_behind() == []
        if self.oracle is not None:
            self.oracle.rest(self.letters.letters)

    def look(self) -> None:
        """Let the oracle check what must hold in every step."""
        if self.oracle is not None:
            self.oracle.look(self.flow, self.letters.letters)

    def visible(self) -> dict[str, str]:
        """Entity id → stored text."""
        return {row["id"]: row["text"] for row in self.store.scan("docs", ["text"])}
