"""Requests to the store, in rows: limited in size, retried, traced, and halved if data is refused."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from opentelemetry.trace import SpanKind

from operators import crash_points
from operators.changes.row_key import RowKey
from operators.changes.text_hash import text_hash
from operators.changes.vector import Vector
from operators.changes.version import Version
from operators.errors import RecordError
from operators.retry import RetryPolicy
from operators.store.protocol import Entity, Stored, VectorStore, entity_id
from operators.telemetry import Telemetry, TraceContext

T = TypeVar("T")

Entities = tuple[Entity, ...]
"""All entities of one row, ordered by chunk."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What a lane asks of the store, in rows rather than entities. Immutable, so threads may share it.

    Milvus has no transactions over several entities. So that a crash leaves no chunk behind that
    nobody would find, the first chunk holds the number of all chunks, is written first and removed
    last.

    Attributes:
        batch_rows: The most entities of one request.
        contexts: Trace spans that the requests belong to.
    """

    store: VectorStore
    retry: RetryPolicy
    telemetry: Telemetry
    batch_rows: int
    contexts: tuple[TraceContext, ...] = ()

    def within(self, contexts: Sequence[TraceContext]) -> "Requests":
        """The same requests, traced as part of these spans."""
        return replace(self, contexts=tuple(contexts))

    def vectors(self, collection: str, keys: Sequence[RowKey]) -> dict[RowKey, tuple[str, Vector]]:
        """Text hash and vector of those rows that exist; only for tables without chunks."""
        found = self.retry.call(lambda: self.store.vectors(collection, list(map(entity_id, keys))))
        return _by_row(keys, found)

    def rows(self, collection: str, keys: Sequence[RowKey]) -> dict[RowKey, Entities]:
        """The entities of those rows that are complete: every chunk exists, all of one version.

        A row that lacks chunks after a crash or a refused write is left out.
        """
        if not keys:
            return {}
        ids = list(map(entity_id, keys))
        first = _by_row(keys, self.retry.call(lambda: self.store.entities(collection, ids)))
        more = [
            entity_id(key, chunk)
            for key, entity in first.items()
            for chunk in range(1, entity.chunks)
        ]
        rest = self.retry.call(lambda: self.store.entities(collection, more)) if more else {}
        found: dict[RowKey, Entities] = {}
        for key, entity in first.items():
            others = (rest.get(entity_id(key, chunk)) for chunk in range(1, entity.chunks))
            # guard: chunk-versions
            row = (entity, *(e for e in others if e is not None and e.version == entity.version))
            if len(row) == entity.chunks or _has_all_text(row):  # guard: chunk-torn
                found[key] = row
        return found

    def delete_rows(self, collection: str, keys: Sequence[RowKey], *, chunked: bool) -> None:
        """Remove rows.

        Args:
            collection: The collection that holds them.
            keys: Keys of the rows; a row need not exist.
            chunked: Whether a row may have several chunks.
        """
        if chunked and keys:
            surplus = self._surplus(collection, dict.fromkeys(keys, 1))
            ids = [entity_id(key, chunk) for key, more in surplus.items() for chunk in more]
            self._delete(collection, ids)  # guard: chunk-delete, chunk-first-goes-last
        self._delete(collection, list(map(entity_id, keys)))

    def delete_older(
        self, collection: str, table: str, version: Version, shards: Collection[int]
    ) -> None:
        """Remove the rows of a table that a TRUNCATE of this version deleted, in these shards."""
        self._traced(  # guard: truncate-own-shards
            collection,
            "delete",
            len(shards),
            lambda: self.store.delete_older(collection, table, version, sorted(shards)),
        )

    def upsert(
        self, collection: str, rows: Sequence[Entities], *, chunked: bool
    ) -> list[tuple[Entities, RecordError]]:
        """Write rows; afterwards each has exactly the chunks that were given.

        Returns:
            The rows that the store refused, each with the reason. All others are written.
        """
        counts = {row[0].row_key: len(row) for row in rows} if chunked else {}
        surplus = self._surplus(collection, counts) if counts else {}
        # A row that gets shorter is written in three steps: all its chunks, the first one still with
        # the old number; then the surplus is deleted; then the first one with the new number. After
        # a crash in between, the first chunk still tells how many to look for.
        # guard: chunk-surplus-first
        sent = (
            [_counting_surplus(row, surplus.get(row[0].row_key)) for row in rows]
            if surplus
            else rows
        )
        refused = self._upsert(collection, sent)
        if surplus:
            for entities, _ in refused:
                surplus.pop(entities[0].row_key, None)
            ids = [entity_id(k, i) for k, more in surplus.items() for i in more]
            self._delete(collection, ids)  # guard: chunk-surplus
            final = [(row[0],) for row in rows if row[0].row_key in surplus]
            refused += self._upsert(collection, final)
        return refused

    def _upsert(
        self, collection: str, rows: Sequence[Entities]
    ) -> list[tuple[Entities, RecordError]]:
        refused: list[tuple[Entities, RecordError]] = []
        batch: list[Entities] = []
        size = 0
        for row in rows:
            if batch and size + len(row) > self.batch_rows:  # guard: request-rows
                self._halve(collection, batch, refused)
                batch, size = [], 0
            batch.append(row)
            size += len(row)
        if batch:
            self._halve(collection, batch, refused)
        return refused

    def _surplus(self, collection: str, counts: Mapping[RowKey, int]) -> dict[RowKey, range]:
        """Numbers of the stored chunks beyond the given number, for each row that has any."""
        keys = list(counts)
        ids = list(map(entity_id, keys))
        found: dict[RowKey, Stored] = _by_row(
            keys, self.retry.call(lambda: self.store.stored(collection, ids))
        )
        return {
            key: range(counts[key], stored.chunks)
            for key, stored in found.items()
            if stored.chunks > counts[key]
        }

    def _delete(self, collection: str, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), self.batch_rows):
            chunk = ids[start : start + self.batch_rows]
            delete = partial(self.store.delete, collection, chunk)
            self._traced(collection, "delete", len(chunk), delete)

    def _halve(
        self,
        collection: str,
        rows: Sequence[Entities],
        refused: list[tuple[Entities, RecordError]],
    ) -> None:
        """Upsert rows; if the store refuses the data, halve until single rows are refused."""
        entities = [entity for row in rows for entity in row]
        try:
            self._traced(
                collection,
                "upsert",
                len(entities),
                lambda: self.store.upsert(collection, entities),
            )
        except RecordError as error:  # guard: dead-letter-store, fatal-is-no-letter
            if len(rows) == 1:  # guard: dead-letter-halving
                refused.append((rows[0], error))
                return
            middle = len(rows) // 2
            self._halve(collection, rows[:middle], refused)
            self._halve(collection, rows[middle:], refused)

    def _traced(self, collection: str, operation: str, size: int, send: Callable[[], None]) -> None:
        attributes: dict[str, str | int | float | bool] = {
            "db.system.name": "milvus",
            "db.collection.name": collection,
            "db.operation.name": operation,
            "db.operation.batch.size": size,
        }
        started = time.perf_counter()
        with self.telemetry.span(
            f"{operation} {collection}",
            SpanKind.CLIENT,
            parent=self.contexts[0] if self.contexts else None,
            links=self.contexts[1:],
            attributes=attributes,
        ):
            crash_points.reach("before_upsert")
            self.retry.call(partial(_at_crash_point, send))
            crash_points.reach("after_upsert")
        self.telemetry.store_seconds.record(
            time.perf_counter() - started,
            {"db.system.name": "milvus", "db.operation.name": operation},
        )


def _counting_surplus(row: Entities, surplus: range | None) -> Entities:
    return row if surplus is None else (row[0]._replace(chunks=surplus.stop), *row[1:])


def _has_all_text(row: Entities) -> bool:
    """Whether these chunks make up the row's whole text, though the first one counts more chunks.

    That is so after a crash that came before the surplus chunks of a shorter text were deleted.
    """
    text = ""
    for entity in row:
        text = text[: entity.start] + entity.text
    return text_hash(text) == row[0].text_hash


def _at_crash_point(send: Callable[[], None]) -> None:
    crash_points.reach("in_upsert")
    send()


def _by_row(keys: Sequence[RowKey], found: Mapping[str, T]) -> dict[RowKey, T]:
    """Values that were found by the id of a row's first entity, by row key instead."""
    pairs = ((key, found.get(entity_id(key))) for key in keys)
    return {key: value for key, value in pairs if value is not None}
