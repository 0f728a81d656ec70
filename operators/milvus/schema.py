"""The fields of a collection, as it is and as it should be.

Values only: no client, no network. `operators.milvus.rows` checks the values of the fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from operators.contract.field_names import MAX_FIELDS
from operators.contract.table import (
    MAX_VARCHAR_BYTES,
    PROVENANCE_PREFIX,
    RESERVED_FIELDS,
    ColumnSpec,
    ColumnType,
)
from operators.errors import FatalError
from operators.store.protocol import MAX_LEDGER_BYTES, CollectionSpec

FieldType = ColumnType | Literal["vector"]

MAX_SPANS_BYTES = 16_384

PROVENANCE: Mapping[str, tuple[ColumnType, int]] = {
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
    "rv_chunk": ("int64", 0),
    "rv_chunks": ("int64", 0),
    "rv_start": ("int64", 0),
    "rv_spans": ("varchar", MAX_SPANS_BYTES),
    "rv_shard": ("int64", 0),
}
"""Type and size in bytes of the fields in every collection that say where an entity came from."""

TTL_PROPERTY = "collection.ttl.seconds"

LEDGER_NAME_BYTES = 1_024

_COLUMN_TYPES = frozenset(get_args(ColumnType))


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a collection.

    Attributes:
        size: Bytes of a varchar, dimensions of a vector, else 0.
        nullable: Whether it can hold NULL. If not, NULL is stored as the type's zero value.
        optional: Whether an entity may lack it, which is stored as NULL. True for fields that the
            contract does not name.
    """

    name: str
    type: FieldType | str
    size: int = 0
    nullable: bool = False
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.type}({self.size})" if self.size else str(self.type)


@dataclass(frozen=True, slots=True)
class Shape:
    """A collection as it is, or should be.

    Attributes:
        metric: "" if none is recorded.
        model: "" if none is recorded.
        extra_fields: Whether further nullable fields are allowed.
        identity: See `VectorStore.identity`; "" if it does not exist yet.
        expires_s: Seconds after which Milvus drops a row; 0 if it keeps rows.
    """

    fields: Mapping[str, Field]
    metric: str
    model: str
    extra_fields: bool = False
    identity: str = ""
    expires_s: int = 0


LEDGER_SHAPE = Shape(
    {
        "id": Field("id", "varchar", LEDGER_NAME_BYTES),
        # Never searched: Milvus demands a vector field, of at least two dimensions.
        "vector": Field("vector", "vector", 2),
        "body": Field("body", "varchar", MAX_LEDGER_BYTES),
    },
    metric="L2",
    model="",
)
"""The collection of the ledger."""


def collection_shape(spec: CollectionSpec) -> Shape:
    """The shape that a collection of this spec is created with."""
    fields = [
        Field("id", "varchar", 1_024),
        Field("vector", "vector", spec.dim),
        Field("text", "varchar", MAX_VARCHAR_BYTES),
        *(mirroring(name, column) for name, column in spec.fields.items()),
        *(Field(name, kind, size) for name, (kind, size) in PROVENANCE.items()),
    ]
    return Shape(
        {field.name: field for field in fields}, spec.metric, spec.model, spec.extra_fields
    )


def mirroring(name: str, column: ColumnSpec) -> Field:
    """The field of this name that mirrors a column."""
    return Field(name, column.type, column.max_length if column.type == "varchar" else 0, True)


def check_shape(collection: str, wanted: Shape, found: Shape) -> Shape:
    """Check that a collection can hold what is wanted.

    Whether a wanted field is nullable is not compared: it depends on the server that created the
    collection.

    Returns:
        The collection as it is, with the fields that are not wanted marked as optional.

    Raises:
        FatalError: It cannot hold it; the message names every difference.
    """
    if found.expires_s > 0:  # guard: rows-do-not-expire
        raise FatalError(
            subject=f"collection '{collection}'",
            cause=f"drops each row after {found.expires_s} seconds (its property {TTL_PROPERTY}), so "
            "that it would lack rows of the table",
            hint="Take the property away (drop_collection_properties of pymilvus), and have the "
            "collection filled anew if it lacks rows already",
        )
    problems = []
    for name, want in wanted.fields.items():
        has = found.fields.get(name)
        if has is None:
            problems.append(f"it has no field '{name}' ({want})")
        elif has.type == want.type == "vector" and has.size != want.size:
            problems.append(f"its vectors have {has.size} dimensions, the model makes {want.size}")
        elif not _holds(has, want):
            problems.append(f"its field '{name}' is {has}, the contract wants {want}")
    for name in found.fields.keys() - wanted.fields.keys():
        if not wanted.extra_fields:
            problems.append(f"it has a field '{name}' that the contract does not name")
        elif not found.fields[name].nullable:
            problems.append(
                f"it has a field '{name}' that the contract does not name and that holds no NULL"
            )
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
            "or drop this one if nothing reads it" + _pinning(wanted.model, found.model),
        )
    named = {name for name, want in wanted.fields.items() if not want.optional}
    fields = {n: replace(has, optional=n not in named) for n, has in found.fields.items()}
    return replace(found, fields=fields, extra_fields=wanted.extra_fields)


