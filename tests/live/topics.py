"""Reads Kafka topics: to the end, counting records, or waiting for a certain one."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from operators.codec.decoder import Decoder
from operators.contract.table import TableSection
from operators.errors import RecordError
from tests.live.tables import TABLES, Table, shortened


def everything(servers: str, topics: Sequence[str], seconds: float = 120.0) -> Iterator[Message]:
    """Every record of the topics; topics that do not exist are skipped."""
    settings = {
        "bootstrap.servers": servers,
        "group.id": "live",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 10,
        "queued.max.messages.kbytes": 65_536,
    }
    deadline = time.monotonic() + seconds
    with closing(Consumer(settings)) as consumer:
        there = consumer.list_topics(timeout=15).topics
        open_ = {
            (topic, number)
            for topic in topics
            if topic in there
            for number in there[topic].partitions
        }
        consumer.assign([TopicPartition(*each, OFFSET_BEGINNING) for each in sorted(open_)])
        while open_:
            assert time.monotonic() < deadline, f"{len(open_)} partitions not read to their end"
            for message in consumer.consume(1_000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_.discard((message.topic(), message.partition()))
                else:
                    raise AssertionError(str(error))


def wait_for(
    servers: str,
    topic: str,
    found: Callable[[Any], bool],
    alive: Callable[[], None],
    seconds: float,
) -> None:
    """Wait until a record has come for whose value `found` returns true.

    Args:
        alive: Called while waiting; raises if a process has ended, so that waiting is useless.
    """
    deadline = time.monotonic() + seconds
    while True:
        for message in everything(servers, [topic]):
            value = message.value()
            if value is not None and found(orjson.loads(value)):
                return
        alive()
        assert time.monotonic() < deadline, f"{topic}: not within {seconds:g} s"
        time.sleep(0.2)


def counted(servers: str) -> Counter[str]:
    """How many records of each kind all tables have; those that Debezium sent again count as `again`."""
    counts: Counter[str] = Counter()
    sent: set[tuple[Any, ...]] = set()
    for message in everything(servers, [table.topic for table in TABLES]):
        counts["records"] += 1
        raw = message.value()
        if raw is None:
            counts["tombstone"] += 1
            continue
        value = orjson.loads(raw)
        source = value["source"]
        op = value["op"]
        counts["incremental" if source["snapshot"] == "incremental" else op] += 1
        if source["snapshot"] == "false":
            same = (message.topic(), message.key(), op, source["lsn"])
            counts["again"] += same in sent
            sent.add(same)
    return counts


def about(servers: str, table: Table, row_keys: AbstractSet[str]) -> Iterator[str]:
    """Every record of these rows as a line of text, in the order of the partition."""
    decoder = Decoder(TableSection.model_validate(table.section()))
    for message in everything(servers, [table.topic]):
        raw = message.value()
        try:
            keys = decoder.row_keys(message.key(), raw)
        except RecordError:
            keys = ()
        value = None if raw is None else orjson.loads(raw)
        truncated = value is not None and value["op"] == "t"
        if truncated or not row_keys.isdisjoint(keys):
            place = f"{message.partition()}@{message.offset()}"
            yield f"{place} {','.join(keys)} {_short(value)} {_headers(message)}"


def _short(value: Any) -> str:
    if value is None:
        return "tombstone"
    source = value["source"]
    return f"{value['op']} {source['snapshot']} {source['sequence']} {source['lsn']} {shortened(value['after'])}"


def _headers(message: Message) -> str:
    headers: Any = message.headers() or ()
    return " ".join(f"{n}={v.decode()}" for n, v in headers if n.endswith("key"))
