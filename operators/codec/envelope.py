"""The parts of Debezium's messages: envelopes, unwrapped rows, and messages about no row at all."""

from collections.abc import Container, Mapping
from typing import Any

from operators.changes.events import Ignored
from operators.codec.row_keys import kind_of
from operators.errors import RecordError

ENVELOPE_FIELDS = frozenset(
    {"before", "after", "source", "op", "transaction", "ts_ms", "ts_us", "ts_ns"}
    | {"patch", "filter", "updateDescription", "message"}
)
"""Fields of envelopes; those of the second line are MongoDB's, and a logical message's."""

_TIMES = {"ts_ms", "ts_us", "ts_ns"}

_MARKER = {"id", "status", "event_count", "data_collections"}


_PARTS = ENVELOPE_FIELDS | {"schema", "payload"}


def rows_of(message: Any) -> tuple[Any, ...]:
    """The parts of a JSON message that may hold a row, whose numbers must be exact."""
    if not isinstance(message, dict) or not message.keys() <= _PARTS:
        return (message,)
    payload = message.get("payload")
    if isinstance(payload, dict):
        return rows_of(payload)
    return message.get("before"), message.get("after"), payload


def fields_of(schema: Any, *, envelope: bool) -> list[Any] | None:
    """The field schemas of the row, in an envelope those of `after`; None if there are none."""
    fields = schema.get("fields") if isinstance(schema, dict) else None
    if not isinstance(fields, list):
        return None
    if not envelope:
        return fields
    for field in fields:
        if isinstance(field, dict) and field.get("field") == "after":
            inner = field.get("fields")
            return inner if isinstance(inner, list) else None
    return fields


def no_key(subject: str) -> RecordError:
    """The error of a record without a key, or with one that is null."""
    return RecordError(
        subject=subject,
        cause="the record has no key",
        hint="give the table a PRIMARY KEY; or say which columns identify its rows: "
        'key_from = "row" in the contract, with ALTER TABLE … REPLICA IDENTITY FULL',
    )


def no_row(message: dict[str, Any]) -> RecordError:
    """The error of an envelope whose operation needs a row that is not there."""
    op, source = message.get("op"), message.get("source")
    shown = f"'{op}'" if op in ("c", "r", "u", "d") else "of an unknown kind"
    mongodb = isinstance(source, dict) and source.get("connector") == "mongodb"
    return RecordError(
        subject="value",
        cause=f"op {shown} needs the row in `after`, which is {kind_of(message.get('after'))}",
        hint="set the connector's capture.mode to change_streams_update_full; or, if that is what it "
        "is, the document was deleted before it could be looked up, and nothing is lost"
        if mongodb
        else "send it with the connector's defaults for before and after",
    )


def has_marks(message: Container[str]) -> bool:
    """Whether a message has a field that ExtractNewRecordState adds."""
    return "__op" in message or "__deleted" in message


def as_ignored(message: dict[str, Any]) -> Ignored | None:
    """The kind of a message that is not an envelope and about no row; None for any other message.

    A message counts only if it has all fields of the kind, no others, and values as Debezium writes
    them: a table may itself have columns of these names.
    """
    names = message.keys()
    if names <= _TIMES and "ts_ms" in names:
        return Ignored("heartbeat") if type(message["ts_ms"]) is int else None
    if _MARKER <= names <= _MARKER | _TIMES:
        return Ignored("transaction") if message["status"] in ("BEGIN", "END") else None
    if "ddl" in names and isinstance(message.get("tableChanges"), list):
        return Ignored("ddl") if "source" in names or "databaseName" in names else None
    return None


def moment_of(source: dict[str, Any]) -> int:
    """When the change was made, in milliseconds since 1970; 0 if the message does not say."""
    ts_ms = source.get("ts_ms")
    return ts_ms if type(ts_ms) is int and 0 <= ts_ms < 2**63 else 0


def source_of(row: dict[str, Any]) -> dict[str, Any]:
    """The `__…` fields of an unwrapped row, named as in an envelope's `source`."""
    named = {name[2:]: value for name, value in row.items() if name.startswith("__")}
    return named | {
        name.removeprefix("source_"): value
        for name, value in named.items()
        if name.startswith("source_")
    }


_DEFERS = frozenset({"postgresql", "oracle"})
"""Connectors of databases with deferrable constraints: in a transaction, two rows may have one key."""


def before_of(message: dict[str, Any], source: dict[str, Any]) -> Mapping[str, Any] | None:
    """The whole deleted row, of a table with REPLICA IDENTITY FULL.

    No message tells the identity: without it, columns that may not be NULL have their defaults here.
    """
    connector, before = source.get("connector"), message.get("before")
    defers = isinstance(connector, str) and connector in _DEFERS
    return before if defers and isinstance(before, dict) else None
