"""Bad configuration is refused before any message is applied, and bad records become dead letters."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.embedded.broker import Broker
from flows.embedded.process import free_ports
from tests.changes import doc, envelope, key, put
from tests.integration.running import (
    Process,
    collection,
    consume,
    docs_contract,
    position_of,
    produce,
    quiet,
    refused,
    rowvec,
    run_to_end,
    told,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def topic(broker: Broker, tmp_path: Path) -> str:
    """A topic with three rows, with the name that `docs_contract` uses."""
    broker.create_topic(tmp_path.name, 1)
    produce(broker.bootstrap_servers, tmp_path.name, rows(1, 2, 3))
    return tmp_path.name


@pytest.fixture
def nowhere() -> str:
    """An address on which nothing listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


def rows(*ids: int) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    for id_ in ids:
        yield 0, *put(id_, id_, f"text {id_}", op="c")


@pytest.fixture(scope="module")
def filled(
    broker: Broker, milvus: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A directory with a contract whose collection holds three rows."""
    directory = tmp_path_factory.mktemp("filled")
    broker.create_topic(directory.name, 1)
    produce(broker.bootstrap_servers, directory.name, rows(1, 2, 3))
    docs_contract(directory, broker, milvus, tiny_model)
    run_to_end(directory)
    return directory


def health(directory: Path, *arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """Exit code and message of a health probe."""
    with rowvec(directory, "health", *arguments, env=env) as process:
        return process.wait(), process.stderr


class TestBeforeTheFirstMessage:
    @pytest.mark.parametrize(
        ("changed", "code", "parts"),
        [
            (
                {"kafka": {"bootstrap_server": "x"}},
                2,
                ["kafka.bootstrap_server", "is no key", "did you mean `bootstrap_servers`?"],
            ),
            (
                {"table": {"text": "{name} {summary}"}},
                1,
                [
                    "column 'summary'",
                    "no such column but 'doc', 'id'",
                    "correct the table's `text`",
                ],
            ),
            (
                {"table": {"columns": {"summary": "varchar"}}},
                1,
                ["column 'summary'", "no such column but 'doc', 'id'", "`columns` in the contract"],
            ),
            (
                {"table": {"key": ["email"]}},
                1,
                ["table docs, key of ", "no column 'email' but 'id'", "make `key`"],
            ),
            (
                {"table": {"topic": "app.public.nope"}},
                1,
                ["Kafka topic app.public.nope", "which has ", "correct `topic`"],
            ),
            (
                {"kafka": {"librdkafka": {"fetch.wait.max": 10}}},
                1,
                ['"fetch.wait.max" in [kafka.librdkafka]', "no such configuration property"],
            ),
            (
                {"kafka": {"librdkafka": {"acks": 1}}},
                1,
                ['"acks" in [kafka.librdkafka]', "may not be set", "dead letter could be lost"],
            ),
            (
                {"kafka": {"security_protocol": "SSL", "ca_file": "/nowhere/ca.pem"}},
                1,
                ["ca_file in [kafka]", "'/nowhere/ca.pem' is not there", "PEM certificates"],
            ),
            (
                {"embedding": {"model": "/nowhere/model"}},
                1,
                ["embedding model '/nowhere/model'", "is not a folder", "config.json"],
            ),
            (
                {"embedding": {"model": "nobody/nothing"}},
                1,
                ["embedding model 'nobody/nothing'", "could not be fetched", "hf download"],
            ),
        ],
        ids=[
            *("key", "template", "column", "key-column", "topic"),
            *("option", "own-option", "ca-file", "model", "hub"),
        ],
    )
    def test_a_contract_that_does_not_fit(
        self,
        changed: dict[str, Any],
        code: int,
        parts: list[str],
        topic: str,
        broker: Broker,
        milvus: str,
        tiny_model: Path,
        tmp_path: Path,
    ) -> None:
        docs_contract(tmp_path, broker, milvus, tiny_model, **changed)
        refused(tmp_path, code, *parts)

    def test_no_contract(self, tmp_path: Path) -> None:
        refused(tmp_path, 2, "rowvec.toml: there is no such file", "--contract")

    def test_kafka_is_down(
        self, nowhere: str, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        kafka = {"bootstrap_servers": nowhere}
        docs_contract(tmp_path, broker, milvus, tiny_model, kafka=kafka)
        refused(
            tmp_path,
            1,
            f"Kafka at {nowhere}: no broker answers",
            "check [kafka]",
            commands=["run"],  # each waits for a broker for ten seconds
        )

    def test_milvus_is_down(
        self, nowhere: str, topic: str, broker: Broker, tiny_model: Path, tmp_path: Path
    ) -> None:
        docs_contract(tmp_path, broker, f"http://{nowhere}", tiny_model)
        refused(tmp_path, 1, f"Milvus 'http://{nowhere}'", "is up")

    def test_a_collection_of_another_dimension(
        self, topic: str, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        from pymilvus import MilvusClient

        client = MilvusClient(milvus, dedicated=True)
        client.create_collection(topic, dimension=7)
        client.close()
        docs_contract(tmp_path, broker, milvus, tiny_model)
        refused(
            tmp_path,
            1,
            f"collection '{topic}'",
            "its vectors have 7 dimensions, the model makes 32",
            "another `collection`",
        )

    @pytest.mark.parametrize("mode", [0o755, 0o777])
    def test_a_recovery_directory_that_others_can_reach(
        self, mode: int, topic: str, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        directory = tmp_path / "recovery"
        directory.mkdir()
        directory.chmod(mode)
        docs_contract(tmp_path, broker, milvus, tiny_model)
        refused(tmp_path, 1, f"recovery directory {directory}", "others have rights", "chmod 700")
        assert list(directory.iterdir()) == []

    @pytest.mark.parametrize(
        ("changed", "parts"),
        [
            (
                {"table": {"masks": {"doc": {"redact": ["(" * 2000 + ")" * 2000]}}}},
                ("masks.doc", "pattern 1", "nested too deep"),
            ),
            (
                {"schema_registry": {"url": "http://u:p/w@registry"}},
                ("schema_registry.url", "username and password"),
            ),
            (
                {"kafka": {"bootstrap_servers": "u:p/w@kafka:9092"}},
                ("kafka.bootstrap_servers", "holds credentials"),
            ),
            ({"milvus": "https://root:p/w@milvus"}, ("milvus.uri", "holds credentials")),
        ],
        ids=["pattern", "registry", "kafka", "milvus"],
    )
    def test_a_contract_that_cannot_be_right(
        self, changed: dict[str, Any], parts: tuple[str, ...], broker: Broker, tmp_path: Path
    ) -> None:
        uri = changed.get("milvus", "./milvus.db")
        sections = {name: value for name, value in changed.items() if name != "milvus"}
        docs_contract(tmp_path, broker, uri, "/nowhere/model", **sections)
        assert "p/w" not in refused(tmp_path, 2, "rowvec.toml", "1 problem", *parts)

    def test_check_tells_all_at_once(
        self, nowhere: str, broker: Broker, tiny_model: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "recovery").mkdir()
        (tmp_path / "recovery").chmod(0o777)
        docs_contract(
            tmp_path,
            broker,
            f"http://{nowhere}",
            "/nowhere/model",
            table={"topic": "app.public.nope"},
        )
        with rowvec(tmp_path, "check", env={"OTEL_METRICS_EXPORTER": "none"}) as process:
            assert process.wait() == 1
        quiet(process)
        lines = [line for line in process.stdout.splitlines() if "✗" in line]
        assert len(lines) == 4
        for subject in ("0777", "app.public.nope", nowhere, "/nowhere/model"):
            assert sum(subject in line for line in lines) == 1
        with rowvec(tmp_path, "check", "--json") as process:
            assert process.wait() == 1
        found = {entry["check"]: entry for entry in json.loads(process.stdout)}
        assert [name for name, entry in found.items() if not entry["ok"]] == [
            "recovery",
            "kafka",
            "milvus",
            "model",
        ]
        assert "nope" in found["kafka"]["message"]

    def test_check_of_what_is_right(
        self, topic: str, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        docs_contract(tmp_path, broker, milvus, tiny_model)
        with rowvec(tmp_path, "check", "--json") as process:
            assert process.wait() == 0, process.stderr
        assert all(entry["ok"] for entry in json.loads(process.stdout))
        quiet(process)


class TestWhileRunning:
    def test_bad_records_become_dead_letters_and_the_rest_goes_on(
        self, topic: str, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        docs_contract(
            tmp_path,
            broker,
            milvus,
            tiny_model,
            kafka={"librdkafka": {"fetch.wait.max.ms": 10, "message.max.bytes": 32_000_000}},
        )
        huge = envelope("u", 20, doc(2, "x" * 10_000_000))
        bad = [
            (0, key(id=1), b"{ no JSON"),
            (0, key(id=2), huge),
            (0, key(id="3"), envelope("u", 30, doc(3, size="many"))),
            (0, None, envelope("u", 31, doc(3))),
        ]
        with rowvec(tmp_path, "run", "-c", tmp_path / "rowvec.toml") as flow:
            flow.wait_until(lambda: flow.metrics()["rowvec.rows.written"] == 3)
            produce(broker.bootstrap_servers, topic, [*bad, *rows(4, 5)])
            flow.wait_until(lambda: flow.metrics()["rowvec.rows.written"] == 5)
            flow.wait_until(lambda: flow.metrics()["rowvec.dead_letters"] == 4)
            flow.send(signal.SIGTERM)
            assert flow.wait() == 0
        quiet(flow)
        letters = consume(broker.bootstrap_servers, f"{topic}.dead", 4)
        by_offset = {json.loads(letter.key())[2]: letter for letter in letters}
        assert all(json.loads(letter.key())[:2] == [topic, 0] for letter in letters)
        why = {
            offset: {name: value.decode() for name, value in letter.headers()}
            for offset, letter in by_offset.items()
        }
        assert sorted(why) == [3, 4, 5, 6]
        assert why[3]["rowvec.topic"] == topic
        assert (why[3]["rowvec.partition"], why[3]["rowvec.offset"]) == ("0", "3")
        assert why[3]["rowvec.stage"] == "decode"
        assert "it is no JSON" in why[3]["rowvec.cause"]
        assert "JsonConverter" in why[3]["rowvec.hint"]
        assert by_offset[3].value() == b"{ no JSON"
        assert why[4]["rowvec.subject"] == "docs:2"
        assert "10,000,006 bytes" in why[4]["rowvec.cause"]
        assert "65,535" in why[4]["rowvec.cause"]
        assert why[4]["rowvec.value"] == "omitted"
        assert by_offset[4].value() is None
        assert "'size'" in why[5]["rowvec.subject"]
        assert "whole number" in why[5]["rowvec.cause"]
        assert "no key" in why[6]["rowvec.cause"]
        # Rows with a bad record keep their values; rows after the bad records are applied.
        assert {id_: lsn for id_, (lsn, _, _) in collection(milvus, topic).items()} == {
            f"docs:{id_}#0": id_ for id_ in (1, 2, 3, 4, 5)
        }
        assert f"Dead letter {topic}[0]@4" in flow.stderr

        produce(broker.bootstrap_servers, topic, [(0, key(id=6), b"[]")])
        run_to_end(tmp_path)
        # A restart sends no dead letter again.
        again = consume(broker.bootstrap_servers, f"{topic}.dead", 5)
        assert [json.loads(letter.key())[2] for letter in again][-1] == 9

    def test_a_dead_letter_that_no_broker_takes_is_shortened(
        self, topic: str, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        """Otherwise the flow would end at this record, at each start."""
        docs_contract(tmp_path, broker, milvus, tiny_model)
        # No UTF-8: in a header it becomes three times as long.
        poison = b"\xff" * 256 * 1024
        value = envelope("u", 20, doc(2, "y" * 250 * 1024))
        produce(broker.bootstrap_servers, topic, [(0, poison, value), *rows(4)])
        run_to_end(tmp_path)
        (letter,) = consume(broker.bootstrap_servers, f"{topic}.dead", 1)
        why = {name: text.decode() for name, text in letter.headers()}
        assert (why["rowvec.offset"], why["rowvec.shortened"]) == ("3", "value")
        assert "docs:4#0" in collection(milvus, topic)

    def test_a_second_run_on_one_recovery_directory_is_refused(
        self, topic: str, broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
    ) -> None:
        contract = docs_contract(tmp_path, broker, milvus, tiny_model)
        beat = tmp_path / "beat"
        env = {"ROWVEC_HEARTBEAT_FILE": str(beat)}
        with rowvec(tmp_path, "run", "-c", contract, env=env) as first:
            first.wait_until(lambda: first.metrics()["rowvec.rows.written"] == 3)
            # The running process is still healthy.
            assert health(tmp_path, "ready", env=env) == (0, "")
            assert health(tmp_path, "live", "--max-age", "10", env=env) == (0, "")
            refused(
                tmp_path,
                1,
                f"recovery directory {tmp_path}",
                "on it already",
                "stop that one",
                commands=["run"],
            )
            assert first.code is None
            first.send(signal.SIGINT)
            assert first.wait() == 0
        assert len(collection(milvus, topic)) == 3


class TestOtherCommands:
    def search(self, directory: Path, *arguments: str) -> Process:
        with rowvec(directory, "search", "-c", directory / "rowvec.toml", *arguments) as process:
            process.wait()
        quiet(process)
        return process

    def test_search_finds_the_nearest_first(self, filled: Path) -> None:
        found = self.search(filled, "doc 2\ntext 2", "--json")
        assert found.code == 0, found.stderr
        hits = json.loads(found.stdout)
        assert len(hits) == 3
        assert hits[0]["id"] == "docs:2#0"
        assert hits[0]["score"] == pytest.approx(1.0, abs=1e-3)
        assert hits[0]["columns"] == {"kind": "page", "size": 1}
        assert position_of(hits[0]["version"]) == 2
        shown = self.search(filled, "doc 2\ntext 2", "--limit", "1", "--filter", "kind == 'page'")
        assert shown.code == 0
        assert "docs:2#0" in shown.stdout
        assert "docs:1#0" not in shown.stdout

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (("--filter", "kind ==="), ("filter 'kind ==='", "is refused", "The fields are id,")),
            (("--collection", "nope"), ("collection 'nope'", "not in the contract", "it has ")),
        ],
        ids=["filter", "collection"],
    )
    def test_a_search_that_cannot_be(
        self, filled: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
    ) -> None:
        process = self.search(filled, "x", *arguments)
        assert process.code == 1
        told(process, *parts)

    def test_health_without_a_checkpoint(self, tmp_path: Path) -> None:
        assert health(tmp_path, "ready", env={})[0] == 2
        beat = tmp_path / "beat"
        env = {"ROWVEC_HEARTBEAT_FILE": str(beat)}
        for which in ("ready", "live"):
            code, why = health(tmp_path, which, env=env)
            assert code == 1
            assert "no checkpoint yet" in why
        beat.touch()
        os.utime(beat, (time.time() - 500,) * 2)
        assert health(tmp_path, "ready", env=env)[0] == 0
        code, why = health(tmp_path, "live", env=env)
        assert code == 1
        # The process takes a moment to start.
        assert re.search(r"the last checkpoint was 5\d\d s ago", why)
