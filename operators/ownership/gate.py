"""The gate that every write passes: open while the lease lasts, and tied to the kernel timer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from operators.errors import FatalError, RetriableError
from operators.ownership.lease_times import LeaseTimes


class Timer(Protocol):
    """Ends the process at a given moment; `operators.ownership.kill_timer` is the real one."""

    def arm(self, at: float) -> None:
        """End the process at this moment, in seconds of the lease's clock."""
        ...

    def disarm(self) -> None:
        """Do not end the process."""
        ...


class Gate:
    """Lets writes begin while the lease lasts, and tells the timer when to end this process.

    All state that the lease shares between threads is here, under `_changing`: lane threads and the
    worker pass the gate, the lease thread opens it, the main thread closes it. `_lost` is read without
    the lock; once set, it is only replaced by another error.

    Args:
        times: Durations of the lease.
        timer: Ends the process.
        now: Seconds of a clock that runs on while the machine is suspended.
    """

    def __init__(self, times: LeaseTimes, timer: Timer, now: Callable[[], float]) -> None:
        self._times = times
        self._timer = timer
        self._now = now
        self._changing = threading.Lock()
        self._in_flight = 0
        self._open_until = float("-inf")
        self._armed = False
        self._ended = False
        self._lost: FatalError | None = None

    @property
    def armed(self) -> bool:
        """Whether the timer would end this process."""
        return self._armed

    @property
    def lost(self) -> bool:
        """Whether the lease was lost or released."""
        return self._lost is not None

    def renewed(self, began: float) -> None:
        """Open the gate after a renewal, and move the timer.

        Args:
            began: The moment before the entries were read. Another process can only see the renewal
                later than that, so it waits longer than this process may write.
        """
        with self._changing:
            if self._ended:
                return
            # guard: timer-armed, timer-from-before
            self._timer.arm(began + self._times.kill)
            self._armed = True
            self._open_until = began + self._times.gate

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Every request that changes the store runs inside this context.

        Raises:
            RetriableError: The last renewal is too old.
            FatalError: The lease was lost.
        """
        with self._changing:
            self.check()
            if self._now() >= self._open_until:  # guard: gate-closed
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

    def expire(self) -> None:
        """Disarm the timer if the gate has closed and no write is in flight."""
        with self._changing:
            # guard: timer-under-way
            if self._armed and self._now() >= self._open_until and not self._in_flight:
                self._timer.disarm()
                self._armed = False

    def lose(self, error: FatalError) -> None:
        """Close the gate, because another process holds the lease; `error` is raised from now on."""
        with self._changing:
            self._lost = error
            self._open_until = float("-inf")
            in_flight = self._in_flight
        if not in_flight:
            self._timer.disarm()

    def end(self, error: FatalError) -> bool:
        """Close the gate for good; returns whether the lease was not lost before."""
        with self._changing:
            self._ended = True
            self._open_until = float("-inf")
            held, self._lost = self._lost is None, self._lost or error
        return held

    def disarm(self) -> None:
        """Do not end this process any more."""
        self._timer.disarm()
