"""Virtual time, and the dice that decide everything."""

from datetime import UTC, datetime, timedelta
from random import Random

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Time that passes only when it is told to.

    Attributes:
        rng: The only source of chance in a run.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._now = BEGIN

    def now(self) -> datetime:
        """The moment."""
        return self._now

    def seconds(self) -> float:
        """The same in seconds."""
        return (self._now - BEGIN).total_seconds()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
