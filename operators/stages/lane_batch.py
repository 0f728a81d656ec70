"""The last operation on each row of one collection, within one write of a lane."""

from dataclasses import dataclass, field

from operators.changes.events import Delete
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Row, Winner
from operators.changes.shards import shard_of
from operators.changes.version import Version, is_before
from operators.model.protocol import Piece
from operators.state.version_map import VersionMap
from operators.store.row_requests import Entities


@dataclass(slots=True)
class LaneBatch:
    """The last operation on each row of one collection.

    Attributes:
        pieces: Of the rows that have their vectors already.
        below: What partial rows took the place of, oldest first, should they be refused. All but the
            oldest are partial as well.
        emptied: The shards that have come to a TRUNCATE, by its table and version; before all else.
        moves: Rows whose key changed, with what is on its way; to be read before they are written.
        versions: The maps of the rows' shards, to be told of refused rows.
    """

    rows: dict[RowKey, Row | PartialRow] = field(default_factory=dict)
    pieces: dict[RowKey, tuple[Piece, ...]] = field(default_factory=dict)
    deletes: dict[RowKey, Delete] = field(default_factory=dict)
    below: dict[RowKey, list[Winner]] = field(default_factory=dict)
    emptied: dict[tuple[str, Version], set[int]] = field(default_factory=dict)
    moves: list[tuple[Move, Row | PartialRow | None]] = field(default_factory=list)
    versions: dict[RowKey, VersionMap] = field(default_factory=dict)

    def put(self, winner: Winner, pieces: tuple[Piece, ...] | None) -> None:
        """Let an operation take the place of the one before."""
        key = winner.row_key
        if isinstance(winner, PartialRow):
            before = self.rows.get(key) or self.deletes.get(key)
            if before is not None and not _asks_as(winner, before):
                self.below.setdefault(key, []).append(before)  # guard: below-lane
        elif self.below:
            self.below.pop(key, None)
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
            below = [  # guard: truncate-below
                each for each in self.below.pop(key, ()) if not is_before(each.version, version)
            ]
            if is_before(winner.version, version):
                self.rows.pop(key, None)
                self.deletes.pop(key, None)
                self.pieces.pop(key, None)
            elif below:
                self.below[key] = below

    def stand_in(self, key: RowKey, entities: Entities | None) -> None:
        """Let what a partial row took the place of have it again, unless the store is ahead."""
        del self.rows[key]
        below = self.below.get(key)
        if below:
            before = below.pop()
            # One without a position was held against the store before it came here.
            # guard: below-ahead
            if entities is None or not is_before(before.version, entities[0].version):
                self.put(before, None)


def _asks_as(row: PartialRow, before: Winner) -> bool:
    """Whether a row lacks what the one before it lacks as well, and would be refused with it."""
    return isinstance(before, PartialRow) and (before.old_key, before.after) == (
        row.old_key,
        row.after,
    )
