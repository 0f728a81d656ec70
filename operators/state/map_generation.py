"""A generation: the versions of the rows that changed within one horizon."""

from collections.abc import Iterator, Set
from typing import TypedDict

from operators.changes.row_key import RowKey
from operators.state.frozen_versions import FrozenVersions, Known, PackedFrozen

FREEZE_FROM = 512
"""A generation with fewer rows stays in a dict, which is faster; freezing would save little memory."""

FREEZE_SHARE = 8
"""Recent rows are frozen when they are one eighth of the generation. So the dict takes little memory,
and the frozen rows are not copied too often."""


class PackedGeneration(TypedDict):
    """A generation as plain values.

    Attributes:
        recent: Rows that are not frozen.
        frozen: The frozen rows; None if there are none.
    """

    recent: dict[RowKey, Known]
    frozen: PackedFrozen | None


class Generation:
    """{row key → (version, text hash)}: a dict of the most recent changes over frozen rows."""

    __slots__ = ("frozen", "limit", "recent")

    def __init__(self, recent: dict[RowKey, Known], frozen: FrozenVersions | None = None) -> None:
        self.recent = recent
        self.frozen = frozen
        self.limit = self._next_limit()

    def _next_limit(self) -> int:
        """With more recent rows than this, they are frozen."""
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
        """The entries of these rows, as far as there are any."""
        return {key: known for key in keys if (known := self.get(key)) is not None}

    def freeze(self, held: Set[RowKey]) -> None:
        """Freeze the recent rows.

        Args:
            held: Rows to keep in the dict, because every checkpoint writes them.
        """
        settled = {key: known for key, known in self.recent.items() if key not in held}
        if settled:
            frozen = FrozenVersions.none() if self.frozen is None else self.frozen
            self.frozen = frozen.with_rows(settled)
            self.recent = {key: known for key, known in self.recent.items() if key in held}
        self.limit = self._next_limit()

    def keys(self) -> Iterator[RowKey]:
        """Keys of all rows; a key comes twice if its row changed after it was frozen."""
        yield from self.recent
        if self.frozen is not None:
            yield from self.frozen.keys()

    def items_of(self, prefix: str) -> Iterator[tuple[RowKey, Known]]:
        """All rows whose key has this prefix."""
        for key, known in self.recent.items():
            if key.startswith(prefix):
                yield key, known
        if self.frozen is not None:
            for key, known in self.frozen.items_of(prefix):
                if key not in self.recent:  # guard: recent-before-frozen
                    yield key, known

    def pack(self) -> PackedGeneration:
        """The generation as plain values."""
        frozen = None if self.frozen is None else self.frozen.pack()
        # guard: state-is-a-copy
        return PackedGeneration(recent=dict(self.recent), frozen=frozen)

    @classmethod
    def unpack(cls, packed: PackedGeneration) -> "Generation":
        """The generation that `pack` was called on."""
        frozen = None if packed["frozen"] is None else FrozenVersions.unpack(packed["frozen"])
        # guard: restored-is-a-copy
        return cls(dict(packed["recent"]), frozen)
