"""One seeded run: a history, a flow, random faults, and the oracle.

The seed determines the whole run, and also its settings: kinds and rates of faults, caps, and the number
of workers.
"""

import hashlib
import traceback
from collections.abc import Callable
from functools import partial
from random import Random

from operators import crash_points
from operators.errors import FatalError, RetriableError
from operators.ownership.accept_options import Accept
from tests.simulation.away import after_a_run_without
from tests.simulation.clock import Clock
from tests.simulation.flow import Flow
from tests.simulation.history import history_of
from tests.simulation.oracle import Oracle, Violation, hold
from tests.simulation.plan import Outcome, knobs_of, plan_of, small_caps, with_origins
from tests.simulation.schedule import Step, enabled, one_epoch
from tests.simulation.store import FaultyLedger, FaultyStore, Letters, PowerCut
from tests.simulation.tables import CHUNKED, FILTERED, PLAIN, in_parts
from tests.simulation.topic import drawn_topic

PATIENCE = 400
"""After this many rounds, a flow that has read everything must be idle."""


class World:
    """One run of the simulation.

    Args:
        seed: Determines the whole run.
        keep_trace: Whether to keep a line for each event.
        origins: Whether to draw several physical tables, and partitions that are added.
    """

    def __init__(self, seed: int, *, keep_trace: bool = False, origins: bool = True) -> None:
        self._rng = rng = Random(seed)
        self._outcome = Outcome(seed)
        self._keep_trace = keep_trace
        self._digest = hashlib.blake2b(digest_size=16)
        self.clock = Clock(rng)
        plan = plan_of(rng)
        self.plan = plan = with_origins(plan, seed) if origins else plan
        history = history_of(rng, plan.kinds)
        table = FILTERED if plan.kinds.hiding else CHUNKED if plan.chunks else PLAIN
        if plan.kinds.tables > 1 or plan.kinds.others:
            table = in_parts(table, servers=plan.kinds.servers)
        self.topic = drawn_topic(rng, table, history, plan.kinds, plan.partitions)
        self.store = FaultyStore(rng, self, plan.moods)
        self.letters = Letters(rng, self, plan.moods.letters)
        self.ledger = FaultyLedger(rng, self, plan.moods.ledger)
        self.flow = Flow(
            table,
            self.topic.logs,
            self.store,
            self.ledger,
            self.letters,
            self,
            self.clock,
            horizon_s=plan.horizon_s,
            relevant=self.topic.shards(),
        )
        self.flow.known = plan.partitions - plan.hidden
        self.oracle = Oracle(self.topic, self.store)
        # The two halves of a key change may come to two processes, or to two runs.
        self.oracle.excuses.lost = plan.workers > 1 or plan.rescales or plan.hidden > 0
        for fault, count in self.topic.faults.items():
            self._outcome.faults[f"source: {fault}"] += count
        self._outcome.faults["source: bad record"] += sum(
            change.bad for change in self.topic.places.values()
        )
        self._armed: tuple[str, int] | None = None
        self._calm = self._unsure = False
        self._depth = 0
        self._last_crash = -99
        self._workers = plan.workers
        self._polled = -1
        self._told = 0

    # ------------------------------------------------------------------ called by the store

    def pause(self, seconds: float) -> None:
        """Let virtual time pass, and other threads take steps."""
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
        """Run to the end, or to the first violation."""
        outcome, plan = self._outcome, self.plan
        with small_caps(plan):
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
        steps = enabled(flow, rng)
        steps.append(Step(3, "time passes", self._time_passes))
        if any(log.end() < len(log.records) for log in self.topic.logs):
            steps.append(Step(6, "the database writes", self._database_writes))
        weights = [step.weight for step in steps]
        chosen = rng.choices(steps, weights)[0]
        self._do(chosen.name, chosen.do)

    def _do(self, name: str, step: Callable[[], object]) -> None:
        """Take a step of a process; a fatal error kills the process.

        Raises:
            PowerCut: The process died.
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
        living = [worker for worker in flow.workers if worker.number != cut.victim]
        if cut.victim is not None and living and self._rng.random() < 0.5:
            self.happened("crash of one, the other goes on for a while")
            flow.workers[cut.victim].dead = True
            try:
                for _ in range(self._rng.randint(1, 6)):
                    self._any_step(nested=True)
            except PowerCut:
                self._note("and the other as well")
        self.oracle.crashed()
        faults["crash while gathering"] += flow.gathering() and bool(flow.committed)
        faults["crash while stopping"] += flow.stopping
        if self._outcome.steps - self._last_crash <= 3:
            self.happened("crash twice in a row")
        self._last_crash = self._outcome.steps
        self._start_again("a crash")

    def _start_again(self, after: str) -> None:
        """Start all processes, again until a start succeeds."""
        plan, rng, flow = self.plan, self._rng, self.flow
        if after == "a stop":
            self.oracle.stopped(flow)
        self._change_topics(after)
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
            knobs = knobs_of(rng, workers)
            self._note(f"start: {knobs} {sorted(accepted)}")
            self.oracle.letters(self.letters.letters, unsure=self._unsure)
            self.oracle.starting()
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
                # A process writes the accepted state to the ledger with its first records. Until all
                # have done so, the state may be refused again.
                hold(meddled or bool(flow.untold), "I10", f"the right state is refused: {error}")
                if meddled and rng.random() < 0.4:
                    self.happened("state refused, and the right one put back")
                    flow.committed, meddled = right, False
                else:
                    accepted |= {_asked_for(error)}
        if accepted:
            self.happened("state refused, and accepted")
            self.oracle.accepted(older=Accept.OLDER_STATE in accepted)
        elif meddled:
            flow.older.clear()
            self.happened("state lost or taken back, and that did no harm")
        self.oracle.started(flow)

    def _change_topics(self, after: str) -> None:
        """Between two runs, add a partition, or have the table leave the contract for a run."""
        plan, rng, flow = self.plan, self._rng, self.flow
        if after == "first start":
            return
        if flow.known < len(flow.logs) and (self._calm or rng.random() < 0.3):
            flow.known = len(flow.logs) if self._calm else flow.known + 1
            self.happened(f"partition added after {after}")
        if flow.committed and rng.random() < plan.away and not self._calm:
            try:
                flow.committed = after_a_run_without(
                    flow.committed, rng, self.clock, plan.horizon_s
                )
            except PowerCut as cut:
                self._note(f"crashed in a run without the table: {cut}")
            self.happened("table away for a run")

    def _meddle(self) -> bool:
        """Lose the recovery state, or replace it by an older one, as after restoring a disk."""
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

    def _look(self) -> None:
        self.oracle.look(self.flow, self.letters.letters, unsure=self._unsure)
        self._outcome.rewritten = max(self._outcome.rewritten, len(self.oracle.again))

    # ------------------------------------------------------------------ the end

    def _drain(self) -> None:
        """Read and write everything without faults; then check the store at rest."""
        self._note("drain")
        self._calm = True
        self.store.calm_down()
        self.letters.rate = self.ledger.rate = 0.0
        for log in self.topic.logs:
            log.written = None
        for round_ in range(PATIENCE):
            if self.flow.known < len(self.flow.logs):
                self.flow.stopping = True
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
        self.oracle.took(self.clock.seconds())
        self.oracle.rest(self.letters.letters)
        left = self.flow.left_behind()
        hold(not left, "I2", f"something is kept for ever: {left}")

    def _sweep(self, seconds: float) -> None:
        for name, step in one_epoch(self.flow, partial(self.clock.advance, seconds)):
            written = name != "commit" or self.flow.may_commit()
            hold(written, "I2", "a lane waits for what nobody will tell it")
            self._do(name, step)


def _asked_for(error: FatalError) -> Accept:
    """The accept option that a refusal names."""
    asked = [accept for accept in Accept if f"--accept-{accept}," in error.hint]
    hold(len(asked) == 1, "I10", f"a refusal that names no way on: {error}")
    return asked[0]
