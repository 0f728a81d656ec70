"""Marks of single rows, in addition to their versions."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from operators.changes.row_key import RowKey
from operators.changes.version import Version


class SentRows:
    """Rows that were sent to a lane, and that the store may still refuse.

    A lane may report a refusal late, after newer changes of the row were sent. If one of these is
    whole, the refusal does not matter to any change after it. The version map has only the last change
    of a row; so if that one is partial, the version of the whole row before it is kept here.

    An epoch is committed when its lanes have written all of it, so all its refusals are reported before
    the checkpoint of the next epoch. That checkpoint therefore drops the versions kept for the epoch.

    Attributes:
        keys: Rows that were sent since the last checkpoint.
    """

    __slots__ = ("_earlier_whole", "_whole", "keys")

    def __init__(self) -> None:
        self.keys: set[RowKey] = set()
        self._whole: dict[RowKey, Version] = {}
        self._earlier_whole: dict[RowKey, Version] = {}

    def follows_whole(self, key: RowKey, version: Version) -> None:
        """Note that a partial row was sent after a whole one of this version."""
        self._whole[key] = version

    def last_whole(self, key: RowKey) -> Version | None:
        """The version of the whole row before the last, partial one; None if not known."""
        return self._whole.get(key) or self._earlier_whole.get(key)

    def checkpoint(self) -> None:
        """Begin the next epoch, after the shard's state was taken and all refusals were applied."""
        self.keys.clear()
        self._earlier_whole, self._whole = self._whole, {}  # guard: taint-late-by-an-epoch


PackedStaleDeletes: TypeAlias = tuple[frozenset[RowKey], frozenset[RowKey]]
"""Row keys of the younger horizon, and of the older one."""


class StaleDeletes:
    """Rows whose delete was dropped as stale, and whose tombstone has not come yet.

    A row is kept for at least one horizon and at most two.
    """

    __slots__ = ("_old", "_young")

    def __init__(self, packed: PackedStaleDeletes = (frozenset(), frozenset())) -> None:
        young, old = packed
        self._young, self._old = set(young), set(old)

    def add(self, key: RowKey) -> None:
        """Note that a delete of the row was dropped."""
        self._young.add(key)

    def take(self, key: RowKey) -> bool:
        """Whether a delete of the row was dropped; forgets the row."""
        if not (self._young or self._old):
            return False  # the usual case, and this is called for every change
        known = key in self._young or key in self._old
        self._young.discard(key)
        self._old.discard(key)
        return known

    def rotate(self) -> None:
        """Forget the rows of the older horizon."""
        self._old, self._young = self._young, set()

    def pack(self) -> PackedStaleDeletes:
        """The rows as plain values."""
        return frozenset(self._young), frozenset(self._old)


@dataclass(slots=True)
class RowMarks:
    """The marks of a shard's rows. Most rows have none; a row may have several.

    Attributes:
        gone: Deleted rows. The store has no trace of them.
        unverified: Rows to look up: the store may hold a newer version than the map.
        doubtful: Rows that are unverified since before the start. Their last write may have been
            refused, and only the previous process was told.
        sent: Rows that were sent to a lane, and that the store may still refuse.
        stale_deletes: Rows whose delete was dropped as stale, so that its tombstone is stale, too.
    """

    gone: set[RowKey] = field(default_factory=set)
    unverified: set[RowKey] = field(default_factory=set)
    doubtful: set[RowKey] = field(default_factory=set)
    sent: SentRows = field(default_factory=SentRows)
    stale_deletes: StaleDeletes = field(default_factory=StaleDeletes)

    def unverified_after_crash(self) -> Set[RowKey]:
        """Rows to look up after a crash: the next process does not learn which writes were refused."""
        return self.unverified | (self.sent.keys - self.gone)  # guard: sent-over-crash

    def rotate(self, is_known: Callable[[RowKey], bool]) -> None:
        """Drop the marks of rows that are no longer in the map."""
        self.unverified = set(filter(is_known, self.unverified))
        self.gone = set(filter(is_known, self.gone))
        self.stale_deletes.rotate()
