"""Debezium's messages → change events. Parse and validate in one step.

A message is an envelope (before, after, op, source), or a row with its metadata in `__…` fields, as
ExtractNewRecordState writes it. Either is bare JSON, or wrapped as `{"schema": …, "payload": …}`, or
framed by a schema registry. `shapes` tells which, by the whole message, unless the contract does. A
record that is wrong in any way raises a `RecordError` with the fix in its hint, and nothing else.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
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
from operators.codec.envelope import before_of, moment_of, no_key, no_row, source_of
from operators.codec.fast_versions import streamed_version
from operators.codec.key_types import KeyTypes
from operators.codec.log_positions import position_of
from operators.codec.messages import FRAME, FramedDecoder, MessageReader
from operators.codec.mongodb import document_of
from operators.codec.origins import Origins
from operators.codec.placeholder import Unavailable
from operators.codec.row_keys import FormerKey, KeyMaker, OtherIdError
from operators.codec.shapes import Shapes
from operators.contract.table import TableSection
from operators.errors import RecordError

KEYS_KEPT = 2**15
"""Size of the cache from Kafka keys to row keys: rows change repeatedly, and reading a key is slow."""

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
        # Only rows that are compared with their records' keys may have keys that are bare values.
        self._bare_key = table.key[0] if self._by_row and len(table.key) == 1 else None
        self._moved = self.key_types.moved
        self.origins = Origins(table)
        self._row_key = lru_cache(KEYS_KEPT)(self._read_key)
        self.header_needles: tuple[bytes, ...] | None = (
            None
            if table.format in ("avro", "protobuf")
            else (*Unavailable(table.unavailable_value).needles, *_DELETE_MARKS)
        )
        """A record's headers are read only if its value contains one of these; None: always."""

    def row_keys(self, raw_key: bytes | None, raw_value: bytes | None) -> tuple[RowKey, ...]:
        """The rows that a record is about; empty if it is about no row, or about all (TRUNCATE).

        Raises:
            RecordError: The key is absent, unreadable or too long, or a key column is missing or null.
        """
        if self._by_row:
            try:
                return self._rows_in(raw_key, raw_value)
            except RecordError:
                if raw_value is not None and self._of_other_table(raw_value):
                    return ()
                raise
        if raw_key is not None:
            try:
                return self._with_former(self._row_key(raw_key), raw_key)
            except RecordError:
                # A record about no row may have a key of another form: a logical message, for example.
                # Another table's record may have another key as well.
                if raw_value is not None and (
                    self._about_no_row(raw_value) or self._of_other_table(raw_value)
                ):
                    return ()
                raise
        if raw_value is None or not self._about_no_row(raw_value):
            raise no_key(self._key.subject)
        return ()

    def _with_former(self, row_key: RowKey, raw_key: bytes) -> tuple[RowKey, ...]:
        """The row key last, behind the one that the row may still be stored under."""
        if self.key_types.moved is not self._moved:
            self._moved = self.key_types.moved
            self._row_key.cache_clear()
            row_key = self._row_key(raw_key)
        if not self._moved:
            return (row_key,)
        fields, _ = self._messages.read_key(raw_key, self._bare_key)
        former = self._key.as_written(fields or {})
        return (row_key,) if former is None else (former, row_key)

    def _rows_in(self, raw_key: bytes | None, raw: bytes | None) -> tuple[RowKey, ...]:
        """Row keys from the row's own columns: two if an update changed the key."""
        message, schema = (None, None) if raw is None else self._messages.read(raw)
        if message is None:
            # guard: tombstone-of-keyed-row
            return self._row_of_tombstone(raw_key, written=raw is not None)
        if self._shapes.is_about_no_row(message):
            return ()
        images = (
            (message.get("before"), message.get("after"))
            if self._shapes.is_envelope(message)
            else (message,)
        )
        types = self._messages.types(schema)
        rows = [row for row in images if isinstance(row, dict)]
        keys = [self._key(row, types) for row in rows]
        if not keys:
            raise no_row(message)
        if raw_key is not None:
            self._compare(raw_key, keys)
        former = filter(None, map(self._key.as_written, rows))
        return tuple(dict.fromkeys((*former, *keys)))

    def _row_of_tombstone(self, raw_key: bytes | None, *, written: bool) -> tuple[RowKey, ...]:
        """The row that a tombstone deletes where rows are identified by their own columns.

        Args:
            raw_key: The record's key; without one, Kafka's null follows a delete that named its row.
            written: A converter wrote the null: there is no other message of the delete.
        """
        if raw_key is None:
            if written:  # guard: null-of-no-row
                raise RecordError(
                    subject="value",
                    cause="it is a null without a key: a delete, or a TRUNCATE, that names no row",
                    hint="let ExtractNewRecordState keep the row that was: "
                    "delete.tombstone.handling.mode=rewrite; or send whole envelopes",
                )
            return ()
        try:
            return self._with_former(self._row_key(raw_key), raw_key)
        except RecordError as error:
            raise RecordError(
                subject=self._key.subject,
                cause=f"a tombstone names its row by it alone, and {error.cause}",
                hint='make the key\'s columns those of `key`, and take out key_from = "row"; or, if '
                "deletes come as messages of their own, set tombstones.on.delete=false",
            ) from None

    def _compare(self, raw_key: bytes, keys: list[RowKey]) -> None:
        """Refuse a row whose record has the key of another row: its tombstone would delete that."""
        named: RowKey | None = None
        try:
            named = self._row_key(raw_key)
        except RecordError as error:
            if not isinstance(error, OtherIdError):
                return  # it says nothing of the row
        if named not in keys:  # guard: key-names-the-row
            raise RecordError(
                subject=self._key.subject,
                cause="it names another row than the columns of the row itself do",
                hint="let `key` in the contract name the columns that the records' keys are made of, "
                "in both written alike",
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
            before = before_of(message, source, self.table.key)
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
            return self._row_key(raw)
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

    def _read_key(self, raw: bytes) -> RowKey:
        fields, schema = self._messages.read_key(raw, self._bare_key)
        if fields is None:
            raise no_key(self._key.subject)
        return self._key(fields, None if schema is None else self._messages.types(schema))

    def _about_no_row(self, raw: bytes) -> bool:
        try:
            message, _ = self._messages.read(raw)
            return message is not None and self._shapes.is_about_no_row(message)
        except RecordError:
            return False

    def _of_other_table(self, raw: bytes) -> bool:
        """Whether a record is of a physical table that the contract does not take."""
        if not self.table.source_tables:
            return False
        try:
            message, _ = self._messages.read(raw)
            if message is None:
                return False
            enveloped = self._shapes.is_envelope(message)
            return not self.origins.takes(message["source"] if enveloped else source_of(message))
        except RecordError:
            return False
