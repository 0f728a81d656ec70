"""What one version of a row can give to a later one that lacks columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operators.changes.row_key import RowKey
from operators.changes.rows import Followed, Follows, PartialRow, Row, split_by_spans, texts_of
from operators.changes.version import Version, place_of_partition, with_place
from operators.store.protocol import Entity


@dataclass(frozen=True, slots=True)
class Donor:
    """What one version of a row can give.

    Attributes:
        texts: Columns of the template, as text.
        columns: Mirrored columns, by field name.
        follows: Who has what this version lacks as well; see `PartialRow`. A whole row lacks nothing
            that an older version has.
        old_key: The same, where the key changed.
    """

    version: Version
    texts: Mapping[str, str | None]
    columns: Mapping[str, Any]
    follows: Followed = Follows.REFUSED
    old_key: RowKey | None = None


def donor_of_row(row: Row | PartialRow) -> Donor:
    """A row that waits in its window, or in its lane."""
    if isinstance(row, PartialRow):
        return Donor(row.version, row.texts, row.columns, row.follows, row.old_key)
    return Donor(row.version, texts_of(row), row.columns)


def donor_of_entities(entities: Sequence[Entity]) -> Donor:
    """A row as the store has it.

    Args:
        entities: All chunks of the row, in order.
    """
    first = entities[0]
    text = joined((entity.start, entity.text) for entity in entities)
    # A release before this one stored no place in its versions.
    version = with_place(first.version, place_of_partition(*first.position[:2]))
    return Donor(version, split_by_spans(text, first.spans), first.columns)


def joined(chunks: Iterable[tuple[int, str]]) -> str:
    """The text that chunks were cut from, which may overlap: (start, text), in order."""
    text = ""
    for start, piece in chunks:
        text = text[:start] + piece
    return text
