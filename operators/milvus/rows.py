"""Entities → rows of a collection, and back. Values only: no client, no network.

Servers and Milvus Lite check differently: one counts the bytes of a VARCHAR and the other its
characters, one refuses a NaN and the other stores it, one keeps both of two equal keys. So all checks
are made here, before anything is sent, and are the same for every kind of Milvus.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from operators.changes.events import KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.rows import Spans
from operators.changes.shards import NUMBER_OF_SHARD, shard_of
from operators.changes.version import Version
from operators.contract.table import RESERVED_FIELDS
from operators.errors import FatalError, RecordError
from operators.milvus.filters import check_ids
from operators.milvus.schema import (
    MAX_SPANS_BYTES,
    PROVENANCE,
    Field,
    Shape,
    mirrored,
)
from operators.store.protocol import Entity

MAX_REQUEST_BYTES = 16 * 2**20
"""The most estimated bytes of one write request; servers refuse 64 MiB."""

MAX_JSON_BYTES = 65_536

_MANY_DIGITS = re.compile(r"\d{19}")

_INT_BITS = {"int64": 63, "int32": 31}

_MAX_INT64 = 2**63 - 1

_ZERO: dict[str, Any] = {
    "varchar": "",
    "int64": 0,
    "int32": 0,
    "double": 0.0,
    "float": 0.0,
    "bool": False,
    "json": "{}",
}


def to_rows(
    entities: Sequence[Entity], shape: Shape, *, json_arrays: bool, json_scalars: bool = False
) -> list[tuple[dict[str, Any], int]]:
    """Entities as rows with every field of the collection, each with its estimated size in bytes.

    Args:
        entities: Entities of distinct ids.
        shape: The collection as it is.
        json_arrays: Whether the server accepts an array as the value of a JSON field.
        json_scalars: Whether it accepts a text, number or boolean.

    Raises:
        RecordError: An entity cannot be stored. The message names its id and field, never a value.
        FatalError: Its columns are not those of the collection, or its id is not percent-encoded.
    """
    check_ids([entity.id for entity in entities])
    seen: set[str] = set()
    for entity in entities:
        if entity.id in seen:  # guard: duplicate-ids
            raise _refused(entity.id, "id", "comes twice in one call", "Keep the last version only")
        seen.add(entity.id)
    kinds = (dict, list) if json_arrays else (dict,)
    json_kinds = (*kinds, str, int, float) if json_scalars else kinds
    return [_to_row(entity, shape, json_kinds) for entity in entities]


def requests(
    rows: Sequence[tuple[dict[str, Any], int]], max_bytes: int = MAX_REQUEST_BYTES
) -> Iterator[list[dict[str, Any]]]:
    """Divide rows into requests of at most `max_bytes`, in order; a larger row is sent alone."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row, row_size in rows:
        if batch and size + row_size > max_bytes:  # guard: request-bytes
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row_size
    if batch:
        yield batch


def to_entity(row: Mapping[str, Any]) -> Entity:
    """The entity that a stored row holds, as `to_rows` accepts it.

    Args:
        row: A row with every field; JSON fields are parsed.
    """
    return Entity(
        id=row["id"],
        vector=np.array(row["vector"], dtype=np.float32),
        text=row["text"],
        text_hash=row["rv_text_hash"],
        columns={name: row[name] for name in mirrored(list(row))},
        table=row["rv_table"],
        row_key=RowKey(row["rv_row_key"]),
        version=Version(row["rv_version"]),
        op=row["rv_op"],
        source_ts_ms=row["rv_source_ts_ms"],
        position=KafkaPosition(row["rv_topic"], row["rv_partition"], row["rv_offset"]),
        model=row["rv_model"],
        chunk=row["rv_chunk"],
        chunks=row["rv_chunks"],
        start=row["rv_start"],
        spans=_read_spans(row["rv_spans"]),
    )


def _to_row(
    entity: Entity, shape: Shape, json_kinds: tuple[type, ...]
) -> tuple[dict[str, Any], int]:
    topic, partition, offset = entity.position
    row: dict[str, Any] = {
        **entity.columns,
        "id": entity.id,
        "vector": entity.vector,
        "text": entity.text,
        "rv_table": entity.table,
        "rv_row_key": entity.row_key,
        "rv_version": entity.version,
        "rv_op": entity.op,
        "rv_source_ts_ms": entity.source_ts_ms,
        "rv_topic": topic,
        "rv_partition": partition,
        "rv_offset": offset,
        "rv_model": entity.model,
        "rv_text_hash": entity.text_hash,
        "rv_chunk": entity.chunk,
        "rv_chunks": entity.chunks,
        "rv_start": entity.start,
        "rv_spans": _spans_text(entity.spans) if entity.spans else "",
        "rv_shard": NUMBER_OF_SHARD[shard_of(entity.row_key)],
    }
    if row.keys() != shape.fields.keys():
        _add_missing_fields(row, entity, shape)
    total = 0
    for name, field in shape.fields.items():
        value = row[name]
        # A fast path for the two most common cases: a third of the time of `_checked`.
        if type(value) is str and field.type == "varchar" and value.isascii():
            if len(value) <= field.size:
                total += len(value) + 8
                continue
        elif type(value) is int and field.type == "int64" and -_MAX_INT64 <= value <= _MAX_INT64:
            total += 8
            continue
        row[name], size = _checked(entity.id, field, value, json_kinds)
        total += size
    return row, total


