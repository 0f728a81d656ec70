"""The last operation on each row of one collection, within one write of a lane."""

from dataclasses import dataclass, field

from operators.changes.events import Delete
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Row, Winner
from operators.changes.shards import shard_of
from operators.changes.version import Version, is_before
from operators.model.protocol import Piece
from operators.state.version_map import VersionMap
from operators.toast.resolver import asks_the_same, fall_back


@dataclass(slots=True)
class LaneBatch:
    """The last operation on each row of one collection.

    Attributes:
        pieces: Of the rows that have their vectors already.
        fallbacks: What to write where a partial row cannot be completed, oldest first. All but the
            oldest are partial as well.
        emptied: The shards that have come to a TRUNCATE, by its table and version; before all else.
        moves: Rows whose key changed, with what is on its way; to be read before they are written.
        versions: The maps of the rows' shards; the lane touches their `refusals` alone.
    """

    rows: dict[RowKey, Row | PartialRow] = field(default_factory=dict)
    pieces: dict[RowKey, tuple[Piece, ...]] = field(default_factory=dict)
    deletes: dict[RowKey, Delete] = field(default_factory=dict)
    fallbacks: dict[RowKey, list[Winner]] = field(default_factory=dict)
    emptied: dict[tuple[str, Version], set[int]] = field(default_factory=dict)
    moves: list[tuple[Move, Row | PartialRow | None]] = field(default_factory=list)
    versions: dict[RowKey, VersionMap] = field(default_factory=dict)

    def put(self, winner: Winner, pieces: tuple[Piece, ...] | None) -> None:
        """Let an operation take the place of the one before."""
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
        """Drop the operations on a shard's rows of a table that are older than its TRUNCATE.

        The other shards come to it in their turn: what they still have to write may need these.
        """
        winners: list[Winner] = [*self.rows.values(), *self.deletes.values()]
        for winner in winners:
            key = winner.row_key
            if not (key.startswith(prefix) and shard_of(key) == shard):  # guard: truncate-own-rows
                continue
            fallbacks = [  # guard: truncate-fallbacks
                each for each in self.fallbacks.pop(key, ()) if not is_before(each.version, version)
            ]
            if is_before(winner.version, version):
                self.rows.pop(key, None)
                self.deletes.pop(key, None)
                self.pieces.pop(key, None)
            elif fallbacks:
                self.fallbacks[key] = fallbacks

    def fall_back(self, key: RowKey, stored: Version | None) -> None:
        """Let the newest fallback take the place of a partial row that cannot be completed now.

        Args:
            key: Of the row.
            stored: The version that the store has.
        """
        del self.rows[key]
        older = fall_back(self.fallbacks.get(key, []), stored)
        if older is not None:
            self.put(older, None)
