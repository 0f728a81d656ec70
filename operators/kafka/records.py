"""Reads records of a topic for commands: all up to the end, or those at given positions."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from operators.changes.events import KafkaPosition
from operators.contract.sections import KafkaSection
from operators.errors import FatalError
from operators.kafka.config import REQUEST_TIMEOUT_S, consumer_config, ignore
from operators.kafka.log_reader import BEGINNING

SILENT_S = REQUEST_TIMEOUT_S * 3
"""Seconds for which a broker may send nothing before a reader gives up."""

NEAR = 500
"""A wanted record that is at most so many offsets ahead is reached by reading on, without a seek."""

Headers = Sequence[tuple[str, bytes | None]]


class KafkaRecord(NamedTuple):
    """A record in Kafka, with everything that is needed to send it again unchanged.

    Attributes:
        timestamp_ms: None if the broker has none.
    """

    position: KafkaPosition
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


def records_to_end(
    section: KafkaSection, topic: str, partition: int, offset: int
) -> Iterator[KafkaRecord]:
    """The records of a partition from an offset to its end, as it is when the reader gets there.

    The end is where the client reports that it has fetched everything, because not every broker
    answers a request for the end offset correctly.

    Raises:
        FatalError: The offset is gone, the partition cannot be read, or the broker falls silent.
    """
    subject = f"{topic}[{partition}]"
    start = OFFSET_BEGINNING if offset == BEGINNING else offset
    with closing(Consumer({**consumer_config(section), "error_cb": ignore})) as consumer:
        consumer.assign([TopicPartition(topic, partition, start)])
        while True:
            messages = consumer.consume(section.source_batch_size, 0.05)
            if not messages:
                # Ask for a single one: at the end, a full batch would be waited for in vain.
                message = consumer.poll(SILENT_S)
                if message is None:
                    raise FatalError(
                        subject=subject,
                        cause=f"the broker sent nothing for {SILENT_S:.0f} s",
                        hint="check that the partition has a leader, then try again",
                    )
                messages = [message]
            for message in messages:
                error = message.error()
                if error is None:
                    yield _kafka_record(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise FatalError(
                        subject=subject,
                        cause=f"offset {offset} is no longer there",
                        hint="retention has passed it, or the topic was made anew",
                    )
                else:
                    raise _unreadable(subject, error)


def records_at(
    section: KafkaSection, positions: Iterable[KafkaPosition]
) -> dict[KafkaPosition, KafkaRecord]:
    """The records at `positions`; one that is no longer there is left out.

    Raises:
        FatalError: A topic cannot be read.
    """
    found: dict[KafkaPosition, KafkaRecord] = {}
    with closing(Consumer({**consumer_config(section), "error_cb": ignore})) as consumer:
        at: KafkaPosition | None = None  # the last one read; the client reads on from there
        for position in sorted(positions):
            if at is None or at[:2] != position[:2] or not at[2] < position[2] <= at[2] + NEAR:
                consumer.assign([TopicPartition(*position)])
            record = _read_up_to(consumer, position)
            at = None if record is None else record.position
            if record is not None and record.position == position:
                found[position] = record
    return found


def first_offset(section: KafkaSection, topic: str, partition: int) -> int:
    """Where a partition begins: more than 0 if records were removed from it.

    Raises:
        FatalError: The broker does not say.
    """
    with closing(Consumer({**consumer_config(section), "error_cb": ignore})) as consumer:
        try:
            low, _ = consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=REQUEST_TIMEOUT_S
            )
        except KafkaException as error:
            raise _unreadable(f"{topic}[{partition}]", error.args[0]) from None
    return int(low)


def _read_up_to(consumer: Consumer, position: KafkaPosition) -> KafkaRecord | None:
    """The record at a position, or the next one after it; None if there is none."""
    while (message := consumer.poll(SILENT_S)) is not None:
        error = message.error()
        if error is None:
            record = _kafka_record(message)
            if record.position.offset >= position.offset:
                return record
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError._PARTITION_EOF):
            return None
        else:
            raise _unreadable(f"{position.topic}[{position.partition}]", error)
    return None  # a broker that does not have the offset, and does not report that


def _unreadable(subject: str, error: KafkaError) -> FatalError:
    return FatalError(
        subject=subject,
        cause=f"it cannot be read: {error.str()}",
        hint="check the credentials in [kafka] and the ACLs of the topic",
    )


def _kafka_record(message: Message) -> KafkaRecord:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None  # only a message that was never sent has none of these
    assert partition is not None
    assert offset is not None
    kind, timestamp = message.timestamp()
    headers: Any = (
        message.headers() or ()
    )  # confluent-kafka types what one may send, not what comes
    return KafkaRecord(
        KafkaPosition(topic, partition, offset),
        message.key(),
        message.value(),
        tuple(headers),
        None if kind == TIMESTAMP_NOT_AVAILABLE else timestamp,
    )
