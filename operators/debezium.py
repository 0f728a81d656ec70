"""Debezium's messages → change events. Parse and validate in one step.

A message is a whole envelope (before, after, op, source), or the row alone with its metadata in
`__…` fields, as ExtractNewRecordState leaves it; bare, or wrapped as `{"schema": …, "payload": …}`, or
framed by a schema registry. All are recognised by looking, unless the contract says. Everything that
is wrong with one record is a `RecordError` with the fix in its hint; nothing else is raised for it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from operators.errors import RecordError
from operators.events import (
    NO_POSITION,
    ChangeEvent,
    Delete,
    Ignored,
    KafkaPosition,
    RowKey,
    Tombstone,
    Truncate,
    Upsert,
    make_version,
)
from operators.keys import KeyMaker, kind_of, names_of
from operators.logical_types import Logical, columns_of
from operators.positions import position_of
from operators.table import TableSection
from operators.unavailable import Unavailable

OLD_KEY_HEADER = "__debezium.oldkey"
NEW_KEY_HEADER = "__debezium.newkey"

_DELETE_MARKS = (b'"op":"d"', b'"__deleted":"true"', b'"__op":"d"')

_UNWRAPPED_MARKS = frozenset({"__deleted", "__op"})

_JSON_FIX = "set the connector's key.converter and value.converter to JsonConverter"


class FramedDecoder(Protocol):
    """Bytes that name their schema in a registry; `operators.registry` has the real one."""

    def decode(
        self, raw: bytes, topic: str, *, key: bool
    ) -> tuple[Any, Mapping[str, Logical] | None]:
        """The value as JSON would have it, and the types of the row's columns."""
        ...


