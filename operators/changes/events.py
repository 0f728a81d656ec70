"""Change events, as the codec makes them, and dead letters."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import orjson

from operators.changes.row_key import RowKey
from operators.changes.version import Version


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
        schema: What the message says of its columns' types, as `operators.codec.logical_types` reads
            it; None where it says nothing.
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
        moved: It is half of a primary-key change: the row under the new key may need this one's values.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    lone: bool = False
    moved: bool = False


class Tombstone(NamedTuple):
    """A record with a null value: its row is deleted as of this offset. It has no version."""

    row_key: RowKey
    position: KafkaPosition


class Truncate(NamedTuple):
    """A table that was emptied: every row of an older version is gone.

    Attributes:
        table: Its `name` in the contract; the row keys of the table begin with it.
    """

    table: str
    version: Version
    position: KafkaPosition
    source_ts_ms: int


class Ignored(NamedTuple):
    """A message that is about no row: a heartbeat, a transaction marker, a signal."""

    reason: str


ChangeEvent: TypeAlias = Upsert | Delete | Tombstone | Truncate | Ignored


class DeadLetter(NamedTuple):
    """A record, or a row made from one, that cannot be applied.

    Attributes:
        position: The record's position. It is also the letter's key, so one letter that is sent twice
            (a crash between send and commit) can be told from two letters.
        stage: The step that refused it.
        key, value: The record's bytes; None if they are gone, too large to send, or contain masked
            values. The position still finds them in the source topic.
        row_key: The row; "" if it cannot be determined.
    """

    position: KafkaPosition
    stage: str
    subject: str
    cause: str
    hint: str
    key: bytes | None = None
    value: bytes | None = None
    row_key: str = ""
