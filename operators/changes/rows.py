"""Rows to be written to the store: complete, partial, or moved to another key."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from operators.changes.events import Delete, KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.version import Version

Spans: TypeAlias = tuple[tuple[str, int, int], ...]
"""(column, start, end) of each column of the template in the text, in characters; NULL is -1, -1."""


class Row(NamedTuple):
    """An upsert rendered under the contract: what the store will hold, except for the vector.

    Attributes:
        text: What is embedded and stored, before it is split into chunks.
        text_hash: Hex digest of `text`; if it is unchanged, the vector is reused.
        columns: The mirrored columns by their field names in the collection.
        spans: Where each column lies in the text, so that a later version can take from it a column
            that Debezium left out.
        lone: See `Upsert`.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    op: str
    table: str
    text: str
    text_hash: str
    columns: Mapping[str, Any]
    spans: Spans = ()
    lone: bool = False


class PartialRow(NamedTuple):
    """A row some of whose columns Debezium left out, to be completed from an earlier version.

    Attributes:
        texts: The template's columns that are known, as text; None is NULL.
        columns: The mirrored columns that are known, by field name.
        missing: The table's columns that are not known.
        old_key: The row key before a change of the primary key; the earlier version is under it.
        origin: Schema and name of the table in the database.
        after: The version that it follows, from which alone it may be completed; None if that is not
            known here, and "" if that version was refused. With `old_key`, the version of the change
            of the key.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    op: str
    table: str
    texts: Mapping[str, str | None]
    columns: Mapping[str, Any]
    missing: tuple[str, ...]
    old_key: RowKey | None = None
    origin: tuple[str, str] = ("", "")
    lone: bool = False
    after: str | None = None


Winner: TypeAlias = Row | PartialRow | Delete
"""The one change of a row that is left when its window closes."""


class Move(NamedTuple):
    """What a row held is wanted under another key.

    Attributes:
        delete: Of the old key.
        held: What is known of the row as it was last; None for what the store holds.
        after: The version that the delete follows, from which alone the row may take its values; see
            `PartialRow.after`.
    """

    delete: Delete
    held: PartialRow | None = None
    after: str | None = None


def texts_of(row: Row) -> dict[str, str | None]:
    """The columns of a rendered row's template, as text."""
    return split_by_spans(row.text, row.spans)


def split_by_spans(text: str, spans: Spans) -> dict[str, str | None]:
    """The columns that a text was made of; None is NULL."""
    return {name: None if start < 0 else text[start:end] for name, start, end in spans}