class Decoder:
    """Reads the messages of one table.

    Args:
        table: The table whose topic they come from.
        framed: For messages in Avro or Protobuf.
        key_masks: See `KeyMaker`.
    """

    def __init__(
        self,
        table: TableSection,
        framed: FramedDecoder | None = None,
        key_masks: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        self.table = table
        self._framed = framed
        self._key = KeyMaker(table, key_masks)
        self._by_row = table.key_from == "row"
        self._any_row = table.shape == "unwrapped"
        self.header_needles: tuple[bytes, ...] | None = (
            None
            if table.format in ("avro", "protobuf")
            else (*Unavailable(table.unavailable_value).needles, *_DELETE_MARKS)
        )
        """A record's headers matter only if its value holds one of these; None: always."""

    def row_keys(self, raw_key: bytes | None, raw_value: bytes | None) -> tuple[RowKey, ...]:
        """The rows that a record is about; none for a message that is about no row, or all of them.

        Raises:
            RecordError: No key, not readable, a key column missing or null, or too long a key.
        """
        if not self._by_row and raw_key is not None:
            try:
                return (self._row_key(raw_key),)
            except RecordError:
                # A heartbeat, say, has a key that is no row's.
                if raw_value is not None and self._about_no_row(raw_value):
                    return ()
                raise
        if raw_value is None:
            if self._by_row:
                return ()
            raise self._no_key()
        if self._about_no_row(raw_value):
            return ()
        if not self._by_row:
            raise self._no_key()
        message, schema = self._parsed(raw_value)
        before, after = message.get("before"), message.get("after")
        if "op" not in message:
            after = message
        types = columns_of(schema)
        keys = [self._key(row, types) for row in (before, after) if isinstance(row, dict)]
        if not keys:
            raise _no_row(message)
        return tuple(dict.fromkeys(keys))

    def truncates(self, raw_value: bytes | None) -> bool:
        """Whether a record without a row is about all of them."""
        if raw_value is None or (b'"t"' not in raw_value and self.header_needles is not None):
            return False
        try:
            message, _ = self._parsed(raw_value)
        except RecordError:
            return False
        return message.get("op") == "t"

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
            other_key: The key before or after a change of the primary key, from the headers.

        Raises:
            RecordError: Not a change event, an op that cannot be applied, or an unusable position.
        """
        if raw is None:
            return Tombstone(row_key, position) if row_key else Ignored("tombstone")
        message, schema = self._parsed(raw)
        op = message.get("op")
        source = message.get("source")
        if not isinstance(op, str) or not isinstance(source, dict):
            return self._without_envelope(row_key, message, schema, raw, position, other_key)
        if op in ("c", "u", "r"):
            after = message.get("after")
            if isinstance(after, str):  # MongoDB's
                after = _document(after)
            if not isinstance(after, dict):
                raise _no_row(message)
            if self._by_row and self._key(after, columns_of(schema)) != row_key:
                # The row that it was before its key changed.
                return self._delete(row_key, source, position, moved=True)
            return self._upsert(row_key, op, after, source, schema, raw, position, other_key)
        if op == "d":
            return self._delete(row_key, source, position, moved=other_key is not None)
        if op == "t":
            return self._truncate(source, position)
        if op == "m":
            return Ignored("message")
        raise RecordError(
            subject="value",
            cause=f"op '{op[:20]}' is unknown",
            hint="c, r, u, d and t are applied",
        )

    def _upsert(
        self,
        row_key: RowKey,
        op: str,
        row: dict[str, Any],
        source: dict[str, Any],
        schema: Any,
        raw: bytes,
        position: KafkaPosition,
        other_key: bytes | None,
    ) -> Upsert:
        place = position_of(source)
        ts_ms = source.get("ts_ms")
        old_key = None
        if other_key is not None:
            try:
                old_key = self._row_key(other_key)
            except RecordError:
                old_key = None  # only a help: a left-out value is looked for elsewhere then
        return Upsert(
            row_key,
            make_version(
                self.table.generation, NO_POSITION if place is None else place, position.offset
            ),
            position,
            ts_ms if type(ts_ms) is int else 0,
            op,
            row,
            raw,
            schema,
            source,
            place is None,
            old_key,
        )

    def _delete(
        self, row_key: RowKey, source: dict[str, Any], position: KafkaPosition, *, moved: bool
    ) -> Delete:
        place = position_of(source)
        ts_ms = source.get("ts_ms")
        return Delete(
            row_key,
            make_version(
                self.table.generation, NO_POSITION if place is None else place, position.offset
            ),
            position,
            ts_ms if type(ts_ms) is int else 0,
            place is None,
            moved,
        )

    def _truncate(self, source: dict[str, Any], position: KafkaPosition) -> Truncate:
        place = position_of(source)
        if place is None:
            raise RecordError(
                subject=f"TRUNCATE of {self.table.topic}",
                cause="its source tells no position, so which rows it removed cannot be told",
                hint="delete the rows with DELETE, or empty the collection and replay the topic",
            )
        ts_ms = source.get("ts_ms")
        return Truncate(
            self.table.name,
            make_version(self.table.generation, place, position.offset),
            position,
            ts_ms if type(ts_ms) is int else 0,
        )

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
        ignored = _ignored(message)
        if ignored is not None and not row_key:
            return ignored
        if self.table.shape == "envelope" or not (
            self._any_row or not _UNWRAPPED_MARKS.isdisjoint(message)
        ):
            raise RecordError(
                subject="value",
                cause=f"it is no Debezium envelope: it has {names_of(message)}",
                hint="let ExtractNewRecordState add the fields op, lsn (or file, pos) and "
                'source.sequence, or say shape = "unwrapped" in the contract',
            )
        row = {name: value for name, value in message.items() if not name.startswith("__")}
        source = _source_of(message)
        op = source.get("op")
        if source.get("deleted") in ("true", True) or op == "d":
            return self._delete(row_key, source, position, moved=other_key is not None)
        if op == "r" and source.get("sequence") is None and "lsn" in source:
            # A snapshot's LSN alone does not order it against transactions that were open.
            source = {name: value for name, value in source.items() if name != "lsn"}
        if self._by_row and self._key(row, columns_of(schema)) != row_key:
            return self._delete(row_key, source, position, moved=True)
        kind = op if isinstance(op, str) and op in ("c", "u", "r") else "u"
        return self._upsert(row_key, kind, row, source, schema, raw, position, other_key)

    def _row_key(self, raw: bytes) -> RowKey:
        if raw[:1] == b"\0" and self._framed is not None:
            fields, types = self._framed.decode(raw, self.table.topic, key=True)
            if not isinstance(fields, dict):
                raise _not_an_object(self._key.subject, fields)
            return self._key(fields, types)
        fields, schema = _object(raw, self._key.subject)
        return self._key(fields, None if schema is None else columns_of(schema.get("fields")))

    def _parsed(self, raw: bytes) -> tuple[dict[str, Any], Any]:
        """The message, and what it says of the types of the row's columns."""
        if raw[:1] == b"\0" and self.table.format != "json":
            if self._framed is None:
                raise RecordError(
                    subject="value",
                    cause="it is framed by a schema registry (Avro or Protobuf)",
                    hint="name the registry in the contract: url in [schema_registry]",
                )
            message, types = self._framed.decode(raw, self.table.topic, key=False)
            if not isinstance(message, dict):
                raise _not_an_object("value", message)
            return message, types
        message, schema = _object(raw, "value")
        if schema is None:
            return message, None
        fields = schema.get("fields")
        if isinstance(fields, list):
            for field in fields:
                if isinstance(field, dict) and field.get("field") == "after":
                    fields = field.get("fields")
                    break
        return message, fields if isinstance(fields, list) else None

    def _about_no_row(self, raw: bytes) -> bool:
        try:
            message, _ = self._parsed(raw)
        except RecordError:
            return False
        if "op" in message and "source" in message:
            return message["op"] in ("t", "m")
        return _ignored(message) is not None

    def _no_key(self) -> RecordError:
        return RecordError(
            subject=self._key.subject,
            cause="the record has no key",
            hint="give the table a PRIMARY KEY; or say which columns identify its rows: "
            'key_from = "row" in the contract, with ALTER TABLE … REPLICA IDENTITY FULL',
        )


def _object(raw: bytes, subject: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A JSON object, and its schema if it is wrapped with one."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RecordError(
            subject=subject,
            cause=f"it is no JSON ({error.msg} at character {error.pos})",
            hint=_JSON_FIX,
        ) from None
    schema = None
    if isinstance(value, dict) and "payload" in value and value.keys() <= {"schema", "payload"}:
        # What is wrapped is an object; a key column may be called `payload`, and holds none.
        payload = value.get("payload")
        if isinstance(payload, dict):
            schema = value.get("schema")
            value = payload
    if not isinstance(value, dict):
        raise _not_an_object(subject, value)
    return value, schema if isinstance(schema, dict) else None


def _not_an_object(subject: str, value: Any) -> RecordError:
    return RecordError(
        subject=subject, cause=f"it is {kind_of(value)}, not a JSON object", hint=_JSON_FIX
    )


def _no_row(message: dict[str, Any]) -> RecordError:
    op, source = message.get("op"), message.get("source")
    mongodb = isinstance(source, dict) and source.get("connector") == "mongodb"
    return RecordError(
        subject="value",
        cause=f"op '{str(op)[:20]}' needs the row in `after`, which is {kind_of(message.get('after'))}",
        hint="set the connector's capture.mode to change_streams_update_full"
        if mongodb
        else "send it with the connector's defaults for before and after",
    )


def _ignored(message: dict[str, Any]) -> Ignored | None:
    """What a message is that is about no row; None for any other."""
    if message.keys() <= {"ts_ms", "ts_us", "ts_ns"} and message:
        return Ignored("heartbeat")
    if "status" in message and "id" in message and message.get("status") in ("BEGIN", "END"):
        return Ignored("transaction")
    if "ddl" in message and "tableChanges" in message:
        return Ignored("ddl")
    return None


def _source_of(row: dict[str, Any]) -> dict[str, Any]:
    """What an unwrapped row's `__…` fields say, named as in `source`."""
    named = {name[2:]: value for name, value in row.items() if name.startswith("__")}
    return named | {
        name.removeprefix("source_"): value
        for name, value in named.items()
        if name.startswith("source_")
    }


def _document(text: str) -> Any:
    """MongoDB's document: extended JSON as text, its typed values made plain."""
    try:
        return _plain(orjson.loads(text))
    except orjson.JSONDecodeError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        match name:
            case "$oid" | "$numberDecimal" | "$symbol" | "$uuid":
                return inner
            case "$numberLong" | "$numberInt" if isinstance(inner, str):
                return int(inner) if inner.lstrip("-").isdecimal() and len(inner) < 21 else inner
            case "$numberDouble" if isinstance(inner, str):
                try:
                    return float(inner)
                except ValueError:
                    return inner
            case "$date":
                return _plain(inner)
            case "$binary" if isinstance(inner, dict):
                return inner.get("base64")
    return {name: _plain(each) for name, each in value.items()}
