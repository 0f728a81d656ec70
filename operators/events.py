"""The words that pass between stages: positions, versions, change events, rows, dead letters.

Named tuples: several of them are made for every record, and a frozen dataclass takes four times as
long to make. What is kept in recovery files is never one of these classes but plain tuples, so that
renaming a class cannot break a resume.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, NewType, TypeAlias

import orjson

Version = NewType("Version", str)
"""Order of the changes of one row: the source's log position, tie broken by the Kafka offset.

Sortable as a string: `{generation:04x}.{position}.{offset:016x}`. Compared for one row, or with a
TRUNCATE of its table, and never otherwise. `operators.positions` has the position of each database.
"""

OFFSET_DIGITS = 16

NO_POSITION = "0" * 16
"""Sorts before every position: of a change whose place in the source's log is not known."""

_NOWHERE = f"{NO_POSITION}."


def make_version(generation: int, position: str, offset: int) -> Version:
    """The version of a change; positions of one database have one width."""
    return Version(f"{generation:04x}.{position}.{offset:016x}")


def at_offset(version: Version, offset: int) -> Version:
    """The same source position with another Kafka offset."""
    return Version(f"{version[:-OFFSET_DIGITS]}{offset:016x}")


def same_position(one: str, other: str) -> bool:
    """Whether two versions differ by no more than their Kafka offset."""
    return one[:-OFFSET_DIGITS] == other[:-OFFSET_DIGITS]


def offset_of(version: Version) -> int:
    """The Kafka offset that a version ends with."""
    return int(version[-OFFSET_DIGITS:], 16)


def has_position(version: Version) -> bool:
    """Whether a version holds more than a Kafka offset."""
    return not version.startswith(_NOWHERE, 5)


def is_before(version: Version, other: str) -> bool:
    """Whether a version is known to be older: one without a position is not."""
    return has_position(version) and version < other


RowKey = NewType("RowKey", str)
"""A row's identity over all tables: `table:part,part`, each part percent-encoded.

It contains nothing but `A-Z a-z 0-9 _ . ~ - % : ,`, so it is safe inside a filter expression.
"""


class KafkaPosition(NamedTuple):
    """Where a record lies in Kafka."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Upsert(NamedTuple):
    """A row that exists as of `version`, with all its columns.

    Attributes:
        row: Its columns; None: they are in `raw`, an envelope in JSON. Thousands of parsed rows that
            wait for their window cost more than to parse once more those that win.
        raw: The record's value, also for the dead letter if the row cannot be rendered.
        schema: What the message says of its columns' types, as `operators.logical_types` reads it;
            None where it says nothing.
        told: The envelope's `source`, unless the row is in `raw`.
        lone: It has no source position, and only its offset orders it against what is known.
        old_key: The row was this one before its primary key changed.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    op: str
    row: Mapping[str, Any] | None
    raw: bytes = b""
    schema: Any = None
    told: Mapping[str, Any] | None = None
    lone: bool = False
    old_key: RowKey | None = None

    @property
    def columns(self) -> Mapping[str, Any]:
        """All columns of the row."""
        row = self.row
        return self._envelope()["after"] if row is None else row

    @property
    def source(self) -> Mapping[str, Any]:
        """The envelope's `source`."""
        return self._envelope()["source"] if self.row is None else self.told or {}

    def _envelope(self) -> Any:
        message = orjson.loads(self.raw)
        return message if "source" in message else message["payload"]


class Delete(NamedTuple):
    """A row that does not exist as of `version`.

    Attributes:
        lone: It has no source position (a tombstone whose row is not known), and only its offset
            orders it against what the store holds.
        moved: The row goes on under another primary key, and may need what this one holds.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    lone: bool = False
    moved: bool = False


class Tombstone(NamedTuple):
    """A null value: the key is gone as of this offset. It carries no version of its own."""

    row_key: RowKey
    position: KafkaPosition


class Truncate(NamedTuple):
    """A table that was emptied: every row of an older version is gone.

    Attributes:
        table: Its `name` in the contract, with which the row keys begin.
    """

    table: str
    version: Version
    position: KafkaPosition
    source_ts_ms: int


class Ignored(NamedTuple):
    """A message that is about no row: a heartbeat, a transaction marker, a signal."""

    reason: str


ChangeEvent: TypeAlias = Upsert | Delete | Tombstone | Truncate | Ignored

Spans: TypeAlias = tuple[tuple[str, int, int], ...]
"""(column, start, end) of each column of the template in the text, in characters; NULL is -1, -1."""


class Row(NamedTuple):
    """An upsert rendered under the contract: what the store will hold, but for the vector.

    Attributes:
        text: What is embedded and stored, whole.
        text_hash: Hex digest of `text`; equal hashes mean that the vector need not be made again.
        columns: The mirrored columns by their field names in the collection.
        spans: Lets a later version take a column from the text, should Debezium leave it out.
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
        texts: Columns of the template that are there, as text; None is NULL.
        columns: Mirrored columns that are there, by field name.
        missing: Columns of the table that are not.
        old_key: Where the earlier version is, if the primary key changed.
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
"""What is left of a row's changes when its window closes."""


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


class DeadLetter(NamedTuple):
    """A record, or a row made from one, that cannot be applied.

    Attributes:
        position: The record's position; it is the dead letter's own key, so a letter that is sent
            twice (a crash between send and commit) can be told from two letters.
        stage: The step that refused it.
        key, value: The record's bytes, or None where they are gone, too large to send on, or hold
            what is masked; the position still finds them in the source topic.
        row_key: The row that it is about; "" where that cannot be told.
    """

    position: KafkaPosition
    stage: str
    subject: str
    cause: str
    hint: str
    key: bytes | None = None
    value: bytes | None = None
    row_key: str = ""
