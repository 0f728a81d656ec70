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


PackedOwed: TypeAlias = tuple[dict[RowKey, str], dict[RowKey, str]]
"""Places by row key, with spaces between them: of the younger horizon, and of the older one."""

_FOLLOWED = "+"


class OwedTombstones:
    """Rows whose delete has come, but not yet the tombstone that Debezium sends behind it.

    Such a tombstone says nothing new, and must not delete a row that was made again since. It belongs
    to the delete if it is the next record of the row in the delete's partition, or if it comes from
    another partition: transforms that choose the partition by the row's content cannot read it from a
    tombstone. A tombstone that belongs to no delete is what log compaction, or a transform, has left
    of one.

    A row is kept for at least one horizon and at most two.
    """

    __slots__ = ("_old", "_young")

    def __init__(self, packed: PackedOwed | None = None) -> None:
        young, old = packed or ({}, {})
        self._young, self._old = dict(young), dict(old)

    def add(self, key: RowKey, place: str) -> None:
        """Note that a delete of the row came from this place."""
        owed = self._without(self._pop(key), place)
        # guard: deletes-of-two-places
        self._young[key] = " ".join((*owed, place))

    def follow(self, key: RowKey, place: str) -> None:
        """Note that another change of the row came from this place."""
        if not (self._young or self._old):
            return  # the usual case, and this is called for every change
        for some in (self._young, self._old):
            if place in (owed := some.get(key, "").split()):
                # guard: stale-tombstone-late
                some[key] = " ".join((*self._without(owed, place), place + _FOLLOWED))

    def take(self, key: RowKey, place: str) -> bool:
        """Whether a tombstone from this place belongs to a delete; forgets that delete."""
        if not (self._young or self._old):
            return False
        owed = self._pop(key)
        here = [each for each in owed if each in (place, place + _FOLLOWED)]
        # One from here, or else one from any other place.
        taken = next(iter(here or owed), "")
        left = self._without(owed, taken.removesuffix(_FOLLOWED))
        if left:
            self._young[key] = " ".join(left)
        # guard: tombstone-of-delete-elsewhere
        return taken not in ("", place + _FOLLOWED)

    def _pop(self, key: RowKey) -> list[str]:
        """All places of a row, which is forgotten."""
        return (self._young.pop(key, None) or self._old.pop(key, "")).split()

    @staticmethod
    def _without(owed: list[str], place: str) -> list[str]:
        return [each for each in owed if each not in (place, place + _FOLLOWED)]

    def rotate(self) -> None:
        """Forget the rows of the older horizon."""
        self._old, self._young = self._young, {}

    def pack(self) -> PackedOwed:
        """The rows as plain values."""
        return dict(self._young), dict(self._old)


@dataclass(slots=True)
class RowMarks:
    """The marks of a shard's rows. Most rows have none; a row may have several.

    Attributes:
        gone: Deleted rows. The store has no trace of them.
        unverified: Rows to look up: the store may hold a newer version than the map.
        doubtful: Rows that are unverified since before the start. Their last write may have been
            refused, and only the previous process was told.
        sent: Rows that were sent to a lane, and that the store may still refuse.
        owed: Rows whose delete has come, but not yet its tombstone.
    """

    gone: set[RowKey] = field(default_factory=set)
    unverified: set[RowKey] = field(default_factory=set)
    doubtful: set[RowKey] = field(default_factory=set)
    sent: SentRows = field(default_factory=SentRows)
    owed: OwedTombstones = field(default_factory=OwedTombstones)

    def unverified_after_crash(self) -> Set[RowKey]:
        """Rows to look up after a crash: the next process does not learn which writes were refused."""
        return self.unverified | (self.sent.keys - self.gone)  # guard: sent-over-crash

    def rotate(self, is_known: Callable[[RowKey], bool]) -> None:
        """Drop the marks of rows that are no longer in the map."""
        self.unverified = set(filter(is_known, self.unverified))
        self.gone = set(filter(is_known, self.gone))
        self.owed.rotate()
