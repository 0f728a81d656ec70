"""Virtual time, and the random generator of a run."""

from datetime import UTC, datetime, timedelta
from random import Random

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Virtual time, which passes only by `advance`.

    Attributes:
        rng: The only source of randomness in a run.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._now = BEGIN

    def now(self) -> datetime:
        """The current time."""
        return self._now

    def seconds(self) -> float:
        """The current time in seconds."""
        return (self._now - BEGIN).total_seconds()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
