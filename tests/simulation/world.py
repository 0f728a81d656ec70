"""One run: a history, a flow, everything that can go wrong, and an oracle that looks on.

A run is decided by its seed alone. Each has a character of its own: which faults there are in it, and
how many, how small the caps are, how many workers there are.
"""

import hashlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import NamedTuple

from operators import crash_points
from operators.changes.shards import shard_of
from operators.errors import FatalError, RetriableError
from operators.ownership.accept import Accept
from operators.stages import epoch_budget, source
from tests.simulation.clock import Clock
from tests.simulation.flow import Flow, Knobs
from tests.simulation.history import Kinds, Topic, history_of
from tests.simulation.oracle import Oracle, Violation, hold
from tests.simulation.store import FaultyLedger, FaultyStore, Letters, Moods, PowerCut, quieter

PATIENCE = 400
"""Rounds after which a flow that has read everything must have nothing left to do."""

SOURCE_FAULTS = (
    "source: range sent again",
    "source: record sent twice",
    "source: late tombstone",
    "source: no tombstone",
    "source: tombstone alone",
    "source: bad record",
)
STORE_FAULTS = (
    "store: slow",
    "store: refuses",
    "store: refuses a record",
    "store: half done, then an error",
    "store: done, then an error",
    "store: fatal error",
    "store: tried again",
    "store: given up",
    "ledger: slow",
    "ledger: refused",
    "ledger: written, then an error",
    "dead letters: refused",
    "dead letters: sent, then an error",
)
CRASHES = (
    *(f"crash at {point}" for point in crash_points.POINTS),
    "crash between steps",
    "crash in a request, nothing of it done",
    "crash in a request, half of it done",
    "crash in a request, all of it done",
    "crash while others wait for the store",
    "crash of one, the other goes on for a while",
    "crash twice in a row",
    "crash during recovery",
    "crash while gathering",
    "crash while stopping",
    "crash before a write to the ledger",
    "crash after a write to the ledger",
)
OTHERS = (
    "clean stop",
    "rescaled after a stop",
    "rescaled after a crash",
    "window closes between two polls",
    "window closes right at the snapshot",
    "state lost",
    "state taken back",
    "state refused, and the right one put back",
    "state refused, and accepted",
    "state lost or taken back, and that did no harm",
)
FAULTS = (*CRASHES, *SOURCE_FAULTS, *STORE_FAULTS, *OTHERS)
"""Every kind of fault that a run counts."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        failure: What does not hold; None if everything does.
        digest: Of all that happened.
        faults: How often each kind of fault was there.
        steps: Of the scheduler.
        rewritten: The most rows that were written again after one crash.
    """

    seed: int
    failure: str | None = None
    digest: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    rewritten: int = 0
    trace: list[str] = field(default_factory=list)


class Plan(NamedTuple):
    """The character of a run."""

    kinds: Kinds
    partitions: int
    steps: int
    chunks: bool
    horizon_s: float
    first_cap: int
    min_cap: int
    first_cap_bytes: int
    workers: int
    rescales: bool
    moods: Moods
    points: float
    crash: float
    stop: float
    lose: float
    take_back: float
    twice: float