def _pinning(wanted: str, found: str) -> str:
    """What helps if the model is the same but its repository on the hub has a newer commit."""
    (name, _, revision), (had, _, had_revision) = (
        each.partition(" ")[0].partition("@") for each in (wanted, found)
    )
    if name != had or "/" not in name or revision == had_revision:
        return ""
    return (
        ". If nothing in [embedding] has changed, the model's repository on the hub has, be it in a "
        f'README: set revision = "{had_revision}" in [embedding], the commit that made these vectors'
    )


def missing_field(collection: str, shape: Shape, name: str, column: ColumnSpec) -> Field | None:
    """The field to add so that the collection mirrors this column; None if it has the field.

    Raises:
        FatalError: The name is reserved, the field exists and cannot hold the column, the contract does
            not allow extra fields, or the collection can have no more.
    """
    wanted = replace(mirroring(name, column), optional=True)
    subject = f"collection '{collection}', new field '{name}'"
    if not mirrored([name]):
        raise FatalError(
            subject=subject,
            cause="is the name of a field of Rowvec's own",
            hint="Name the column in the table's `columns` with another `field`, or in `unmirrored`",
        )
    has = shape.fields.get(name)
    if has is not None and not _holds(has, wanted):
        raise FatalError(
            subject=subject,
            cause=f"is there as {has}, the new column needs {wanted}",
            hint="Name the column in the table's `columns` with another `field`, or in `unmirrored`",
        )
    if has is None and not shape.extra_fields:
        raise FatalError(
            subject=subject,
            cause="is none that the contract names",
            hint='Set added = "add" in the table\'s `drift`',
        )
    if has is None and len(shape.fields) >= MAX_FIELDS:  # guard: number-of-added-fields
        raise FatalError(
            subject=subject,
            cause=f"would be one more than the {MAX_FIELDS} fields that a collection can have",
            hint='Name it in the table\'s `unmirrored`, or set added = "ignore" in its `drift`',
        )
    return wanted if has is None else None


def cannot_add(collection: str, name: str, where: str) -> FatalError:
    """The error for a store that cannot add a field to an existing collection."""
    return FatalError(
        subject=f"collection '{collection}', new field '{name}'",
        cause=f"cannot be added: {where} is no Milvus 2.6 or newer, which alone can do so",
        hint="Name the column in the table's `columns` and give it another `collection`, which is "
        'then filled anew; or set added = "ignore" in its `drift`',
    )


def mirrored(names: Sequence[str]) -> list[str]:
    """Those of the field names that mirror a column of the table."""
    return [n for n in names if n not in RESERVED_FIELDS and not n.startswith(PROVENANCE_PREFIX)]


def column_specs(shape: Shape) -> dict[str, ColumnSpec]:
    """The mirrored fields of a collection by name, without those of types that no column can have."""
    specs = {}
    for name in mirrored(list(shape.fields)):
        field = shape.fields[name]
        if field.type in _COLUMN_TYPES:
            size: dict[str, Any] = {"max_length": field.size} if field.type == "varchar" else {}
            specs[name] = ColumnSpec(type=cast(ColumnType, field.type), **size)
    return specs


def check_ledger_shape(subject: str, found: Shape) -> None:
    """Check that the ledger's collection is exactly as Rowvec creates it.

    Args:
        subject: Its name in messages.
        found: The collection as it is.

    Raises:
        FatalError: It is different.
    """
    has = {name: str(field) for name, field in found.fields.items()}
    wants = {name: str(field) for name, field in LEDGER_SHAPE.fields.items()}
    if has == wants and found.metric == LEDGER_SHAPE.metric:
        return
    raise FatalError(
        subject=subject,
        cause="is not Rowvec's ledger: it has "
        + ", ".join(f"'{name}' ({kind})" for name, kind in sorted(has.items()))
        + f" and the metric {found.metric}; the ledger has "
        + ", ".join(f"'{name}' ({kind})" for name, kind in sorted(wants.items()))
        + f" and {LEDGER_SHAPE.metric}",
        hint="Set milvus.database to one of Rowvec's own, or give that collection another name",
    )


def _holds(has: Field, want: Field) -> bool:
    return has.type == want.type and has.size >= want.size
