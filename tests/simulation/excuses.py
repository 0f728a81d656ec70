"""For which changes a dead letter is right: what they left out may be known nowhere."""

from collections.abc import Sequence, Set

from tests.simulation.history import Change
from tests.simulation.topic import Topic


class Excuses:
    """What may have been lost of the values that changes left out.

    Attributes:
        crashed: A process was gone before its epoch was committed.
        lost: A process lost its memory, or was never asked: what a row held whose key changed may be
            gone with it.
        rewound: An older state was accepted, so the log was read again from its middle.
        halved: Rows of which the store held some chunks when somebody went on without the state.
    """

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._by_row: dict[int, list[Change]] = {}
        for change in topic.history:
            self._by_row.setdefault(change.row, []).append(change)
        self._doubted = topic.doubted()
        self._torn: set[Change] = set()
        self.crashed = False
        self.lost = False
        self.rewound = False
        self.halved: set[int] = set()

    def excused(self, change: Change, buried: Set[Change]) -> bool:
        """Whether what a change left out may be known nowhere.

        Args:
            change: The change.
            buried: All changes that are in dead letters.
        """
        if not change.partial:
            return False
        # From the middle of the log, a value may be left out whose row is gone by now. From its
        # beginning, the store knows the row as newer, and may have lost half of it.
        if self.rewound or change.row in self.halved or change in self._doubted:
            return True
        if change.old is not None and (self.lost or change in self._torn):
            return True
        before = self._before(change)
        return (
            before is None
            or before.seen is None
            or before.bad
            or before in buried
            or self.excused(before, buried)
        )

    def stopped(self, read: Sequence[int]) -> None:
        """A flow stops cleanly, and forgets what rows held whose key changed.

        The new row lacks it then if it was not read yet; or if it still waited, because its old key had
        the value from a key before that, whose delete was not read yet.

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
        """Whether what a change left out comes over another change of the key that is half read."""
        before = self._before(change)
        while before is not None and before.partial:
            if before.old is not None and (before.old, before.lsn) not in deleted:
                return True
            before = self._before(before)
        return False

    def _before(self, change: Change) -> Change | None:
        """The change that it follows, of its old key if that changed."""
        row = change.row if change.old is None else change.old
        earlier = [each for each in self._by_row[row] if each.lsn < change.lsn]
        return earlier[-1] if earlier else None
