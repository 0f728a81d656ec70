"""Reuse of vectors: a row whose text is unchanged is written with the vector that exists already.

**The rule.** A vector may be reused for the same text only. `is_unchanged` alone decides that, by the
hash of the text.

**Where the lane finds a vector**, in this order, when it writes a row:

1. the version of the row that it replaces in the lane's batch (`pieces_of_version`);
2. the row in the store, read after every earlier write of the row (`pieces_of_stored`);
3. a cache of recently embedded texts of any row, and then the model (`Texts.pieces`).

**Expected vectors.** Only the lane knows what the store holds at the time of the write. But most texts
are embedded before that. So `dedup` and `resolve` note which rows should find their vector in the
store (`expect_stored`), and `embed` skips these rows (`to_embed`). If the version that was to store
the vector is replaced before it is written, the row is no longer expected to find it
(`expect_nothing`). If an expectation proves wrong, the lane finds another text in the store, and
embeds the row itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from operators.changes.row_key import RowKey
from operators.changes.rows import PartialRow, Row, Winner
from operators.model.protocol import Piece
from operators.model.text_vectors import Texts
from operators.stages.window import Window
from operators.store.row_requests import Entities, Requests
from operators.telemetry import Telemetry


def is_unchanged(row: Winner, text_hash: str | None) -> bool:
    """Whether a row's text has this hash. False for a partial row: it has no text yet.

    Args:
        row: The row to write.
        text_hash: Hash of the text that has a vector; None or "" if none is known.
    """
    return isinstance(row, Row) and row.text_hash == text_hash  # guard: same-text-alone


# Before the row is written.


def expect_stored(window: Window, row: Winner, text_hash: str | None) -> None:
    """Note that the store should hold the row's vector, if the stored text has the row's hash."""
    if is_unchanged(row, text_hash):
        window.unchanged.add(row.row_key)


def expect_nothing(window: Window, key: RowKey) -> None:
    """Note that the row's vector will not be in the store: the version with it is not written."""
    window.unchanged.discard(key)  # guard: replaced-unchanged


def to_embed(window: Window) -> dict[RowKey, Row]:
    """The rows to embed before they reach their lane."""
    unchanged = window.unchanged
    return {
        key: row
        for key, row in window.rows.items()
        if isinstance(row, Row) and key not in unchanged
    }


# When it is written.


def pieces_of_version(
    row: Winner, before: Row | PartialRow | None, pieces: tuple[Piece, ...] | None
) -> tuple[Piece, ...] | None:
    """The pieces of the version that a row replaces in the lane's batch, if the text is the same.

    Args:
        row: The new row.
        before: The replaced version; None if there is none.
        pieces: Its pieces; None if it has none yet.
    """
    same = isinstance(before, Row) and is_unchanged(row, before.text_hash)
    return pieces if same else None


def pieces_of_stored(row: Winner, entities: Entities | None) -> tuple[Piece, ...] | None:
    """The pieces of the stored row, if its text is the same.

    Args:
        row: The row to write.
        entities: All chunks of the stored row; None if there is no such row.
    """
    # guard: read-back-hash-chunks
    if not entities or not is_unchanged(row, entities[0].text_hash):
        return None
    return tuple(Piece(entity.start, entity.text, entity.vector) for entity in entities)


@dataclass(frozen=True, slots=True)
class PieceFinder:
    """Gets pieces for rows that have none when they are written."""

    texts: Texts
    telemetry: Telemetry

    def find(
        self, requests: Requests, collection: str, rows: Sequence[Row], *, cut: bool
    ) -> dict[RowKey, tuple[Piece, ...]]:
        """The pieces of each row: from the store if the text is the same, else embedded.

        Args:
            requests: Requests to the store; all earlier writes of these rows are done.
            collection: The rows' collection.
            rows: The rows.
            cut: Whether rows of the collection may have several chunks.

        Raises:
            FatalError: The store is gone, or the device or the model is unusable.
        """
        if not rows:
            return {}
        keys = [row.row_key for row in rows]
        found: dict[RowKey, tuple[Piece, ...]] = {}
        if cut:
            stored = requests.rows(collection, keys)
            for row in rows:
                pieces = pieces_of_stored(row, stored.get(row.row_key))
                if pieces is not None:
                    found[row.row_key] = pieces
        else:
            # Without chunks the stored text equals the row's, so it need not be read.
            vectors = requests.vectors(collection, keys)
            for row in rows:
                digest, vector = vectors.get(row.row_key, (None, None))
                if vector is not None and is_unchanged(row, digest):  # guard: read-back-hash
                    found[row.row_key] = (Piece(0, row.text, vector),)
        if found:
            self.telemetry.texts.add(len(found), {"rowvec.text": "unchanged"})
        missing = [row for row in rows if row.row_key not in found]
        if missing:
            made = self.texts.pieces(missing)
            found.update((row.row_key, each) for row, each in zip(missing, made, strict=True))
        return found
