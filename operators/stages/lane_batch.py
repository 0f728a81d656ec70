"""The last operation on each row of one collection, within one write of a lane."""

from dataclasses import dataclass, field

from operators.changes.events import Delete
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Row, Winner
from operators.changes.shards import shard_of
from operators.changes.version import Version, is_emptied
from operators.model.protocol import Piece
from operators.state.version_map import VersionMap
from operators.toast.resolver import asks_the_same, fall_back


@dataclass(slots=True)
class LaneBatch:
    """The last operation on each row of one collection.

    Attributes:
        pieces: Pieces of the rows that have their vectors already.
        fallbacks: What to write if a partial row cannot be completed, oldest first. All but the oldest
            are partial as well.
        emptied: Shards that have reached a TRUNCATE, by its table and version. The lane deletes their
            older rows before it writes.
        moves: Key changes, each with the row of the old key in this batch, if any. The lane reads the
            old rows before it writes.
        versions: Version map of each row's shard; the lane uses only its `refusals`.
    """

    rows: dict[RowKey, Row | PartialRow] = field(default_factory=dict)
    pieces: dict[RowKey, tuple[Piece, ...]] = field(default_factory=dict)
    deletes: dict[RowKey, Delete] = field(default_factory=dict)
    fallbacks: dict[RowKey, list[Winner]] = field(default_factory=dict)
    emptied: dict[tuple[str, Version], set[int]] = field(default_factory=dict)
    moves: list[tuple[Move, Row | PartialRow | None]] = field(default_factory=list)
    versions: dict[RowKey, VersionMap] = field(default_factory=dict)

    def put(self, winner: Winner, pieces: tuple[Piece, ...] | None) -> None:
        """Replace the earlier operation on the row; keep it as a fallback if this one needs one."""
        key = winner.row_key
        if isinstance(winner, PartialRow):
            before = self.rows.get(key) or self.deletes.get(key)
            if before is not None and not asks_the_same(winner, before):
                self.fallbacks.setdefault(key, []).append(before)  # guard: fallbacks-in-lane
        elif self.fallbacks:
            self.fallbacks.pop(key, None)
        if isinstance(winner, Delete):
            self.rows.pop(key, None)  # guard: duplicate-delete
            self.pieces.pop(key, None)
            self.deletes[key] = winner
            return
        if self.deletes:
            self.deletes.pop(key, None)
        self.rows[key] = winner  # guard: duplicate-collapse
        if pieces is not None:
            self.pieces[key] = pieces
        else:
            self.pieces.pop(key, None)  # guard: duplicate-vector

    def forget(self, prefix: str, version: Version, shard: str) -> None:
        """Drop the operations on one shard's rows of a table that are older than its TRUNCATE.

        Every other shard drops its own when it reaches the TRUNCATE: until then its partial rows may
        need these versions.
        """
        winners: list[Winner] = [*self.rows.values(), *self.deletes.values()]
        for winner in winners:
            key = winner.row_key
            if not (key.startswith(prefix) and shard_of(key) == shard):  # guard: truncate-own-rows
                continue
            fallbacks = [  # guard: truncate-fallbacks
                each
                for each in self.fallbacks.pop(key, ())
                if not is_emptied(each.version, version)
            ]
            if is_emptied(winner.version, version):
                self.rows.pop(key, None)
                self.deletes.pop(key, None)
                self.pieces.pop(key, None)
            elif fallbacks:
                self.fallbacks[key] = fallbacks

    def fall_back(self, key: RowKey, stored: Version | None) -> None:
        """Replace a partial row that cannot be completed now by its newest fallback.

        Args:
            key: Key of the row.
            stored: The row's version in the store; None if it is not there.
        """
        del self.rows[key]
        older = fall_back(self.fallbacks.get(key, []), stored)
        if older is not None:
            self.put(older, None)
