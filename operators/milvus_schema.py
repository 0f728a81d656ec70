"""What a collection holds, field by field, and what may go in. Values only: no client, no network.

Servers and Milvus Lite check different things: one counts the bytes of a VARCHAR and the other its
characters, one refuses a NaN and the other stores it, one keeps both of two equal keys. So every
check is made here, before anything is sent, and is the same wherever the entities go.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from operators.errors import FatalError, RecordError
from operators.store import CollectionSpec, Entity
from operators.table import MAX_VARCHAR_BYTES, PROVENANCE_PREFIX, RESERVED_FIELDS, ColumnType

FieldType = ColumnType | Literal["vector"]

MAX_REQUEST_BYTES = 16 * 2**20
"""A write request stays below this estimate; servers refuse 64 MiB."""

MAX_JSON_BYTES = 65_536

_SAFE_ID = re.compile(r"[A-Za-z0-9_.~%:,#-]+")
_PROVENANCE: dict[str, tuple[ColumnType, int]] = {
    "rv_table": ("varchar", 1_024),
    "rv_row_key": ("varchar", 1_024),
    "rv_version": ("varchar", 256),
    "rv_op": ("varchar", 16),
    "rv_source_ts_ms": ("int64", 0),
    "rv_topic": ("varchar", 255),
    "rv_partition": ("int64", 0),
    "rv_offset": ("int64", 0),
    "rv_model": ("varchar", 1_024),
    "rv_text_hash": ("varchar", 128),
}
_INT_BITS = {"int64": 63, "int32": 31}
_ZERO: dict[str, Any] = {
    "varchar": "",
    "int64": 0,
    "int32": 0,
    "double": 0.0,
    "float": 0.0,
    "bool": False,
    "json": "{}",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a collection.

    Attributes:
        size: Bytes that a varchar may hold, components of a vector, else 0.
        nullable: Whether it can hold NULL; where it cannot, NULL becomes the type's zero value.
    """

    name: str
    type: FieldType | str
    size: int = 0
    nullable: bool = False

    def __str__(self) -> str:
        return f"{self.type}({self.size})" if self.size else str(self.type)


@dataclass(frozen=True, slots=True)
class Shape:
    """A collection as it is, or should be. `metric` and `model` are "" where none is recorded."""

    fields: Mapping[str, Field]
    metric: str
    model: str


def shape_of(spec: CollectionSpec) -> Shape:
    """The shape that a collection of this spec is created with."""
    fields = [
        Field("id", "varchar", 1_024),
        Field("vector", "vector", spec.dim),
        Field("text", "varchar", MAX_VARCHAR_BYTES),
        *(
            Field(name, column.type, column.max_length if column.type == "varchar" else 0, True)
            for name, column in spec.fields.items()
        ),
        *(Field(name, kind, size) for name, (kind, size) in _PROVENANCE.items()),
    ]
    return Shape({field.name: field for field in fields}, spec.metric, spec.model)


def check_shape(collection: str, wanted: Shape, found: Shape) -> None:
    """Accept a collection that can hold what is wanted.

    Whether a field is nullable is no difference: it depends on the server that made the collection.

    Raises:
        FatalError: It cannot; every difference is named.
    """
    problems = []
    for name, want in wanted.fields.items():
        has = found.fields.get(name)
        if has is None:
            problems.append(f"it has no field '{name}' ({want})")
        elif has.type == want.type == "vector" and has.size != want.size:
            problems.append(f"its vectors have {has.size} dimensions, the model makes {want.size}")
        elif has.type != want.type or has.size < want.size:
            problems.append(f"its field '{name}' is {has}, the contract wants {want}")
    for name in found.fields.keys() - wanted.fields.keys():
        problems.append(f"it has a field '{name}' that the contract does not name")
    if found.metric != wanted.metric:
        problems.append(f"its metric is {found.metric or 'unknown'}, not {wanted.metric}")
    if not found.model:
        problems.append("it does not say which model made its vectors")
    elif found.model != wanted.model:
        problems.append(f"its vectors were made by {found.model}, not by {wanted.model}")
    if problems:
        raise FatalError(
            subject=f"collection '{collection}'",
            cause="is not what the contract describes: " + "; ".join(sorted(problems)),
            hint="Give the table another `collection`, which is then filled anew, "
            "or drop this one if nothing reads it",
        )


def mirrored(names: Sequence[str]) -> list[str]:
    """Those field names that mirror a column of the table."""
    return [n for n in names if n not in RESERVED_FIELDS and not n.startswith(PROVENANCE_PREFIX)]


def check_ids(ids: Sequence[str]) -> None:
    """Refuse ids that could say more than themselves inside a filter expression.

    Raises:
        FatalError: An id is not percent-encoded: a mistake in Rowvec, never in the data.
    """
    for one in ids:
        if not _SAFE_ID.fullmatch(one):
            raise FatalError(
                subject="an entity id",
                cause="is not percent-encoded, so it could match other entities",
                hint="This is a bug in Rowvec: ids are made by `entity_id` alone",
            )


