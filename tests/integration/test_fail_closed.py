"""State that does not match topic, contract or collection is refused, with a hint how to go on."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import TopicPartition

from flows.embedded.broker import DurableBroker
from operators.ownership.accept_options import LOST, Accept
from tests.changes import doc, envelope, gone, key
from tests.integration.running import (
    collection,
    docs_contract,
    everything,
    open_store,
    produce,
    quiet,
    rowvec,
    told,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def broker(durable: DurableBroker) -> DurableBroker:
    """A broker that can delete topics and records."""
    return durable


class Flow:
    """A table of a few rows, and `rowvec run --exit-at-end` on it."""

    def __init__(self, directory: Path, broker: DurableBroker, milvus: str, model: Path) -> None:
        self.directory, self.name = directory, directory.name
        self.broker, self.milvus, self.model = broker, milvus, model
        self.lsn = 0
        docs_contract(directory, broker, milvus, model)
        broker.create_topic(self.name, 1)

    @property
    def recovery(self) -> Path:
        return self.directory / "recovery"

    def change(self, *ids: int, text: str | None = "text") -> None:
        records = []
        for id_ in ids:
            self.lsn += 1
            if text is None:
                records.append((0, *gone(id_, self.lsn)))
            else:
                row = envelope("u", self.lsn, doc(id_, text))
                records.append((0, key(id=id_), row))
        produce(self.broker.bootstrap_servers, self.name, records)

    def run(self, *accepted: Accept) -> str:
        """Run the flow, which must exit with 0; returns its messages."""
        options = [f"--accept-{each}" for each in accepted]
        contract = self.directory / "rowvec.toml"
        with rowvec(self.directory, "run", "-c", contract, "--exit-at-end", *options) as flow:
            assert flow.wait() == 0, flow.stderr
        quiet(flow)
        return flow.stderr

    def refused(self, accept: Accept, *parts: str) -> None:
        """Check that the flow refuses to start, says why and what to do, and changes nothing."""
        before = everything(self.milvus, self.name)
        contract = self.directory / "rowvec.toml"
        with rowvec(self.directory, "run", "-c", contract, "--exit-at-end") as flow:
            assert flow.wait() == 1, flow.stderr
        quiet(flow)
        told(flow, f"--accept-{accept}", LOST[accept], *parts)
        assert everything(self.milvus, self.name) == before

    def rows(self) -> dict[int, str]:
        found = collection(self.milvus, self.name)
        return {
            int(id_.split(":")[1].split("#")[0]): text.splitlines()[1]
            for id_, (_, text, _) in found.items()
        }

    def keep(self, name: str) -> Path:
        return Path(shutil.copytree(self.recovery, self.directory / name))

    def put_back(self, kept: Path) -> None:
        shutil.rmtree(self.recovery)
        shutil.copytree(kept, self.recovery)


@pytest.fixture
def flow(broker: DurableBroker, milvus: str, tiny_model: Path, tmp_path: Path) -> Flow:
    return Flow(tmp_path, broker, milvus, tiny_model)


def test_an_older_recovery_directory(flow: Flow) -> None:
    flow.change(1, 2, 3)
    flow.run()
    old = flow.keep("old")
    flow.change(2, text=None)
    flow.change(1, text="new")
    flow.run()
    latest = flow.keep("latest")
    flow.put_back(old)
    flow.refused(Accept.OLDER_STATE, f"{flow.name}[0]", "offset 3", "up to 5")
    flow.put_back(latest)
    flow.change(4)
    flow.run()
    flow.put_back(old)
    assert "Accepted" in flow.run(Accept.OLDER_STATE)
    assert flow.rows() == {1: "new", 3: "text", 4: "text"}
    # Later runs need no option.
    flow.change(5)
    flow.run()
    assert flow.rows() == {1: "new", 3: "text", 4: "text", 5: "text"}


def test_a_lost_recovery_directory(flow: Flow) -> None:
    flow.change(1, 2, 3)
    flow.change(2, text=None)
    flow.run()
    shutil.rmtree(flow.recovery)
    flow.change(4)
    flow.refused(Accept.LOST_STATE, f"{flow.name}[0]", "up to offset 4")
    flow.run(Accept.LOST_STATE)
    assert flow.rows() == {1: "text", 3: "text", 4: "text"}
    flow.run()


def test_another_contract(flow: Flow) -> None:
    flow.change(1, 2)
    flow.run()
    table = {"text": "{name}\nnow {doc}"}
    docs_contract(flow.directory, flow.broker, flow.milvus, flow.model, table=table)
    flow.change(2, text="changed")
    flow.refused(Accept.OTHER_CONTRACT, f"collection '{flow.name}'", "of docs")
    flow.run(Accept.OTHER_CONTRACT)
    assert flow.rows() == {1: "text", 2: "now changed"}
    flow.change(3)
    flow.run()


def test_a_collection_that_was_dropped(flow: Flow) -> None:
    flow.change(1, 2)
    flow.run()
    with closing(open_store(flow.milvus)) as store:
        store._client._client.drop_collection(flow.name)
    contract = flow.directory / "rowvec.toml"
    with rowvec(flow.directory, "run", "-c", contract, "--exit-at-end") as run:
        assert run.wait() == 1, run.stderr
    quiet(run)
    told(run, f"collection '{flow.name}'", "made anew", "--accept-other-collection")
    # The refused run has created the missing collection; a second run is refused all the same.
    flow.refused(Accept.OTHER_COLLECTION, "made anew")
    assert flow.rows() == {}
    shutil.rmtree(flow.recovery)
    flow.run(Accept.OTHER_COLLECTION)
    assert flow.rows() == {1: "text", 2: "text"}
    flow.run()


def test_a_topic_that_was_made_anew(flow: Flow) -> None:
    flow.change(1, 2, 3)
    flow.run()
    admin = AdminClient({"bootstrap.servers": flow.broker.bootstrap_servers})
    admin.delete_topics([flow.name])[flow.name].result(10)
    flow.broker.create_topic(flow.name, 1)
    flow.change(3, 4, 5, 6, text="new")
    flow.refused(Accept.RECREATED_TOPIC, f"{flow.name}[0]", "made anew")
    flow.run(Accept.RECREATED_TOPIC)
    assert flow.rows() == {1: "text", 2: "text", 3: "new", 4: "new", 5: "new", 6: "new"}
    flow.change(1, text="new")
    flow.run()
    assert flow.rows()[1] == "new"


def test_records_that_retention_has_removed(flow: Flow) -> None:
    flow.change(1, 2, 3)
    flow.run()
    flow.change(1, 4, 5, 6, text="new")
    admin = AdminClient({"bootstrap.servers": flow.broker.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(flow.name, 0, 5)]).values():
        future.result(10)
    flow.refused(Accept.MISSED_RECORDS, f"{flow.name}[0]", "offset 3", "before 5")
    flow.run(Accept.MISSED_RECORDS)
    assert flow.rows() == {1: "text", 2: "text", 3: "text", 5: "new", 6: "new"}
    flow.change(1, text="newer")
    flow.run()
    assert flow.rows()[1] == "newer"
