"""One writer for a collection: a lease in the ledger, and a kernel timer that keeps it honest.

Milvus cannot refuse the late write of a process that has been replaced. So a process may write only
while it holds the lease on every collection of its contract, renews it all the while, and is ended by
the kernel, running or stopped, before anybody else may take it over (`operators.ownership.kill_timer`).

**Taking over.** A newcomer waits until an entry has not changed for as long as its lease lasts. It need
not wait for one that was let go, nor for one whose holder is known to be dead: by the lock of the very
same recovery directory, which the newcomer has now.

**Milvus is down.** Then nobody can renew, and nobody can write: the gate closes, requests under way
come to their deadline, and the timer is put off. When Milvus is back and the lease is still this
process's, it goes on.

Milvus has no compare-and-set. A claim counts only if its write took less than the time for which the
claimant then waits before it looks again; so of two that claim at once, at most one goes on. What was
written later than that may have written over somebody who goes on until he looks: then this process
waits until he must have looked, or is dead, before it counts.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from operators.errors import FatalError, RetriableError, RowvecError
from operators.ownership.entries import Entry, Holder
from operators.ownership.ledger import Ledger

logger = logging.getLogger(__name__)

_KILL = 0.9
"""Share of the lease after which the kernel ends a process that has not renewed it."""

_MARGIN = 0.05
"""Share of it that is left for putting the timer off."""

_SETTLE_S = 1.0

_SETTLE = 1 / 30

_CLAIMS = 5


class Timer(Protocol):
    """Ends the process at a moment; `operators.ownership.kill_timer` has the real one."""

    def arm(self, at: float) -> None:
        """To be ended at a moment, in seconds of the lease's clock."""
        ...

    def disarm(self) -> None:
        """Not to be ended."""
        ...


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """In seconds.

    Attributes:
        lease: How long a holder may go on without renewing.
        request: How long a request may take that is under way: twice its deadline.
    """

    lease: float
    request: float

    @property
    def gate(self) -> float:
        """After a renewal, how long writes may begin: so that they end before the kernel strikes."""
        return self.lease * (_KILL - _MARGIN) - self.request  # guard: gate-before-death

    @property
    def renewal(self) -> float:
        """How often to renew."""
        return self.gate / 3

    @property
    def settle(self) -> float:
        """How long a claim may take, and is left to stand before it counts."""
        return max(min(_SETTLE_S, self.lease / 4), self.lease * _SETTLE)


