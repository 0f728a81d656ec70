"""Debezium's messages → change events. Parse and validate in one step.

A message is an envelope (before, after, op, source), or a row with its metadata in `__…` fields, as
ExtractNewRecordState writes it. Either is bare JSON, or wrapped as `{"schema": …, "payload": …}`, or
framed by a schema registry. `shapes` tells which, by the whole message, unless the contract does. A
record that is wrong in any way raises a `RecordError` with the fix in its hint, and nothing else.
"""

from collections.abc import Callable, Mapping
from typing import Any

from operators.changes.events import (
    ChangeEvent,
    Delete,
    Ignored,
    KafkaPosition,
    Tombstone,
    Truncate,
    Upsert,
)
from operators.changes.row_key import RowKey
from operators.changes.version import NO_POSITION, Version, make_version
from operators.codec.envelope import before_of, moment_of, no_row, source_of
from operators.codec.fast_versions import streamed_version
from operators.codec.key_types import KeyTypes
from operators.codec.log_positions import position_of
from operators.codec.messages import FRAME, FramedDecoder, MessageReader
from operators.codec.mongodb import document_of
from operators.codec.origins import Origins
from operators.codec.placeholder import Unavailable
from operators.codec.record_rows import RecordRows
from operators.codec.row_keys import FormerKey, KeyMaker
from operators.codec.shapes import Shapes
from operators.contract.table import TableSection
from operators.errors import RecordError

_DELETE_MARKS = (b'"d"', b'"__deleted"')
"""Each delete contains one of these, however its JSON is written; others may contain one, too."""


