"""Dead letters are listed and replayed: a corrected row is written, and no row goes back in time."""

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from flows.embedded.broker import Broker, DurableBroker
from flows.embedded.process import free_ports
from tests.changes import doc, envelope, gone, key, put, tombstone
from tests.integration.running import (
    Process,
    collection,
    consume,
    docs_contract,
    produce,
    quiet,
    rowvec,
    run_to_end,
    told,
)

pytestmark = pytest.mark.integration

SECRET = "AMg="
"""The decimal 2.00 as Debezium writes it by default; refused where the contract expects an integer."""

NO_ENCODING: dict[str, Any] = {"table": {}}
DECIMAL: dict[str, Any] = {"table": {"encodings": {"size": "decimal(2)"}}}


def bad(id_: int, lsn: int, text: str = "text") -> tuple[int, bytes, bytes]:
    """A row whose `size` is a decimal; the first contract expects an integer."""
    return 0, key(id=id_), envelope("u", lsn, doc(id_, text, size=SECRET))


def good(id_: int, lsn: int, text: str = "text") -> tuple[int, bytes, bytes | None]:
    """A row that fits both contracts."""
    return 0, *put(id_, lsn, text)


def deleted(id_: int, lsn: int) -> list[tuple[int, bytes, bytes | None]]:
    return [(0, *gone(id_, lsn)), (0, *tombstone(id_))]


def letters(directory: Path, command: str, *arguments: str, code: int = 0) -> Process:
    """Run `rowvec dead-letters …`, which must exit with `code` and print no data of the records."""
    contract = str(directory / "rowvec.toml")
    with rowvec(directory, "dead-letters", command, "-c", contract, *arguments) as process:
        assert process.wait() == code, process.stdout + process.stderr
    quiet(process)
    assert SECRET not in process.stdout + process.stderr
    return process


def listed(directory: Path, *arguments: str) -> dict[str, str]:
    """`partition/offset` of each letter → its status; fails on a duplicate."""
    found = json.loads(letters(directory, "list", "--json", *arguments).stdout)
    by_position = {_short(each["position"]): each["status"] for each in found}
    assert len(by_position) == len(found)
    return by_position


def replayed(directory: Path, *arguments: str, code: int = 0) -> dict[str, str]:
    """`partition/offset` of each replayed letter → the outcome."""
    process = letters(directory, "replay", "--json", *arguments, code=code)
    return {_short(each["position"]): each["result"] for each in json.loads(process.stdout)}


def _short(position: str) -> str:
    return position.split("/", 1)[1]


def sizes(milvus: str, name: str) -> dict[str, tuple[int, int]]:
    """Entity id → (source position, size)."""
    return {id_: (lsn, size) for id_, (lsn, _, size) in collection(milvus, name).items()}


CORRECTED = ("--accept-other-contract",)
"""Option of the first start with another contract."""