def plan_of(rng: Random) -> Plan:
    """Draw the character of a run: some of the faults, so that each is also met alone."""
    horizon_s = rng.choice([0.3, 3600.0, 3600.0])
    first_cap = rng.choice([2, 4, 500])
    kinds = Kinds(
        rows=rng.randint(2, 8),
        changes=rng.randint(5, 30),
        faults=rng.random() < 0.35,
        moves=rng.random() < 0.4,
        truncates=rng.random() < 0.5,
        # The horizon is longer than Debezium's re-send window, always.
        resent=horizon_s > 1 and rng.random() < 0.6,
        compacted=rng.random() < 0.3,
    )
    wild = Moods(
        slow=0.06,
        down=0.02,
        half=0.15,
        unheard=0.03,
        fatal=0.01,
        cut=0.1,
        letters=0.3,
        ledger=0.05,
    )
    moods = {mood for mood in Moods.__dataclass_fields__ if rng.random() < 0.45}
    return Plan(
        kinds,
        partitions=rng.randint(1, 3),
        steps=rng.randint(60, 260),
        chunks=rng.random() < 0.5,
        horizon_s=horizon_s,
        first_cap=first_cap,
        min_cap=min(first_cap, rng.choice([2, 3])),
        first_cap_bytes=rng.choice([600, 1 << 20]),
        workers=rng.choice([1, 1, 2]),
        rescales=rng.random() < 0.4,
        moods=quieter(wild, moods),
        points=rng.choice([0.0, 0.01, 0.04]),
        crash=rng.choice([0.0, 0.01, 0.03]),
        stop=rng.choice([0.0, 0.01]),
        lose=rng.choice([0.0] * 5 + [0.01]),
        take_back=rng.choice([0.0] * 5 + [0.01]),
        twice=rng.choice([0.0, 0.3]),
    )