def boottime() -> float:
    """Seconds since the machine was started, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The lease of one process on all collections of its contract.

    Args:
        ledger: Has the entries.
        times: How long everything may take.
        timer: Ends the process.
        holder: Who this process is.
        processes: Of the flow; entries of higher numbers are those of an earlier, larger one.
        free_locks: Locks that this process has taken or found free: their holders are dead.
        now: Seconds; of a clock that goes on while the machine sleeps.
        wait: Waits so many seconds; returns True if it is to give up.
    """

    def __init__(
        self,
        ledger: Ledger,
        times: LeaseTimes,
        timer: Timer,
        holder: Holder,
        *,
        process: int = 0,
        processes: int = 1,
        free_locks: Collection[str] = (),
        now: Callable[[], float] = boottime,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._ledger = ledger
        self._times = times
        self._timer = timer
        self._holder = replace(holder, lease_s=times.lease)
        self._process = process
        self._processes = processes
        self._free_locks = frozenset(free_locks) - {""}  # guard: lock-proves
        self._now = now
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.keep, name="rowvec-lease", daemon=True)
        self._wait = wait or self._ended.wait
        self._changing = threading.Lock()
        self._in_flight = 0
        self._gate_until = float("-inf")
        self._armed = False
        self._settled_at = float("inf")
        self._told_at = float("-inf")
        self._alone_from = float("-inf")
        self._lost: FatalError | None = None

    # Taking it.

    def claim(self) -> None:
        """Take the lease, waiting for that of a holder of whom nothing is known to run out.

        Raises:
            FatalError: Somebody else holds it, and renews it.
        """
        for _ in range(_CLAIMS):
            began, entries = self._wait_until_free()
            self._ledger.adopt(entries)
            self._ledger.write(self._held_by_this)
            written = self._now()
            if written - began <= self._times.settle:  # guard: claim-in-time
                self._settled_at = written + self._times.settle
                self._ledger.fence = self.writing
                self._told_at = began
                self._renewed(began)
                self._thread.start()
                return
            self._pause(self._times.lease)  # guard: lease-late-claim
        raise FatalError(
            subject="the lease",
            cause=f"Milvus took longer than {self._times.settle:.1f} s to write it, {_CLAIMS} times",
            hint="look what keeps Milvus busy, and start again",
        )

    def confirm(self) -> None:
        """Return when the claim has stood for long enough to count; before the first write.

        Raises:
            FatalError: Somebody else has claimed it as well.
        """
        left = self._settled_at - self._now()
        if left > 0:
            self._wait(left)
        self._check_holder(self._ledger.entries())  # guard: claim-confirmed
        self._settled_at = float("-inf")

    def _wait_until_free(self) -> tuple[float, dict[str, Entry]]:
        """When the entries were last read, and found free; and what they were."""
        first: dict[str, tuple[int, float]] = {}
        told = False
        while True:
            began = self._now()
            entries = self._ledger.entries()
            now = self._now()
            left = 0.0
            others = self._others(entries)
            for name, entry in others.items():
                sequence, since = first.setdefault(name, (entry.sequence, now))
                if sequence != entry.sequence:  # guard: newcomer-sees-renewal
                    raise self._held(entry)
                left = max(left, since + entry.holder.lease_s - now)
            if left <= 0:  # guard: newcomer-waits
                return began, entries
            if not told:
                told = True
                (entry, *_) = others.values()
                logger.info(
                    "Waiting up to %.0f s for the lease of %s to run out", left, entry.holder.where
                )
            self._pause(min(left, self._times.renewal))

    def _pause(self, seconds: float) -> None:
        if self._wait(seconds):
            raise FatalError(subject="the flow", cause="it was stopped while it waited its turn")

    def _others(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """Entries with a holder who may still be writing, and is no peer of this process."""
        return {
            name: entry
            for name, entry in entries.items()
            if name.rpartition("/")[0] in self._ledger.collections
            and (entry.process == self._process or entry.process >= self._processes)
            and entry.holder.id not in ("", self._holder.id)
            and entry.holder.lock not in self._free_locks
        }

    def _held(self, entry: Entry) -> FatalError:
        return FatalError(
            subject=f"collections {', '.join(sorted(self._ledger.collections))}",
            cause=f"{entry.holder.where} is writing to them: it has just renewed its lease",
            hint="one flow writes to a collection: stop the other one, or name another collection",
        )

    # Keeping it.

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around every request that changes something.

        Raises:
            RetriableError: The lease could not be renewed of late.
            FatalError: It was lost.
        """
        with self._changing:
            self.check()
            if self._now() >= self._gate_until:  # guard: gate-closed
                raise RetriableError(
                    subject="the lease on the collections",
                    cause="it could not be renewed in time, so nothing may be written",
                    hint="look whether Milvus answers",
                )
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changing:
                self._in_flight -= 1
            self.expire()

    def check(self) -> None:
        """Raise if the lease was lost.

        Raises:
            FatalError: Somebody else has it.
        """
        if self._lost is not None:  # guard: lease-ended
            raise self._lost

    def renew(self) -> None:
        """Renew the lease; what goes wrong is kept for `check` and `writing`."""
        began = self._now()
        found = False
        try:
            self._check_holder(self._ledger.entries())  # guard: lease-looked-at
            found = True
            self._ledger.write(self._held_by_this)
            if self._now() - began > self._times.settle:
                self._doubt()
            self._told_at = began
            if began >= self._alone_from:  # guard: lease-late
                self._renewed(began)
        except FatalError as error:
            self._lose(error)  # guard: lease-lost
        except RowvecError as error:
            # guard: lease-late-unanswered
            if found:  # it may have been written all the same, and late
                self._doubt()
            logger.warning("The lease could not be renewed: %s", error)
            self.expire()

    def _doubt(self) -> None:
        """Somebody may have claimed the lease after it was read, and been written over.

        Only where it had not been renewed for so long that others may take it. From then on nobody
        finds it unchanged, so that one lease later nobody else goes on.
        """
        now = self._now()
        if not self._armed and now - self._told_at >= self._times.lease - self._times.request:
            self._alone_from = now + self._times.lease

    def expire(self) -> None:
        """Put the timer off where nothing may be written any more, and nothing is under way."""
        with self._changing:
            # guard: timer-under-way
            if self._armed and self._now() >= self._gate_until and not self._in_flight:
                self._timer.disarm()
                self._armed = False

    def keep(self) -> None:
        """Renew until `end`: the body of a thread."""
        step = self._times.renewal / 4
        renewed = self._now()
        while not self._ended.wait(step):
            if self._lost is not None:
                return
            if self._now() - renewed >= self._times.renewal:
                renewed = self._now()
                self.renew()
            self.expire()

    def end(self) -> None:
        """Let go of the lease: whoever comes next need not wait. Nothing may be written after it."""
        self._ended.set()
        with self._changing:
            self._gate_until = float("-inf")
            held, self._lost = self._lost is None, self._lost or self._taken("this one has ended")
        if self._thread.is_alive():
            # A renewal under way uses the connection that is closed next.
            self._thread.join(self._times.request)
        try:
            if held:
                self._check_holder(self._ledger.entries())
                self._ledger.write(lambda _name, entry: replace(entry, holder=Holder()))
        except RowvecError as error:
            logger.warning("The lease was not let go (%s); it runs out by itself", error)
        self._timer.disarm()

    def _held_by_this(self, _name: str, entry: Entry) -> Entry:
        return entry if self._ended.is_set() else replace(entry, holder=self._holder)

    def _renewed(self, began: float) -> None:
        with self._changing:
            if self._ended.is_set():
                return
            # From before the entries were read: whoever sees this renewal sees it later.
            # guard: timer-armed, timer-from-before
            self._timer.arm(began + self._times.lease * _KILL)
            self._armed = True
            self._gate_until = began + self._times.gate

    def _check_holder(self, entries: Mapping[str, Entry]) -> None:
        for collection in self._ledger.collections:
            entry = entries.get(f"{collection}/{self._process}")
            if entry is None or entry.holder.id != self._holder.id:
                where = entry.holder.where if entry is not None else ""
                raise self._taken(f"{where or 'another process'} has")

    def _taken(self, who: str) -> FatalError:
        return FatalError(
            subject="the lease on the collections",
            cause=f"this process no longer has it: {who}",
            hint="one flow writes to a collection; nothing is lost",
        )

    def _lose(self, error: FatalError) -> None:
        with self._changing:
            self._lost = error
            self._gate_until = float("-inf")
            in_flight = self._in_flight
        if not in_flight:
            self._timer.disarm()
