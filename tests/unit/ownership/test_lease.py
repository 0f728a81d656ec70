"""The lease lets one process write at a time. The clock moves only when the test moves it."""

import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import pytest

from operators.errors import FatalError, RetriableError, RowvecError
from operators.ownership.accept_options import Accept
from operators.ownership.lease import Lease
from operators.ownership.lease_times import LeaseTimes
from operators.ownership.ledger_entries import Entry, Holder
from operators.ownership.own_entries import OwnEntries
from tests.changes import TOPIC, table
from tests.fakes import MemoryLedger

TIMES = LeaseTimes(lease=90.0, request=60.0)


class World:
    """A ledger store and a clock that all processes share."""

    def __init__(self) -> None:
        self.store = MemoryLedger()
        self.now = 0.0
        self.others: list[Callable[[], None]] = []

    def process(self, name: str, **more: Any) -> "Process":
        return Process(self, name, **more)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Process:
    """A process with a lease; it is its own timer, and dead once the clock has passed the deadline."""

    def __init__(self, world: World, name: str, lock: str = "", **more: Any) -> None:
        self.world = world
        self.deadline: float | None = None
        self.waited = 0.0
        self.while_waiting: Callable[[], None] = lambda: None
        self.lease = Lease(
            OwnEntries(world.store, (table(),), process=0),
            TIMES,
            self,
            Holder(id=name, where=f"process 1 on {name}", lock=lock),
            now=lambda: world.now,
            wait=self._wait,
            **more,
        )
        # No thread: the test renews the lease itself.
        self.lease._thread.start = lambda: None  # type: ignore[method-assign]

    def arm(self, at: float) -> None:
        self.deadline = at

    def disarm(self) -> None:
        self.deadline = None

    @property
    def dead(self) -> bool:
        return self.deadline is not None and self.world.now >= self.deadline

    def _wait(self, seconds: float) -> bool:
        self.waited += seconds
        self.world.pass_by(seconds)
        self.while_waiting()
        return False

    def start(self) -> "Process":
        self.lease.claim()
        self.lease.confirm()
        return self

    def write(self) -> None:
        assert not self.dead
        with self.lease.gate.writing():
            pass


def test_a_free_lease_is_taken_at_once():
    world = World()
    one = world.process("one").start()
    assert one.waited <= TIMES.settle
    one.write()
    assert one.deadline is not None
    assert TIMES.gate + TIMES.request < one.deadline < TIMES.lease


def test_one_that_was_let_go_is_taken_at_once():
    world = World()
    one = world.process("one").start()
    one.lease.end()
    with pytest.raises(FatalError):
        one.write()
    assert one.deadline is None
    assert world.process("two").start().waited <= TIMES.settle


def test_a_renewed_one_is_refused():
    world = World()
    one = world.process("one").start()
    two = world.process("two")
    two.while_waiting = one.lease.renew
    with pytest.raises(FatalError, match="process 1 on one is writing"):
        two.start()
    one.write()


def test_a_frozen_holder_is_dead_before_another_may_write():
    world = World()
    one = world.process("one").start()
    world.pass_by(7)
    one.lease.renew()
    two = world.process("two").start()
    assert two.waited >= TIMES.lease
    assert one.dead
    two.write()


def test_the_lock_of_the_same_directory_proves_that_the_holder_is_dead():
    world = World()
    world.process("one", lock="boot:1:2").start()
    two = world.process("two", lock="boot:1:2", free_locks=["boot:1:2"]).start()
    assert two.waited <= TIMES.settle
    three = world.process("three", lock="boot:1:3", free_locks=["boot:1:3"])
    three.while_waiting = two.lease.renew
    with pytest.raises(FatalError, match="is writing"):
        three.start()


def test_no_lock_proves_nothing():
    world = World()
    world.process("one", lock="").start()
    assert world.process("two", lock="", free_locks=[""]).start().waited >= TIMES.lease


def test_a_peer_of_another_number_is_no_rival_but_one_of_a_larger_flow_is():
    world = World()
    one = world.process("one", process=1, processes=2)
    one.lease._entries._process = 1
    one.start()
    assert world.process("zero", process=0, processes=2).start().waited <= TIMES.settle
    assert world.process("alone", process=0, processes=1).start().waited >= TIMES.lease


def test_without_milvus_nothing_is_written_and_nobody_dies():
    world = World()
    one = world.process("one").start()
    down = RetriableError(subject="milvus", cause="down")
    for _ in range(200):
        world.pass_by(1)
        world.store.fail_next(down)
        one.lease.renew()
        one.lease.gate.expire()
        assert not one.dead
    with pytest.raises(RetriableError, match="could not be renewed"):
        one.write()
    world.store._failures.clear()
    one.lease.renew()
    one.write()
    assert one.deadline is not None


def test_a_request_under_way_keeps_the_timer_armed():
    world = World()
    one = world.process("one").start()
    with one.lease.gate.writing():
        world.pass_by(TIMES.gate + 1)
        one.lease.gate.expire()
        assert one.deadline is not None
    # The request has run into its deadline and ended.
    assert one.deadline is None


