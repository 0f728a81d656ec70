"""An alias of Milvus in a contract: one writer for one collection, and no row to another one."""

from contextlib import closing
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from flows.embedded.broker import Broker
from operators.milvus.store import MilvusStore
from operators.ownership.accept_options import Accept
from tests.changes import put
from tests.integration.running import (
    docs_contract,
    open_store,
    produce,
    quiet,
    refused,
    rowvec,
    told,
)

pytestmark = pytest.mark.integration


class Flow:
    """A topic of its own, and commands on a contract that names a collection."""

    def __init__(
        self, directory: Path, broker: Broker, milvus: str, model: Path, name: str
    ) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.name, self.milvus, self._broker = name, milvus, broker
        self._model = model
        self.topic = f"{directory.name}_{name}"
        self.names(name)
        broker.create_topic(self.topic, 1)

    def names(self, collection: str) -> None:
        """Name this collection in the contract."""
        self.contract = docs_contract(
            self.directory,
            self._broker,
            self.milvus,
            self._model,
            table={"topic": self.topic, "collection": collection},
        )

    def send(self, *ids: int) -> None:
        records = [(0, *put(id_, id_, f"text {id_}", op="c")) for id_ in ids]
        produce(self._broker.bootstrap_servers, self.topic, records)

    def command(self, *args: str):
        return rowvec(self.directory, *args, "-c", self.contract)

    def run(self, *options: str) -> None:
        with self.command("run", "--exit-at-end", *options) as process:
            assert process.wait() == 0, process.stderr
        quiet(process)

    def refused(self, *parts: str) -> None:
        """Check that `run` and `check` refuse to start, and say the same."""
        refused(self.directory, 1, *parts)

    def rows(self, name: str) -> set[int]:
        """Keys of the rows that a collection holds; none while there is no such collection."""
        with closing(open_store(self.milvus)) as store:
            if store.find(name) is None:
                return set()
            return {int(row["id"].split(":")[1].split("#")[0]) for row in store.scan(name, ["id"])}


@pytest.fixture
def flow(broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path):
    return lambda name: Flow(tmp_path, broker, milvus, tiny_model, f"{tmp_path.name[:40]}_{name}")


@pytest.fixture
def client(milvus: str):
    client = MilvusClient(milvus, dedicated=True)
    yield client
    client.close()


def test_a_flow_by_an_alias_is_a_second_writer_and_the_alias_may_not_be_moved(
    flow, client: MilvusClient
) -> None:
    one, two = flow("one"), flow("two")
    one.send(1)
    with one.command("run") as first:
        first.wait_until(lambda: one.rows(one.name) == {1})
        alias = f"{one.name}_alias"
        client.create_alias(one.name, alias)
        two.names(alias)
        two.send(2)
        with two.command("run", "--exit-at-end") as second:
            assert second.wait() == 1, second.stderr
        told(second, "is writing to them", one.name)
    # By its alias alone, it is followed under its own name.
    one.names(alias)
    with one.command("run") as first:
        one.send(3)
        first.wait_until(lambda: one.rows(one.name) == {1, 3})
        two.names(two.name)
        two.run()
        client.alter_alias(two.name, alias)
        assert first.wait() == 1
        told(first, f"'{alias}'", f"stands for '{two.name}' now", f"writes to '{one.name}'")
    one.send(4)
    one.refused(f"--accept-{Accept.OTHER_CONTRACT}", two.name)  # it holds rows of another topic
    assert (one.rows(one.name), two.rows(two.name)) == ({1, 3}, {2})
    client.alter_alias(one.name, alias)
    one.run()
    assert one.rows(one.name) == {1, 3, 4}


def test_a_collection_that_is_renamed_is_followed_by_its_new_name(
    flow, client: MilvusClient
) -> None:
    one = flow("one")
    one.send(1)
    with one.command("run") as running:
        running.wait_until(lambda: one.rows(one.name) == {1})
        new = f"{one.name}_new"
        client.rename_collection(one.name, new)
        assert running.wait() == 1
        told(running, one.name, "is gone: it was dropped or renamed")
    # A start by the old name would make a collection without the rows that were read already.
    one.send(2)
    one.refused(f"--accept-{Accept.OTHER_COLLECTION}", "not the one that this flow filled")
    one.names(new)
    one.run()
    assert one.rows(new) == {1, 2}


def test_a_collection_made_anew_under_a_running_flow_stops_it(flow, client: MilvusClient) -> None:
    one = flow("one")
    one.send(1)
    with one.command("run") as running:
        running.wait_until(lambda: one.rows(one.name) == {1})
        store: MilvusStore = open_store(one.milvus)
        shape = store._client.describe(one.name)
        client.drop_collection(one.name)
        store._client.make_collection(one.name, shape)
        store._client.load(one.name)
        store.close()
        assert running.wait() == 1
        told(running, one.name)
    one.send(2)
    one.refused(f"--accept-{Accept.OTHER_COLLECTION}", "made anew")