class World:
    """One run of the simulation.

    Args:
        seed: Decides everything.
        keep_trace: Keep a line for everything that happens.
    """

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self._rng = rng = Random(seed)
        self._outcome = Outcome(seed)
        self._keep_trace = keep_trace
        self._digest = hashlib.blake2b(digest_size=16)
        self.clock = Clock(rng)
        self.plan = plan = plan_of(rng)
        history = history_of(rng, plan.kinds)
        self.topic = Topic(rng, history, plan.kinds, plan.partitions)
        self.store = FaultyStore(rng, self, plan.moods)
        self.letters = Letters(rng, self, plan.moods.letters)
        self.ledger = FaultyLedger(rng, self, plan.moods.ledger)
        self.flow = Flow(
            self.topic,
            self.store,
            self.letters,
            self,
            self.clock,
            chunks=plan.chunks,
            horizon_s=plan.horizon_s,
            relevant=frozenset(shard_of(f"docs:{row}") for row in range(plan.kinds.rows)),
            ledger=self.ledger,
        )
        self.oracle = Oracle(history, self.topic, plan.kinds.rows, self.store, plan.chunks)
        for fault, count in self.topic.sent.items():
            self._outcome.faults[f"source: {fault}"] += count
        self._outcome.faults["source: bad record"] += sum(
            change.bad for change in self.topic.places.values()
        )
        self._armed: tuple[str, int] | None = None
        self._calm = False
        self._depth = 0
        self._bound: int | None = 0
        self._unsure = False
        self._last_crash = -99
        self._workers = plan.workers
        self._polled = -1
        self._told = 0

    # ------------------------------------------------------------------ what the store asks for

    def pause(self, seconds: float) -> None:
        """Let virtual time pass, and others go on."""
        self.clock.advance(seconds)
        if self._depth >= 2:
            return
        self._depth += 1
        try:
            for _ in range(self._rng.choice([0, 1, 4])):
                self._crash_now(self.plan.crash, "crash while others wait for the store")
                self._any_step(nested=True)
        finally:
            self._depth -= 1

    def happened(self, fault: str) -> None:
        """Count a fault."""
        self._outcome.faults[fault] += 1
        self._note(fault)
        self._unsure = self._unsure or fault == "dead letters: sent, then an error"

    def seconds(self) -> float:
        """Virtual time."""
        return self.clock.seconds()

    # ------------------------------------------------------------------ the run

    def run(self) -> Outcome:
        """Run to the end, or to the first thing that does not hold."""
        outcome, plan = self._outcome, self.plan
        with _caps(plan):
            crash_points.listen(self._reached)
            try:
                self._note(repr(plan))
                for place, change in self.topic.places.items():
                    record = self.topic.logs[place[0]].records[place[1]]
                    self._note(f"{place}: {'tombstone of ' * (record[1] is None)}{change}")
                self._start_again("first start")
                for _ in range(plan.steps):
                    self._step()
                self._drain()
            except Violation as violation:
                outcome.failure = str(violation)
            except Exception as error:
                lines = traceback.format_exc() if self._keep_trace else ""
                outcome.failure = f"{type(error).__name__}: {error}\n{lines}".rstrip()
            finally:
                crash_points.listen(None)
        self._note(f"failure: {outcome.failure}")
        outcome.digest = self._digest.hexdigest()
        return outcome

    def _note(self, what: str) -> None:
        self._digest.update(what.encode())
        if self._keep_trace:
            self._outcome.trace.append(f"{self.clock.seconds():9.2f}  {'  ' * self._depth}{what}")

    def _step(self) -> None:
        plan, flow = self.plan, self.flow
        self._outcome.steps += 1
        if self._armed is None and self._rng.random() < plan.points:
            self._armed = (self._rng.choice(crash_points.POINTS), self._rng.randint(1, 5))
        try:
            self._crash_now(plan.crash, "crash between steps")
            if not flow.stopping and self._rng.random() < plan.stop:
                self._note("asked to stop")
                flow.stopping = True
            self._any_step(nested=False)
        except PowerCut as cut:
            self._crashed(cut)
        self._look()
        if flow.ended:
            self.happened("clean stop")
            self._start_again("a stop")

    def _crash_now(self, rate: float, fault: str) -> None:
        if not self._calm and self._rng.random() < rate:
            self.happened(fault)
            raise PowerCut(fault)

    def _any_step(self, *, nested: bool) -> None:
        flow, rng = self.flow, self._rng
        steps = flow.enabled()
        steps.append((3, "time passes", self._time_passes))
        if any(log.end() < len(log.records) for log in self.topic.logs):
            steps.append((6, "the database writes", self._database_writes))
        weights = [weight for weight, _, _ in steps]
        _, name, step = rng.choices(steps, weights)[0]
        self._do(name, step)

    def _do(self, name: str, step: Callable[[], object]) -> None:
        """Do a step of a process; what is fatal to it takes it down.

        Raises:
            PowerCut: It did.
        """
        self._note(name)
        self._circumstances(name)
        try:
            step()
        except FatalError as error:
            self._note(f"  fatal: {error}")
            raise PowerCut("a fatal error") from error
        finally:
            self._tell_writes()
        self.oracle.watch()

    def _tell_writes(self) -> None:
        written = self.store.written
        for each in written[self._told :]:
            what = "removed" if each.entity is None else f"= {each.entity.version}"
            if each.emptied is not None:
                what = f"shards {each.shards} emptied before {each.emptied}"
            self._note(f"  {each.id} {what}")
        self._told = len(written)

    def _circumstances(self, name: str) -> None:
        kind, _, number = name.partition(" ")
        if kind == "notify":
            closed = len(self.flow.closed)
            if closed == len(self.flow.partitions):
                self._outcome.faults["window closes right at the snapshot"] += 1
            elif self._polled >= 0 and len(self.flow.partitions) > 1:
                self._outcome.faults["window closes between two polls"] += 1
        elif kind == "poll":
            self._polled = int(number)

    def _time_passes(self) -> None:
        self.clock.advance(self._rng.choice([0.01, 0.1, 0.2, 0.5]))

    def _database_writes(self) -> None:
        log = self._rng.choice([log for log in self.topic.logs if log.end() < len(log.records)])
        log.written = min(len(log.records), log.end() + self._rng.randint(1, 6))

    # ------------------------------------------------------------------ crashes

    def _reached(self, point: crash_points.Point) -> None:
        if self._armed is None or self._armed[0] != point or self._calm:
            return
        left = self._armed[1] - 1
        self._armed = (point, left)
        if left <= 0:
            self._armed = None
            self.happened(f"crash at {point}")
            raise PowerCut(point)

    def _crashed(self, cut: PowerCut) -> None:
        flow, faults = self.flow, self._outcome.faults
        self._note(f"crashed: {cut}")
        victims = {cut.victim}
        living = [w for w in flow.workers if w.number not in victims]
        if cut.victim is not None and living and self._rng.random() < 0.5:
            self.happened("crash of one, the other goes on for a while")
            flow.workers[cut.victim].dead = True
            try:
                for _ in range(self._rng.randint(1, 6)):
                    self._any_step(nested=True)
            except PowerCut:
                self._note("and the other as well")
        self.oracle.take_touched()
        faults["crash while gathering"] += flow.gathering() and bool(flow.committed)
        faults["crash while stopping"] += flow.stopping
        if self._outcome.steps - self._last_crash <= 3:
            self.happened("crash twice in a row")
        self._last_crash = self._outcome.steps
        self._start_again("a crash")

    def _start_again(self, after: str) -> None:
        """Start all processes, as often as it takes."""
        plan, rng, flow = self.plan, self._rng, self.flow
        right, accepted = flow.committed, frozenset[Accept]()
        meddled = False
        while True:
            flow.kill()
            workers = plan.workers
            if plan.rescales and not self._calm:
                workers = rng.randint(1, 2)
            if after != "first start":
                if workers != self._workers:
                    self.happened(f"rescaled after {after}")
                if not meddled and not accepted:
                    meddled = self._meddle()
            self._workers = workers
            knobs = self._knobs(workers)
            self._note(f"start: {knobs} {sorted(accepted)}")
            self.oracle.letters(self.letters.letters, unsure=self._unsure)
            self.oracle.started()
            self._unsure = False
            try:
                flow.start(knobs, accepted)
                break
            except PowerCut as cut:
                self._note(f"crashed: {cut}")
                self.happened("crash during recovery")
                after = "a crash"
            except RetriableError as error:
                self._note(f"not started: {error}")
            except FatalError as error:
                self._note(f"refused: {error}")
                # What was accepted counts once every process has told so, with its first records.
                hold(meddled or bool(flow.untold), "I10", f"the right state is refused: {error}")
                if meddled and rng.random() < 0.4:
                    self.happened("state refused, and the right one put back")
                    flow.committed, meddled = right, False
                else:
                    accepted |= {_asked_for(error)}
        if accepted:
            self.happened("state refused, and accepted")
            self.oracle.accepted()
            flow.emitted = [offset for offset, _ in flow.offsets()]
            flow.older.clear()
            flow.untold = set(range(self.topic.partitions))
        elif meddled:
            flow.older.clear()
            self.happened("state lost or taken back, and that did no harm")
        self._bind()

    def _knobs(self, workers: int) -> Knobs:
        rng = self._rng
        return Knobs(
            workers,
            batch_size=rng.choice([1, 2, 5]),
            epoch_records=rng.choice([2, 4, 1000]),
            epoch_bytes=rng.choice([600, 1 << 20]),
            window_s=rng.choice([0.1, 0.2]),
            window_rows=rng.choice([2, 1000]),
            lanes=rng.choice([1, 1, 2, 3]),
            batch_rows=rng.choice([1, 100, 100]),
            retry_s=rng.choice([0.2, 5.0]),
            cache_texts=rng.choice([0, 2]),
        )

    def _meddle(self) -> bool:
        """Lose the recovery state, or take it back, as somebody may who restores a disk."""
        plan, rng, flow = self.plan, self._rng, self.flow
        if self._calm or not flow.committed:
            return False
        if plan.lose and rng.random() < 0.3:
            self.happened("state lost")
            flow.committed = {}
            return True
        if plan.take_back and flow.older and rng.random() < 0.3:
            self.happened("state taken back")
            back = rng.randint(1, min(4, len(flow.older)))
            flow.committed = flow.older[-back]
            return True
        return False

    # ------------------------------------------------------------------ what must hold

    def _bind(self) -> None:
        """I7: what may be written again from here on, at the most."""
        flow = self.flow
        bound = flow.pending_at_start
        for number, (offset, cap) in enumerate(flow.offsets()):
            ahead = max(0, flow.emitted[number] - offset)
            hold(ahead <= cap, "I10", f"goes on with {number}@{offset}, {ahead} ahead of {cap}")
            bound += ahead
        self._bound = bound

    def _look(self) -> None:
        """Look at everything that must hold in every step."""
        oracle, flow = self.oracle, self.flow
        oracle.watch()
        oracle.letters(self.letters.letters, unsure=self._unsure)
        if self._bound is not None:
            again = len(oracle.again)
            hold(again <= self._bound, "I7", f"{again} rows written again, of {self._bound}")
            self._outcome.rewritten = max(self._outcome.rewritten, again)
        for logic, (offset, cap) in zip(flow.partitions, flow.offsets(), strict=False):
            ahead = logic._next - offset
            hold(ahead <= cap, "I7", f"{logic._partition}: {ahead} records in an epoch of {cap}")

    # ------------------------------------------------------------------ the end

    def _drain(self) -> None:
        """Let everything be read and written, with no more faults; then compare."""
        self._note("drain")
        self._calm = True
        self.store.calm_down()
        self.letters.rate = self.ledger.rate = 0.0
        for log in self.topic.logs:
            log.written = None
        for round_ in range(PATIENCE):
            try:
                self._sweep(0.2 if round_ < 20 else 2.0)
            except PowerCut as cut:
                self._crashed(cut)
            if self.flow.ended:
                self._start_again("a stop")
            self._look()
            if self.flow.idle():
                break
        hold(self.flow.idle(), "I2", "something is never written")
        self.oracle.rest(self.letters.letters)
        left = self.flow.left_behind()
        hold(not left, "I2", f"something is kept for ever: {left}")

    def _sweep(self, seconds: float) -> None:
        """One epoch, in order."""
        flow = self.flow
        for number in range(len(flow.partitions)):
            while not flow.stopping and number not in flow.closed and flow.poll(number):
                pass
        self._through()
        self.clock.advance(seconds)
        for worker in flow.workers:
            self._do(f"notify {worker.number}", partial(flow.notify, worker, everywhere=True))
        self._through()
        for number in range(len(flow.partitions)):
            if number not in flow.closed:
                self._do(f"close {number}", partial(flow.close, number))
        self._through()
        for worker in flow.workers:
            if not worker.snapshotted:
                self._do(f"snapshot {worker.number}", partial(flow.snapshot, worker))
        self._through()
        hold(flow.may_commit(), "I2", "a lane waits for what nobody will tell it")
        self._do("commit", flow.commit)

    def _through(self) -> None:
        """Bring everything that is under way to the store."""
        flow = self.flow
        for worker in flow.workers:
            for number in range(len(worker.arrived)):
                if worker.arrived[number]:
                    self._do("deliver", partial(flow.deliver, worker, number, 999))
        for worker in flow.workers:
            steps: tuple[tuple[str, Callable[[], object]], ...] = (
                ("notice", partial(flow.notice, worker)),
                ("resolve", partial(flow.resolve, worker, 999)),
                ("embed", partial(flow.embed, worker, 999)),
                ("model", partial(flow.calculate, worker)),
                ("submit", partial(flow.submit, worker, 999)),
            )
            for name, step in steps:
                waits = worker.closed or worker.resolved or worker.embedded or worker.model.calls
                if name == "notice" or waits:
                    self._do(f"{name} {worker.number}", step)
        for _ in range(4):
            for worker in flow.workers:
                for lane in worker.lanes:
                    if lane.queue or lane.later:
                        self._do(
                            f"lane {worker.number}",
                            partial(flow.write, worker, lane, 999),
                        )


def _asked_for(error: FatalError) -> Accept:
    """The option that a refusal names."""
    asked = [accept for accept in Accept if f"--accept-{accept}," in error.hint]
    hold(len(asked) == 1, "I10", f"a refusal that names no way on: {error}")
    return asked[0]


@contextmanager
def _caps(plan: Plan) -> Iterator[None]:
    """Caps this small are hit all the time; what holds for them holds for larger ones."""
    before = source.FIRST_CAP, epoch_budget.MIN_CAP, source.FIRST_CAP_BYTES
    source.FIRST_CAP, epoch_budget.MIN_CAP = plan.first_cap, plan.min_cap
    source.FIRST_CAP_BYTES = plan.first_cap_bytes
    try:
        yield
    finally:
        source.FIRST_CAP, epoch_budget.MIN_CAP, source.FIRST_CAP_BYTES = before
