"""A vector store that accepts writes only while this process holds the lease."""

from collections.abc import Collection, Sequence

from operators.changes.vector import Vector
from operators.changes.version import Version
from operators.contract.table import ColumnSpec
from operators.ownership.gate import Gate
from operators.store.protocol import CollectionSpec, Entity, Stored, VectorStore


class FencedStore:
    """A `VectorStore` whose writes need the lease; `Gate.writing` says what they raise without it.

    Lane threads and the worker share it. It has no state of its own: the store and the gate do
    their own locking.
    """

    def __init__(self, store: VectorStore, gate: Gate) -> None:
        self._store = store
        self._gate = gate

    @property
    def max_writers(self) -> int | None:
        """See `VectorStore.max_writers`."""
        return self._store.max_writers

    @property
    def can_add_fields(self) -> bool:
        """See `VectorStore.can_add_fields`."""
        return self._store.can_add_fields

    def ensure(self, spec: CollectionSpec) -> bool:
        """See `VectorStore.ensure`."""
        return self._store.ensure(spec)

    def identity(self, collection: str) -> str:
        """See `VectorStore.identity`."""
        return self._store.identity(collection)

    def fields(self, collection: str) -> dict[str, ColumnSpec]:
        """See `VectorStore.fields`."""
        return self._store.fields(collection)

    def add_field(self, collection: str, name: str, spec: ColumnSpec) -> None:
        """See `VectorStore.add_field`."""
        with self._gate.writing():
            self._store.add_field(collection, name, spec)

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        """See `VectorStore.stored`."""
        return self._store.stored(collection, ids)

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        """See `VectorStore.vectors`."""
        return self._store.vectors(collection, ids)

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        """See `VectorStore.entities`."""
        return self._store.entities(collection, ids)

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        """See `VectorStore.upsert`."""
        with self._gate.writing():  # guard: fence-upsert
            self._store.upsert(collection, entities)

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """See `VectorStore.delete`."""
        with self._gate.writing():  # guard: fence-delete
            self._store.delete(collection, ids)

    def delete_older(
        self,
        collection: str,
        table: str,
        version: Version,
        shards: Collection[int] | None = None,
    ) -> None:
        """See `VectorStore.delete_older`."""
        with self._gate.writing():  # guard: fence-truncate
            self._store.delete_older(collection, table, version, shards)

    def count(self, collection: str) -> int:
        """See `VectorStore.count`."""
        return self._store.count(collection)

    def close(self) -> None:
        """See `VectorStore.close`."""
        self._store.close()
