"""Protocols of a vector store and of a ledger store, their values, and the ids of entities."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from operators.changes.events import KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.rows import Spans
from operators.changes.vector import Vector
from operators.changes.version import Version
from operators.contract.table import MAX_VARCHAR_BYTES, ColumnSpec

MAX_LEDGER_BYTES = MAX_VARCHAR_BYTES
"""The most bytes that one text in the ledger may have, as UTF-8."""

Fence: TypeAlias = Callable[[], AbstractContextManager[None]]
"""A context for each single request that changes the store; it raises if nothing may be written now."""


IN_CHUNKS = " in chunks: "
"""What stands between a model's identity and the sizes of chunks in `CollectionSpec.model`."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """What a collection must look like. It is compared with the real one before the flow starts.

    Attributes:
        fields: Mirrored columns by field name.
        dim: Length of a vector.
        metric: COSINE, IP or L2.
        model: Identity of the model that made its vectors, `name@revision`; then sizes of chunks.
        extra_fields: Whether further nullable fields, as `add_field` creates them, are allowed.
    """

    name: str
    fields: Mapping[str, ColumnSpec]
    dim: int
    metric: str
    model: str
    extra_fields: bool = False


class Entity(NamedTuple):
    """What the store holds for one row, or for one chunk of it. Every write sends every field.

    Attributes:
        id: `entity_id` of the row key.
        vector: float32 (dim,), finite.
        text: The row's text, or one chunk of it.
        text_hash: Digest of the row's whole text.
        columns: Mirrored columns by field name; None is SQL's NULL. An extra field of the collection
            that is left out is written as NULL.
        chunk: Number of this chunk, from 0.
        chunks: Number of chunks of the row.
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
    """What the first chunk of a stored row says: enough to recognise a stale event.

    Attributes:
        place: The partition that the row came from, as `place_of_partition` has it; "" if not known.
            The version has it as well, unless a release before wrote it.
    """

    version: Version
    text_hash: str
    chunks: int = 1
    place: str = field(default="", compare=False)


class FoundCollection(NamedTuple):
    """The collection that a name stands for now.

    Attributes:
        name: Its own name, where the name that was asked for is an alias.
        identity: See `VectorStore.identity`.
    """

    name: str
    identity: str


FindCollection = Callable[[str], FoundCollection | None]
"""Asks a store which collection a name or an alias stands for now; None if it stands for none."""


class VectorStore(Protocol):
    """Collections of entities, written by one writer per id.

    Every method may raise `RetriableError` (the store is down, slow or overloaded: the same call may
    succeed later) or `FatalError` (retrying cannot help). Reads are Strong: they see every write that
    was acknowledged before they began. Several threads may call one store; at most `max_writers` of
    them may write.
    """

    @property
    def max_writers(self) -> int | None:
        """How many threads may write at the same time; None for any number."""
        ...

    @property
    def can_add_fields(self) -> bool:
        """Whether this store supports `add_field`."""
        ...

    def ensure(self, spec: CollectionSpec) -> bool:
        """Create the collection, or check that the existing one matches; never alter it.

        Returns:
            True if the collection holds no entity.

        Raises:
            FatalError: It exists with another dim, metric, model, or other fields.
        """
        ...

    def fields(self, collection: str) -> dict[str, ColumnSpec]:
        """The mirrored columns, by field name, that the collection has fields for; extra ones too."""
        ...

    def add_field(self, collection: str, name: str, spec: ColumnSpec) -> None:
        """Add a nullable field to a collection whose spec allows `extra_fields`.

        Existing entities hold NULL in it, and an entity that lacks it is written with NULL. If the
        field exists already and can hold the column, nothing is changed.

        Args:
            collection: Must have passed `ensure`.
            name: Name of the new field.
            spec: The column that the field mirrors; its own `field` is ignored.

        Raises:
            FatalError: The store cannot add fields, or the field exists and cannot hold the column.
        """
        ...

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        """Version, text hash and number of chunks, for those of `ids` that exist."""
        ...

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        """Text hash and vector, for those of `ids` that exist."""
        ...

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        """The entities of those `ids` that exist, with every field."""
        ...

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        """Write entities; afterwards each id holds exactly the entity that was given.

        The ids must be distinct within one call.

        Raises:
            RecordError: An entity of this call cannot be stored. The caller must treat all of the
                call's entities as not written, and find out which one is refused.
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
        """Carry out a TRUNCATE: remove every entity of a table whose version is below this one.

        An entity of another physical table stays (`other_table` in `operators.changes.version`).

        While this runs, no lane and no process may write rows of those shards. Otherwise a row that
        was read as older, then written anew, would be removed in its new version.

        Args:
            collection: The collection of the table.
            table: `Entity.table`.
            version: Compared as a string with `Entity.version`.
            shards: Numbers of the shards whose rows are removed; None for all.

        Raises:
            FatalError: `version` holds more than hex digits and dots, or a shard does not exist.
        """
        ...

    def count(self, collection: str) -> int:
        """Number of entities, exactly."""
        ...

    def identity(self, collection: str) -> str:
        """What tells this collection from any other one, whatever either of them is called.

        It has two parts: a random id from the collection's creation, and, behind an @, the server's own
        id of it if the server tells one. A backup that is restored keeps the first and changes the
        second. Either part is missing where it is not known: a collection of an older release has no
        random id. `operators.ownership.ledger_entries.differ` compares two identities.
        """
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


class LedgerStore(Protocol):
    """Small texts by name, stored in the same database as the collections.

    Reads are Strong: they see every write that was acknowledged before they began. Of two writes of
    one name, the one that arrives last wins. Several threads may call it.

    Both methods may raise `RetriableError` and `FatalError`, as those of `VectorStore`.
    """

    def read(self) -> dict[str, str]:
        """All entries, by name."""
        ...

    def write(self, entries: Mapping[str, str], fence: Fence = nullcontext) -> None:
        """Insert or replace entries; afterwards each name holds exactly the text that was given.

        Entries that fit one request are written together or not at all. After an error, any of the
        entries may have been written.

        Args:
            entries: Texts of at most `MAX_LEDGER_BYTES` of UTF-8, by percent-encoded names: ASCII
                letters, digits and `._-~%/`.
            fence: Each request is sent inside this context.

        Raises:
            FatalError: A name or a text breaks these rules; then none of them is written.
        """
        ...


def entity_id(row_key: RowKey, chunk: int = 0) -> str:
    """The primary key in Milvus: the row's key and the chunk's number.

    A row key is percent-encoded, so the id is safe inside a filter expression.
    """
    return f"{row_key}#{chunk}"


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search.

    Attributes:
        score: In the metric's own terms: higher is nearer for COSINE and IP, lower for L2.
        columns: Mirrored columns by field name.
    """

    id: str
    score: float
    text: str
    columns: Mapping[str, Any]
    table: str
    row_key: RowKey
    version: Version
