"""The last changes of the rows that changed within one horizon."""

from collections.abc import Iterator, Set
from typing import TypedDict

from operators.changes.row_key import RowKey
from operators.state.frozen_versions import FrozenVersions, Known, PackedFrozen

FREEZE_FROM = 512
"""Rows of a generation: fewer stay in a dict, which is faster, and no memory is worth the while."""

FREEZE_SHARE = 8
"""Of a generation, one in so many comes before they are frozen: what a dict adds to the memory stays
small, and so does what is copied for each."""


class PackedGeneration(TypedDict):
    """A generation as plain values.

    Attributes:
        recent: What is not frozen.
        frozen: None if nothing is.
    """

    recent: dict[RowKey, Known]
    frozen: PackedFrozen | None


class Generation:
    """{row key → (version, text hash)}: a dict of the most recent changes, over what is frozen."""

    __slots__ = ("frozen", "limit", "recent")

    def __init__(self, recent: dict[RowKey, Known], frozen: FrozenVersions | None = None) -> None:
        self.recent = recent
        self.frozen = frozen
        self.limit = self._next_limit()

    def _next_limit(self) -> int:
        """How many recent rows there may be before they are frozen."""
        recent, frozen = len(self.recent), 0 if self.frozen is None else len(self.frozen)
        return max(FREEZE_FROM - frozen, recent + (recent + frozen) // FREEZE_SHARE)

    def __bool__(self) -> bool:
        return bool(self.recent or self.frozen)

    def get(self, key: RowKey) -> Known | None:
        """What is known of the row, or None."""
        known = self.recent.get(key)
        if known is None and self.frozen is not None:
            known = self.frozen.get(key)
        return known

    def of(self, keys: Set[RowKey]) -> dict[RowKey, Known]:
        """What is known of these rows."""
        return {key: known for key in keys if (known := self.get(key)) is not None}

    def freeze(self, held: Set[RowKey]) -> None:
        """Freeze the recent rows, but for those that each checkpoint has to find."""
        settled = {key: known for key, known in self.recent.items() if key not in held}
        if settled:
            frozen = FrozenVersions.none() if self.frozen is None else self.frozen
            self.frozen = frozen.with_rows(settled)
            self.recent = {key: known for key, known in self.recent.items() if key in held}
        self.limit = self._next_limit()

    def keys(self) -> Iterator[RowKey]:
        """Of all rows; of one that changed after it was frozen, twice."""
        yield from self.recent
        if self.frozen is not None:
            yield from self.frozen.keys()

    def items_of(self, prefix: str) -> Iterator[tuple[RowKey, Known]]:
        """All rows whose key begins so."""
        for key, known in self.recent.items():
            if key.startswith(prefix):
                yield key, known
        if self.frozen is not None:
            for key, known in self.frozen.items_of(prefix):
                if key not in self.recent:  # guard: recent-before-frozen
                    yield key, known

    def pack(self) -> PackedGeneration:
        """All of it as plain values."""
        frozen = None if self.frozen is None else self.frozen.pack()
        # guard: state-is-a-copy
        return PackedGeneration(recent=dict(self.recent), frozen=frozen)

    @classmethod
    def unpack(cls, packed: PackedGeneration) -> "Generation":
        """What `pack` saw."""
        frozen = None if packed["frozen"] is None else FrozenVersions.unpack(packed["frozen"])
        # guard: restored-is-a-copy
        return cls(dict(packed["recent"]), frozen)
