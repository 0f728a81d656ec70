"""The words that pass between stages: positions, versions, change events, rows, dead letters.

Named tuples: several of them are made for every record, and a frozen dataclass takes four times as
long to make. What is kept in recovery files is never one of these classes but plain tuples, so that
renaming a class cannot break a resume.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, NewType, TypeAlias

Version = NewType("Version", str)
"""Order of the changes of one row: the source's log position, tie broken by the Kafka offset.

Sortable as a string: `{generation:04x}.{major:016x}.{minor:016x}.{offset:016x}`. Compared for one row
only. For PostgreSQL the position is a pair, see `operators.debezium`.
"""

OFFSET_DIGITS = 16


def make_version(generation: int, position: tuple[int, int], offset: int) -> Version:
    """The version of a change; both parts of the source's log position are below 2**64."""
    return Version(f"{generation:04x}.{position[0]:016x}.{position[1]:016x}.{offset:016x}")


def at_offset(version: Version, offset: int) -> Version:
    """The same source position with another Kafka offset."""
    return Version(f"{version[:-OFFSET_DIGITS]}{offset:016x}")


def offset_of(version: Version) -> int:
    """The Kafka offset that a version ends with."""
    return int(version[-OFFSET_DIGITS:], 16)


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
        raw: The record's value, for the dead letter if the row cannot be rendered.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    op: str
    columns: Mapping[str, Any]
    raw: bytes = b""


class Delete(NamedTuple):
    """A row that does not exist as of `version`.

    Attributes:
        lone: Made from a tombstone whose row is not known: it has no source position, and only its
            offset orders it against what the store holds.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    lone: bool = False


class Tombstone(NamedTuple):
    """A null value: the key is gone as of this offset. It carries no version of its own."""

    row_key: RowKey
    position: KafkaPosition


ChangeEvent: TypeAlias = Upsert | Delete | Tombstone


class Row(NamedTuple):
    """An upsert rendered under the contract: what the store will hold, but for the vector.

    Attributes:
        text: What is embedded and stored.
        text_hash: Hex digest of `text`; equal hashes mean that the vector need not be made again.
        columns: The mirrored columns by their field names in the collection.
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


Winner: TypeAlias = Row | Delete
"""What is left of a row's changes when its window closes."""


class DeadLetter(NamedTuple):
    """A record, or a row made from one, that cannot be applied.

    Attributes:
        position: The record's position; it is the dead letter's own key, so a letter that is sent
            twice (a crash between send and commit) can be told from two letters.
        stage: The step that refused it.
        key, value: The record's bytes, or None where they are gone or too large to send on; the
            position still finds them in the source topic.
    """

    position: KafkaPosition
    stage: str
    subject: str
    cause: str
    hint: str
    key: bytes | None = None
    value: bytes | None = None
