"""Rows on their way to the store, which may refuse them yet."""

from collections.abc import Set

from operators.changes.row_key import RowKey
from operators.changes.version import Version


class SentRows:
    """What was sent since the last checkpoint, and which whole rows went before rows that lack columns.

    A lane may tell of a refused row late, when newer ones were sent already. If one of those is whole,
    the refusal says nothing about what follows that one. The version map knows only the last change of
    a row; so where that one lacks columns, the whole row before it is remembered here.

    An epoch is committed when its lanes have written all of it, so its refusals are known before the
    shard's state is taken for the next epoch. What was remembered in an epoch is forgotten then.
    """

    __slots__ = ("_earlier_whole", "_keys", "_whole")

    def __init__(self) -> None:
        self._keys: set[RowKey] = set()
        self._whole: dict[RowKey, Version] = {}
        self._earlier_whole: dict[RowKey, Version] = {}

    @property
    def keys(self) -> Set[RowKey]:
        """Rows that were sent since the last checkpoint."""
        return self._keys

    def add(self, key: RowKey) -> None:
        """Note that the row is on its way."""
        self._keys.add(key)

    def follows_whole(self, key: RowKey, version: Version) -> None:
        """Note that the row, which lacks columns, was sent after a whole one of this version."""
        self._whole[key] = version

    def last_whole(self, key: RowKey) -> Version | None:
        """The version of the whole row before the last one, which lacks columns; None if not known."""
        return self._whole.get(key) or self._earlier_whole.get(key)

    def checkpoint(self) -> None:
        """Begin the next epoch: the shard's state was taken, and all earlier refusals were entered."""
        self._keys.clear()
        self._earlier_whole, self._whole = self._whole, {}  # guard: taint-late-by-an-epoch
