"""Change events, as the codec makes them, and dead letters."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from operators.changes import exact_json
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
        row: Its columns; None: they are in `raw`, an envelope in JSON. They are left unparsed because
            most pending changes are superseded: parsing only the winners again is cheaper than
            keeping every row parsed.
        raw: The record's value, also for the dead letter if the row cannot be rendered.
        schema: The schema of its columns, as `operators.codec.logical_types` reads it; None if the
            message has none.
        source: The envelope's `source`, unless the row is in `raw`.
        unpositioned: It has no source position, so only its Kafka offset orders it.
        old_key: The row key before a change of the primary key.
        inserted: The whole row was sent, so a text that looks like the placeholder of a left-out value
            is the row's own.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    op: str
    row: Mapping[str, Any] | None
    raw: bytes = b""
    schema: Any = None
    source: Mapping[str, Any] | None = None
    unpositioned: bool = False
    old_key: RowKey | None = None
    inserted: bool = False

    def parsed(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """(columns of the row, the envelope's `source`).

        Parses `raw` at each call unless `row` is there, so call it once.
        """
        if self.row is not None:
            return self.row, self.source or {}
        message = exact_json.loads(self.raw, _row_of)
        envelope = message if "source" in message else message["payload"]
        return envelope["after"], envelope["source"]

    def deleted(self) -> "Delete":
        """The delete of the same row, at the same version."""
        return Delete(
            self.row_key, self.version, self.position, self.source_ts_ms, self.unpositioned
        )


def _row_of(message: Any) -> tuple[Any]:
    return ((message if "source" in message else message["payload"])["after"],)


class Delete(NamedTuple):
    """A row that does not exist as of `version`.

    Attributes:
        unpositioned: It has no source position (a tombstone whose row is not known, for example), so
            only its Kafka offset orders it.
        moved: It is half of a primary-key change: the row under the new key may need this one's values.
        before: The row as it was, where several rows may have one key within a transaction
            (deferrable constraints) and the message has all columns.
        of_tombstone: It stands for a tombstone that no `d` event came before.
    """

    row_key: RowKey
    version: Version
    position: KafkaPosition
    source_ts_ms: int
    unpositioned: bool = False
    moved: bool = False
    before: Mapping[str, Any] | None = None
    of_tombstone: bool = False


class Tombstone(NamedTuple):
    """A record with a null value: its row is deleted as of this offset. It has no version.

    Attributes:
        mixed: Its topic has rows of several physical tables, and it does not say which one's it was.
    """

    row_key: RowKey
    position: KafkaPosition
    mixed: bool = False


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
    """A message that is about no row of the table: a heartbeat, a signal, another table's change.

    Attributes:
        deletes: Another table's row that it deletes; that row's tombstone follows.
        position: Where such a delete lies.
    """

    reason: str
    deletes: RowKey | None = None
    position: KafkaPosition | None = None


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
