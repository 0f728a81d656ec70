"""Writes to the store need the lease; reads do not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from operators.changes.events import KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.version import Version, make_version
from operators.contract.table import ColumnSpec
from operators.errors import FatalError
from operators.ownership.fenced_store import FencedStore
from operators.ownership.gate import Gate
from operators.store.protocol import CollectionSpec, Entity, VectorStore
from tests.fakes import HashEmbedder, MemoryStore

SPEC = CollectionSpec("docs", {}, 8, "COSINE", "hash@1", extra_fields=True)
ID = "docs:1#0"
VERSION = make_version(0, f"{1:016x}", 0)


class Turn(Gate):
    """A lease that is held until the test takes it away."""

    def __init__(self) -> None:
        self.held = True
        self.under_way = 0

    @contextmanager
    def writing(self) -> Iterator[None]:
        if not self.held:
            raise FatalError(subject="the lease", cause="this process no longer has it")
        self.under_way += 1
        yield
        self.under_way -= 1


class Watching(MemoryStore):
    """Asserts that every write happens inside `Gate.writing`."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self._turn = turn
        self.writes = 0

    def _written(self) -> None:
        assert self._turn.under_way == 1
        self.writes += 1

    def upsert(self, *arguments: object) -> None:
        self._written()
        super().upsert(*arguments)  # type: ignore[arg-type]

    def delete(self, *arguments: object) -> None:
        self._written()
        super().delete(*arguments)  # type: ignore[arg-type]

    def delete_older(self, *arguments: object) -> None:
        self._written()
        super().delete_older(*arguments)  # type: ignore[arg-type]

    def add_field(self, *arguments: object) -> None:
        self._written()
        super().add_field(*arguments)  # type: ignore[arg-type]


def entity() -> Entity:
    vector = HashEmbedder().embed(["text"])[0]
    position = KafkaPosition("t", 0, 0)
    values = ("docs", RowKey("docs:1"), Version(VERSION), "u", 0, position, "hash@1")
    return Entity(ID, vector, "text", "hash", {}, *values)


WRITES: dict[str, Callable[[VectorStore], None]] = {
    "upsert": lambda store: store.upsert("docs", [entity()]),
    "delete": lambda store: store.delete("docs", [ID]),
    "delete_older": lambda store: store.delete_older("docs", "docs", VERSION, None),
    "add_field": lambda store: store.add_field("docs", "size", ColumnSpec(type="int64")),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_changes_the_store_needs_the_lease(write: Callable[[VectorStore], None]) -> None:
    turn = Turn()
    inner = Watching(turn)
    store = FencedStore(inner, turn)
    store.ensure(SPEC)
    write(store)
    assert inner.writes == 1
    assert turn.under_way == 0
    turn.held = False
    with pytest.raises(FatalError, match="no longer has it"):
        write(store)
    assert inner.writes == 1


def test_reading_needs_no_lease() -> None:
    turn = Turn()
    store = FencedStore(Watching(turn), turn)
    assert store.ensure(SPEC)
    store.upsert("docs", [entity()])
    turn.held = False
    assert store.count("docs") == 1
    assert store.stored("docs", [ID]).keys() == {ID}
    assert store.vectors("docs", [ID]).keys() == {ID}
    assert store.entities("docs", [ID])[ID].text == "text"
    assert store.identity("docs")
    assert store.fields("docs") == {}
