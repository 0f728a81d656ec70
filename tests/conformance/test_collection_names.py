"""Which collection a name stands for, and that a flow notices when it stands for another one."""

import itertools
from collections.abc import Iterator

import pytest

from flows.process.collection_names import CollectionNames
from operators.contract.sections import Contract
from operators.errors import FatalError, RetriableError
from operators.milvus.schema import collection_shape
from operators.ownership.collection_watch import CollectionWatch
from operators.ownership.gate import Gate
from operators.ownership.lease import Lease
from operators.ownership.lease_times import LeaseTimes, boottime
from operators.ownership.ledger import Ledger
from operators.ownership.ledger_entries import Entry, Holder, differ, same
from operators.retry import RetryPolicy
from operators.store.protocol import CollectionSpec, LedgerStore
from operators.telemetry import Telemetry
from tests.changes import contract, table
from tests.conformance.conftest import Backend
from tests.fakes import MemoryLedger, MemoryStore

_numbers = itertools.count()


@pytest.fixture(scope="module")
def entries(backend: Backend) -> LedgerStore:
    return MemoryLedger() if isinstance(backend.store, MemoryStore) else backend.store.ledger()


class Collections:
    """Collections of one test, and what an operator does to them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._prefix = f"n{next(_numbers)}_"
        self._aliases: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name, made unique."""
        return self._prefix + name

    def make(self, name: str) -> str:
        store, spec = self._backend.store, CollectionSpec(self(name), {}, 2, "L2", "hash@1")
        if isinstance(store, MemoryStore):
            store.ensure(spec)
        else:  # without its index: loading it would take a server three seconds
            store._client.create_collection(spec.name, collection_shape(spec))
        return spec.name

    def drop(self, name: str) -> None:
        self._do("drop", "drop_collection", self(name))

    def rename(self, name: str, other: str) -> None:
        self._do("rename", "rename_collection", self(name), self(other))

    def alias(self, name: str, alias: str) -> str:
        """Make an alias, or move it."""
        moves = alias in self._aliases
        self._aliases.add(alias)
        self._do("set_alias", "alter_alias" if moves else "create_alias", self(name), self(alias))
        return self(alias)

    def contract(self, *names: str) -> Contract:
        tables = tuple(
            table().model_copy(
                update={"topic": f"topic{i}", "name": f"t{i}", "collection": self(n)}
            )
            for i, n in enumerate(names)
        )
        return contract().model_copy(update={"tables": tables})

    def _do(self, in_memory: str, in_milvus: str, *names: str) -> None:
        store = self._backend.store
        if isinstance(store, MemoryStore):
            getattr(store, in_memory)(*names)
        else:
            getattr(store._client._client, in_milvus)(*names)


@pytest.fixture
def collections(backend: Backend) -> Collections:
    return Collections(backend)


class Timer:
    def arm(self, at: float) -> None: ...

    def disarm(self) -> None: ...


class Flow:
    """What a start does about names, ledger and lease; the lease is renewed by hand."""

    def __init__(self, backend: Backend, ledger: LedgerStore, named: Contract, holder: str) -> None:
        self.store = backend.store
        self.names = CollectionNames.of(named, self.store.find)
        self.ledger = Ledger(
            ledger,
            RetryPolicy(0.0, Telemetry()),
            self.names.contract.tables,
            identities=self.names.identities,
        )
        self.watch = CollectionWatch(self.store.find, 5.0, boottime)
        self.lease = Lease(
            self.ledger.entries,
            LeaseTimes(600.0, 10.0),
            Timer(),
            Holder(holder, f"the flow {holder}"),
            # Who waits here sees the other flow renew its lease meanwhile.
            wait=lambda _seconds: self.while_waiting() is not None,
            watch=self.watch.look,
        )
        self.lease._thread.start = lambda: None  # type: ignore[method-assign]
        self.while_waiting = lambda: None

    def start(self) -> "Flow":
        self.lease.claim()
        entries = self.ledger.entries
        self.ledger.start.check({name: self.store.identity(name) for name in entries.collections})
        self.watch.begin(self.names.own_names)
        self.lease.confirm()
        entries.write(lambda _name, entry: entry)
        return self

    @property
    def gate(self) -> Gate:
        return self.lease.gate


@pytest.fixture
def flow(backend: Backend, entries: LedgerStore, collections: Collections) -> Iterator:
    """Starts a flow by names of its contract; all are ended after the test."""
    flows: list[Flow] = []

    def made(holder: str, *names: str) -> Flow:
        flows.append(Flow(backend, entries, collections.contract(*names), holder))
        return flows[-1]

    yield made
    for each in flows:
        each.lease.end()