class Decoder:
    """Reads the messages of one table.

    Args:
        table: The table whose topic they come from.
        framed: Decodes messages in Avro or Protobuf.
        key_masks, key_types: See `KeyMaker`.
    """

    def __init__(
        self,
        table: TableSection,
        framed: FramedDecoder | None = None,
        key_masks: Mapping[str, Callable[[Any], Any]] | None = None,
        key_types: KeyTypes | None = None,
    ) -> None:
        self.table = table
        self._key = KeyMaker(table, key_masks, key_types)
        self.key_types = self._key.types
        self._shapes = Shapes(table)
        self._messages = MessageReader(table, framed, self._key.subject, self._shapes)
        # Copied, because every record needs them, and reading them from a pydantic model is slow.
        self._generation = table.generation
        self._generation_digits = f"{table.generation:04x}"
        self._by_row = table.key_from == "row"
        self._full = table.replica_identity == "full"
        self.origins = Origins(table)
        self._rows = RecordRows(table, self._key, self._messages, self._shapes, self.origins)
        self.row_keys = self._rows.of
        """The rows that a record is about; see `RecordRows.of`."""
        self.header_needles: tuple[bytes, ...] | None = (
            None
            if table.format in ("avro", "protobuf")
            else (*Unavailable(table.unavailable_value).needles, *_DELETE_MARKS)
        )
        """A record's headers are read only if its value contains one of these; None: always."""

    def require_no_row(self, raw_key: bytes | None, raw_value: bytes | None) -> None:
        """Check that a record which was sent to no row's shard is about no row.

        Raises:
            RecordError: It is about one. Its key could not be read when it came; by now, another record
                may have shown what such keys mean.
        """
        if self.row_keys(raw_key, raw_value):  # guard: read-too-late
            raise RecordError(
                subject=self._key.subject,
                cause="it could not be read when it came; since then, other keys have shown how",
                hint="send it again: rowvec dead-letters replay",
            )

    def truncates(self, raw_value: bytes | None) -> bool:
        """Whether a record that names no row is a TRUNCATE that can be applied."""
        if raw_value is None or (b'"t"' not in raw_value and self.header_needles is not None):
            return False
        try:
            message, _ = self._messages.read(raw_value)
            return (
                message is not None
                and self._shapes.is_envelope(message)
                and message["op"] == "t"
                and position_of(message["source"], streamed=True) is not None
                and self.origins.takes(message["source"])
            )
        except RecordError:
            return False

    def event(
        self,
        row_key: RowKey,
        raw: bytes | None,
        position: KafkaPosition,
        other_key: bytes | None = None,
    ) -> ChangeEvent:
        """One change event from the value of a record.

        Args:
            row_key: One of `row_keys` of the record; "" for a record that is about no row.
            raw: The value; None is a tombstone.
            position: Where the record lies; its offset breaks ties between equal source positions.
            other_key: The old or the new key of a primary-key change, from the headers.

        Raises:
            RecordError: Not a change event, an op that cannot be applied, or an unusable position.
        """
        if isinstance(row_key, FormerKey):
            return self._delete_former(row_key, raw, position)
        message, schema = (None, None) if raw is None else self._messages.read(raw)
        if raw is None or message is None:  # guard: connects-null
            mixed = self.origins.mixed
            return Tombstone(row_key, position, mixed) if row_key else Ignored("tombstone")
        if not self._shapes.is_envelope(message):
            return self._without_envelope(row_key, message, schema, raw, position, other_key)
        op, source = message["op"], message["source"]
        if op in ("c", "u", "r", "d", "t"):
            tail, taken = self.origins.tail(source, position.topic, position.partition)
            if not taken:  # guard: source-tables
                return Ignored("other-table", row_key if op == "d" else None, position)
        if op in ("c", "u", "r"):
            after = message.get("after")
            if isinstance(after, str):
                after = document_of(after)
            if not isinstance(after, dict):
                raise no_row(message)
            if self._by_row and self._key(after, self._messages.types(schema)) != row_key:
                # The update changed the key, and this is the row under its old key: delete it.
                return self._delete(row_key, source, position, tail, moved=True)
            in_raw = schema is None and raw[:1] != FRAME and after is message["after"]
            row = None if in_raw else after
            return self._upsert(row_key, op, row, source, schema, raw, position, tail, other_key)
        if op == "d":
            before = before_of(message, source) if self._full else None  # guard: whole-old-rows
            moved = other_key is not None
            return self._delete(row_key, source, position, tail, moved=moved, before=before)
        if op == "t":
            return self._truncate(source, position, tail)
        if op == "m":
            return Ignored("message")
        raise RecordError(
            subject="value",
            cause="its op is unknown",
            hint="c, r, u, d and t are applied",
        )

    def _upsert(
        self,
        row_key: RowKey,
        op: str,
        row: dict[str, Any] | None,
        source: dict[str, Any],
        schema: Any,
        raw: bytes,
        position: KafkaPosition,
        tail: str,
        other_key: bytes | None,
    ) -> Upsert:
        version, unpositioned = self._version(source, position, tail, streamed=op != "r")
        return Upsert(
            row_key,
            version,
            position,
            moment_of(source),
            op,
            row,
            raw,
            schema,
            None if row is None else source,
            unpositioned,
            None if other_key is None else self._old_key(other_key),
            # Where a key changed, Debezium sends an insert of the new row, and leaves values out of it.
            op == "r" or (op, other_key, source.get("connector")) == ("c", None, "postgresql"),
        )

    def _old_key(self, raw: bytes) -> RowKey | None:
        try:
            return self._rows.of_key(raw)
        except RecordError:
            return None  # optional: without it, left-out values are looked for elsewhere

    def _delete(
        self,
        row_key: RowKey,
        source: dict[str, Any],
        position: KafkaPosition,
        tail: str,
        *,
        moved: bool,
        before: Mapping[str, Any] | None = None,
    ) -> Delete:
        version, unpositioned = self._version(source, position, tail, streamed=True)
        return Delete(row_key, version, position, moment_of(source), unpositioned, moved, before)

    def _delete_former(
        self, row_key: FormerKey, raw: bytes | None, position: KafkaPosition
    ) -> ChangeEvent:
        """The delete of what a row was stored under before its id moved, by a plain row key."""
        try:
            event = self.event(RowKey(str(row_key)), raw, position)
        except RecordError:
            return Ignored("message")  # the row's own event is the dead letter
        return event.deleted() if isinstance(event, Upsert) else event

    def _version(
        self, source: dict[str, Any], position: KafkaPosition, tail: str, *, streamed: bool
    ) -> tuple[Version, bool]:
        """The version of a change, and whether it has no position but its Kafka offset."""
        version = streamed_version(self._generation_digits, source, position.offset, tail)
        if version is not None:
            return version, False
        place = position_of(source, streamed=streamed)
        unpositioned = place is None
        if unpositioned:
            self.origins.require_position()
        place = NO_POSITION if place is None else place
        return make_version(self._generation, place, position.offset, tail), unpositioned

    def _truncate(self, source: dict[str, Any], position: KafkaPosition, tail: str) -> Truncate:
        place = position_of(source, streamed=True)
        if place is None:
            raise RecordError(
                subject=f"TRUNCATE of {self.table.topic}",
                cause="its source tells no position, so which rows it removed cannot be told",
                hint="delete the rows with DELETE, or empty the collection and replay the topic",
            )
        version = make_version(self._generation, place, position.offset, tail)
        return Truncate(self.table.name, version, position, moment_of(source))

    def _without_envelope(
        self,
        row_key: RowKey,
        message: dict[str, Any],
        schema: Any,
        raw: bytes,
        position: KafkaPosition,
        other_key: bytes | None,
    ) -> ChangeEvent:
        """A row that ExtractNewRecordState made, or a message that is about no row."""
        ignored = self._shapes.ignored(message)
        if ignored is not None:
            return ignored
        self._shapes.require_row(message)
        row = self._shapes.row_of(message)
        source = source_of(message)
        op = source.get("op")
        deleted = source.get("deleted") in ("true", True) or op == "d"
        tail, taken = self.origins.tail(source, position.topic, position.partition)
        if not taken:
            return Ignored("other-table", row_key if deleted else None, position)
        if deleted:
            return self._delete(row_key, source, position, tail, moved=other_key is not None)
        if op == "r" and "lsn" in source and source.get("sequence") is None:
            # The LSN alone does not order a snapshot read against transactions that were open then,
            # and it is null where an incremental snapshot read the row.
            source = {
                name: value for name, value in source.items() if name not in ("lsn", "sequence")
            }
        elif op == "r" and "snapshot" not in source:
            source["snapshot"] = "true"
        kind = op if isinstance(op, str) and op in ("c", "u", "r") else "u"
        return self._upsert(row_key, kind, row, source, schema, raw, position, tail, other_key)
