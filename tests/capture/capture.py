"""Runs the cases on the embedded stack and keeps every message that Debezium sends."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import confluent_kafka
import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from flows.embedded.connect import ConnectWorker, postgres_connector
from flows.embedded.stack import Stack
from tests.capture.cases import CASES, DDL, EXCLUDED, LATER, SEED, SNAPSHOT, Case
from tests.captured import Case as CapturedCase
from tests.captured import Message, Variant

PREFIX = "src"
PARTITIONS = 3

_COMMON = {
    "publication.autocreate.mode": "all_tables",
    "table.include.list": rf"public\.(?!{EXCLUDED}$).*",
    "signal.data.collection": "public.debezium_signal",
    "signal.enabled.channels": "source",
    "incremental.snapshot.chunk.size": "3",
    "decimal.handling.mode": "precise",
    # The converters' defaults, so that the corpus shows what most connectors send.
    "key.converter.replace.null.with.default": "true",
    "value.converter.replace.null.with.default": "true",
}

_FRIENDLY = {
    "decimal.handling.mode": "string",
    "time.precision.mode": "isostring",
    "binary.handling.mode": "hex",
    "interval.handling.mode": "string",
    "hstore.handling.mode": "json",
    "include.unknown.datatypes": "true",
    "provide.transaction.metadata": "true",
    "heartbeat.interval.ms": "1000",
    "publish.via.partition.root": "true",
}

_UNWRAP = {
    "transforms": "unwrap",
    "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
    "transforms.unwrap.delete.tombstone.handling.mode": "rewrite-with-tombstone",
    "transforms.unwrap.add.fields": "op,table,schema,lsn,source.sequence,source.ts_ms",
}

_WITH_SCHEMAS = {"schemas_enable": True}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "pg_connect_schemas_off": {},
    "pg_connect_schemas_on": _WITH_SCHEMAS,
    "pg_connect_unwrap": _UNWRAP,
    "pg_connect_unwrap_schemas_on": {**_UNWRAP, **_WITH_SCHEMAS},
    "pg_connect_friendly": _FRIENDLY,
    "pg_connect_friendly_schemas_on": {**_FRIENDLY, **_WITH_SCHEMAS},
}
"""Variant → the settings that differ from `flows.embedded.connect.postgres_connector`."""

_MARKER = "case"
_MESSAGES = f"{PREFIX}.message"
_HEARTBEATS = f"__debezium-heartbeat.{PREFIX}"
_UNRELATED = (_MESSAGES, f"{PREFIX}.transaction", _HEARTBEATS)

_OF_THE_MACHINE = re.compile(r"^database\.(hostname|port|user|password)$")
_START_SECONDS = 60.0
_CASE_SECONDS = 60.0
_QUIET_SECONDS = 0.4  # When nothing has come on any topic for so long, a case is complete.
_SNAPSHOT_QUIET_SECONDS = 2.0


def capture(name: str, cases: Sequence[Case] = CASES) -> Variant:
    """Run the whole history in one configuration.

    Returns:
        The variant, with each message assigned to the case that caused it.

    Raises:
        AssertionError: An expected message did not come, or one came on an unknown topic.
        FatalError: A part of the stack failed.
    """
    with Stack() as stack, closing(stack.postgres.connect()) as session:
        for statement in (*DDL, *SEED):
            _execute(session, statement)
        tables = _tables(session)
        topics = [*(_topic(table) for table in (*tables, LATER)), *_UNRELATED]
        for topic in topics:
            # Created here, because the partition count of topics that Connect creates may change.
            stack.broker.create_topic(topic, PARTITIONS)
        settings = {**_COMMON, **VARIANTS[name]}
        worker = stack.start_connect(
            [f"public.{table}" for table in tables],
            topic_prefix=PREFIX,
            partitions=PARTITIONS,
            **settings,
        )
        with closing(_Reader(stack.broker.bootstrap_servers, topics, worker)) as reader:
            reader.wait(lambda: bool(reader.messages), _START_SECONDS)
            captured = [CapturedCase(SNAPSHOT, SEED, _finish(session, reader, SNAPSHOT))]
            for case in cases:
                captured.append(_run(stack, session, reader, case))
            reader.expect_no_other_topic()
        version = session.execute("select version()").fetchone()
        assert version is not None
        about = {
            "server": str(version[0]).partition(" on ")[0],
            "debezium": _debezium(captured),
            "capture": "python -m tests.capture",
        }
    return Variant(name, about, _settings(name), DDL, tuple(captured))


def _settings(name: str) -> dict[str, str]:
    """The connector's settings for a variant, without those of this machine."""
    settings = postgres_connector(
        "host=… user=… dbname=postgres",
        topic_prefix=PREFIX,
        tables=[],
        partitions=PARTITIONS,
        **{**_COMMON, **VARIANTS[name]},
    )
    return {key: value for key, value in settings.items() if not _OF_THE_MACHINE.match(key)}


