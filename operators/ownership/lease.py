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
claim is thrown away and repeated. A slow renewal after our lease has run out may overwrite a newer
claimant, which keeps writing until its next check. So after one, this process waits one full lease
before it counts a renewal.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from operators.errors import FatalError, RowvecError
from operators.ownership.gate import Gate, Timer
from operators.ownership.lease_times import LeaseTimes, boottime
from operators.ownership.ledger_entries import Entry, Holder
from operators.ownership.own_entries import OwnEntries

logger = logging.getLogger(__name__)

_SUBJECT = "the lease on the collections"

_CLAIMS = 5
"""How often a claim that took too long is repeated."""


class Lease:
    """The lease of one process on all collections of its contract.

    Threads that use it: the main thread calls `claim`, `confirm` and `end`; the lease thread, which
    `claim` starts, renews the lease (`keep`). Once that runs, it alone uses `_last_renewal` and
    `_sole_writer_from`; only the main thread uses `_settled_at`. All other threads meet the lease at
    its gate, which has a lock of its own.

    Attributes:
        gate: Lets writes pass while the lease lasts.

    Args:
        entries: Entries of this process.
        times: Durations.
        timer: Ends the process.
        holder: This process.
        processes: Number of processes of the flow; entries of higher process numbers are left over
            from an earlier, larger flow.
        free_locks: Locks that this process has taken or found free, so their holders are dead.
        now: Seconds of a clock that runs on while the machine is suspended.
        wait: Waits for so many seconds; returns True if the process should stop.
        watch: Called after each renewal; raises `FatalError` if a collection is another one now.
    """

    def __init__(
        self,
        entries: OwnEntries,
        times: LeaseTimes,
        timer: Timer,
        holder: Holder,
        *,
        process: int = 0,
        processes: int = 1,
        free_locks: Collection[str] = (),
        now: Callable[[], float] = boottime,
        wait: Callable[[float], bool] | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._entries = entries
        self._times = times
        self._holder = replace(holder, lease_s=times.lease)
        self._process = process
        self._processes = processes
        self._free_locks = frozenset(free_locks) - {""}  # guard: lock-proves
        self._now = now
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.keep, name="rowvec-lease", daemon=True)
        self._watch = watch
        self._wait = wait or self._ended.wait
        self._settled_at = float("inf")
        self._last_renewal = float("-inf")
        self._sole_writer_from = float("-inf")
        self._thread_failed = False
        self.gate = Gate(times, timer, now)

    # Taking the lease.

    def claim(self) -> None:
        """Take the lease. Waits for another holder's lease to run out, unless that is known to be dead.

        Raises:
            FatalError: Another process holds the lease and renews it.
        """
        for _ in range(_CLAIMS):
            began, entries = self._wait_until_free()
            self._entries.adopt(entries)
            self._entries.write(self._held_by_this)
            written = self._now()
            if written - began <= self._times.settle:  # guard: claim-in-time
                self._settled_at = written + self._times.settle
                self._entries.fence = self.gate.writing
                self._last_renewal = began
                self.gate.renewed(began)
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
        self._check_holder(self._entries.read())  # guard: claim-confirmed
        self._settled_at = float("-inf")

    def _wait_until_free(self) -> tuple[float, dict[str, Entry]]:
        """Wait until no other process holds the lease.

        Returns:
            The moment before the entries were read, and the entries.
        """
        first: dict[str, tuple[int, float]] = {}
        logged = False
        while True:
            began = self._now()
            entries = self._entries.read()
            now = self._now()
            left = 0.0
            others = self._others(entries)
            for name, entry in others.items():
                sequence, since = first.setdefault(name, (entry.sequence, now))
                if sequence != entry.sequence:  # guard: newcomer-sees-renewal
                    raise self._in_use(entry)
                left = max(left, since + entry.holder.lease_s - now)
            if left <= 0:  # guard: newcomer-waits
                return began, entries
            if not logged:
                logged = True
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
            if self._entries.collection_about(name, entry) is not None
            and (entry.process == self._process or entry.process >= self._processes)
            and entry.holder.id not in ("", self._holder.id)
            and entry.holder.lock not in self._free_locks
        }

    def _in_use(self, entry: Entry) -> FatalError:
        return FatalError(
            subject=f"collections {', '.join(sorted(self._entries.collections))}",
            cause=f"{entry.holder.where} is writing to them: it has just renewed its lease",
            hint="one flow writes to a collection: stop the other one, or name another collection",
        )

    # Keeping the lease.

    def renew(self) -> None:
        """Renew the lease. It raises nothing: if the lease is lost, the gate raises."""
        began = self._now()
        found = False
        try:
            self._check_holder(self._entries.read())  # guard: lease-looked-at
            found = True
            self._entries.write(self._held_by_this)
            if self._now() - began > self._times.settle:
                self._distrust_late_write()
            self._last_renewal = began
            if began >= self._sole_writer_from:  # guard: lease-late
                self.gate.renewed(began)
            self._watch()  # guard: collections-watched
        except FatalError as error:
            self.gate.lose(error)  # guard: lease-lost
        except RowvecError as error:
            # guard: lease-late-unanswered
            if found:  # the write may arrive late all the same
                self._distrust_late_write()
            logger.warning("The lease could not be renewed: %s", error)
            self.gate.expire()

    def _distrust_late_write(self) -> None:
        """Count no renewal for one lease, if the last write may have overwritten another claimant.

        That is possible only if our lease had run out by then, so that others could claim it. Our
        entry now changes at every renewal, so no other process can win; after one lease we are the
        only writer.
        """
        now = self._now()
        if (
            not self.gate.armed
            and now - self._last_renewal >= self._times.lease - self._times.request
        ):
            self._sole_writer_from = now + self._times.lease

    def keep(self) -> None:
        """Renew periodically until `end`: the body of the lease thread.

        Nobody waits for this thread. So whatever it fails by closes the gate, which stops the flow with
        that reason; otherwise the kernel would kill the process later, without a word.
        """
        try:
            self._keep()
        except BaseException as error:
            logger.debug("The lease thread was ended by", exc_info=error)
            text = " ".join(str(error).split())
            self._thread_failed = True
            self.gate.lose(  # guard: lease-thread
                FatalError(
                    subject=_SUBJECT,
                    cause=f"it is not renewed any more: {type(error).__name__}: {text}",
                    hint="nothing is lost: start again. `--verbose` tells where it came from",
                )
            )

    def _keep(self) -> None:
        step = self._times.renewal / 4
        renewed = self._now()
        while not self._ended.wait(step):
            if self.gate.lost:
                return
            if self._now() - renewed >= self._times.renewal:
                renewed = self._now()
                self.renew()
            self.gate.expire()

    def end(self) -> None:
        """Release the lease, so that the next process need not wait; no write is allowed after it."""
        self._ended.set()
        held = self.gate.end(self._not_ours("this one has ended"))
        if self._thread.is_alive():
            # A renewal in progress uses the connection, which the caller closes next.
            self._thread.join(self._times.request)
        try:
            # If only the thread failed, the entry still says that the lease is this process's.
            if held or self._thread_failed:
                self._check_holder(self._entries.read())
                self._entries.write(lambda _name, entry: replace(entry, holder=Holder()))
        except Exception as error:  # noqa: BLE001 - the connection may be what failed
            logger.warning("The lease was not let go (%s); it runs out by itself", error)
        self.gate.disarm()

    def _held_by_this(self, _name: str, entry: Entry) -> Entry:
        return entry if self._ended.is_set() else replace(entry, holder=self._holder)

    def _check_holder(self, entries: Mapping[str, Entry]) -> None:
        for collection in self._entries.collections:
            entry = entries.get(f"{collection}/{self._process}")
            if entry is None or entry.holder.id != self._holder.id:
                where = entry.holder.where if entry is not None else ""
                raise self._not_ours(f"{where or 'another process'} has")

    def _not_ours(self, who: str) -> FatalError:
        return FatalError(
            subject=_SUBJECT,
            cause=f"this process no longer has it: {who}",
            hint="one flow writes to a collection; nothing is lost",
        )
