"""Which kind of message Debezium sent: an envelope, an unwrapped row, or one about no row at all."""

from typing import Any

from operators.changes.events import Ignored
from operators.codec.row_keys import kind_of
from operators.errors import RecordError

UNWRAPPED_MARKS = frozenset({"__deleted", "__op"})


def fields_of(schema: Any) -> list[Any] | None:
    """The field schemas of the row, in an envelope those of `after`; None if there are none."""
    fields = schema.get("fields") if isinstance(schema, dict) else None
    if not isinstance(fields, list):
        return None
    for field in fields:
        if isinstance(field, dict) and field.get("field") == "after":
            inner = field.get("fields")
            return inner if isinstance(inner, list) else None
    return fields


def no_row(message: dict[str, Any]) -> RecordError:
    """The error of an envelope whose operation needs a row that is not there."""
    op, source = message.get("op"), message.get("source")
    mongodb = isinstance(source, dict) and source.get("connector") == "mongodb"
    return RecordError(
        subject="value",
        cause=f"op '{op[:20] if isinstance(op, str) else ''}' needs the row in `after`, "
        f"which is {kind_of(message.get('after'))}",
        hint="set the connector's capture.mode to change_streams_update_full; or, if that is what it "
        "is, the document was deleted before it could be looked up, and nothing is lost"
        if mongodb
        else "send it with the connector's defaults for before and after",
    )


def is_envelope(message: dict[str, Any]) -> bool:
    """Whether a message is one of Debezium's envelopes."""
    return isinstance(message.get("op"), str) and isinstance(message.get("source"), dict)


def is_about_no_row(message: dict[str, Any]) -> bool:
    """Whether a message is about no row, or about all of them (TRUNCATE)."""
    if is_envelope(message):
        return message["op"] in ("t", "m")
    return as_ignored(message) is not None


def as_ignored(message: dict[str, Any]) -> Ignored | None:
    """The kind of a message that is not an envelope and about no row; None for any other message."""
    if message.keys() <= {"ts_ms", "ts_us", "ts_ns"} and message:
        return Ignored("heartbeat")
    if not UNWRAPPED_MARKS.isdisjoint(message):
        return None
    # All four must be there: a table may itself have the columns id and status.
    if message.keys() >= {"id", "status", "event_count", "data_collections"}:
        return Ignored("transaction")
    if "ddl" in message and "tableChanges" in message:
        return Ignored("ddl")
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
