"""Tables, topics and partitions that come and go: the flow goes on, or names what to do."""

import signal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from flows.embedded.broker import Broker, DurableBroker
from operators.ownership.accept_options import Accept
from tests.changes import doc, envelope, key
from tests.integration.running import (
    BYTEWAX,
    Process,
    everything,
    produce,
    quiet,
    rowvec,
    run_to_end,
    told,
    write_contract,
)

pytestmark = pytest.mark.integration


class Tables:
    """A flow of some tables, each with a topic and a collection of its own unless a test says other."""

    def __init__(
        self, directory: Path, broker: Broker | DurableBroker, milvus: str, model: Path
    ) -> None:
        self.directory, self.broker, self.milvus = directory, broker, milvus
        self.prefix = directory.name
        self._lsn = 0
        self._sections: dict[str, Any] = {
            "kafka": {
                "bootstrap_servers": broker.bootstrap_servers,
                "dead_letter_topic": f"{self.prefix}.dead",
                "librdkafka": {
                    "fetch.wait.max.ms": 10,
                    "topic.metadata.refresh.interval.ms": 200,
                },
            },
            "milvus": {"uri": milvus, "request_timeout_s": 10, "lease_s": 30},
            "embedding": {"model": str(model), "device": "cpu"},
            "recovery": {"directory": str(directory / "recovery"), "epoch_interval_s": 0.2},
        }

    def contract(self, **tables: dict[str, Any]) -> Path:
        """Write a contract with these tables, by name."""
        each = [
            {
                "topic": self.topic(name),
                "collection": f"{self.prefix}_{name}",
                "name": name,
                "key": ["id"],
                "text": "{doc}",
                **changed,
            }
            for name, changed in tables.items()
        ]
        return write_contract(self.directory / "rowvec.toml", **self._sections, tables=each)

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def create(self, *names: str, partitions: int = 1) -> None:
        for name in names:
            self.broker.create_topic(self.topic(name), partitions)

    def put(self, name: str, *ids: int, partition: int = 0, text: str = "text") -> None:
        records = []
        for id_ in ids:
            self._lsn += 1
            records.append((partition, key(id=id_), envelope("u", self._lsn, doc(id_, text))))
        produce(self.broker.bootstrap_servers, self.topic(name), records)

    def run(self, *options: str) -> str:
        """Run the flow to the end of its topics; returns its messages."""
        contract = self.directory / "rowvec.toml"
        with rowvec(self.directory, "run", "-c", contract, "--exit-at-end", *options) as flow:
            assert flow.wait() == 0, flow.stderr
        quiet(flow)
        return flow.stderr

    def refused(self, accept: Accept, *parts: str) -> None:
        """Check that `check` and `run` refuse with the same message."""
        contract = self.directory / "rowvec.toml"
        for command in (("check",), ("run", "--exit-at-end")):
            with rowvec(self.directory, *command, "-c", contract) as flow:
                assert flow.wait() == 1, flow.stderr
            quiet(flow)
            for part in (f"--accept-{accept}", *parts):
                assert part in " ".join((flow.stdout + flow.stderr).split()), command

    def rows(self, name: str) -> set[int]:
        found = everything(self.milvus, f"{self.prefix}_{name}")
        return {int(id_.partition(":")[2].partition("#")[0]) for id_ in found}


@pytest.fixture
def tables(broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path) -> Tables:
    return Tables(tmp_path, broker, milvus, tiny_model)


@pytest.fixture
def durable_tables(durable: DurableBroker, milvus: str, tiny_model: Path, tmp_path: Path) -> Tables:
    return Tables(tmp_path, durable, milvus, tiny_model)


def test_a_table_that_leaves_the_contract_and_comes_back(tables: Tables) -> None:
    tables.create("one", "two")
    tables.contract(one={}, two={})
    tables.put("one", 1)
    tables.put("two", 1)
    tables.run()
    tables.contract(one={})
    tables.put("one", 2)
    tables.put("two", 2)
    assert f"{tables.topic('two')}/0" in tables.run()
    tables.put("one", 3)
    tables.run()
    assert (tables.rows("one"), tables.rows("two")) == ({1, 2, 3}, {1})
    # What was not read meanwhile is read when it is back.
    tables.contract(one={}, two={})
    tables.run()
    assert tables.rows("two") == {1, 2}


def test_a_contract_whose_tables_are_all_others(tables: Tables) -> None:
    tables.create("one", "two", "three")
    tables.contract(one={}, two={})
    tables.put("one", 1)
    tables.put("two", 1)
    tables.run()
    contract = tables.contract(three={})
    tables.put("three", 1, 2)
    tables.run()
    # Bytewax's own command, too, resumes from a directory that has partitions of other tables.
    tables.put("three", 3)
    options = ("-r", str(tables.directory / "recovery"), "-s", "1", "-b", "0")
    env = {"ROWVEC_CONTRACT": str(contract)}
    with Process(tables.directory, (*BYTEWAX, *options), env) as flow:
        flow.wait_until(lambda: tables.rows("three") == {1, 2, 3})
        flow.send(signal.SIGTERM)
        assert flow.wait() == 0, flow.stderr
    quiet(flow)