def test_an_alias_stands_for_its_collection(backend: Backend, collections: Collections):
    find = backend.store.find
    one, two = collections.make("one"), collections.make("two")
    alias = collections.alias("one", "alias")
    assert find(alias) == find(one)
    assert find(one).name == one
    assert find(one).identity == backend.store.identity(one)
    assert find(collections("nowhere")) is None
    assert differ(find(one).identity, find(two).identity)
    collections.alias("two", "alias")
    assert find(alias) == find(two)


def test_a_collection_that_was_renamed_is_the_same_one(backend: Backend, collections: Collections):
    find = backend.store.find
    before = find(collections.make("old"))
    collections.rename("old", "new")
    assert find(collections("old")) is None
    after = find(collections("new"))
    assert (after.name, after.identity) == (collections("new"), before.identity)
    collections.make("old")
    assert differ(find(collections("old")).identity, before.identity)


def test_the_contract_is_followed_by_the_collections_own_names(
    backend: Backend, collections: Collections
):
    own = collections.make("own")
    collections.alias("own", "alias")
    names = CollectionNames.of(collections.contract("alias", "new"), backend.store.find)
    assert [t.collection for t in names.contract.tables] == [own, collections("new")]
    assert names.identities == {own: backend.store.identity(own)}
    assert list(names.told()) == [f"'{collections('alias')}' is an alias of '{own}'"]


def test_one_collection_under_two_names_of_one_contract_is_refused(
    backend: Backend, collections: Collections
):
    own = collections.make("own")
    collections.alias("own", "alias")
    collections.alias("own", "another")
    for names in (("own", "alias"), ("alias", "own"), ("alias", "another")):
        with pytest.raises(FatalError, match="are one") as refused:
            CollectionNames.of(collections.contract(*names), backend.store.find)
        assert f'collection = "{own}"' in refused.value.hint


@pytest.mark.parametrize("by", ["own", "alias", "another"])
@pytest.mark.parametrize("first", ["own", "alias"])
def test_two_flows_by_different_names_are_two_writers(
    flow, collections: Collections, first: str, by: str
):
    collections.make("own")
    collections.alias("own", "alias")
    collections.alias("own", "another")
    one = flow("one", first).start()
    two = flow("two", by)
    two.while_waiting = one.lease.renew
    with pytest.raises(FatalError, match="the flow one is writing to them"):
        two.start()
    with one.gate.writing():
        pass


def test_a_flow_by_the_new_name_of_a_renamed_collection_is_a_second_writer(
    flow, collections: Collections
):
    collections.make("old")
    one = flow("one", "old").start()
    collections.rename("old", "new")
    two = flow("two", "new")
    two.while_waiting = lambda: one.ledger.entries.write(lambda _name, entry: entry)
    with pytest.raises(FatalError, match="the flow one is writing to them"):
        two.start()


def test_flows_on_two_collections_do_not_wait(flow, collections: Collections):
    collections.make("one")
    collections.make("two")
    collections.alias("two", "alias")
    flow("one", "one").start()
    flow("two", "alias").start()


def stops(one: Flow, *words: str) -> None:
    """The next renewal finds it out, and from then on nothing may be written."""
    with one.gate.writing():
        pass
    one.lease.renew()
    with pytest.raises(FatalError) as told, one.gate.writing():
        pass
    for word in words:
        assert word in str(told.value)


def test_an_alias_that_is_moved_stops_the_flow(flow, collections: Collections):
    own, other = collections.make("own"), collections.make("other")
    alias = collections.alias("own", "alias")
    one = flow("one", "alias").start()
    collections.alias("other", "alias")
    stops(one, alias, f"stands for '{other}' now", f"writes to '{own}'")


def test_an_alias_that_is_moved_is_nothing_to_a_flow_by_the_name(flow, collections: Collections):
    collections.make("own")
    collections.make("other")
    collections.alias("own", "alias")
    one = flow("one", "own").start()
    collections.alias("other", "alias")
    one.lease.renew()
    with one.gate.writing():
        pass


def test_a_collection_made_anew_stops_the_flow(flow, collections: Collections):
    own = collections.make("own")
    one = flow("one", "own").start()
    collections.drop("own")
    collections.make("own")
    stops(one, own, "is another one than at the start")


def test_a_collection_that_is_gone_stops_the_flow(flow, collections: Collections):
    own = collections.make("own")
    one = flow("one", "own").start()
    collections.drop("own")
    stops(one, own, "is gone")