def _add_missing_fields(row: dict[str, Any], entity: Entity, shape: Shape) -> None:
    """Set the optional fields that the row lacks to NULL; any other difference is an error."""
    for name in shape.fields.keys() - row.keys():
        if shape.fields[name].optional:
            row[name] = None
    if row.keys() != shape.fields.keys():
        names = ", ".join(sorted(row.keys() ^ shape.fields.keys()))
        raise FatalError(
            subject=f"entity '{entity.id[:200]}'",
            cause=f"its columns and the fields of the collection differ in: {names}",
            hint="Every field is written at every write; check the table's `columns`",
        )


def _spans_text(spans: Spans) -> str:
    """Spans as they are stored; "" if they are too long or not valid Unicode.

    Without spans, a later version whose large column Debezium left out cannot take the value from this
    text. It is then completed from the database, or becomes a dead letter.
    """
    try:
        text = orjson.dumps(spans)
    except TypeError:
        return ""
    return text.decode() if len(text) <= MAX_SPANS_BYTES else ""


def _read_spans(text: str) -> Spans:
    return tuple((name, start, end) for name, start, end in json.loads(text)) if text else ()


def _checked(id_: str, field: Field, value: Any, json_kinds: tuple[type, ...]) -> tuple[Any, int]:
    """The value as it is sent, and its approximate size in bytes."""
    if value is None and field.name not in RESERVED_FIELDS and field.name not in PROVENANCE:
        return (None if field.nullable else _ZERO[field.type]), 8
    match field.type:
        case "vector":
            return _vector(id_, field, value)
        case "varchar" if isinstance(value, str):
            size = _utf8_length(id_, field, value)
            if size > field.size:  # guard: varchar-bytes
                raise _refused(
                    id_,
                    field.name,
                    f"is {size} bytes of UTF-8, more than {field.size}",
                    "Raise its `max_length` (for a new collection), or mirror less"
                    if field.name not in RESERVED_FIELDS
                    else "Shorten the text template or the key",
                )
            return value, size + 8
        case "int64" | "int32" if isinstance(value, int) and not isinstance(value, bool):
            bits = _INT_BITS[field.type]
            if not -(2**bits) <= value < 2**bits:
                wider = "int64" if field.type == "int32" else "varchar"
                raise _refused(
                    id_, field.name, f"does not fit {field.type}", f'Mirror it as "{wider}"'
                )
            return value, 8
        case "double" | "float" if isinstance(value, int | float) and not isinstance(value, bool):
            return _real(id_, field, value), 8
        case "bool" if isinstance(value, bool):
            return value, 1
        case "json":
            return _json(id_, field, value, json_kinds)
        case _:
            raise _refused(
                id_,
                field.name,
                f"is {type(value).__name__} where {field.type} belongs",
                "Give the column a `type` that fits what the source sends",
            )


def _vector(id_: str, field: Field, value: Any) -> tuple[Any, int]:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        raise _refused(id_, field.name, "is not an array of float32", "Check the embedder")
    if value.shape != (field.size,):  # guard: vector-dimensions
        found = value.shape[0] if value.ndim == 1 else value.shape
        raise _refused(
            id_, field.name, f"has {found} dimensions, not {field.size}", "Check the embedder"
        )
    if not np.isfinite(value).all():  # guard: vector-finite
        raise _refused(id_, field.name, "holds a NaN or an infinity", "Try another `dtype`")
    return value, value.nbytes


def _real(id_: str, field: Field, value: float) -> float:
    hint = "Filter such rows at the source, or do not mirror the column"
    try:
        real = float(value)
    except OverflowError:
        raise _refused(id_, field.name, f"does not fit {field.type}", hint) from None
    if not math.isfinite(real):
        raise _refused(id_, field.name, "is NaN or infinite", hint)
    if field.type == "float" and abs(real) > float(np.finfo(np.float32).max):
        raise _refused(id_, field.name, "does not fit float", 'Mirror it as "double"')
    return real


def _json(id_: str, field: Field, value: Any, kinds: tuple[type, ...]) -> tuple[Any, int]:
    # Sent as JSON text, because pymilvus takes any string for JSON text. A string here is a value: JSON
    # text from the source was parsed by the decoder.
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        raise _refused(
            id_, field.name, "is not JSON", 'Mirror the column as "varchar" to keep it as it is'
        ) from None
    # Lite cannot return scalars as valid JSON, and old servers cannot store arrays either.
    if not isinstance(value, kinds):
        raise _refused(
            id_,
            field.name,
            f"is JSON, but not {'an object or an array' if list in kinds else 'an object'}, "
            "and this store keeps nothing else",
            'Mirror the column as "varchar"'
            + ("" if isinstance(value, list) else ', or give it scalars = "wrap"'),
        )
    if _MANY_DIGITS.search(text) and _rounded(value):  # guard: json-number-exact
        raise _refused(
            id_,
            field.name,
            "is JSON with a whole number of more than 64 bits, which Milvus gives back rounded",
            'Mirror the column as "varchar" to keep it as it is',
        )
    size = _utf8_length(id_, field, text)
    if size > MAX_JSON_BYTES:
        raise _refused(
            id_, field.name, f"is {size} bytes of JSON, more than {MAX_JSON_BYTES}", "Mirror less"
        )
    return text, size + 8


def _rounded(value: Any) -> bool:
    """Whether JSON has a whole number that readers get rounded; it has been dumped, so it is finite."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending += one.values()
        elif isinstance(one, list | tuple):
            pending += one
        elif isinstance(one, int) and not -(2**63) <= one < 2**64:
            return True
    return False


def _utf8_length(id_: str, field: Field, text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise _refused(
            id_, field.name, "is not valid Unicode (a lone surrogate)", "Repair it at the source"
        ) from None


def _refused(id_: str, field: str, cause: str, hint: str) -> RecordError:
    return RecordError(subject=f"entity '{id_[:200]}', field '{field}'", cause=cause, hint=hint)
