"""The records of a benchmark in a real broker, which the extra `demo` installs."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition

from benchmarks.contracts import TOPIC, idle_contract
from benchmarks.envelopes import Change
from benchmarks.measuring import Rate, clocks
from flows.embedded.broker import Broker
from operators.codec.decoder import Decoder
from operators.contract.sections import Contract
from operators.kafka.config import consumer_config
from operators.kafka.reader import KafkaReader

_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Topic:
    """One partition that holds all the records."""

    contract: Contract

    def reader(self, offset: int) -> KafkaReader:
        """A reader as the flow opens it."""
        return open_reader(self.contract, 0, offset)

    def run_ceiling(self, count: int) -> Rate:
        """Records per second of consuming and parsing alone."""
        with closing(Consumer(consumer_config(self.contract.kafka))) as consumer:
            consumer.assign([TopicPartition(TOPIC, 0, OFFSET_BEGINNING)])
            loads = orjson.loads
            first = consumer.poll(10)  # Connect first: connecting is not measured.
            assert first is not None
            seen, started = 1, clocks()
            while seen < count:
                for message in consumer.consume(1_000, 1):
                    if message.error() is None:
                        loads(message.value() or b"null")
                        seen += 1
            return Rate.of(count, started, clocks())


def open_reader(contract: Contract, partition: int, offset: int) -> KafkaReader:
    """A partition of the topic as the flow reads it."""
    needles = Decoder(contract.tables[0]).header_needles
    return KafkaReader(contract.kafka, TOPIC, partition, offset, traced=False, needles=needles)


@contextmanager
def topic(directory: Path, changes: Sequence[Change]) -> Iterator[Topic]:
    """A broker with one topic of one partition that holds all records."""
    broker = Broker(directory)
    broker.start()
    try:
        broker.create_topic(TOPIC, 1)
        fill(broker.bootstrap_servers, changes)
        yield Topic(idle_contract(broker.bootstrap_servers))
    finally:
        broker.stop()


def fill(
    bootstrap_servers: str, changes: Sequence[Change], partition: int = 0, topic: str = TOPIC
) -> None:
    """Send all records to a partition of a topic, in order, and wait until they are stored."""
    failed: list[str] = []

    def on_delivery(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failed.append(error.str())

    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for key, value in changes:
        producer.produce(topic, value, key, partition=partition, on_delivery=on_delivery)
        producer.poll(0)
    left = producer.flush(_LIMIT_S)
    assert not failed, failed[0]
    assert not left, f"{left} of {len(changes)} records were not sent"
