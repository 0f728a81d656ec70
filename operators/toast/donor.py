"""What one version of a row can give to a later one that lacks columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operators.changes.rows import PartialRow, Row, split_by_spans, texts_of
from operators.changes.version import Version
from operators.store.protocol import Entity


@dataclass(frozen=True, slots=True)
class Donor:
    """What one version of a row can give.

    Attributes:
        texts: Columns of the template, as text.
        columns: Mirrored columns, by field name.
    """

    version: Version
    texts: Mapping[str, str | None]
    columns: Mapping[str, Any]


def donor_of_row(row: Row) -> Donor:
    """A row that is on its way to the store."""
    return Donor(row.version, texts_of(row), row.columns)


def donor_of_entities(entities: Sequence[Entity]) -> Donor:
    """A row as the store has it.

    Args:
        entities: All chunks of the row, in order.
    """
    first = entities[0]
    text = joined((entity.start, entity.text) for entity in entities)
    return Donor(first.version, split_by_spans(text, first.spans), first.columns)


def may_give(donor: Donor, partial: PartialRow) -> bool:
    """Whether the donor is the version that the partial row follows.

    It may also be a later one, up to the row itself: after a crash the store is ahead of what is
    known, by changes that the row has superseded in its window and that left the columns out too.
    """
    return follows(donor, partial.after, partial.version)


def follows(donor: Donor | Row | PartialRow, after: str | None, version: str) -> bool:
    """Whether a donor's version lies between the one that is followed and the row's own."""
    return after != "" and (after or "") <= donor.version <= version  # guard: left-out-follows


def stored_donor(entities: Sequence[Entity] | None, partial: PartialRow) -> Donor | None:
    """The stored version of a row, if it is the one that the partial row follows."""
    if not entities:
        return None
    donor = donor_of_entities(entities)
    return donor if may_give(donor, partial) else None


def joined(chunks: Iterable[tuple[int, str]]) -> str:
    """The text that chunks were cut from, which may overlap: (start, text), in order."""
    text = ""
    for start, piece in chunks:
        text = text[:start] + piece
    return text
