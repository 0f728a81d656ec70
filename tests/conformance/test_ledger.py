"""What every `LedgerStore` promises, tested on one in memory and on every kind of Milvus."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, nullcontext

import pytest
from pymilvus import DataType, MilvusClient

from operators.contract.sections import MilvusSection
from operators.contract.table import LEDGER
from operators.errors import FatalError, RetriableError
from operators.milvus.client import Client
from operators.milvus.store import MilvusStore
from operators.store.protocol import MAX_LEDGER_BYTES, CollectionSpec, LedgerStore
from tests.conformance.conftest import REAL_MILVUS, Backend, lite_server
from tests.fakes import MemoryLedger

BODIES = [
    "",
    " ",
    "plain",
    '{"seen": {"0": 12}}',
    "with 'quotes'",
    'with "double quotes"',
    "back\\slash and trailing\\",
    "new\nline\r\n and tab\t",
    "nul\0",
    "Ünï¢ödé 漢字 🦁",
    "{curly} and {0} and %s",
    "id in ['x']",
    "null",
    "x" * MAX_LEDGER_BYTES,
    "ö" * (MAX_LEDGER_BYTES // 2),
]
NAMES = ["a", "A", "docs/0", "docs/1", "docs%20x/0", "a.b_c-d~e", "%2F", "/", "..", "n" * 1_024]


@pytest.fixture(scope="module")
def shared(backend: Backend) -> LedgerStore:
    return MemoryLedger() if backend.kind == "memory" else backend.store.ledger()


@pytest.fixture
def ledger(backend: Backend, shared: LedgerStore) -> LedgerStore:
    """The shared ledger, emptied: creating a new collection takes a server three seconds."""
    if isinstance(shared, MemoryLedger):
        shared.entries.clear()
    elif entries := shared.read():
        backend.store._client.delete(LEDGER, list(entries), nullcontext)
    return shared


def test_a_new_ledger_is_empty_and_nothing_written_is_nothing(ledger: LedgerStore):
    assert ledger.read() == {}
    ledger.write({})
    assert ledger.read() == {}


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_what_is_written_is_what_is_read(ledger: LedgerStore, body: str):
    ledger.write({"docs/0": body})
    assert ledger.read() == {"docs/0": body}


def test_names_stay_apart(ledger: LedgerStore):
    entries = {name: f"of {number}" for number, name in enumerate(NAMES)}
    ledger.write(entries)
    assert ledger.read() == entries


def test_each_read_sees_the_write_before_it(ledger: LedgerStore):
    for beat in range(50):
        ledger.write({"docs/0": json.dumps({"beat": beat})})
        assert ledger.read() == {"docs/0": json.dumps({"beat": beat})}


def test_entries_that_are_not_written_stay(ledger: LedgerStore):
    ledger.write({"a": "1", "b": "1", "c": "1"})
    ledger.write({"b": "2", "d": "2"})
    assert ledger.read() == {"a": "1", "b": "2", "c": "1", "d": "2"}


def test_many_entries(ledger: LedgerStore):
    entries = {f"docs/{number}": f"body {number}" for number in range(3_000)}
    ledger.write(entries)
    assert ledger.read() == entries
    ledger.write(dict.fromkeys(entries, "again"))
    assert ledger.read() == dict.fromkeys(entries, "again")


def test_more_than_one_request_holds(ledger: LedgerStore):
    entries = {f"docs/{number}": f"{number:05}" + "ö" * 30_000 for number in range(400)}
    ledger.write(entries)
    assert ledger.read() == entries


@pytest.mark.parametrize(
    "name", ["", "a b", "a'b", 'a"b', "a\\b", "ö", "a\n", "a#0", "a:b", "x'] or id not in ['x"]
)
def test_names_that_are_refused(ledger: LedgerStore, name: str):
    with pytest.raises(FatalError, match="is not percent-encoded") as refused:
        ledger.write({"good": "1", name: "1"})
    assert not name or name not in refused.value.subject
    assert ledger.read() == {}


@pytest.mark.parametrize(
    ("name", "body", "cause"),
    [
        ("n" * 1_025, "1", "its name has 1025 bytes, more than 1024"),
        ("long", "x" * (MAX_LEDGER_BYTES + 1), "is 65536 bytes of UTF-8, more than 65535"),
        ("long", "漢" * 30_000, "is 90000 bytes of UTF-8, more than 65535"),
        ("half", "\ud800", "is not valid Unicode"),
    ],
)
def test_entries_that_are_refused(ledger: LedgerStore, name: str, body: str, cause: str):
    with pytest.raises(FatalError, match=cause):
        ledger.write({"good": "1", name: body})
    assert ledger.read() == {}


def test_threads_write_at_once(backend: Backend, ledger: LedgerStore):
    """Several threads write entries of different names at once; no write is lost."""
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for beat in range(30):
                ledger.write({f"docs/{number}": str(beat), f"docs/{number}/{beat}": ""})
        except BaseException as error:  # reported by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    wanted = {f"docs/{n}": "29" for n in range(4)}
    wanted |= {f"docs/{n}/{beat}": "" for n in range(4) for beat in range(30)}
    assert ledger.read() == wanted


# Only on Milvus


@REAL_MILVUS
def test_two_connections_see_each_others_writes(backend: Backend, ledger: LedgerStore):
    assert backend.section is not None
    with closing(MilvusStore(backend.section)) as store:
        other = store.ledger()
        for beat in range(20):
            ledger.write({"mine": str(beat)})
            assert other.read().get("mine") == str(beat)
            other.write({"yours": str(beat), "both": str(beat)})
            assert ledger.read() == {"mine": str(beat), "yours": str(beat), "both": str(beat)}


@REAL_MILVUS
def test_several_create_it_at_once(backend: Backend, ledger: LedgerStore):
    assert backend.section is not None
    backend.store._client._client.drop_collection(LEDGER)
    stores = [MilvusStore(backend.section) for _ in range(4)]
    try:
        errors: list[BaseException] = []
        barrier = threading.Barrier(4)

        def start(number: int) -> None:
            try:
                barrier.wait()
                stores[number].ledger().write({f"docs/{number}": "1"})
            except BaseException as error:  # reported by the assertion below
                errors.append(error)

        threads = [threading.Thread(target=start, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert stores[0].ledger().read() == {f"docs/{n}": "1" for n in range(4)}
        assert ledger.read() == {f"docs/{n}": "1" for n in range(4)}
    finally:
        for store in stores:
            store.close()


@REAL_MILVUS
def test_a_ledger_that_is_gone_stops_the_writer(backend: Backend, ledger: LedgerStore):
    """A ledger that was removed is not created again: it protected the collections."""
    ledger.write({"docs/0": "1"})
    client = backend.store._client
    client._client.drop_collection(LEDGER)
    try:
        with pytest.raises(FatalError, match=LEDGER):
            ledger.write({"docs/0": "2"})
        with pytest.raises(FatalError, match=LEDGER):
            ledger.read()
        assert not client.has_collection(LEDGER)
    finally:
        assert backend.store.ledger().read() == {}


@pytest.mark.parametrize("step", ["collection", "index"])
@REAL_MILVUS
def test_a_creation_that_was_cut_short_is_completed(
    backend: Backend, ledger: LedgerStore, step: str, monkeypatch: pytest.MonkeyPatch
):
    """The state that a kill leaves after each step of the creation."""
    client = backend.store._client
    client._client.drop_collection(LEDGER)

    class Killed(BaseException):
        pass

    def kill(*args: object, **options: object) -> None:
        raise Killed

    monkeypatch.setattr(client, {"collection": "create_index", "index": "load"}[step], kill)
    with pytest.raises(Killed):
        backend.store.ledger().read()
    monkeypatch.undo()
    again = backend.store.ledger()
    assert again.read() == {}
    again.write({"docs/0": "1"})
    assert again.read() == {"docs/0": "1"}


@REAL_MILVUS
@pytest.mark.parametrize(
    ("fields", "metric"),
    [
        ({"id": 64, "body": 65_535}, "L2"),
        ({"id": 1_024, "body": 65_535, "more": 10}, "L2"),
        ({"id": 1_024, "body": 65_535}, "IP"),
    ],
)
def test_something_else_of_its_name_is_left_alone(
    backend: Backend, ledger: LedgerStore, fields: dict[str, int], metric: str
):
    client = backend.store._client._client
    client.drop_collection(LEDGER)
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    for name, size in fields.items():
        schema.add_field(name, DataType.VARCHAR, is_primary=name == "id", max_length=size)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type=metric)
    client.create_collection(LEDGER, schema=schema)
    client.create_index(LEDGER, index)
    client.load_collection(LEDGER)
    client.upsert(LEDGER, [{"vector": [0.0, 0.0], **dict.fromkeys(fields, "theirs")}])
    try:
        for _ in range(2):
            with pytest.raises(FatalError, match="is not Rowvec's ledger"):
                backend.store.ledger().read()
            with pytest.raises(FatalError, match="is not Rowvec's ledger"):
                backend.store.ledger().write({"docs/0": "1"})
        count = client.query(LEDGER, "", ["count(*)"], consistency_level="Strong")
        assert count[0]["count(*)"] == 1
    finally:
        client.drop_collection(LEDGER)
        assert backend.store.ledger().read() == {}


@pytest.fixture
def mortal(tmp_path) -> Iterator[MilvusStore]:
    """A store with a Milvus Lite server of its own."""
    with lite_server(tmp_path / "data") as uri:
        store = MilvusStore(MilvusSection(uri=uri, request_timeout_s=1))
        with closing(store):
            yield store


def test_it_is_there_after_a_kill(tmp_path):
    path = str(tmp_path / "milvus.db")
    code = (
        "import os, signal, sys\n"
        "from operators.contract.sections import MilvusSection\n"
        "from operators.milvus.store import MilvusStore\n"
        "store = MilvusStore(MilvusSection(uri=sys.argv[1]))\n"
        "store.ledger().write({'docs/0': 'kept'})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    with closing(MilvusStore(MilvusSection(uri=path))) as store:
        assert store.ledger().read() == {"docs/0": "kept"}


def test_a_server_that_is_gone_may_come_back(tmp_path):
    with lite_server(tmp_path / "data") as uri:
        store = MilvusStore(MilvusSection(uri=uri, request_timeout_s=1))
    with closing(store):
        ledger = store.ledger()
        for call in (ledger.read, lambda: ledger.write({"docs/0": "1"})):
            with pytest.raises(RetriableError):
                call()


class Occupied:
    """Replaces pymilvus: a write signals that it has begun, and ends when the test allows it."""

    def __init__(self, client: MilvusClient) -> None:
        self._client = client
        self.begun, self.end = threading.Event(), threading.Event()
        self.at_once = self.most_at_once = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def upsert(self, *args: object, **options: object) -> object:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.set()
        self.end.wait(20)
        try:
            return self._client.upsert(*args, **options)
        finally:
            self.at_once -= 1


def test_lite_has_one_writer_and_who_waits_for_it_has_a_deadline(mortal: MilvusStore):
    """The ledger waits for a write of the store to end, but no longer than the request timeout."""
    store = mortal
    store.ensure(CollectionSpec("docs", {}, 2, "L2", "hash@1"))
    ledger = store.ledger()
    ledger.write({"docs/0": "1"})
    client: Client = store._client
    occupied = client._client = Occupied(client._client)
    lane = threading.Thread(target=client.upsert, args=(LEDGER, [], FatalError, nullcontext))
    lane.start()
    try:
        assert occupied.begun.wait(20)
        for write in (
            lambda: ledger.write({"docs/0": "2"}),
            lambda: store.delete("docs", ["docs:1#0"]),
        ):
            with pytest.raises(RetriableError, match="another write was under way for 1 seconds"):
                write()
        assert ledger.read() == {"docs/0": "1"}
        assert occupied.most_at_once == 1
    finally:
        occupied.end.set()
        lane.join()
    ledger.write({"docs/0": "2"})
    assert ledger.read() == {"docs/0": "2"}


# Only in memory


def test_failures_that_are_planned():
    ledger = MemoryLedger()
    down = RetriableError(subject="milvus", cause="down")
    ledger.fail_next(down, "write")
    ledger.fail_next(down, "write", applied=True)
    ledger.fail_next(down)
    with pytest.raises(RetriableError):
        ledger.read()
    with pytest.raises(RetriableError):
        ledger.write({"a": "1"})
    assert ledger.read() == {}
    with pytest.raises(RetriableError):
        ledger.write({"a": "2"})
    assert ledger.read() == {"a": "2"}
