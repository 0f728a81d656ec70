"""Debezium's JSON envelopes → change events. Parse and validate in one step.

An envelope comes bare (`schemas.enable=false`) or wrapped as `{"schema": …, "payload": …}`; both are
recognised by looking. Everything that is wrong with one record is a `RecordError` with the fix in
its hint; nothing else is raised.
"""

import hashlib
import uuid
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import orjson

from operators.errors import RecordError
from operators.events import (
    ChangeEvent,
    Delete,
    KafkaPosition,
    RowKey,
    Tombstone,
    Upsert,
    Version,
    make_version,
)
from operators.table import UNAVAILABLE, TableSection

_UNAVAILABLE_BYTES = b64encode(UNAVAILABLE.encode()).decode()
_UNAVAILABLE_TEXTS = (
    UNAVAILABLE,
    _UNAVAILABLE_BYTES,
    UNAVAILABLE.encode().hex(),
    f'{{"{UNAVAILABLE}":"{UNAVAILABLE}"}}',
)
_UNAVAILABLE_LENGTHS = frozenset(map(len, _UNAVAILABLE_TEXTS))
_UNAVAILABLE_NESTED: tuple[object, ...] = (
    [UNAVAILABLE],
    [_UNAVAILABLE_BYTES],
    [*UNAVAILABLE.encode()],
    # Java's UUID.nameUUIDFromBytes.
    [
        str(
            uuid.UUID(
                bytes=hashlib.md5(UNAVAILABLE.encode(), usedforsecurity=False).digest(), version=3
            )
        )
    ],
    {UNAVAILABLE: UNAVAILABLE},
)

MAX_ROW_KEY_BYTES = 900
"""A row key must fit into the entity id with its chunk number; percent-encoded, so ASCII."""

_SNAPSHOT_READS = frozenset(
    {"true", "first", "first_in_data_collection", "last_in_data_collection", "last"}
)
"""What `source.snapshot` says of a row that an initial or blocking snapshot read."""

_UNWRAPPED_FIX = "Rowvec reads whole Debezium envelopes; do not apply ExtractNewRecordState"


def is_unavailable(value: Any) -> bool:
    """Whether a value stands for one that Debezium left out.

    The placeholder takes the shape of its column's type: a string, bytes (base64 or hex), an array of
    strings, bytes, numbers or UUIDs, a map (or its JSON) for hstore.
    """
    if isinstance(value, str):
        return len(value) in _UNAVAILABLE_LENGTHS and value in _UNAVAILABLE_TEXTS
    return isinstance(value, list | dict) and value in _UNAVAILABLE_NESTED


def row_key(table: TableSection, raw: bytes | None) -> RowKey:
    """The canonical primary key of a record, from its Kafka key.

    The order of the parts is the contract's, not the message's; each part is percent-encoded, so that
    the result is safe in a Milvus filter and two different keys never share one.

    Raises:
        RecordError: No key, no JSON, a key column missing or null, or too long a key.
    """
    subject = f"key of {table.topic}"
    if raw is None:
        raise RecordError(
            subject=subject,
            cause="the record has no key",
            hint="give the table a PRIMARY KEY, or set the connector's message.key.columns",
        )
    fields = _object(raw, subject)
    parts: list[str] = []
    for column in table.key:
        try:
            value = fields[column]
        except KeyError:
            raise RecordError(
                subject=subject,
                cause=f"it has no column '{column}' but {_names(fields)}",
                hint="make `key` of the table in the contract name the primary key's columns",
            ) from None
        # By exact type: True is an int too, and must not become 1.
        kind = type(value)
        if kind is int:
            parts.append(str(value))
        elif kind is str:
            parts.append(_encoded(value))
        elif kind is bool:
            parts.append("true" if value else "false")
        elif kind is float:
            parts.append(_encoded(repr(value)))
        else:
            raise RecordError(
                subject=subject,
                cause=f"column '{column}' is {_kind(value)}",
                hint="key columns hold strings, numbers or booleans",
            )
    key = RowKey(f"{_encoded(table.name)}:{','.join(parts)}")
    if len(key) > MAX_ROW_KEY_BYTES:
        raise RecordError(
            subject=subject,
            cause=f"it is {len(key)} characters long once encoded",
            hint=f"keys may have up to {MAX_ROW_KEY_BYTES}",
        )
    return key