def test_who_slept_too_long_finds_that_another_has_it():
    world = World()
    one = world.process("one").start()
    world.pass_by(TIMES.gate + 1)
    one.lease.gate.expire()
    two = world.process("two").start()
    with pytest.raises(RetriableError):
        one.write()
    one.lease.renew()
    for _ in range(2):
        with pytest.raises(FatalError, match="no longer has it: process 1 on two"):
            one.write()
        with pytest.raises(FatalError):
            one.lease.gate.check()
    two.write()
    one.lease.end()  # must not release the other process's lease
    two.lease.renew()
    two.write()


def test_a_slow_claim_does_not_count():
    world = World()
    one = world.process("one")
    write = world.store.write

    def slow(entries: Any, *_: Any) -> None:
        world.pass_by(TIMES.settle + 0.1)
        write(entries)

    world.store.write = slow  # type: ignore[method-assign]
    with pytest.raises(FatalError, match="took longer"):
        one.start()
    with pytest.raises(RetriableError):
        one.write()


def test_a_claim_that_was_written_over_does_not_count():
    world = World()
    one, two = world.process("one"), world.process("two")
    began, entries = two.lease._wait_until_free()  # both find it free
    one.lease.claim()
    two.lease._entries.adopt(entries)
    two.lease._entries.write(two.lease._held_by_this)
    assert began == 0.0
    with pytest.raises(FatalError, match="no longer has it"):
        one.lease.confirm()


def silent_for(seconds: float, process: Process) -> None:
    """Let time pass without a renewal, until the process has disarmed its timer."""
    process.world.pass_by(seconds)
    process.lease.gate.expire()
    assert process.deadline is None


def test_renewals_after_a_long_silence_that_take_too_long_count_one_lease_later():
    world = World()
    one = world.process("one").start()
    silent_for(TIMES.gate + 1, one)
    world.pass_by(TIMES.lease)
    write = world.store.write

    def slow(entries: Any, *_: Any) -> None:
        world.pass_by(TIMES.settle + 0.1)
        write(entries)

    world.store.write = slow  # type: ignore[method-assign]
    until = world.now + TIMES.lease
    while world.now < until:
        one.lease.renew()
        with pytest.raises(RetriableError):
            one.write()
        world.pass_by(TIMES.renewal)
    one.lease.renew()
    one.write()


def test_after_a_short_silence_a_slow_renewal_counts_at_once():
    """No other process can have seen the lease unchanged for long enough to claim it."""
    world = World()
    one = world.process("one").start()
    silent_for(TIMES.gate + 1, one)
    write = world.store.write

    def slow(entries: Any, *_: Any) -> None:
        world.pass_by(TIMES.settle + 0.1)
        write(entries)

    world.store.write = slow  # type: ignore[method-assign]
    one.lease.renew()
    one.write()


@pytest.mark.parametrize("answered", [True, False])
def test_who_is_written_over_by_a_late_renewal_has_ended_when_that_counts(answered: bool):
    world = World()
    one = world.process("one").start()
    silent_for(TIMES.lease, one)
    two = world.process("two")
    write = world.store.write

    def late(entries: Any, *_: Any) -> None:
        world.store.write = write  # type: ignore[method-assign]
        two.start()
        write(entries)
        if not answered:
            raise RetriableError(subject="milvus", cause="timed out")

    world.store.write = late  # type: ignore[method-assign]
    one.lease.renew()
    two.write()
    for _ in range(200):
        world.pass_by(1)
        one.lease.renew()
        if may_write(one):
            break
        one.lease.gate.expire()
        two.lease.gate.expire()
    else:
        raise AssertionError("it never went on")
    assert two.dead or not may_write(two)


def test_who_is_written_over_by_a_late_claim_has_ended_when_that_counts():
    world = World()
    one = world.process("one").start()
    silent_for(TIMES.lease, one)
    two = world.process("two")
    write = world.store.write

    def late(entries: Any, *_: Any) -> None:
        world.store.write = write  # type: ignore[method-assign]
        one.lease.renew()
        one.write()
        world.pass_by(TIMES.settle + 0.1)
        write(entries)

    world.store.write = late  # type: ignore[method-assign]
    two.start()
    two.write()
    assert one.dead or not may_write(one)


def may_write(process: Process) -> bool:
    with suppress(RowvecError):
        process.write()
        return True
    return False


def test_a_renewal_counts_from_before_it_looked():
    world = World()
    one = world.process("one").start()
    read = world.store.read

    def slow() -> dict[str, str]:
        world.pass_by(20)
        return read()

    world.store.read = slow  # type: ignore[method-assign]
    began = world.now
    one.lease.renew()
    # Another process may have read the entry at that moment, and may take over one lease later.
    assert one.deadline is not None
    assert one.deadline < began + TIMES.lease


