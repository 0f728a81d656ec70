"""The changes for which a dead letter is right, because nobody may know the values they left out."""

from collections import defaultdict
from collections.abc import Sequence, Set

from tests.simulation.history import Change
from tests.simulation.topic import Topic


class Excuses:
    """The events by which left-out values may have been lost.

    Attributes:
        crashed: A process died before its epoch was committed.
        lost: The values of an old key may not have reached the row with the new key: a process died,
            the two halves came to two processes, or one half waited too long for the other.
        rewound: An older state was accepted, so the log was read again from its middle.
        halved: Rows of which the store had only some chunks when a start without state was accepted.
    """

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._by_row: dict[int, list[Change]] = {}
        for change in topic.history:
            self._by_row.setdefault(change.row, []).append(change)
        self._doubted = topic.doubted()
        self._partitions: dict[Change, set[int]] = defaultdict(set)
        for (number, _), change in topic.places.items():
            self._partitions[change].add(number)
        self._torn: set[Change] = set()
        self.crashed = False
        self.lost = False
        self.rewound = False
        self.halved: set[int] = set()

    def excused(self, change: Change, buried: Set[Change]) -> bool:
        """Whether nobody may know the values that a change left out.

        Args:
            change: The change.
            buried: All changes that are in dead letters.
        """
        if not change.partial:
            return False
        # Read again from the middle of the log, a change may need a row that is deleted by now. Read
        # from the beginning, the store has a newer version of the row, and may have lost half of it.
        if self.rewound or change.row in self.halved or change in self._doubted:
            return True
        if change.old is not None and (self.lost or change in self._torn):
            return True
        before = self._before(change)
        return (
            before is None
            or self.elsewhere(change)
            or before.seen is None
            or before.bad
            or before in buried
            or self.excused(before, buried)
        )

    def elsewhere(self, change: Change) -> bool:
        """Whether the change before lies in another partition, or one of the two in several.

        It may be unread when this one comes, and then is dropped as older when it is read.
        """
        before = self._before(change)
        if before is None:
            return False
        return len(self._partitions[change] | self._partitions[before]) > 1

    def is_spread(self, row: int) -> bool:
        """Whether the changes of a row lie in several partitions."""
        return len({n for each in self._by_row[row] for n in self._partitions[each]}) > 1

    def stopped(self, read: Sequence[int]) -> None:
        """Note a clean stop, which loses the values of rows whose key changed.

        The new row lacks them if it was not read yet; or if it still waits, because its old key takes
        them from an earlier key, whose delete was not read yet.

        Args:
            read: The next offset of each partition.
        """
        places = self._topic.places
        seen = {change for (number, offset), change in places.items() if offset < read[number]}
        deleted = {(c.row, c.lsn) for c in seen if c.new is not None}
        self._torn |= {
            change
            for change in places.values()
            if (change.old, change.lsn) in deleted
            and (change not in seen or self._waits(change, deleted))
        }

    def _waits(self, change: Change, deleted: Set[tuple[int, int]]) -> bool:
        """Whether a change takes values over an earlier key change of which only one half was read."""
        before = self._before(change)
        while before is not None and before.partial:
            if before.old is not None and (before.old, before.lsn) not in deleted:
                return True
            before = self._before(before)
        return False

    def _before(self, change: Change) -> Change | None:
        """The change before this one; that of the old key if this one changes the key."""
        row = change.row if change.old is None else change.old
        earlier = [each for each in self._by_row[row] if each.lsn < change.lsn]
        return earlier[-1] if earlier else None
