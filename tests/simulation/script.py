"""A flow whose every step is named: by a test that tells one history, or by what Hypothesis draws."""

from collections.abc import Sequence
from random import Random

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
"""Windows after which a flow that has read everything must have nothing left to do."""


class Script:
    """A flow with one worker, and a store that does what it is told.

    Args:
        source: What is read: a topic, and then the oracle looks on at every step; or just some logs.
        table: Of logs.
        batch_size: Records of one poll at the most.
        cap: Records of one epoch at the most.
        horizon_s: For how long a version is remembered.
        lanes: A shard's windows are written in order; those of other lanes may overtake them.
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
        """The one process."""
        return self.flow.workers[0]

    # What the store asks for.

    def pause(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.clock.advance(seconds)

    def happened(self, fault: str) -> None:
        """Note nothing: the test knows."""

    def seconds(self) -> float:
        """Virtual time."""
        return self.clock.seconds()

    # The steps.

    def append(self, number: int, count: int) -> None:
        """Let the database write: `count` more records of a partition are there."""
        log = self.logs[number]
        log.written = min(len(log.records), log.end() + count)

    def poll(self, number: int) -> None:
        """Let one partition emit, up to `dedup`."""
        self.flow.poll(number)
        self.worker.deliver(0)

    def tick(self, seconds: float = 0.2) -> None:
        """Let time pass, and the windows that are due close."""
        self.clock.advance(seconds)
        self.worker.notify(everywhere=True)

    def write(self, count: int = ALL, *, lane: int | None = None) -> None:
        """Bring closed windows to the store.

        Args:
            count: So many of a lane, in one write.
            lane: Of this one alone; None for all windows of all lanes in their order, each in a write of
                its own. So a lane that waits for another one gets no turn before all of that is written.
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
        """Let the first of the closed windows be looked up and embedded."""
        self.worker.resolve(count)
        self.worker.embed()
        self.worker.calculate()

    def _write(self, lane: Lane, count: int) -> None:
        """Let a lane write; what ends it, ends the test."""
        self.worker.write(lane, count)
        self.worker.notice()

    def commit(self) -> None:
        """End the epoch: the snapshots, the barrier, the commit."""
        flow, worker = self.flow, self.worker
        for number in range(len(self.logs)):
            flow.close(number)
        flow.snapshot(worker)
        # `dedup` snapshots when its input is through, before the steps after it have run.
        self.write()
        for lane in worker.lanes * len(worker.lanes):
            if lane.later:
                self._write(lane, 0)
        assert flow.may_commit(), "a lane waits for what nobody will tell it"
        flow.commit()
        self.look()

    # Ends and starts.

    def stop(self) -> None:
        """A clean stop and another start."""
        if self.oracle is not None:
            self.oracle.stopped(self.flow)
        self.flow.stopping = True
        self.commit()
        self._start()

    def crash(self) -> None:
        """Lose the process, start the next one from what is committed."""
        if self.oracle is not None:
            self.oracle.crashed()
        self._start()

    def cut_off(self, operation: str, *, applied: bool) -> None:
        """Let the first lane write; crash in its first request of a kind.

        Args:
            operation: The kind, as the store's method is called.
            applied: The store has done it all the same.
        """
        self.store.cut_at = (operation, applied)
        try:
            self.write(lane=0)
        except PowerCut:
            self.crash()
        self.store.cut_at = None

    def lose_state(self) -> None:
        """Crash, lose the recovery state, and with it all that the ledger knew.

        So nothing tells that rows have to be looked up, but the rules by which any row is.
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

    # The end.

    def read_all(self) -> None:
        """Let every partition be read to its end, and commit."""
        for log in self.logs:
            log.written = None
        for _ in range(4 * PATIENCE):
            if all(map(self.flow.has_read, range(len(self.logs)))):
                return
            for number in range(len(self.logs)):
                self.poll(number)
            self.tick()
            self.commit()  # it also makes room: the epoch may be full
        raise AssertionError("a record is never read")

    def drain(self) -> None:
        """Go on until nothing is left to do; then what must be true at rest is."""
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
        """Let the oracle look at what must hold in every step."""
        if self.oracle is not None:
            self.oracle.look(self.flow, self.letters.letters)

    def visible(self) -> dict[str, str]:
        """Entity id → stored text."""
        return {row["id"]: row["text"] for row in self.store.scan("docs", ["text"])}
