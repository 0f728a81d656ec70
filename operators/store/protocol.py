"""The vector store as the flow needs it: a protocol, its values, and the ids of its entities."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from operators.changes.events import KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.rows import Spans
from operators.changes.vector import Vector
from operators.changes.version import Version
from operators.contract.table import MAX_VARCHAR_BYTES, ColumnSpec

MAX_LEDGER_BYTES = MAX_VARCHAR_BYTES
"""Of one text in the ledger, as UTF-8."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """What a collection must be; compared with what it is before the first message is read.

    Attributes:
        fields: Mirrored columns by field name.
        dim: Length of a vector.
        metric: COSINE, IP or L2.
        model: Identity of the model whose vectors it holds, `name@revision`.
        extra_fields: Whether it may have nullable fields besides, as `add_field` makes them.
    """

    name: str
    fields: Mapping[str, ColumnSpec]
    dim: int
    metric: str
    model: str
    extra_fields: bool = False


class Entity(NamedTuple):
    """What the store holds for one row. Every field is written at every write.

    Attributes:
        id: `entity_id` of the row key.
        vector: float32 (dim,), finite.
        text: The row's text, or one chunk of it.
        text_hash: Digest of the row's whole text.
        columns: Mirrored columns by field name; None is SQL's NULL. Extra fields of the collection may
            be left out, which is NULL as well.
        chunk: Number of the chunk, from 0.
        chunks: How many there are of this row.
        start: Where the chunk begins in the row's text, in characters; chunks may overlap.
        spans: Where the template's columns lie in the row's text.
    """

    id: str
    vector: Vector
    text: str
    text_hash: str
    columns: Mapping[str, Any]
    table: str
    row_key: RowKey
    version: Version
    op: str
    source_ts_ms: int
    position: KafkaPosition
    model: str
    chunk: int = 0
    chunks: int = 1
    start: int = 0
    spans: Spans = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store knows of a row by its first chunk: enough to fence a stale event."""

    version: Version
    text_hash: str
    chunks: int = 1


class VectorStore(Protocol):
    """Collections of entities, written by one writer per id.

    Every method may raise `RetriableError` (down, slow, overloaded: the same call may succeed later)
    or `FatalError` (refused for a reason that retrying cannot change). Reads are Strong: they see
    every write that was acknowledged before they began.
    """

    @property
    def max_writers(self) -> int | None:
        """How many threads may write at once, or None for as many as one likes."""
        ...

    @property
    def can_add_fields(self) -> bool:
        """Whether `add_field` works here."""
        ...

    def ensure(self, spec: CollectionSpec) -> bool:
        """Create the collection, or check that the one there matches; never alter it.

        Returns:
            True if the collection holds no entity.

        Raises:
            FatalError: It is there with another dim, metric, model, or other fields.
        """
        ...

    def fields(self, collection: str) -> dict[str, ColumnSpec]:
        """The mirrored columns that the collection has fields for, extra ones too, by field name."""
        ...

    def add_field(self, collection: str, name: str, spec: ColumnSpec) -> None:
        """Give a collection whose spec says `extra_fields` another nullable field.

        What is there holds NULL in it, and an entity that lacks it is written with NULL. A field
        that is there already and can hold the column is left as it is.

        Args:
            collection: Checked by `ensure` before.
            name: Of the field.
            spec: Of the column; its own `field` is not looked at.

        Raises:
            FatalError: The store cannot add fields, or this one is there and cannot hold the column.
        """
        ...

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        """Version, text hash and number of chunks of those of `ids` that exist."""
        ...

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        """Text hash and vector of those of `ids` that exist."""
        ...

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        """Those of `ids` that exist, whole."""
        ...

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        """Write whole entities; afterwards each of the ids holds exactly what was given.

        The ids must be distinct within one call.

        Raises:
            RecordError: An entity of this call cannot be stored; none of the call's entities may be
                taken as written. The caller narrows down which one.
        """
        ...

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Remove those of `ids` that exist."""
        ...

    def delete_older(
        self,
        collection: str,
        table: str,
        version: Version,
        shards: Collection[int] | None = None,
    ) -> None:
        """Remove every entity of a table whose version is below this one: its TRUNCATE.

        Nobody may be writing rows of those shards meanwhile, in no lane and no process: a row that
        is written anew after it was found to be older, and before it is removed, would be lost.

        Args:
            collection: Where the rows are.
            table: `Entity.table`.
            version: Compared as a string with `Entity.version`.
            shards: Numbers of the shards whose rows to remove; None for all.

        Raises:
            FatalError: `version` holds more than hex digits and dots, or there is no such shard.
        """
        ...

    def count(self, collection: str) -> int:
        """Number of entities, exactly."""
        ...

    def identity(self, collection: str) -> str:
        """What tells this collection from any other that had, or will have, its name.

        Made up when it was created; "" where that was before there were such.
        """
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


class LedgerStore(Protocol):
    """Small texts by name, beside the collections that they are about.

    Reads are Strong: they see every write that was acknowledged before they began. Of two writes of
    one name, the later that arrives holds.

    Both methods may raise `RetriableError` and `FatalError`, as those of `VectorStore`.
    """

    def read(self) -> dict[str, str]:
        """All entries, by name."""
        ...

    def write(self, entries: Mapping[str, str]) -> None:
        """Insert or replace entries; afterwards each of the names holds exactly what was given.

        All or none only as far as they fit one request. After an error any of them may be written.

        Args:
            entries: Texts of at most `MAX_LEDGER_BYTES` of UTF-8 by names that are percent-encoded:
                ASCII letters, digits and `._-~%/`.

        Raises:
            FatalError: A name or a text is something else; then none of them is written.
        """
        ...


def entity_id(row_key: RowKey, chunk: int = 0) -> str:
    """The primary key in Milvus: the row's key and the chunk's number.

    A row key is percent-encoded already; with `#` and digits it is still safe in a filter.
    """
    return f"{row_key}#{chunk}"


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search, the best first.

    Attributes:
        score: As the metric has it: higher is nearer for COSINE and IP, lower for L2.
        columns: Mirrored columns by field name.
    """

    id: str
    score: float
    text: str
    columns: Mapping[str, Any]
    table: str
    row_key: RowKey
    version: Version