class TestACorrectedContract:
    def test_replay_makes_the_collection_right(
        self, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        name = tmp_path.name
        broker.create_topic(name, 1)
        docs_contract(tmp_path, broker, milvus, tiny_model, **NO_ENCODING)
        first = [
            good(1, 1),  # 0
            bad(2, 2, "a text of row 2"),  # 1
            bad(3, 3),  # 2, deleted later
            bad(4, 4),  # 3, updated later
        ]
        # Sent in a second run: a bad record that a good one supersedes in its window is no dead letter.
        later = [
            good(4, 5),  # 4
            bad(5, 6),  # 5, bad again at offset 8
            *deleted(3, 7),  # 6, 7
            bad(5, 8),  # 8
            good(2, 1),  # 9, an older change, sent again
        ]
        for records in (first, later):
            produce(broker.bootstrap_servers, name, records)
            run_to_end(tmp_path)
        open_ = {"0/1": "open", "0/2": "open", "0/3": "open", "0/5": "open", "0/8": "open"}
        assert listed(tmp_path) == open_
        before = sizes(milvus, name)
        assert before["docs:4#0"] == (5, 1)
        assert "docs:5#0" not in before

        # With the wrong contract nothing is sent, but superseded letters are recognised.
        assert replayed(tmp_path, "--dry-run", code=1) == {
            "0/1": "bad",
            "0/2": "overtaken",
            "0/3": "overtaken",
            "0/5": "overtaken",
            "0/8": "bad",
        }
        docs_contract(tmp_path, broker, milvus, tiny_model, **DECIMAL)
        assert replayed(tmp_path, "--dry-run")["0/1"] == "would replay"
        assert listed(tmp_path) == open_

        shown = letters(tmp_path, "replay").stdout.splitlines()
        assert sorted(line.split(":")[0] for line in shown) == [
            f"✓ {name}/0/1 docs replayed",
            f"✓ {name}/0/2 docs overtaken",
            f"✓ {name}/0/3 docs overtaken",
            f"✓ {name}/0/5 docs overtaken",
            f"✓ {name}/0/8 docs replayed",
        ]
        sent = consume(broker.bootstrap_servers, name, 12)
        for copy, original in ((sent[10], sent[1]), (sent[11], sent[8])):
            assert (copy.key(), copy.value()) == (original.key(), original.value())
            assert dict(copy.headers()) == {
                "rowvec.replay-of": f"{name}/0/{original.offset()}".encode()
            }
        run_to_end(tmp_path, options=CORRECTED)
        assert sizes(milvus, name) == {
            "docs:1#0": (1, 1),
            "docs:2#0": (2, 2),
            "docs:4#0": (5, 1),
            "docs:5#0": (8, 2),
        }
        assert collection(milvus, name)["docs:2#0"][1] == "doc 2\na text of row 2"

        settled = {"0/1": "replayed", "0/2": "overtaken", "0/3": "overtaken", "0/5": "overtaken"}
        assert listed(tmp_path) == {**settled, "0/8": "replayed"}
        again = letters(tmp_path, "replay").stdout
        assert f"✓ {name}/0/1 docs replayed already" in again
        assert f"✓ {name}/0/2 docs overtaken already" in again
        # The second replay sent nothing: the next record follows the two copies.
        produce(broker.bootstrap_servers, name, [good(1, 9)])
        assert consume(broker.bootstrap_servers, name, 13)[12].value() == good(1, 9)[2]

    def test_a_deleted_row_does_not_come_back(
        self, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        name = tmp_path.name
        broker.create_topic(name, 1)
        docs_contract(tmp_path, broker, milvus, tiny_model, **NO_ENCODING)
        for records in ([good(1, 1), bad(2, 2)], deleted(2, 3)):
            produce(broker.bootstrap_servers, name, records)
            run_to_end(tmp_path)
        docs_contract(tmp_path, broker, milvus, tiny_model, **DECIMAL)
        # `--force` does not send a letter that is known to be superseded.
        assert replayed(tmp_path, "--force") == {"0/1": "overtaken"}
        produce(broker.bootstrap_servers, name, [good(1, 4)])
        # No copy was sent.
        assert consume(broker.bootstrap_servers, name, 5)[4].value() == good(1, 4)[2]
        run_to_end(tmp_path, options=CORRECTED)
        assert sizes(milvus, name) == {"docs:1#0": (4, 1)}

    def test_keys_that_could_not_be_read(
        self, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        """A delete and its tombstone are two dead letters then, and neither supersedes the other."""
        name = tmp_path.name
        broker.create_topic(name, 1)
        docs_contract(tmp_path, broker, milvus, tiny_model, table={"key": ["id", "part"]})
        fits = (0, key(id=3, part=0), envelope("c", 1, doc(3)))
        produce(broker.bootstrap_servers, name, [fits, good(1, 2), good(2, 3), *deleted(2, 4)])
        run_to_end(tmp_path)
        assert listed(tmp_path) == dict.fromkeys(["0/1", "0/2", "0/3", "0/4"], "open")
        docs_contract(tmp_path, broker, milvus, tiny_model)
        assert replayed(tmp_path) == {
            "0/1": "replayed",
            "0/2": "overtaken",
            "0/3": "replayed",
            "0/4": "overtaken",
        }
        run_to_end(tmp_path, options=CORRECTED)
        assert sizes(milvus, name) == {"docs:1#0": (2, 1), "docs:3,0#0": (1, 1)}


class TestWhatIsListed:
    def test_a_letter_that_was_sent_twice_is_listed_once(
        self, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        name = tmp_path.name
        broker.create_topic(name, 1)
        docs_contract(tmp_path, broker, milvus, tiny_model)
        produce(broker.bootstrap_servers, name, [good(1, 1), bad(2, 2), (0, key(id=3), b"{")])
        run_to_end(tmp_path)
        dead = consume(broker.bootstrap_servers, f"{name}.dead", 2)
        send_again(broker, f"{name}.dead", *dead)
        assert listed(tmp_path) == {"0/1": "open", "0/2": "open"}
        assert listed(tmp_path, "--stage", "decode") == {"0/2": "open"}
        assert listed(tmp_path, "--table", "docs", "--stage", "render") == {"0/1": "open"}
        shown = letters(tmp_path, "list").stdout
        assert shown.splitlines()[0].split() == [
            "position",
            "table",
            "stage",
            "cause",
            "hint",
            "when",
            "status",
        ]
        for part in (f"{name}/0/1", "render", "column 'size'", "it is no JSON", "open"):
            assert part in shown
        assert "text" not in shown
        letters(tmp_path, "replay", "--position", f"{name}/0/1", "--force")
        assert listed(tmp_path) == {"0/1": "replayed", "0/2": "open"}

    def test_nothing(self, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path) -> None:
        name = tmp_path.name
        broker.create_topic(name, 1)
        docs_contract(tmp_path, broker, milvus, tiny_model)
        told(
            letters(tmp_path, "list", code=1),
            f"dead-letter topic {name}.dead: not at {broker.bootstrap_servers}",
            "`rowvec run` creates it",
        )
        broker.create_topic(f"{name}.dead", 2)
        assert letters(tmp_path, "list").stdout == "There are no dead letters.\n"
        assert letters(tmp_path, "replay").stdout == "There are no dead letters.\n"
        for arguments, parts in (
            (("--table", "nope"), ("table 'nope': is not in the contract", "it has docs")),
            (("--position", "x"), ("position 'x': is not topic/partition/offset",)),
            (("--position", "x/0/1"), ("position x/0/1: there is no dead letter of it",)),
        ):
            told(letters(tmp_path, "replay", *arguments, code=1), *parts)

    def test_a_broker_that_is_down(self, broker: Broker, tiny_model: Path, tmp_path: Path) -> None:
        nowhere = f"127.0.0.1:{free_ports(1)[0]}"
        kafka = {"bootstrap_servers": nowhere}
        docs_contract(tmp_path, broker, "http://127.0.0.1:1", tiny_model, kafka=kafka)
        for command in ("list", "replay"):
            told(letters(tmp_path, command, code=1), f"Kafka at {nowhere}: no broker answers")


class TestWhatIsNotSent:
    def test_what_still_fails(
        self, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        name = tmp_path.name
        broker.create_topic(name, 1)
        docs_contract(tmp_path, broker, milvus, tiny_model)
        produce(broker.bootstrap_servers, name, [good(1, 1), bad(2, 2)])
        run_to_end(tmp_path)
        line = letters(tmp_path, "replay", code=1).stdout
        assert f"✗ {name}/0/1 docs bad: docs:2, column 'size'" in line
        assert listed(tmp_path) == {"0/1": "open"}
        assert replayed(tmp_path, "--force") == {"0/1": "replayed"}
        run_to_end(tmp_path)
        # The flow refuses the copy, too, which makes another dead letter.
        assert listed(tmp_path) == {"0/1": "replayed", "0/2": "open"}

    def test_what_is_gone(
        self, durable: DurableBroker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        name = tmp_path.name
        durable.create_topic(name, 1)
        docs_contract(tmp_path, durable, milvus, tiny_model)
        records = [good(1, 1), bad(2, 2), bad(3, 3), good(1, 4)]
        produce(durable.bootstrap_servers, name, records)
        run_to_end(tmp_path)
        remove_records(durable, TopicPartition(name, 0, 2))
        docs_contract(tmp_path, durable, milvus, tiny_model, **DECIMAL)
        process = letters(tmp_path, "replay", code=1)
        lines = {line.split()[1]: line for line in process.stdout.splitlines()}
        assert "gone: the original record is gone from the topic" in lines[f"{name}/0/1"]
        assert "replayed: as " in lines[f"{name}/0/2"]
        # `--force` cannot send a record that is gone.
        assert replayed(tmp_path, "--force", code=1) == {"0/1": "gone", "0/2": "replayed already"}
        run_to_end(tmp_path, options=CORRECTED)
        assert sizes(milvus, name) == {"docs:1#0": (4, 1), "docs:3#0": (3, 2)}

    def test_what_partitions_that_were_added_overtake(
        self, durable: DurableBroker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        name = tmp_path.name
        durable.create_topic(name, 1)
        docs_contract(tmp_path, durable, milvus, tiny_model)
        produce(durable.bootstrap_servers, name, [good(1, 1), bad(2, 2), bad(3, 3)])
        run_to_end(tmp_path)
        admin = AdminClient({"bootstrap.servers": durable.bootstrap_servers})
        for future in admin.create_partitions([NewPartitions(name, 2)]).values():
            future.result(10)
        elsewhere = [(1, key_, value) for _, key_, value in (good(1, 4), *deleted(2, 5))]
        produce(durable.bootstrap_servers, name, elsewhere)
        docs_contract(tmp_path, durable, milvus, tiny_model, **DECIMAL)
        assert replayed(tmp_path, "--dry-run") == {"0/1": "overtaken", "0/2": "would replay"}
        # The records removed from the other partition may have held a delete of this row.
        remove_records(durable, TopicPartition(name, 1, 3))
        process = letters(tmp_path, "replay", code=1)
        assert process.stdout.count("unproven: partition 1 of the topic has lost records") == 2
        assert listed(tmp_path) == {"0/1": "open", "0/2": "open"}

    def test_what_only_its_offset_orders(
        self, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        """A copy of a record without a position would win over every change that comes meanwhile."""
        name = tmp_path.name
        broker.create_topic(name, 1)
        docs_contract(tmp_path, broker, milvus, tiny_model, table={"key": ["id", "part"]})
        fits = (0, key(id=3, part=0), envelope("c", 1, doc(3)))
        produce(broker.bootstrap_servers, name, [fits, (0, *tombstone(1))])
        run_to_end(tmp_path)
        docs_contract(tmp_path, broker, milvus, tiny_model)
        line = letters(tmp_path, "replay", code=1).stdout
        assert f"✗ {name}/0/1 docs unproven: it has no place in the source's log" in line
        produce(broker.bootstrap_servers, name, [good(1, 2)])
        assert replayed(tmp_path) == {"0/1": "overtaken"}


def remove_records(broker: DurableBroker, before: TopicPartition) -> None:
    """Remove old records, as retention does."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    for future in admin.delete_records([before]).values():
        future.result(10)


def send_again(broker: Broker, topic: str, *messages: Any) -> None:
    """Send messages again, as after a crash between sending and committing."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for message in messages:
        producer.produce(
            topic, message.value(), message.key(), 0, headers=list(message.headers() or ())
        )
    assert producer.flush(20) == 0
