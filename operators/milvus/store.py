"""`VectorStore` over Milvus: a server by URI, or Milvus Lite by path."""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from operators.changes.row_key import RowKey
from operators.changes.vector import Vector
from operators.changes.version import Version, other_table, place_of_partition
from operators.contract.sections import MilvusSection
from operators.contract.table import ColumnSpec
from operators.errors import FatalError, RecordError, RetriableError, RowvecError
from operators.milvus.client import MAX_WINDOW, WIDE_ROWS_PER_REQUEST, Client
from operators.milvus.filters import older_filter
from operators.milvus.ledger_store import MilvusLedger
from operators.milvus.rows import requests, to_entity, to_rows
from operators.milvus.schema import (
    Shape,
    cannot_add,
    check_shape,
    collection_shape,
    column_specs,
    mirrored,
    missing_field,
)
from operators.store.protocol import CollectionSpec, Entity, Fence, FoundCollection, Hit, Stored

MAX_HITS = MAX_WINDOW

_WHOLE_ROWS_PER_REQUEST = 250
"""For rows with every field; servers fail at an answer of 100 MB."""


class MilvusStore:
    """Collections in Milvus.

    Threads may share it; at most `max_writers` of them may write. `_shapes` maps a checked collection
    to its fields: the main thread fills it (`ensure`), worker and lanes replace values under `_adding`
    (`add_field`), and everybody reads it without a lock.

    Every request has the deadline `request_timeout_s`, which also bounds pymilvus' own retries. So a
    call fails at once if no server answers, and within twice the deadline if the server is slow. The
    caller backs off and tries again.

    Attributes:
        fence: Each single request that changes rows or fields is sent inside this context. It is
            `Gate.writing` once this process holds the lease; the main thread sets it before any
            other thread writes. A call may need many requests, and takes long: to ask once per call
            would let most of them begin after the lease has run out.

    Args:
        section: Address and credentials.

    Raises:
        FatalError: The settings can never work: a directory that another process holds, refused or
            default credentials, an invalid address.
        RetriableError: Nothing answers there now.
    """

    def __init__(self, section: MilvusSection) -> None:
        self.fence: Fence = nullcontext
        self._shapes: dict[str, Shape] = {}
        self._adding = threading.Lock()
        self._client = Client(section)
        self.version = self._client.version
        self.nullable = self._client.nullable
        """Whether a new collection can hold NULL; if not, NULL is stored as the type's zero value."""

    @property
    def max_writers(self) -> int | None:
        """1 for Milvus Lite, by path or as a server, because it loses rows of concurrent writers."""
        return 1 if self._client.lite else None

    @property
    def can_add_fields(self) -> bool:
        """Whether `add_field` works: on servers from version 2.6, not on Milvus Lite."""
        return self._client.can_add_fields

    def ensure(self, spec: CollectionSpec) -> bool:
        """See `VectorStore.ensure`. It also completes a creation that a crash interrupted."""
        wanted = collection_shape(spec)
        shape = check_shape(spec.name, wanted, self._client.make_collection(spec.name, wanted))
        self._client.load(spec.name)
        self._shapes[spec.name] = shape
        return self.count(spec.name) == 0

    def fields(self, collection: str) -> dict[str, ColumnSpec]:
        """See `VectorStore.fields`."""
        return column_specs(self._read_shape(collection))

    def add_field(self, collection: str, name: str, spec: ColumnSpec) -> None:
        """See `VectorStore.add_field`.

        Written from the documentation of Milvus 2.6 and tested against a stub of its API; never run
        against such a server.
        """
        with self._adding:
            shape = self._checked_shape(collection)
            if missing_field(collection, shape, name, spec) is None:
                return
            if not self.can_add_fields:
                raise cannot_add(collection, name, f"'{self.version}'")
            # Other processes of the flow see the new column as well, and may add it first.
            shape = check_shape(collection, shape, self._client.describe(collection))
            field = missing_field(collection, shape, name, spec)
            if field is not None:
                try:
                    self._client.add_field(collection, field, self.fence)
                except RowvecError:
                    if name not in self._client.describe(collection).fields:
                        raise
                shape = check_shape(collection, shape, self._client.describe(collection))
                if missing_field(collection, shape, name, spec) is not None:
                    raise RetriableError(
                        subject=self._client.about(collection, f", new field '{name}'"),
                        cause="was added and is not to be seen yet",
                    )
            self._shapes[collection] = shape

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        """See `VectorStore.stored`."""
        fields = ["id", "rv_version", "rv_text_hash", "rv_chunks", "rv_topic", "rv_partition"]
        return {
            row["id"]: Stored(
                Version(row["rv_version"]),
                row["rv_text_hash"],
                row["rv_chunks"],
                place_of_partition(row["rv_topic"], row["rv_partition"]),
            )
            for row in self._client.get(collection, ids, fields)
        }

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        """See `VectorStore.vectors`."""
        fields = ["id", "rv_text_hash", "vector"]
        return {
            row["id"]: (row["rv_text_hash"], np.asarray(row["vector"], dtype=np.float32))
            for row in self._client.get(collection, ids, fields, WIDE_ROWS_PER_REQUEST)
        }

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        """See `VectorStore.entities`. Writing them again changes nothing."""
        fields = list(self._read_shape(collection).fields)
        return {
            row["id"]: to_entity(row)
            for row in self._client.get(collection, ids, fields, _WHOLE_ROWS_PER_REQUEST)
        }

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        """See `VectorStore.upsert`. If one entity of the call cannot be stored, nothing is sent."""
        shape = self._checked_shape(collection)
        for rows in requests(
            to_rows(
                entities, shape, json_arrays=self.nullable, json_scalars=self._client.json_scalars
            )
        ):
            try:
                self._client.upsert(collection, rows, RecordError, self.fence)
            except RecordError:
                # The rows passed every check against this shape. So most likely the collection was
                # created again with other fields, which is fatal and no fault of a record.
                check_shape(collection, shape, self._client.describe(collection))
                raise

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """See `VectorStore.delete`."""
        self._client.delete(collection, ids, self.fence)

    def delete_older(
        self,
        collection: str,
        table: str,
        version: Version,
        shards: Collection[int] | None = None,
    ) -> None:
        """See `VectorStore.delete_older`.

        The ids are read and then deleted, page by page: every request is small and has a deadline, and
        reads are Strong. A delete by expression would take as long as the table is large, and servers
        differ in which rows it sees. If the call fails half way, it can be repeated.

        No filter that every server understands finds the rows of one physical table, which the end of
        `rv_version` tells. So where other tables' rows are met, all older rows are read first.
        """
        older = older_filter(table, version, shards)
        before: set[str] = set()
        while rows := self._client.query(collection, older, ["id", "rv_version"], window=True):
            ids = _emptied(rows, version)
            if len(ids) < len(rows):
                pages = self._client.pages(collection, ["rv_version"], older)
                ids = [one for page in pages for one in _emptied(page, version)]
                self._client.delete(collection, ids, self.fence)
                return
            if not before.isdisjoint(ids):
                raise RetriableError(  # guard: older-stay
                    subject=self._client.about(collection, f", older rows of table '{table}'"),
                    cause="are there again after they were deleted",
                    hint="Check that nothing else writes to the collection",
                )
            self._client.delete(collection, ids, self.fence)
            before = set(ids)

    def count(self, collection: str) -> int:
        """See `VectorStore.count`."""
        rows = self._client.query(collection, "", ["count(*)"])
        return int(rows[0]["count(*)"])

    def identity(self, collection: str) -> str:
        """See `VectorStore.identity`. Not cached: the collection may have been dropped meanwhile."""
        return self._client.describe(collection).identity

    def model(self, collection: str) -> str:
        """Which model made its vectors, by `CollectionSpec.model`; "" if it does not say.

        Not cached, for the same reason.

        Raises:
            FatalError: There is no such collection.
        """
        return self._client.describe(collection).model

    def find(self, name: str) -> FoundCollection | None:
        """See `FindCollection`. Not cached: an alias may have been moved meanwhile."""
        return self._client.find(name)

    def ledger(self) -> MilvusLedger:
        """The ledger in the same database. It uses this connection, and ends with it."""
        return MilvusLedger(self._client)

    def search(
        self,
        collection: str,
        vector: Vector,
        limit: int,
        filter: str = "",
        fields: Sequence[str] | None = None,
    ) -> list[Hit]:
        """The entities nearest to `vector`, best first.

        Args:
            collection: A collection of Rowvec's.
            vector: float32 (dim,).
            limit: 1 to `MAX_HITS`.
            filter: A boolean expression in Milvus' language, "" for all. It is written by the user:
                no value from the data may be put into it.
            fields: Mirrored columns to return; None for all.

        Raises:
            FatalError: There is no such collection, the vector does not fit it, or the filter is
                invalid.
        """
        shape = self._read_shape(collection)
        dim = shape.fields["vector"].size
        if vector.shape != (dim,) or not 1 <= limit <= MAX_HITS:
            raise FatalError(
                subject=self._client.about(collection),
                cause=f"cannot be searched for {limit} hits with a vector of {vector.shape[-1]} "
                f"dimensions: it holds {dim}, and the limit is 1 to {MAX_HITS}",
                hint="Search with the model that filled the collection",
            )
        columns = mirrored(list(shape.fields)) if fields is None else list(fields)
        wanted = ["id", "text", "rv_table", "rv_row_key", "rv_version", *columns]
        try:
            found = self._client.search(collection, vector, limit, filter, wanted, RecordError)
        except RecordError as error:
            raise FatalError(
                subject=f"filter '{filter}'" if filter else error.subject,
                cause=f"is refused: {error.cause}",
                hint=f"The fields are {', '.join(sorted(shape.fields))}",
            ) from error
        return [_hit(one, columns) for one in found]

    def scan(
        self, collection: str, fields: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read every entity of a collection once, in no order, in pages.

        It sees every write that was acknowledged before it began. "id" is always returned.

        Args:
            collection: A collection of Rowvec's.
            fields: Fields to return; None for all but the vector.
        """
        shape = self._read_shape(collection)
        wanted = [f for f in shape.fields if f != "vector"] if fields is None else fields
        for page in self._client.pages(collection, wanted):
            yield from page

    def close(self) -> None:
        """Close the connection and release Milvus Lite's directory; a second call does nothing."""
        self._client.close()

    def _checked_shape(self, collection: str) -> Shape:
        shape = self._shapes.get(collection)
        if shape is None:
            raise FatalError(
                subject=self._client.about(collection),
                cause="was not checked before the first write",
                hint="This is a bug in Rowvec: call `ensure` first",
            )
        return shape

    def _read_shape(self, collection: str) -> Shape:
        shape = self._shapes.get(collection) or self._client.describe(collection)
        if not {"vector", "text", "rv_row_key"} <= shape.fields.keys():
            raise FatalError(
                subject=self._client.about(collection),
                cause="was not made by Rowvec",
                hint="Name a collection of the contract",
            )
        return shape


def _hit(found: dict[str, Any], columns: Sequence[str]) -> Hit:
    row = found["entity"]
    return Hit(
        id=str(found["id"]),
        score=float(found["distance"]),
        text=row["text"],
        columns={name: row[name] for name in columns},
        table=row["rv_table"],
        row_key=RowKey(row["rv_row_key"]),
        version=Version(row["rv_version"]),
    )


def _emptied(rows: Sequence[Mapping[str, Any]], truncate: Version) -> list[str]:
    """The ids of those older rows that are of the TRUNCATE's physical table."""
    # guard: truncate-one-table-stored
    return [row["id"] for row in rows if not other_table(row["rv_version"], truncate)]
