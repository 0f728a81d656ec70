"""Which vector a row is written with: one that is there already, if its text is unchanged.

**The rule.** A vector may be used again for the same text and for no other. `is_unchanged` decides
that, and nothing else does: by the hash of the text.

**Where one is looked for**, in this order, when the row is written:

1. the version of the row that it replaces in the lane's batch (`pieces_of_version`);
2. the row as the store holds it, read after every earlier write of the row (`pieces_of_stored`);
3. the texts that were embedded last, of whichever row, and then the model (`Texts.pieces`).

**Before that, it is only expected.** A lane alone knows what is there when it writes. But the model is
asked before, so `dedup` and `resolve` note which rows should find their vector in the store, by what
they know of it (`expect_stored`), and `embed` leaves those out (`to_embed`). If the version that was to
leave the vector there is taken back, the row is no longer one of them (`expect_nothing`). Where an
expectation does not come true, the lane finds another text in the store, and embeds the row's own.
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
    """Whether a row's text is the one with this hash. A row that lacks columns has no text yet.

    Args:
        row: What is to be written.
        text_hash: Of the text that has a vector; None or "" where none is known.
    """
    return isinstance(row, Row) and row.text_hash == text_hash  # guard: same-text-alone


# Before the row is written.


def expect_stored(window: Window, row: Winner, text_hash: str | None) -> None:
    """Note that the store should hold the row's vector, if this is the hash of what it holds."""
    if is_unchanged(row, text_hash):
        window.unchanged.add(row.row_key)


def expect_nothing(window: Window, key: RowKey) -> None:
    """Note that the version which was to leave the row's vector in the store is not written."""
    window.unchanged.discard(key)  # guard: replaced-unchanged


def to_embed(window: Window) -> dict[RowKey, Row]:
    """The rows that the model is given before they are written."""
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
    """The pieces of the version that a row replaces in the lane's batch, if they are the row's too.

    Args:
        row: What replaces it.
        before: The version; None if there is none.
        pieces: Those of the version; None if they are not there yet.
    """
    same = isinstance(before, Row) and is_unchanged(row, before.text_hash)
    return pieces if same else None


def pieces_of_stored(row: Winner, entities: Entities | None) -> tuple[Piece, ...] | None:
    """The pieces of a row as the store holds it, if they are this row's too.

    Args:
        row: What is to be written.
        entities: All chunks of the stored row; None if there is no such row.
    """
    # guard: read-back-hash-chunks
    if not entities or not is_unchanged(row, entities[0].text_hash):
        return None
    return tuple(Piece(entity.start, entity.text, entity.vector) for entity in entities)


@dataclass(frozen=True, slots=True)
class PieceFinder:
    """Finds the pieces of rows that have none when they are to be written."""

    texts: Texts
    telemetry: Telemetry

    def find(
        self, requests: Requests, collection: str, rows: Sequence[Row], *, cut: bool
    ) -> dict[RowKey, tuple[Piece, ...]]:
        """The pieces of each row: as the store has them, else embedded.

        Args:
            requests: To the store; all earlier writes of these rows are done.
            collection: Where the rows are.
            rows: Of any number.
            cut: Whether a row may have several chunks.

        Raises:
            FatalError: The store is gone, or the device or the model is beyond use.
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
            # Without chunks the row's own text is the stored one, which need not be read.
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
