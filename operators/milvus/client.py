"""Requests about entities: write, delete, read, search."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from operators.changes.vector import Vector
from operators.errors import RowvecError
from operators.milvus.collection_requests import STRONG, CollectionRequests
from operators.milvus.filters import id_filter
from operators.store.protocol import Fence

MAX_WINDOW = 16_384
"""The most entities that a server puts into one answer."""

IDS_PER_REQUEST = 4_096

WIDE_ROWS_PER_REQUEST = 1_000
"""For rows with a text of 64 KiB or a vector of 4,096: an answer of a few tens of MiB at most."""

_NARROW_ROWS_PER_PAGE = 10_000

_WIDE_FIELDS = frozenset({"vector", "text", "body"})


class Client(CollectionRequests):
    """A connection that takes Rowvec's values, sends every request, and raises Rowvec's errors.

    Threads may share it; see `Connection`.
    """

    def upsert(
        self,
        collection: str,
        rows: list[dict[str, Any]],
        refused: type[RowvecError],
        fence: Fence,
    ) -> None:
        """Write rows in one request.

        Args:
            collection: The collection to write to.
            rows: Rows with every field.
            refused: The error to raise if Milvus understood the request and refused it.
            fence: The request is sent inside this context.
        """
        # No retry here on a rate limit: the caller backs off, and holds no lock meanwhile.
        with self._turn_to_write(collection), fence():  # guard: fence-upsert
            self._call(
                self.about(collection, f", {len(rows)} entities"),
                self._client.upsert,
                collection,
                rows,
                refused=refused,
                retry_on_rate_limit=False,
            )

    def delete(self, collection: str, ids: Sequence[str], fence: Fence) -> None:
        """Remove those of `ids` that exist; each request is sent inside a context of `fence`."""
        for some in _chunks(ids, IDS_PER_REQUEST):
            with self._turn_to_write(collection), fence():  # guard: fence-delete
                self._call(
                    self.about(collection, f", delete of {len(some)} ids"),
                    self._client.delete,
                    collection,
                    filter=id_filter(some),
                    retry_on_rate_limit=False,
                )

    def get(
        self,
        collection: str,
        ids: Sequence[str],
        fields: Sequence[str],
        per_request: int = IDS_PER_REQUEST,
    ) -> Iterator[dict[str, Any]]:
        """Read these fields of those of `ids` that exist."""
        for some in _chunks(ids, per_request):
            yield from self.query(collection, id_filter(some), fields)

    def query(
        self, collection: str, filter: str, fields: Sequence[str], *, window: bool = False
    ) -> list[dict[str, Any]]:
        """Read these fields of all matching entities.

        With `window`, a server returns only as many as fit one answer. Milvus Lite always returns
        all: it has no such limit, and a part would take nearly as long.
        """
        more: dict[str, Any] = {"limit": MAX_WINDOW} if window and not self.lite else {}
        rows = self._read(
            collection,
            self._client.query,
            filter=filter,
            output_fields=list(fields),
            consistency_level=STRONG,
            **more,
        )
        return [dict(row) for row in rows]

    def pages(
        self, collection: str, fields: Sequence[str], filter: str = ""
    ) -> Iterator[list[dict[str, Any]]]:
        """Read every matching entity once, in no order, in pages that are not empty.

        "id" is always included.
        """
        names = list(dict.fromkeys(["id", *fields]))
        wide = not _WIDE_FIELDS.isdisjoint(names)
        per_page = WIDE_ROWS_PER_REQUEST if wide else _NARROW_ROWS_PER_PAGE
        if self.lite:
            # Lite sorts the whole collection for every page of an iterator, but does not limit the
            # size of an answer. So read all ids at once, then the rows by id.
            ids = [row["id"] for row in self.query(collection, filter, ["id"])]
            for some in _chunks(ids, min(per_page, IDS_PER_REQUEST)):
                page = [{"id": one} for one in some]
                if names != ["id"]:
                    page = self.query(collection, id_filter(some), names)
                if page:
                    yield page
            return
        iterator = self._read(
            collection,
            self._client.query_iterator,
            batch_size=per_page,
            filter=filter,
            output_fields=names,
            consistency_level=STRONG,
        )
        try:
            while page := self._call(self.about(collection), lambda timeout: iterator.next()):
                yield [dict(row) for row in page]
        finally:
            iterator.close()

    def search(
        self,
        collection: str,
        vector: Vector,
        limit: int,
        filter: str,
        fields: Sequence[str],
        refused: type[RowvecError],
    ) -> list[dict[str, Any]]:
        """Find the nearest entities, best first: each has "id", "distance", and fields in "entity".

        Args:
            collection: The collection to search.
            vector: float32 (dim,).
            limit: The most entities to return.
            filter: A boolean expression, "" for all.
            fields: Fields to return.
            refused: The error to raise if Milvus refuses the filter.
        """
        found = self._read(
            collection,
            self._client.search,
            data=[np.asarray(vector, dtype=np.float32)],
            anns_field="vector",
            limit=limit,
            filter=filter,
            refused=refused,
            output_fields=list(fields),
            consistency_level=STRONG,
        )
        return list(found[0])


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