def test_what_the_ledger_holds_besides_stays():
    world = World()
    body = Entry("i", 0, history=3, sequence=8, tables={"docs": "d"}, seen={"t/0": 5})
    world.store.entries["docs/0"] = body.pack()
    one = world.process("one").start()
    one.lease.end()
    entry = Entry.unpack("docs/0", world.store.entries["docs/0"])
    assert (entry.identity, entry.history, entry.tables, entry.seen) == (
        "i",
        3,
        {"docs": "d"},
        {"t/0": 5},
    )
    assert entry.sequence > 8


@pytest.mark.parametrize("seed", range(300))
def test_never_two_at_once(seed: int) -> None:
    """Random schedules: processes claim, freeze, wake up, lose Milvus and end."""
    draw = random.Random(seed)
    world = World()
    world.store = Unreliable(world, draw)
    running: list[tuple[Process, float]] = []
    wrote = 0
    for number in range(40):
        world.pass_by(draw.choice([0.1, 1.0, 5.0, 20.0, 70.0]))
        running = [(p, until) for p, until in running if not p.dead]
        awake = [p for p, until in running if until <= world.now]
        match draw.randrange(6):
            case 0 | 1:
                new = world.process(f"p{number}")
                new.while_waiting = partial(_renew, running, world)
                with suppress(RowvecError):
                    new.start()
                    running.append((new, 0.0))
            case 2 if running:  # one freezes, whatever it was doing
                index = draw.randrange(len(running))
                running[index] = (running[index][0], world.now + draw.choice([1, 30, 100, 500]))
            case 3 if awake and draw.random() < 0.3:
                awake[0].lease.end()
                running = [(p, until) for p, until in running if p is not awake[0]]
            case _:
                _renew(running, world)
        # Every process that may write now, or still has a request in flight from when it might.
        able = []
        for process, _ in running:
            if not process.dead:
                with suppress(RowvecError), process.lease.gate.writing():
                    able.append(process)
        assert len(able) <= 1
        wrote += len(able)
    assert wrote


def _renew(running: list[tuple[Process, float]], world: World) -> None:
    for process, until in running:
        if not process.dead and until <= world.now:
            process.lease.renew()
            process.lease.gate.expire()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Cannot invoke RPC on closed channel!"),
        MemoryError(),
        KeyError("holder"),
        SystemExit(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lease_thread_that_fails_by_anything_stops_the_flow_and_says_why(error):
    """Nobody waits for it. Without this the kernel would kill the process later, without a word."""
    world = World()
    one = world.process("one").start()

    def fail() -> None:
        raise error

    one.lease._times = LeaseTimes(lease=0.012, request=0.0)
    one.lease._entries.read = fail  # type: ignore[method-assign]
    world.pass_by(1)
    one.lease._now = lambda: world.pass_by(1) or world.now  # type: ignore[func-returns-value]
    one.lease.keep()
    assert one.deadline is None, "the timer is put off, so that the flow can end by itself"
    with pytest.raises(FatalError, match=f"not renewed any more: {type(error).__name__}"):
        one.lease.gate.check()
    with pytest.raises(FatalError, match="Nothing is lost: start again"):
        one.write()
    if isinstance(error, SystemExit):
        return  # `end` runs in the main thread, where only a request to exit raises it
    one.lease.end()  # the connection is what failed, and no error may hide the first one
    del one.lease._entries.read  # it works again: the lease was this process's, and is released
    one.lease.end()
    assert world.process("two").start().waited <= TIMES.settle


def test_the_record_of_an_epoch_needs_the_lease():
    """It is a write as any other: a process that was replaced must not move what was recorded."""
    world = World()
    one = world.process("one").start()
    one.lease._entries.record({f"{TOPIC}/0": 5})
    world.pass_by(TIMES.gate)
    with pytest.raises(RetriableError, match="nothing may be written"):
        one.lease._entries.record({f"{TOPIC}/0": 9})
    one.lease.renew()  # a renewal passes no gate, or the gate could never open again
    one.lease._entries.record({f"{TOPIC}/0": 9})


class Unreliable(MemoryLedger):
    """A ledger store that is sometimes slow and sometimes down."""

    def __init__(self, world: World, draw: random.Random) -> None:
        super().__init__()
        self._world, self._draw = world, draw

    def write(self, entries: Any, fence: Any = nullcontext) -> None:
        kind = self._draw.random()
        if kind < 0.1:
            raise RetriableError(subject="milvus", cause="down")
        if kind < 0.2:
            self._world.pass_by(self._draw.choice([0.5, 2.0]))
        super().write(entries, fence)
        if kind > 0.95:
            raise RetriableError(subject="milvus", cause="timed out")


def test_the_options_are_spelled_as_the_errors_say():
    assert {f"--accept-{each}" for each in Accept} == {
        "--accept-lost-state",
        "--accept-older-state",
        "--accept-other-contract",
        "--accept-other-collection",
        "--accept-recreated-topic",
        "--accept-missed-records",
    }