def test_a_collection_that_is_renamed_stops_the_flow(flow, collections: Collections):
    own = collections.make("own")
    one = flow("one", "own").start()
    collections.rename("own", "old")
    stops(one, own, "is gone")


def test_a_name_that_became_an_alias_of_another_collection_stops_the_flow(
    flow, collections: Collections
):
    """A collection is renamed, and an alias of its name keeps readers going: the usual switch."""
    own, other = collections.make("own"), collections.make("other")
    one = flow("one", "own").start()
    collections.rename("own", "old")
    collections.alias("other", "own")
    stops(one, own, f"stands for '{other}' now")


def test_a_name_that_became_an_alias_of_the_same_collection_stops_the_flow(
    flow, collections: Collections
):
    """Otherwise the next move of the alias would take the flow along."""
    own = collections.make("own")
    one = flow("one", "own").start()
    collections.rename("own", "old")
    collections.alias("old", "own")
    stops(one, own, f"stands for '{collections('old')}' now")


def test_a_flow_goes_on_after_its_collection_was_renamed(flow, collections: Collections):
    """Its entry bears the old name, and is found by the identity."""
    collections.make("old")
    one = flow("one", "old").start()
    one.ledger.entries.record({"topic0/0": 7})
    one.lease.end()
    collections.rename("old", "new")
    two = flow("two", "new").start()
    assert two.ledger.entries[collections("new")].seen == {"topic0/0": 7}
    two.lease.end()
    assert collections("new") + "/0" in two.ledger.entries.read()


def test_an_entry_of_an_older_release_under_the_alias_is_found(
    backend: Backend, entries: LedgerStore, flow, collections: Collections
):
    """That release kept the name of the contract, and an identity without the server's id."""
    own = collections.make("own")
    alias = collections.alias("own", "alias")
    identity = backend.store.identity(own).partition("@")[0]
    old = Entry(identity, 0, sequence=3, seen={"topic0/0": 7}, tables={"t0": "another"})
    entries.write({f"{alias}/0": old.pack()})
    for name in ("own", "alias"):
        one = flow("one", name)
        one.ledger.entries.adopt(one.ledger.entries.read())
        assert one.ledger.entries.adopted == {own: [old]}
    # Its holder may still be writing.
    held = Entry(identity, 0, holder=Holder("old", "an older release", "", 60.0))
    entries.write({f"{alias}/0": held.pack()})
    one.while_waiting = lambda: entries.write(
        {f"{alias}/0": Entry(identity, 0, sequence=9, holder=held.holder).pack()}
    )
    with pytest.raises(FatalError, match="an older release is writing to them"):
        one.start()
    entries.write({f"{alias}/0": old.pack()})


def test_a_store_that_does_not_answer_stops_no_flow_by_itself(
    backend: Backend, flow, collections: Collections, monkeypatch: pytest.MonkeyPatch
):
    collections.make("own")
    one = flow("one", "own").start()

    def down(_name: str) -> None:
        raise RetriableError(subject="milvus", cause="down")

    monkeypatch.setattr(one.watch, "_find", down)
    one.lease.renew()
    with one.gate.writing():
        pass


def test_a_slow_store_is_asked_for_the_rest_at_the_next_renewal():
    """Renewals must not wait until many names were looked up."""
    store, asked, clock = MemoryStore(), [], itertools.count()
    names = [f"c{n}" for n in range(5)]
    for name in names:
        store.ensure(CollectionSpec(name, {}, 2, "L2", "hash@1"))
    watch = CollectionWatch(store.find, 1.5, lambda: float(next(clock)))
    watch.begin({name: name for name in names})
    watch._find = lambda name: asked.append(name) or store.find(name)
    for _ in range(3):
        watch.look()
    assert asked == ["c0", "c1", "c2", "c3", "c4", "c0"]


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("a@1", "a@1", "same"),
        ("a@1", "a@2", "differ"),  # restored from a backup
        ("a@1", "b@1", "differ"),
        ("a@1", "b@2", "differ"),
        ("a", "a@1", "same"),
        ("a", "b@1", "differ"),
        ("a", "a", "same"),
        ("a", "b", "differ"),
        ("@1", "@1", "same"),
        ("@1", "@2", "differ"),
        ("@1", "a@1", "same"),
        ("", "a@1", "nothing"),
        ("", "", "nothing"),
        ("a", "@1", "nothing"),
    ],
)
def test_identities(one: str, other: str, told: str):
    for pair in ((one, other), (other, one)):
        assert differ(*pair) == (told == "differ")
        assert same(*pair) == (told == "same")
