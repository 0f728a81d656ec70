"""What one lane does with the windows it takes: requests to the store, bisection, dead letters."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from opentelemetry.trace import SpanKind

from operators.embedding import Embedder
from operators.errors import RecordError
from operators.events import DeadLetter, Delete, Row
from operators.retry import RetryPolicy
from operators.shards import Window
from operators.store import Entity, Vector, VectorStore, entity_id
from operators.table import TableSection
from operators.telemetry import Telemetry, TraceContext

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one write of a lane did; all of it is acknowledged."""

    rows: int
    deletes: int
    dead_letters: int


class DeadLetterSink(Protocol):
    """Where records go that cannot be applied."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Return once all letters are stored.

        Raises:
            RetriableError: They could not be stored now.
        """
        ...


@dataclass(slots=True)
class _Batch:
    """The last operation on each entity of one collection."""

    rows: dict[str, tuple[Row, Vector | None]] = field(default_factory=dict)
    deletes: dict[str, Delete] = field(default_factory=dict)


class Writer:
    """Applies windows to the store. One call at a time for any row; any number over rows."""

    def __init__(
        self,
        tables: Mapping[str, TableSection],
        store: VectorStore,
        embedder: Embedder,
        dead_letters: DeadLetterSink,
        retry: RetryPolicy,
        telemetry: Telemetry,
        *,
        batch_rows: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._collections = {topic: table.collection for topic, table in tables.items()}
        self._store = store
        self._embedder = embedder
        self._dead_letters = dead_letters
        self._retry = retry
        self._telemetry = telemetry
        self._batch_rows = batch_rows
        self._now = now

    def write(self, windows: Sequence[Window]) -> Receipt:
        """Write windows, in order; a later operation on a row replaces an earlier one.

        Raises:
            FatalError: The store is gone or refuses everything.
        """
        batches: defaultdict[str, _Batch] = defaultdict(_Batch)
        dead: list[DeadLetter] = []
        for window in windows:
            dead += window.dead
            for row in window.rows.values():
                batch, id_ = self._target(batches, row)
                batch.deletes.pop(id_, None)
                batch.rows[id_] = (row, window.vectors.get(row.row_key))
            for delete in window.deletes.values():
                batch, id_ = self._target(batches, delete)
                batch.rows.pop(id_, None)
                batch.deletes[id_] = delete
        contexts = [window.context for window in windows if window.context is not None]
        rows = deletes = 0
        for collection, batch in batches.items():
            for ids in _chunks(list(batch.deletes), self._batch_rows):
                self._request(collection, "delete", ids, contexts, self._store.delete)
            deletes += len(batch.deletes)
            dead += self._upsert(collection, batch, contexts)
            rows += len(batch.rows)
        if dead:
            self._retry.call(lambda: self._dead_letters.send(dead))
            for stage, count in Counter(letter.stage for letter in dead).items():
                self._telemetry.dead_letters.add(count, {"rowvec.stage": stage})
        self._account(batches)
        return Receipt(rows, deletes, len(dead))

    def _target(
        self, batches: defaultdict[str, _Batch], winner: Row | Delete
    ) -> tuple[_Batch, str]:
        return batches[self._collections[winner.position.topic]], entity_id(winner.row_key)

    def _upsert(
        self, collection: str, batch: _Batch, contexts: list[TraceContext]
    ) -> list[DeadLetter]:
        """Write the rows of a batch; those that the store refuses leave it as dead letters."""
        vectors = self._missing_vectors(collection, batch)
        entities = [
            _entity(id_, row, vectors[id_] if vector is None else vector, self._embedder.model)
            for id_, (row, vector) in batch.rows.items()
        ]
        refused: list[tuple[Entity, RecordError]] = []
        for chunk in _chunks(entities, self._batch_rows):
            self._bisect(collection, chunk, contexts, refused)
        for entity, _ in refused:
            del batch.rows[entity.id]
        return [
            DeadLetter(entity.position, "upsert", error.subject, error.cause, error.hint)
            for entity, error in refused
        ]

    def _missing_vectors(self, collection: str, batch: _Batch) -> dict[str, Vector]:
        """Vectors of rows whose text is unchanged, read back from the store.

        This lane has finished every earlier write of these rows, so the store's word is final: where
        it holds another text after all (a row it refused, say), the text is embedded here.
        """
        texts = {id_: row for id_, (row, vector) in batch.rows.items() if vector is None}
        if not texts:
            return {}
        stored = self._retry.call(lambda: self._store.vectors(collection, list(texts)))
        found = {
            id_: vector
            for id_, (digest, vector) in stored.items()
            if digest == texts[id_].text_hash
        }
        missing = [id_ for id_ in texts if id_ not in found]
        self._telemetry.texts.add(len(found), {"rowvec.text": "unchanged"})
        if missing:
            made = self._embedder.embed([texts[id_].text for id_ in missing])
            found.update(zip(missing, made, strict=True))
            self._telemetry.texts.add(len(missing), {"rowvec.text": "embedded"})
        return found

    def _bisect(
        self,
        collection: str,
        entities: Sequence[Entity],
        contexts: list[TraceContext],
        refused: list[tuple[Entity, RecordError]],
    ) -> None:
        """Upsert; where the store refuses the data, halve down to the entities that it refuses."""
        try:
            self._request(collection, "upsert", entities, contexts, self._store.upsert)
        except RecordError as error:
            if len(entities) == 1:
                refused.append((entities[0], error))
                return
            middle = len(entities) // 2
            self._bisect(collection, entities[:middle], contexts, refused)
            self._bisect(collection, entities[middle:], contexts, refused)

    def _request(
        self,
        collection: str,
        operation: str,
        items: Sequence[T],
        contexts: list[TraceContext],
        send: Callable[[str, Sequence[T]], None],
    ) -> None:
        attributes: dict[str, str | int | float | bool] = {
            "db.system.name": "milvus",
            "db.collection.name": collection,
            "db.operation.name": operation,
            "db.operation.batch.size": len(items),
        }
        started = time.perf_counter()
        with self._telemetry.span(
            f"{operation} {collection}",
            SpanKind.CLIENT,
            parent=contexts[0] if contexts else None,
            links=contexts[1:],
            attributes=attributes,
        ):
            self._retry.call(lambda: send(collection, items))
        self._telemetry.store_seconds.record(
            time.perf_counter() - started,
            {"db.system.name": "milvus", "db.operation.name": operation},
        )

    def _account(self, batches: Mapping[str, _Batch]) -> None:
        now = self._now()
        for collection, batch in batches.items():
            written = Counter(row.op for row, _ in batch.rows.values())
            written["d"] += len(batch.deletes)
            # Once for every moment of commit, not for every row: a large transaction is one event
            # to its reader, and recording is not free.
            commits = {row.source_ts_ms for row, _ in batch.rows.values()}
            commits.update(delete.source_ts_ms for delete in batch.deletes.values())
            for commit in commits - {0}:
                self._telemetry.freshness.record(max(0.0, now - commit / 1000))
            for operation, count in (+written).items():
                self._telemetry.rows_written.add(
                    count, {"db.collection.name": collection, "rowvec.op": operation}
                )


def _entity(id_: str, row: Row, vector: Vector, model: str) -> Entity:
    return Entity(
        id=id_,
        vector=vector,
        text=row.text,
        text_hash=row.text_hash,
        columns=row.columns,
        table=row.table,
        row_key=row.row_key,
        version=row.version,
        op=row.op,
        source_ts_ms=row.source_ts_ms,
        position=row.position,
        model=model,
    )


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
