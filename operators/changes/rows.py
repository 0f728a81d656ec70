"""Rows to be written to the store: complete, partial, or moved to another key."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from operators.changes.events import Delete, KafkaPosition, Upsert
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
        unpositioned: See `Upsert`.
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
    unpositioned: bool = False


class Follows(Enum):
    """The version that a partial row follows, if it cannot be named."""

    UNKNOWN = "unknown"
    """The version is not known here. The row follows whatever version the store holds."""

    REFUSED = "refused"
    """The version has no values to give: it was refused, could not be read, or is a delete."""


Followed: TypeAlias = Version | Follows
"""The version that a partial row follows, from which alone it may take what it lacks."""


class PartialRow(NamedTuple):
    """A row some of whose columns Debezium left out, to be completed from an earlier version.

    Attributes:
        texts: The template's columns that are known, as text; None is NULL.
        columns: The mirrored columns that are known, by field name.
        missing: The table's columns that are not known.
        old_key: The row key before a change of the primary key; the earlier version is under it.
        origin: Schema and name of the table in the database.
        follows: The version from which alone it may be completed. With `old_key`, the version of the
            change of the key. `operators.toast.resolver` has the rules.
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
    unpositioned: bool = False
    follows: Followed = Follows.UNKNOWN

    @property
    def key_change(self) -> tuple[RowKey, Version] | None:
        """Old key and version of the primary-key change whose delete has the missing values."""
        if self.old_key is None:
            return None
        assert not isinstance(self.follows, Follows)  # it follows the change of the key itself
        return self.old_key, self.follows


Winner: TypeAlias = Row | PartialRow | Delete
"""The one change of a row that is left when its window closes."""

Pending: TypeAlias = Upsert | Winner
"""A change of a row that waits for its window to close, rendered or not yet."""


class Move(NamedTuple):
    """A request to pass a row's values on to its new primary key.

    Attributes:
        delete: The delete of the old key.
        held: The row's last known version, as far as it is known; None if only the store has it.
        follows: The version before the delete, from which alone values may be taken.
    """

    delete: Delete
    held: PartialRow | None = None
    follows: Followed = Follows.UNKNOWN


def texts_of(row: Row) -> dict[str, str | None]:
    """The columns of a rendered row's template, as text."""
    return split_by_spans(row.text, row.spans)


def split_by_spans(text: str, spans: Spans) -> dict[str, str | None]:
    """The columns that a text was made of; None is NULL."""
    return {name: None if start < 0 else text[start:end] for name, start, end in spans}