def decode(
    table: TableSection, key: RowKey, raw: bytes | None, position: KafkaPosition
) -> ChangeEvent:
    """One change event from the value of a record.

    Args:
        table: The table whose topic the record came from.
        key: `row_key` of the record.
        raw: The value; None is a tombstone.
        position: Where the record lies; its offset breaks ties between equal source positions.

    Raises:
        RecordError: Not an envelope, an op that cannot be applied, or no source position.
    """
    if raw is None:
        return Tombstone(key, position)
    envelope = _object(raw, "value")
    op = envelope.get("op")
    source = envelope.get("source")
    if not isinstance(op, str) or not isinstance(source, dict):
        raise RecordError(
            subject="value",
            cause=f"it is no Debezium envelope: it has {_names(envelope)}",
            hint=_UNWRAPPED_FIX,
        )
    version = _version(table.generation, source, position.offset)
    ts_ms = source.get("ts_ms")
    source_ts_ms = ts_ms if isinstance(ts_ms, int) else 0
    if op in ("c", "u", "r"):
        after = envelope.get("after")
        if not isinstance(after, dict):
            raise RecordError(
                subject="value",
                cause=f"op '{op}' needs the row in `after`, which is {_kind(after)}",
                hint="send it with the connector's defaults for before and after",
            )
        return Upsert(key, version, position, source_ts_ms, op, after, raw)
    if op == "d":
        return Delete(key, version, position, source_ts_ms)
    if op == "t":
        raise RecordError(
            subject=f"TRUNCATE of {table.topic}",
            cause="it names no rows and is not applied by this version",
            hint="delete the rows with DELETE, or empty the collection and replay the topic",
        )
    raise RecordError(
        subject="value",
        cause=f"op '{op[:20]}' is unknown",
        hint="c, r, u and d are applied",
    )


def _encoded(text: str) -> str:
    # Nearly every key is plain, and percent-encoding takes longer than parsing the whole envelope.
    return text if text.isascii() and text.isalnum() else quote(text, safe="")


def _object(raw: bytes, subject: str) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RecordError(
            subject=subject,
            cause=f"it is no JSON ({error.msg} at character {error.pos})",
            hint="set the connector's key.converter and value.converter to JsonConverter",
        ) from None
    if isinstance(value, dict) and "payload" in value and value.keys() <= {"schema", "payload"}:
        # What is wrapped is an object; a key column may be called `payload`, and holds none.
        payload = value.get("payload")
        value = payload if isinstance(payload, dict) else value
    if not isinstance(value, dict):
        raise RecordError(
            subject=subject,
            cause=f"it is {_kind(value)}, not a JSON object",
            hint="set the connector's key.converter and value.converter to JsonConverter",
        )
    return value


def _version(generation: int, source: dict[str, Any], offset: int) -> Version:
    """The order of a row's changes.

    For PostgreSQL it is the pair that Debezium keeps in `source.sequence`: the end of the last commit
    before the change, and the change's own LSN. The first alone is too coarse. The second alone is
    wrong against snapshots: a transaction that wrote before a snapshot read the row, and committed
    after, has the smaller LSN and the newer row. In the pair it is later, because its commit is.

    - An incremental read carries the pair of the event that closed its window, and takes its place.
    - Any other snapshot is read at once, between two commits: it comes after everything up to the
      last commit, and before all that is streamed after it, so its own LSN counts as 0. The initial
      one knows no commit yet; the LSN that it starts from stands in.
    - The first transaction after that knows no commit either; its own LSN stands in.

    Where a source knows no LSNs at all, its commit time stands in. For one that does it must not: a
    time is above every LSN, and no later change of the row would ever win.
    """
    own = source.get("lsn")
    commit, last = _sequence(source.get("sequence"))
    if own is None:
        own = last
    if own is None and "lsn" not in source:
        own = source.get("ts_ms")
    if isinstance(own, bool) or not isinstance(own, int) or not 0 <= own < 2**64:
        raise RecordError(
            subject="value",
            cause=f"its source block tells no usable position (lsn is {_kind(own)})",
            hint="Rowvec orders the changes of a row by source.lsn and source.sequence",
        )
    if commit is None:
        commit = own
    snapshot = source.get("snapshot")
    if isinstance(snapshot, str) and snapshot in _SNAPSHOT_READS:
        own = 0
    return make_version(generation, f"{commit:016x}.{own:016x}", offset)


def _sequence(sequence: Any) -> tuple[int | None, int | None]:
    """The two numbers of `source.sequence`, a string that holds JSON; the first may be null."""
    if not isinstance(sequence, str):
        return None, None
    try:
        commit, own = (None if n is None else int(n) for n in orjson.loads(sequence))
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return None, None
    if not all(n is None or 0 <= n < 2**64 for n in (commit, own)):
        return None, None
    return commit, own


def _names(fields: dict[str, Any]) -> str:
    names = sorted(fields)[:12]
    return ", ".join(f"'{name[:60]}'" for name in names) if names else "no fields"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number out of range" if isinstance(value, int) else "a number with a fraction"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
