"""One writer for a collection: a lease in the ledger, enforced by a kernel timer.

Milvus cannot refuse the late write of a process that has been replaced. So a process writes only
while it holds the lease on every collection of its contract. It renews the lease periodically, and
the kernel ends it, running or stopped, before another process may take the lease over
(`operators.ownership.kill_timer`).

**Taking over.** A new process waits until the holder's entry has not changed for as long as its lease
lasts. It does not wait if the lease was released, or if the holder is known to be dead: the new
process has the lock of the same recovery directory.

**Milvus is down.** Nobody can renew the lease, so writing stops: the gate closes, requests in flight
run into their deadlines, and then the timer is disarmed, so that an outage kills no process. When
Milvus is back and the lease still belongs to this process, it continues.

**Two claims at once.** Milvus has no compare-and-set: the last write wins. So after writing its claim
a process waits for the settle time, then reads the entry again; it may go on only if the entry is
still its own. This is sound only if the write itself took no longer than the settle time, so a slower
claim is thrown away and repeated. A slow renewal may overwrite a newer claimant, which keeps writing
until its next check. So after one, this process waits one full lease before it counts a renewal.
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
"""Share of the lease between the deadline of the last write and the kill, for disarming the timer."""

_SETTLE_S = 1.0

_SETTLE = 1 / 30

_CLAIMS = 5


class Timer(Protocol):
    """Ends the process at a given moment; `operators.ownership.kill_timer` is the real one."""

    def arm(self, at: float) -> None:
        """End the process at this moment, in seconds of the lease's clock."""
        ...

    def disarm(self) -> None:
        """Do not end the process."""
        ...


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Durations of a lease, in seconds.

    Attributes:
        lease: How long a holder may write without renewing.
        request: The longest that a started request can take: twice its deadline.
    """

    lease: float
    request: float

    @property
    def gate(self) -> float:
        """For how long after a renewal writes may begin, so that they end before the kill."""
        return self.lease * (_KILL - _MARGIN) - self.request  # guard: gate-before-death

    @property
    def renewal(self) -> float:
        """Time between two renewals."""
        return self.gate / 3

    @property
    def settle(self) -> float:
        """The longest that writing a claim may take, and how long to wait before reading it again."""
        return max(min(_SETTLE_S, self.lease / 4), self.lease * _SETTLE)


def boottime() -> float:
    """Seconds since the machine was started, including those it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The lease of one process on all collections of its contract.

    Threads that use it: the main thread calls `claim`, `confirm` and `end`; the lease thread, which
    `claim` starts, renews the lease (`keep`); lane threads and the worker pass the gate (`writing`)
    for every write. `_changing` guards what they share: `_in_flight`, `_gate_until`, `_armed` and
    `_lost`. Only the lease thread uses `_told_at` and `_alone_from` once it runs, only the main thread
    `_settled_at`.

    Args:
        ledger: Reads and writes the entries.
        times: Durations.
        timer: Ends the process.
        holder: This process.
        processes: Number of processes of the flow; entries of higher process numbers are left over
            from an earlier, larger flow.
        free_locks: Locks that this process has taken or found free, so their holders are dead.
        now: Seconds of a clock that runs on while the machine is suspended.
        wait: Waits for so many seconds; returns True if the process should stop.
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
        """Take the lease. Waits for another holder's lease to run out, unless that is known to be dead.

        Raises:
            FatalError: Another process holds the lease and renews it.
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
        """Wait for the settle time, then check that the claim was not overwritten; before any write.

        Raises:
            FatalError: Another process has claimed the lease as well.
        """
        left = self._settled_at - self._now()
        if left > 0:
            self._wait(left)
        self._check_holder(self._ledger.entries())  # guard: claim-confirmed
        self._settled_at = float("-inf")

    def _wait_until_free(self) -> tuple[float, dict[str, Entry]]:
        """Wait until no other process holds the lease.

        Returns:
            The moment before the entries were read, and the entries.
        """
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
        """Entries whose holder may still be writing and is not another process of the same flow."""
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
        """The gate: every request that changes the store runs inside this context.

        Raises:
            RetriableError: The last renewal is too old.
            FatalError: The lease was lost.
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
            FatalError: Another process holds the lease, or this one has released it.
        """
        if self._lost is not None:  # guard: lease-ended
            raise self._lost

    def renew(self) -> None:
        """Renew the lease. It raises nothing: if the lease is lost, `check` and `writing` raise."""
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
            if found:  # the write may arrive late all the same
                self._doubt()
            logger.warning("The lease could not be renewed: %s", error)
            self.expire()

    def _doubt(self) -> None:
        """Count no renewal for one lease, if the last write may have overwritten another claimant.

        That is possible only if our lease had run out by then, so that others could claim it. Our
        entry now changes at every renewal, so no other process can win; after one lease we are the
        only writer.
        """
        now = self._now()
        if not self._armed and now - self._told_at >= self._times.lease - self._times.request:
            self._alone_from = now + self._times.lease

    def expire(self) -> None:
        """Disarm the timer if the gate has closed and no write is in flight."""
        with self._changing:
            # guard: timer-under-way
            if self._armed and self._now() >= self._gate_until and not self._in_flight:
                self._timer.disarm()
                self._armed = False

    def keep(self) -> None:
        """Renew periodically until `end`: the body of the lease thread."""
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
        """Release the lease, so that the next process need not wait; no write is allowed after it."""
        self._ended.set()
        with self._changing:
            self._gate_until = float("-inf")
            held, self._lost = self._lost is None, self._lost or self._taken("this one has ended")
        if self._thread.is_alive():
            # A renewal in progress uses the connection, which the caller closes next.
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
            # Counted from before the entries were read: another process can only see this renewal
            # later than that, so it waits longer than this process may write.
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
