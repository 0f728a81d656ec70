"""What is noted of single rows beside their versions."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from operators.changes.row_key import RowKey
from operators.changes.version import Version


class SentRows:
    """Rows on their way to the store, which may refuse them yet.

    A lane may tell of a refused row late, when newer ones were sent already. If one of those is whole,
    the refusal says nothing about what follows that one. The version map knows only the last change of
    a row; so where that one lacks columns, the whole row before it is remembered here.

    An epoch is committed when its lanes have written all of it, so its refusals are known before the
    shard's state is taken for the next epoch. What was remembered in an epoch is forgotten then.

    Attributes:
        keys: Rows that were sent since the last checkpoint.
    """

    __slots__ = ("_earlier_whole", "_whole", "keys")

    def __init__(self) -> None:
        self.keys: set[RowKey] = set()
        self._whole: dict[RowKey, Version] = {}
        self._earlier_whole: dict[RowKey, Version] = {}

    def follows_whole(self, key: RowKey, version: Version) -> None:
        """Note that the row, which lacks columns, was sent after a whole one of this version."""
        self._whole[key] = version

    def last_whole(self, key: RowKey) -> Version | None:
        """The version of the whole row before the last one, which lacks columns; None if not known."""
        return self._whole.get(key) or self._earlier_whole.get(key)

    def checkpoint(self) -> None:
        """Begin the next epoch: the shard's state was taken, and all earlier refusals were entered."""
        self.keys.clear()
        self._earlier_whole, self._whole = self._whole, {}  # guard: taint-late-by-an-epoch


PackedStaleDeletes: TypeAlias = tuple[frozenset[RowKey], frozenset[RowKey]]
"""Of the younger horizon, and of the older one."""


class StaleDeletes:
    """Rows whose delete was dropped as stale, and whose tombstone has not come yet.

    They are remembered for one horizon at least, and for two at most.
    """

    __slots__ = ("_old", "_young")

    def __init__(self, packed: PackedStaleDeletes = (frozenset(), frozenset())) -> None:
        young, old = packed
        self._young, self._old = set(young), set(old)

    def add(self, key: RowKey) -> None:
        """Note that a delete of the row was dropped."""
        self._young.add(key)

    def take(self, key: RowKey) -> bool:
        """Whether a delete of the row was dropped, once."""
        if not (self._young or self._old):
            return False  # as nearly always, and it is asked for every change
        known = key in self._young or key in self._old
        self._young.discard(key)
        self._old.discard(key)
        return known

    def rotate(self) -> None:
        """Forget those of the older horizon."""
        self._old, self._young = self._young, set()

    def pack(self) -> PackedStaleDeletes:
        """All of it as plain values."""
        return frozenset(self._young), frozenset(self._old)


@dataclass(slots=True)
class RowMarks:
    """The marks of a shard's rows. A row may have several, and most have none.

    Attributes:
        gone: The row is deleted, which nothing in the store tells.
        unverified: The store may hold a newer version of the row than the map: it has to be looked up.
        doubtful: It is unverified since before the start: it may have been refused, and the only
            process that was told so is gone.
        sent: It is on its way to the store, which may refuse it yet.
        stale_deletes: Its delete was dropped as stale, so the tombstone after that is stale as well.
    """

    gone: set[RowKey] = field(default_factory=set)
    unverified: set[RowKey] = field(default_factory=set)
    doubtful: set[RowKey] = field(default_factory=set)
    sent: SentRows = field(default_factory=SentRows)
    stale_deletes: StaleDeletes = field(default_factory=StaleDeletes)

    def unverified_after_crash(self) -> Set[RowKey]:
        """Rows that the process after this one has to look up: it hears of no refusal of this one."""
        return self.unverified | (self.sent.keys - self.gone)  # guard: sent-over-crash

    def rotate(self, is_known: Callable[[RowKey], bool]) -> None:
        """Forget the marks of rows that the map has forgotten."""
        self.unverified = set(filter(is_known, self.unverified))
        self.gone = set(filter(is_known, self.gone))
        self.stale_deletes.rotate()
