"""Every single request that writes to Milvus asks whether it may; reads do not.

The lease may run out while a call is under way, and a call may need many requests: a TRUNCATE of a large
table, an upsert of large rows, a delete of many chunks. pymilvus alone is replaced here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from operators.changes.events import KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.version import Version, make_version
from operators.contract.sections import MilvusSection
from operators.contract.table import ColumnSpec
from operators.errors import RetriableError
from operators.milvus import client as client_module
from operators.milvus import connection, rows
from operators.milvus import store as store_module
from operators.milvus.schema import Field, Shape, collection_shape
from operators.milvus.store import MilvusStore
from operators.store.protocol import CollectionSpec, Entity, entity_id

VERSION = make_version(0, f"{1:016x}", 0)
SPEC = CollectionSpec("docs", {}, 8, "COSINE", "hash@1", extra_fields=True)


class Server:
    """pymilvus' client, and the fence: each write request must find it open, and closes it after some.

    Attributes:
        open_for: How many more write requests may begin.
        begun: The write requests that reached the server.
    """

    def __init__(self, **_options: object) -> None:
        self.open_for = 1_000
        self.inside = False
        self.begun: list[str] = []
        self.stored = {entity(number).id for number in range(10)}

    @contextmanager
    def fence(self) -> Iterator[None]:
        if self.open_for <= 0:
            raise RetriableError(subject="the lease", cause="nothing may be written")
        self.open_for -= 1
        self.inside = True
        yield
        self.inside = False

    def _written(self, what: str) -> None:
        assert self.inside, f"{what} outside of the fence"
        self.begun.append(what)

    def upsert(self, collection: str, data: list[dict[str, Any]], **_: object) -> None:
        self._written("upsert")
        self.stored |= {row["id"] for row in data}

    def delete(self, collection: str, *, filter: str, **_: object) -> None:
        self._written("delete")
        self.stored -= {one for one in self.stored if f'"{one}"' in filter or f"'{one}'" in filter}

    def add_collection_field(self, collection: str, **_: object) -> None:
        self._written("add_field")

    def query(self, collection: str, *, limit: int, **_: object) -> list[dict[str, Any]]:
        assert not self.inside
        return [{"id": one, "rv_version": ""} for one in sorted(self.stored)[:limit]]

    def get_server_version(self, **_: object) -> str:
        return "2.6.0"

    def close(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(connection, "MilvusClient", lambda **options: server)
    # Requests of one entity each, so that few entities need many requests.
    monkeypatch.setattr(client_module, "IDS_PER_REQUEST", 1)
    monkeypatch.setattr(client_module, "MAX_WINDOW", 2)
    one_each = lambda given, max_bytes=1: rows.requests(given, max_bytes)  # noqa: E731
    monkeypatch.setattr(store_module, "requests", one_each)
    return server


@pytest.fixture
def store(server: Server) -> MilvusStore:
    store = MilvusStore(MilvusSection(uri="http://127.0.0.1:19530"))
    store._shapes["docs"] = collection_shape(SPEC)
    store.fence = server.fence
    return store


def entity(number: int) -> Entity:
    key = RowKey(f"docs:{number}")
    position = KafkaPosition("t", 0, number)
    values = ("docs", key, Version(VERSION), "u", 0, position, "hash@1")
    return Entity(entity_id(key), np.ones(8, np.float32), "text", "hash", {}, *values)


WRITES: dict[str, Callable[[MilvusStore], None]] = {
    "upsert": lambda store: store.upsert("docs", [entity(number) for number in range(10)]),
    "delete": lambda store: store.delete("docs", [entity(number).id for number in range(10)]),
    "delete_older": lambda store: store.delete_older("docs", "docs", VERSION),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_request_of_a_long_call_begins_after_the_lease_has_run_out(
    write: Callable[[MilvusStore], None], server: Server, store: MilvusStore
) -> None:
    server.open_for = 3
    with pytest.raises(RetriableError, match="nothing may be written"):
        write(store)
    assert len(server.begun) == 3
    server.open_for = 1_000  # the lease was renewed: the same call, made again, does all of it
    write(store)
    assert len(server.stored) == (10 if write is WRITES["upsert"] else 0)


def test_a_new_field_needs_the_lease(
    server: Server, store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = store._shapes["docs"]
    made = Shape(
        {**shape.fields, "size": Field("size", "int64", nullable=True)}, "COSINE", "hash@1"
    )
    monkeypatch.setattr(
        store._client, "describe", lambda _: made if server.begun else store._shapes["docs"]
    )
    server.open_for = 0
    with pytest.raises(RetriableError, match="nothing may be written"):
        store.add_field("docs", "size", ColumnSpec(type="int64"))
    server.open_for = 1
    store.add_field("docs", "size", ColumnSpec(type="int64"))
    assert server.begun == ["add_field"]


def test_the_record_of_an_epoch_needs_the_lease_and_a_renewal_needs_none(
    server: Server, store: MilvusStore
) -> None:
    ledger = store.ledger()
    ledger._open = True
    server.open_for = 0
    with pytest.raises(RetriableError, match="nothing may be written"):
        ledger.write({"docs/0": "{}"}, server.fence)
    server.inside = True  # a renewal passes no fence of its own
    ledger.write({"docs/0": "{}"})
    assert server.begun == ["upsert"]


def test_reading_needs_no_lease(server: Server, store: MilvusStore) -> None:
    server.open_for = 0
    assert store._client.query("docs", "", ["id"], window=True)
    assert server.begun == []
