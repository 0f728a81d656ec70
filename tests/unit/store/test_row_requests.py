"""Rows of several chunks in a store without transactions: a crash at any moment leaves no orphan."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from operators.changes.events import KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.version import Version, make_version
from operators.errors import FatalError, RecordError, RetriableError
from operators.retry import RetryPolicy
from operators.store.protocol import CollectionSpec, Entity, entity_id
from operators.store.row_requests import Requests
from operators.telemetry import Telemetry
from tests.changes import TOPIC, table
from tests.fakes import MemoryStore

ONE, TWO = RowKey("docs:1"), RowKey("docs:2")
CUT = FatalError(subject="power", cause="cut")


def version(lsn: int) -> Version:
    return make_version(0, f"{lsn:016x}.{lsn:016x}", 0)


def row(key: RowKey, lsn: int, chunks: int) -> tuple[Entity, ...]:
    return tuple(
        Entity(
            entity_id(key, number),
            np.ones(8, np.float32),
            f"{lsn}.{number}",
            str(lsn),
            {"kind": "page", "size": lsn},
            "docs",
            key,
            version(lsn),
            "u",
            0,
            KafkaPosition(TOPIC, 0, lsn),
            "hash@1",
            number,
            chunks,
        )
        for number in range(chunks)
    )


class Bench:
    def __init__(self, store: MemoryStore | None = None, *, batch_rows: int = 100) -> None:
        self.store = store or MemoryStore()
        section = table()
        fields = {field: section.columns[c] for c, field in section.fields().items()}
        self.store.ensure(CollectionSpec("docs", fields, 8, "COSINE", "hash@1"))
        telemetry = Telemetry()
        retry = RetryPolicy(20.0, telemetry, max_wait_s=0.0)
        self.requests = Requests(self.store, retry, telemetry, batch_rows)

    def upsert(self, *rows: tuple[Entity, ...]) -> list[RowKey]:
        refused = self.requests.upsert("docs", rows, chunked=True)
        return [entities[0].row_key for entities, _ in refused]

    def delete(self, *keys: RowKey) -> None:
        self.requests.delete_rows("docs", keys, chunked=True)

    def texts(self) -> dict[str, str]:
        return {found["id"]: found["text"] for found in self.store.scan("docs", ["text"])}

    def found(self, key: RowKey = ONE) -> list[str] | None:
        row = self.requests.rows("docs", [key]).get(key)
        return None if row is None else [entity.text for entity in row]


def texts_of(*rows: tuple[Entity, ...]) -> dict[str, str]:
    return {entity.id: entity.text for each in rows for entity in each}


@pytest.mark.parametrize("before", [1, 2, 5])
@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_row_has_exactly_the_chunks_of_its_last_version(before: int, after: int) -> None:
    bench = Bench()
    bench.upsert(row(ONE, 1, before), row(TWO, 1, before))
    bench.upsert(row(ONE, 2, after))
    assert bench.texts() == texts_of(row(ONE, 2, after), row(TWO, 1, before))
    assert bench.found() == [f"2.{number}" for number in range(after)]
    bench.delete(ONE)
    assert bench.texts() == texts_of(row(TWO, 1, before))


@pytest.mark.parametrize("operation", ["upsert", "delete"])
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize(("before", "after"), [(5, 2), (2, 5), (5, 1), (3, 0)])
def test_a_crash_at_any_moment_leaves_nothing_that_is_not_found_again(
    before: int, after: int, operation: str, applied: bool
) -> None:
    for number in range(3):
        # One id per request: the crash can come between any two chunks.
        bench = Bench(Failing(number, operation, applied=applied), batch_rows=1)
        bench.upsert(row(ONE, 1, before))
        bench.store.armed = True  # type: ignore[attr-defined]
        with suppress(FatalError):
            bench.delete(ONE) if after == 0 else bench.upsert(row(ONE, 2, after))
        bench.store.armed = False  # type: ignore[attr-defined]
        torn = bench.found()
        assert torn in (
            None,
            [f"1.{chunk}" for chunk in range(before)],
            [f"2.{chunk}" for chunk in range(after)],
        )
        # The same operation after the crash removes whatever chunks were left.
        bench.delete(ONE) if after == 0 else bench.upsert(row(ONE, 2, after))
        assert bench.texts() == ({} if after == 0 else texts_of(row(ONE, 2, after)))


class Failing(MemoryStore):
    """Once armed, fails at the given number of requests of one kind."""

    def __init__(self, number: int, operation: str, *, applied: bool) -> None:
        super().__init__()
        self.armed = False
        self._number = number
        self._kind = operation
        self._applied = applied

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        self._count("upsert")
        super().upsert(collection, entities)

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        self._count("delete")
        super().delete(collection, ids)

    def _count(self, operation: str) -> None:
        if self.armed and operation == self._kind:
            if self._number == 0:
                self.fail_next(CUT, operation, applied=self._applied)
            self._number -= 1


def test_the_first_chunk_tells_of_the_surplus_until_that_is_gone() -> None:
    bench = Bench()
    bench.upsert(row(ONE, 1, 4))
    bench.store.history.clear()
    bench.upsert(row(ONE, 2, 2))
    assert [(each.op, each.id) for each in bench.store.history] == [
        ("upsert", "docs:1#0"),  # says that there are 4 chunks
        ("upsert", "docs:1#1"),
        ("delete", "docs:1#2"),
        ("delete", "docs:1#3"),
        ("upsert", "docs:1#0"),  # says that there are 2
    ]
    assert bench.found(ONE) == ["2.0", "2.1"]


def test_the_first_chunk_is_the_last_to_go() -> None:
    bench = Bench()
    bench.upsert(row(ONE, 1, 3), row(TWO, 1, 2))
    bench.store.history.clear()
    bench.delete(ONE, TWO)
    ids = [each.id for each in bench.store.history]
    assert set(ids[:3]) == {"docs:1#1", "docs:1#2", "docs:2#1"}
    assert set(ids[3:]) == {"docs:1#0", "docs:2#0"}


def test_a_row_that_lacks_a_chunk_is_not_taken_for_whole() -> None:
    bench = Bench()
    bench.upsert(row(ONE, 1, 3), row(TWO, 1, 3))
    bench.store.delete("docs", ["docs:1#2"])
    assert bench.found(ONE) is None
    assert bench.found(TWO) == ["1.0", "1.1", "1.2"]


def test_chunks_of_two_versions_are_not_taken_for_one_row() -> None:
    # As after a request that the store carried out only in part.
    bench = Bench()
    bench.upsert(row(ONE, 1, 3))
    bench.store.upsert("docs", row(ONE, 2, 3)[:2])
    assert bench.found() is None
    bench.upsert(row(ONE, 2, 3))
    assert bench.found() == ["2.0", "2.1", "2.2"]


def test_rows_without_chunks_are_not_looked_up_before_they_are_written() -> None:
    bench = Bench()
    bench.store.fail_next(CUT, "stored")
    bench.requests.upsert("docs", [row(ONE, 1, 1)], chunked=False)
    bench.requests.delete_rows("docs", [ONE], chunked=False)
    assert bench.texts() == {}


def test_nothing_to_ask_asks_nothing() -> None:
    bench = Bench()
    bench.store.fail_next(CUT)
    assert bench.requests.rows("docs", []) == {}
    bench.delete()
    assert bench.upsert() == []


def test_a_row_is_never_divided_between_two_requests() -> None:
    sizes: list[list[str]] = []

    class Counting(MemoryStore):
        def upsert(self, collection: str, entities: Any) -> None:
            sizes.append([entity.id for entity in entities])
            super().upsert(collection, entities)

    bench = Bench(Counting(), batch_rows=3)
    three = RowKey("docs:3")
    bench.upsert(row(ONE, 1, 2), row(TWO, 1, 2), row(three, 1, 5))
    assert [len(ids) for ids in sizes] == [2, 2, 5]


@pytest.mark.parametrize("refused", [{1}, {1, 4}, {0, 1, 2, 3, 4, 5, 6}])
def test_a_refused_row_is_refused_with_all_its_chunks(refused: set[int]) -> None:
    class Picky(MemoryStore):
        def upsert(self, collection: str, entities: Any) -> None:
            bad = {f"docs:{number}#1" for number in refused}
            if any(entity.id in bad for entity in entities):
                raise RecordError(subject="entity", cause="refused")
            super().upsert(collection, entities)

    bench = Bench(Picky())
    rows = [row(RowKey(f"docs:{number}"), 1, 2) for number in range(7)]
    assert bench.upsert(*rows) == [RowKey(f"docs:{number}") for number in sorted(refused)]
    kept = [each for number, each in enumerate(rows) if number not in refused]
    assert bench.texts() == texts_of(*kept)


@pytest.mark.parametrize("operation", ["stored", "entities", "upsert", "delete", "delete_older"])
def test_every_request_is_tried_again(operation: str) -> None:
    bench = Bench()
    bench.upsert(row(ONE, 1, 3), row(TWO, 1, 3))
    for _ in range(2):
        bench.store.fail_next(RetriableError(subject="milvus", cause="is down"), operation)
    assert bench.found() == ["1.0", "1.1", "1.2"]
    bench.upsert(row(ONE, 2, 1))
    bench.delete(TWO)
    bench.requests.delete_older("docs", "docs", version(9), range(256))
    assert bench.store._failures == []
    assert bench.texts() == {}
