"""How many records an epoch may take."""

from collections import deque

from operators.kafka.log_reader import Record

FIRST_CAP = 500
"""Records of the first epoch of all. A constant: a first epoch that crashed left no state behind."""

FIRST_CAP_BYTES = 2**20
"""The same for its bytes; the least that the contract allows for any epoch."""

MIN_CAP = 500

LONG_EPOCH = 6
"""Intervals that an epoch may take. At its end the model waits until all is written, so a flow that is
behind does better with few and long ones."""


class EpochBudget:
    """What the current epoch may still take, and what the next one may.

    The cap follows the drain: it grows while epochs fill it, and halves when one takes too long. So
    where there is much to do an epoch takes between a half and the whole of `LONG_EPOCH` intervals, and
    that much work is what a crash costs.

    Attributes:
        max_records, max_bytes: What the epoch that runs now may take.
    """

    def __init__(self, max_records: int, max_bytes: int, interval_s: float, now: float) -> None:
        self.max_records = max_records
        self.max_bytes = max_bytes
        self._interval_s = interval_s
        self._began = now
        self._records = 0
        self._bytes = 0

    def room(self) -> int:
        """Records that still fit, by count."""
        return 0 if self._bytes >= self.max_bytes else self.max_records - self._records

    def take(self, records: deque[Record], limit: int) -> list[Record]:
        """Take records from the front and count them in, until the epoch is full.

        A record counts as long as less than the cap went before it, so that what an epoch takes is a
        prefix of the log that a replay can cut at the same place.

        Args:
            records: What was read, in order; loses what is taken.
            limit: The most to take.
        """
        taken: list[Record] = []
        most = min(len(records), limit, self.max_records - self._records)  # guard: epoch-cap
        while len(taken) < most and self._bytes < self.max_bytes:  # guard: epoch-cap-bytes
            record = records.popleft()
            taken.append(record)
            self._bytes += len(record[1] or b"") + len(record[2] or b"")
        self._records += len(taken)
        return taken

    def close_epoch(self, now: float, largest: int, max_bytes: int) -> float:
        """Start the next epoch with a cap that fits the last one's pace.

        Args:
            now: Seconds.
            largest: The most records that an epoch may hold.
            max_bytes: The bytes that the next epoch may hold.

        Returns:
            How long the epoch took, in seconds.
        """
        took = now - self._began
        if self.room() <= 0 and took <= self._interval_s * LONG_EPOCH / 2:
            # One that took no longer than it must was through before; how much, it does not tell.
            self.max_records *= 4 if took <= 1.1 * self._interval_s else 2
        elif took > self._interval_s * LONG_EPOCH:
            self.max_records //= 2
        self.max_records = max(min(self.max_records, largest), min(MIN_CAP, largest))
        self.max_bytes = max_bytes
        self._began, self._records, self._bytes = now, 0, 0
        return took
