"""How many records and bytes an epoch may take."""

from collections import deque

from operators.kafka.log_reader import Record

FIRST_CAP = 500
"""Records of a flow's first epoch. A constant, because a first epoch that crashed left no state: the
next start must use the same cap."""

FIRST_CAP_BYTES = 2**20
"""Bytes of a flow's first epoch: the smallest limit that the contract allows."""

MIN_CAP = 500

LONG_EPOCH = 6
"""Longest epoch, in epoch intervals. At the end of an epoch the model is idle until the lanes have
written everything, so a flow that is behind is faster with few long epochs."""


class EpochBudget:
    """Counts the records and bytes of the current epoch, and sets the cap of the next one.

    The cap follows the throughput: it grows while epochs reach it quickly, and halves when an epoch
    takes too long. So the epochs of a flow that is behind take between a half and the whole of
    `LONG_EPOCH` intervals. A crash costs at most the work of one epoch.

    Attributes:
        max_records, max_bytes: Cap of the current epoch.
    """

    def __init__(self, max_records: int, max_bytes: int, interval_s: float, now: float) -> None:
        self.max_records = max_records
        self.max_bytes = max_bytes
        self._interval_s = interval_s
        self._began = now
        self._records = 0
        self._bytes = 0

    def room(self) -> int:
        """How many more records the epoch may take; 0 if its bytes are used up."""
        return 0 if self._bytes >= self.max_bytes else self.max_records - self._records

    def take(self, records: deque[Record], limit: int) -> list[Record]:
        """Take records from the front and count them, until the epoch is full.

        The last record may exceed the byte cap. Whether a record fits depends only on the records
        before it, so a replay ends the epoch at the same record.

        Args:
            records: Fetched records, in order; those taken are removed.
            limit: How many records to take at most.
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
        """Start the next epoch with a cap that fits the throughput of the last one.

        Args:
            now: Seconds of the same clock as at the start.
            largest: How many records any epoch may hold.
            max_bytes: Byte cap of the next epoch.

        Returns:
            How long the epoch took, in seconds.
        """
        took = now - self._began
        if self.room() <= 0 and took <= self._interval_s * LONG_EPOCH / 2:
            # An epoch that ended by its interval, not by the work, had spare capacity of unknown
            # size: grow by 4.
            self.max_records *= 4 if took <= 1.1 * self._interval_s else 2
        elif took > self._interval_s * LONG_EPOCH:
            self.max_records //= 2
        self.max_records = max(min(self.max_records, largest), min(MIN_CAP, largest))
        self.max_bytes = max_bytes
        self._began, self._records, self._bytes = now, 0, 0
        return took