def id_filter(ids: Sequence[str]) -> str:
    """The expression that matches exactly these ids.

    Raises:
        FatalError: See `check_ids`.
    """
    check_ids(ids)
    return "id in [" + ",".join(f"'{one}'" for one in ids) + "]"


def to_rows(
    entities: Sequence[Entity], shape: Shape, *, json_arrays: bool
) -> list[tuple[dict[str, Any], int]]:
    """Entities as rows with every field of the collection, each with its estimated size in bytes.

    Args:
        entities: Of distinct ids.
        shape: The collection as it is.
        json_arrays: Whether the server takes a JSON array at the top of a JSON field.

    Raises:
        RecordError: An entity cannot be stored: names its id and field, never a value.
        FatalError: Its columns are not those of the collection, or its id is not encoded.
    """
    check_ids([entity.id for entity in entities])
    seen: set[str] = set()
    for entity in entities:
        if entity.id in seen:
            raise _refused(entity.id, "id", "comes twice in one call", "Keep the last version only")
        seen.add(entity.id)
    return [_to_row(entity, shape, json_arrays) for entity in entities]


def requests(
    rows: Sequence[tuple[dict[str, Any], int]], max_bytes: int = MAX_REQUEST_BYTES
) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into requests of at most `max_bytes`, in order; a larger row goes alone."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row, row_size in rows:
        if batch and size + row_size > max_bytes:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row_size
    if batch:
        yield batch


def _to_row(entity: Entity, shape: Shape, json_arrays: bool) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {
        **entity.columns,
        "id": entity.id,
        "vector": entity.vector,
        "text": entity.text,
        "rv_table": entity.table,
        "rv_row_key": entity.row_key,
        "rv_version": entity.version,
        "rv_op": entity.op,
        "rv_source_ts_ms": entity.source_ts_ms,
        "rv_topic": entity.position.topic,
        "rv_partition": entity.position.partition,
        "rv_offset": entity.position.offset,
        "rv_model": entity.model,
        "rv_text_hash": entity.text_hash,
    }
    if values.keys() != shape.fields.keys():
        names = ", ".join(sorted(values.keys() ^ shape.fields.keys()))
        raise FatalError(
            subject=f"entity '{entity.id[:200]}'",
            cause=f"its columns and the fields of the collection differ in: {names}",
            hint="Every field is written at every write; check the table's `columns`",
        )
    row: dict[str, Any] = {}
    total = 0
    for name, field in shape.fields.items():
        row[name], size = _checked(entity.id, field, values[name], json_arrays)
        total += size
    return row, total


def _checked(id_: str, field: Field, value: Any, json_arrays: bool) -> tuple[Any, int]:
    """The value as it is sent, and about how many bytes it takes."""
    if value is None and field.name not in RESERVED_FIELDS and field.name not in _PROVENANCE:
        return (None if field.nullable else _ZERO[field.type]), 8
    match field.type:
        case "vector":
            return _vector(id_, field, value)
        case "varchar" if isinstance(value, str):
            size = _utf8_length(id_, field, value)
            if size > field.size:
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
                raise _refused(
                    id_, field.name, f"does not fit {field.type}", "Mirror it as a wider type"
                )
            return value, 8
        case "double" | "float" if isinstance(value, int | float) and not isinstance(value, bool):
            return _real(id_, field, value), 8
        case "bool" if isinstance(value, bool):
            return value, 1
        case "json":
            return _json(id_, field, value, json_arrays)
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
    if value.shape != (field.size,):
        found = value.shape[0] if value.ndim == 1 else value.shape
        raise _refused(
            id_, field.name, f"has {found} dimensions, not {field.size}", "Check the embedder"
        )
    if not np.isfinite(value).all():
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


def _json(id_: str, field: Field, value: Any, arrays: bool) -> tuple[Any, int]:
    # Sent as JSON text: the client would take a plain string for JSON text in any case, so a string
    # is read as such here too (Debezium sends JSON columns as text).
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(parsed, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        raise _refused(
            id_, field.name, "is not JSON", 'Mirror the column as "varchar" to keep it as it is'
        ) from None
    # Lite breaks on scalars (it answers them with what is not JSON), old servers on arrays as well.
    if not isinstance(parsed, dict | list if arrays else dict):
        raise _refused(
            id_,
            field.name,
            f"is JSON, but not {'an object or an array' if arrays else 'an object'}, "
            "and this store keeps nothing else",
            'Mirror the column as "varchar"',
        )
    size = _utf8_length(id_, field, text)
    if size > MAX_JSON_BYTES:
        raise _refused(
            id_, field.name, f"is {size} bytes of JSON, more than {MAX_JSON_BYTES}", "Mirror less"
        )
    return text, size + 8


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
