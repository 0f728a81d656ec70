"""How long each step of a lease may take."""

import time
from dataclasses import dataclass

_KILL = 0.9
"""Share of the lease after which the kernel ends a process that has not renewed it."""

_MARGIN = 0.05
"""Share of the lease between the deadline of the last write and the kill, for disarming the timer."""

_SETTLE_S = 1.0

_SETTLE = 1 / 30


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
    def kill(self) -> float:
        """For how long after a renewal the kernel lets the process live."""
        return self.lease * _KILL

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
