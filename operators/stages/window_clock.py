"""The clock that decides when windows close."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(slots=True)
class WindowClock:
    """Closes the windows of all shards of a process at the same time.

    A window closes `length_s` after its first row at the latest, and earlier if `max_rows` rows wait
    in the process.

    Threads: the workers of a process share it. They count under `_lock`, and replace `_window` as a
    whole.
    """

    length_s: float
    max_rows: int
    now: Callable[[], datetime]
    waiting_rows: int = 0
    _window: tuple[datetime, datetime] = (_NEVER, _NEVER)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, rows: int) -> None:
        """Add to the number of waiting rows; negative if fewer wait now."""
        with self._lock:
            self.waiting_rows += rows

    def deadline(self, now: datetime) -> datetime:
        """The end of the window that a row arriving now belongs to."""
        return now if self.waiting_rows >= self.max_rows else self.end(now)

    def end(self, now: datetime) -> datetime:
        """The next time at which all windows close."""
        began, end = self._window
        if not began <= now < end:
            seconds = (math.floor(now.timestamp() / self.length_s) + 1) * self.length_s
            end = datetime.fromtimestamp(seconds, UTC)
            # Kept with its start, so that the end is computed again if the clock is set back.
            self._window = (now, end)
        return end
