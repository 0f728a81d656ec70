"""Tells if the system clock is set back: Bytewax then stands still until it has caught up."""

import logging
import time
from collections.abc import Callable

from flows.process.periodic import Periodic
from operators.ownership.lease_times import boottime

logger = logging.getLogger(__name__)

TOLD_FROM_S = 5.0
"""A shorter step back delays the flow by no more than that, and is not worth a line."""

LOOKS_EVERY_S = 2.0


class ClockWatch(Periodic):
    """Compares the system clock with one that nobody can set.

    Bytewax plans its polls and checkpoints by the system clock. No row is lost if that is set back, but
    none is read or written either, and SIGTERM is not noticed, for as long as it was set back.

    Threads: its own thread calls `check`.

    Args:
        system, steady: Seconds of the two clocks.
    """

    def __init__(
        self, system: Callable[[], float] = time.time, steady: Callable[[], float] = boottime
    ) -> None:
        super().__init__("rowvec-clock", LOOKS_EVERY_S, self.check)
        self._system = system
        self._steady = steady
        self._apart = system() - steady()

    def check(self) -> None:
        """Look once. A clock that is slewed, or set forward, is no reason to tell anything."""
        apart = self._system() - self._steady()
        back = self._apart - apart
        self._apart = apart
        if back >= TOLD_FROM_S:
            logger.warning(
                "The system clock was set back by %.0f s: the flow stands still for as long. Kill the "
                "process and start it again to go on at once; nothing is lost",
                back,
            )
