"""The writes while a flow runs: at each epoch, up to which offset the one before is committed."""

from functools import partial

from operators.ownership.ledger_entries import Stamp
from operators.ownership.own_entries import OwnEntries
from operators.retry import RetryPolicy


class EpochEnds:
    """Where the epochs of each partition ended, and the record of it in the ledger.

    The worker calls everything, for each epoch: `closed` and `stamp` when it ends, `emitting` before
    the first record of the next one. `ended` comes from the main thread, after the worker has ended.

    Args:
        entries: This process's entries.
        retry: For their writes.
    """

    def __init__(self, entries: OwnEntries, retry: RetryPolicy) -> None:
        self._entries = entries
        self._retry = retry
        self._closed: dict[str, dict[int, int]] = {}
        self._epoch = -1

    def stamp(self, topic: str) -> Stamp:
        """What the recovery state of a partition of this topic has to remember."""
        entry = self._entries[self._entries.collection_of(topic)]
        return Stamp(entry.identity, self._entries.stored_sequence)

    def closed(self, topic: str, partition: int, epoch: int, offset: int) -> None:
        """Note at which offset an epoch of a partition has ended; the epoch is not committed yet.

        Args:
            topic: Topic of the partition.
            partition: Its number.
            epoch: Number of epochs that this process has closed before, the same for all partitions;
                -1 to note where the partition was resumed.
            offset: The next offset to be read.
        """
        ends = self._closed.setdefault(f"{topic}/{partition}", {})
        ends[epoch] = offset
        ends.pop(epoch - 2, None)

    def emitting(self, epoch: int) -> None:
        """Write down that all epochs before this one are committed.

        Called before the first record of the epoch is passed on. Bytewax lets it in only when the
        epoch before is committed.

        Raises:
            FatalError: The ledger cannot be written.
        """
        if epoch <= self._epoch:
            return
        # guard: seen-is-committed
        ended = {part: ends.get(epoch - 1, -1) for part, ends in self._closed.items()}
        seen = {
            part: offset
            for part, offset in ended.items()
            if offset >= 0 and offset != self._entries.recorded(part)
        }
        if seen or self._epoch < 0:
            # The first write also stores what the user accepted at the start, before any row is
            # written because of it.
            self._retry.call(partial(self._entries.record, seen))
        self._epoch = epoch

    def ended(self) -> None:
        """Note that the flow has ended cleanly, so its last epoch is committed as well.

        The next write stores it: the one that releases the lease.
        """
        last = {part: ends[max(ends)] for part, ends in self._closed.items()}
        self._entries.note({part: offset for part, offset in last.items() if offset >= 0})