class _Reader:
    """Reads every message of some topics, from the beginning, in order of arrival."""

    def __init__(self, servers: str, topics: Sequence[str], worker: ConnectWorker) -> None:
        self.messages: list[Message] = []
        self._topics = set(topics)
        self._worker = worker
        self._last = time.monotonic()
        self._consumer = Consumer(
            {"bootstrap.servers": servers, "group.id": "capture", "fetch.wait.max.ms": 10}
        )
        self._consumer.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in topics
                for partition in range(PARTITIONS)
            ]
        )

    def close(self) -> None:
        self._consumer.close()

    def wait(self, ready: Callable[[], bool], seconds: float) -> None:
        """Read until `ready` returns true; fail if the connector fails."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            self._poll()

    def wait_quiet(self, seconds: float) -> None:
        """Read until nothing but heartbeats has come for `seconds`."""
        self._last = time.monotonic()
        self.wait(lambda: time.monotonic() - self._last > seconds, _CASE_SECONDS)

    def markers(self) -> int:
        """How many marker messages have come so far."""
        return sum(_is_marker(message) for message in self.messages)

    def take(self) -> tuple[Message, ...]:
        """The messages since the last call, without the markers."""
        taken = tuple(m for m in self.messages if not _is_marker(m))
        self.messages = []
        return tuple(sorted(taken, key=lambda m: (m.topic, m.partition, m.offset)))

    def expect_no_other_topic(self) -> None:
        others = {*self._consumer.list_topics(timeout=10).topics} - self._topics
        others = {topic for topic in others if not topic.startswith("__consumer")}
        assert not others, f"nobody reads {sorted(others)}"

    def _poll(self) -> None:
        for record in self._consumer.consume(1000, 0.05):
            message = _message(record)
            self.messages.append(message)
            if message.topic != _HEARTBEATS and not message.topic.endswith(".transaction"):
                self._last = time.monotonic()
        for connector in self._worker.status().values():
            assert not connector.failed, connector.trace


def _message(record: confluent_kafka.Message) -> Message:
    assert record.error() is None, record.error()
    topic, partition, offset = record.topic(), record.partition(), record.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers: list[tuple[str, Any]] = list(record.headers() or ())  # type: ignore[arg-type]
    return Message(
        topic,
        partition,
        offset,
        record.timestamp()[1],
        record.key(),
        record.value(),
        tuple(headers),
    )


def _run(stack: Stack, session: psycopg.Connection, reader: _Reader, case: Case) -> CapturedCase:
    sessions: dict[str, psycopg.Connection] = {}
    try:
        for statement in case.sql:
            name, text = session_of(statement)
            if name and name not in sessions:
                sessions[name] = stack.postgres.connect()
            _execute(sessions[name] if name else session, text)
    finally:
        for other in sessions.values():
            other.close()
    if case.reads:
        reader.wait(lambda: sum(map(_is_read, reader.messages)) >= case.reads, _CASE_SECONDS)
        reader.wait_quiet(_SNAPSHOT_QUIET_SECONDS)
    return CapturedCase(case.name, case.sql, _finish(session, reader, case.name))


def session_of(statement: str) -> tuple[str, str]:
    """The session that a statement runs in ("" for the main one), and the statement itself."""
    match = re.match(r"([A-Z]): (.*)", statement, re.DOTALL)
    return (match[1], match[2]) if match else ("", statement)


def _execute(session: psycopg.Connection, statement: str) -> None:
    session.execute(statement.encode())  # psycopg looks for no placeholders in bytes.


def _finish(session: psycopg.Connection, reader: _Reader, name: str) -> tuple[Message, ...]:
    """The messages up to a marker, which is written to the database's log after the case's changes.

    The marker is on a partition of its own, so messages of other partitions may still come after it.
    """
    session.execute("select pg_logical_emit_message(true, %s, %s)", (_MARKER, name))
    reader.wait(lambda: reader.markers() > 0, _CASE_SECONDS)
    reader.wait_quiet(_QUIET_SECONDS)
    return reader.take()


def _tables(session: psycopg.Connection) -> list[str]:
    rows = session.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace"
        " and relkind in ('r', 'p') order by relname"
    )
    return [name for (name,) in rows if name != EXCLUDED]


def _topic(table: str) -> str:
    return f"{PREFIX}.public.{table.replace(' ', '_')}"


def _is_marker(message: Message) -> bool:
    if message.topic != _MESSAGES or message.key is None:
        return False
    key = json.loads(message.key)
    return bool(key.get("payload", key) == {"prefix": _MARKER})


def _is_read(message: Message) -> bool:
    if message.topic != _topic("inc") or message.value is None:
        return False
    value = json.loads(message.value)
    value = value["payload"] if value.keys() == {"schema", "payload"} else value
    return bool(value.get("op", value.get("__op")) == "r")


def _debezium(cases: Sequence[CapturedCase]) -> str:
    versions: Counter[str] = Counter()
    for case in cases:
        for message in case.messages:
            if found := re.search(rb'"version":"([^"]+)","connector"', message.value or b""):
                versions[found[1].decode()] += 1
    return versions.most_common(1)[0][0] if versions else ""