def test_a_table_of_a_shared_collection_that_comes_back_as_another_one(tables: Tables) -> None:
    shared = {"collection": f"{tables.prefix}_one"}
    tables.create("one", "two")
    tables.contract(one={}, two=shared)
    tables.put("one", 1)
    tables.put("two", 2)
    tables.run()
    tables.contract(one={})
    tables.refused(Accept.OTHER_CONTRACT, "also holds rows of two")
    tables.put("one", 3)
    tables.run("--accept-other-contract")
    tables.run()
    tables.contract(one={}, two={**shared, "text": "{name}"})
    tables.refused(Accept.OTHER_CONTRACT, "says something else of two")
    tables.contract(one={}, two=shared)
    tables.put("two", 4)
    tables.run()
    assert tables.rows("one") == {1, 2, 3, 4}


def test_a_renamed_topic(tables: Tables) -> None:
    tables.create("one", "new")
    tables.contract(one={})
    tables.put("one", 1, 2)
    tables.run()
    tables.contract(one={"topic": tables.topic("new")})
    tables.put("new", 2, 3, text="new")
    tables.refused(Accept.OTHER_CONTRACT, "says something else of one")
    tables.run("--accept-other-contract")
    tables.put("new", 4)
    tables.run()
    assert tables.rows("one") == {1, 2, 3, 4}


def test_a_topic_that_was_emptied(milvus: str, tiny_model: Path, tmp_path: Path) -> None:
    """The broker loses all that it has, and does not report that an offset is out of range."""
    broker = Broker(tmp_path / "broker")
    tables = Tables(tmp_path, broker, milvus, tiny_model)
    try:
        broker.start()
        tables.create("one")
        tables.contract(one={})
        tables.put("one", 1, 2)
        tables.run()
        broker.kill()
        broker.start()
        tables.create("one")
        with rowvec(tmp_path, "run", "-c", tmp_path / "rowvec.toml", "--exit-at-end") as flow:
            assert flow.wait() == 1, flow.stderr
        told(flow, "--accept-recreated-topic", "offset 2", "ends before that")
        tables.run("--accept-recreated-topic")
        tables.put("one", 3)
        tables.run()
        assert tables.rows("one") == {1, 2, 3}
    finally:
        broker.stop()


def test_partitions_that_are_added_are_read_by_the_running_flow(durable_tables: Tables) -> None:
    tables = durable_tables
    tables.create("one", "two")
    contract = tables.contract(one={}, two={})
    tables.put("one", 1)
    admin = AdminClient({"bootstrap.servers": tables.broker.bootstrap_servers, "log_level": 0})
    with rowvec(tables.directory, "run", "-c", contract) as flow:
        flow.wait_running()
        flow.wait_until(lambda: tables.rows("one") == {1})
        for topic, count in ((tables.topic("one"), 3), (tables.topic("two"), 2)):
            admin.create_partitions([NewPartitions(topic, count)])[topic].result(10)
            tables.put(topic.rpartition(".")[2], 7, partition=count - 1)
        flow.wait_until(lambda: tables.rows("one") == {1, 7} and tables.rows("two") == {7})
        tables.put("one", 1, 2)
        flow.wait_until(lambda: tables.rows("one") == {1, 2, 7})
        flow.send(signal.SIGTERM)
        assert flow.wait() == 0, flow.stderr
    for added in (f"{tables.topic('one')} has new partitions: 1, 2", "two has new partitions: 1."):
        assert added in flow.stderr
    quiet(flow)
    # The state of all partitions is there: nothing is read again.
    again = run_to_end(tables.directory).metrics()
    assert again.get("rowvec.records.consumed", 0) == 0


def test_a_topic_with_fewer_partitions(durable_tables: Tables) -> None:
    tables = durable_tables
    tables.create("one", partitions=2)
    tables.contract(one={})
    tables.put("one", 1)
    tables.put("one", 2, 3, partition=1)
    tables.run()
    tables.run()
    topic = tables.topic("one")
    admin = AdminClient({"bootstrap.servers": tables.broker.bootstrap_servers, "log_level": 0})
    admin.delete_topics([topic])[topic].result(10)
    tables.create("one")
    tables.put("one", 4, 5)
    tables.refused(Accept.RECREATED_TOPIC, f"{topic}[1]", "no such partition", "offset 2")
    tables.run("--accept-recreated-topic")
    tables.run()
    assert tables.rows("one") == {1, 2, 3, 4, 5}
