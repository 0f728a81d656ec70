"""Dead letters in their Kafka topic: sending them, reading them again, and what a replay sends."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import orjson
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from operators.contract import KafkaSection
from operators.errors import FatalError, RetriableError
from operators.events import DeadLetter, KafkaPosition
from operators.kafka import (
    REQUEST_TIMEOUT_S,
    client_config,
    consumer_config,
    ignore,
    topic_partitions,
)
from operators.source import BEGINNING

logger = logging.getLogger(__name__)

SILENT_S = REQUEST_TIMEOUT_S * 3
"""For how long a broker may say nothing before a reader gives up."""

NEAR = 500
"""Records that are read over on the way to a wanted one, rather than fetching anew."""

REPLAY_OF = "rowvec.replay-of"
"""Header of a record that was sent to its topic again: where the original lies."""

REPLAYED = "rowvec.replayed"
"""Header of the mark that settles a letter: its record was sent again."""

OVERTAKEN = "rowvec.overtaken"
"""Header of the mark that settles a letter: what made its record a thing of the past."""

Headers = Sequence[tuple[str, bytes | None]]


class KafkaRecord(NamedTuple):
    """A record as it lies in Kafka, with all that is needed to send it again unchanged.

    Attributes:
        timestamp_ms: None where the broker has none.
    """

    position: KafkaPosition
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


class Outgoing(NamedTuple):
    """A record to send to a certain partition."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def letter_key(position: KafkaPosition) -> bytes:
    """The key of a dead letter: the position of the record that it is about."""
    return orjson.dumps(list(position))


class DeadLetterProducer:
    """Sends dead letters to a Kafka topic and waits until they are stored.

    A letter's key is its position, so one that is sent again after a crash can be told from a second
    one. The reason is in the headers `rowvec.*`; the body is the record's value.

    Args:
        section: Where Kafka is, and the topic.
        generations: `generation` of the tables, by topic. A letter keeps it, because positions of
            two generations must never be compared: a replay refuses a letter of another one.
    """

    def __init__(self, section: KafkaSection, generations: Mapping[str, int] | None = None) -> None:
        self._topic = section.dead_letter_topic
        self._generations = generations or {}
        self._producer = Producer(_producer_config(section))

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetterSink.send`."""
        failures: list[str] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error.str())

        for letter in letters:
            logger.error(
                "Dead letter %s (%s): %s: %s. %s",
                letter.position,
                letter.stage,
                letter.subject,
                letter.cause,
                letter.hint,
            )
            try:
                self._producer.produce(
                    self._topic,
                    key=letter_key(letter.position),
                    value=letter.value,
                    headers=list(self._headers(letter).items()),
                    on_delivery=delivered,
                )
            except (KafkaException, BufferError) as error:
                failures.append(str(error))
                break
        left = self._producer.flush(REQUEST_TIMEOUT_S * 4)
        if left or failures:
            raise RetriableError(
                subject=f"dead-letter topic {self._topic}",
                cause=failures[0] if failures else f"{left} letters were not acknowledged",
                hint="create the topic and allow writing to it",
            )

    def _headers(self, letter: DeadLetter) -> dict[str, str]:
        headers = {
            "rowvec.topic": letter.position.topic,
            "rowvec.partition": str(letter.position.partition),
            "rowvec.offset": str(letter.position.offset),
            "rowvec.stage": letter.stage,
            "rowvec.subject": letter.subject,
            "rowvec.cause": letter.cause,
            "rowvec.hint": letter.hint,
            "rowvec.value": "whole" if letter.value is not None else "omitted",
            "rowvec.generation": str(self._generations.get(letter.position.topic, 0)),
        }
        if letter.row_key:
            headers["rowvec.row_key"] = letter.row_key
        if letter.key is not None:
            headers["rowvec.key"] = letter.key.decode("utf-8", "replace")
        return headers


class Resender:
    """Sends records to the partitions that they name, and waits until they are stored."""

    def __init__(self, section: KafkaSection) -> None:
        self._producer = Producer(_producer_config(section))

    def send(self, records: Sequence[Outgoing]) -> list[int]:
        """Send all records; those of one partition stay in order.

        Returns:
            The offset of each.

        Raises:
            RetriableError: Some were not stored. Others may have been.
        """
        offsets: dict[int, int] = {}
        failures: list[tuple[str, str]] = []
        for index, record in enumerate(records):

            def delivered(
                error: KafkaError | None,
                message: Message,
                index: int = index,
                topic: str = record.topic,
            ) -> None:
                offset = message.offset()
                if error is not None:
                    failures.append((topic, error.str()))
                elif offset is not None:
                    offsets[index] = offset

            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    on_delivery=delivered,
                    headers=list(record.headers),
                )
            except (KafkaException, BufferError) as error:
                failures.append((record.topic, str(error)))
                break
        left = self._producer.flush(REQUEST_TIMEOUT_S * 4)
        if failures or left or len(offsets) < len(records):
            topic, cause = failures[0] if failures else (records[0].topic, "no answer in time")
            raise RetriableError(
                subject=f"sending to {topic}",
                cause=cause,
                hint="allow [kafka] to write to the topic, then replay again: what was sent and not "
                "marked is found to be overtaken by its own copy",
            )
        return [offsets[index] for index in range(len(records))]


def letter_records(section: KafkaSection) -> Iterator[KafkaRecord]:
    """Everything in the dead-letter topic, partition by partition.

    Raises:
        FatalError: The topic is not there, or cannot be read.
    """
    topic = section.dead_letter_topic
    try:
        partitions = topic_partitions(section, [topic])
    except FatalError as error:
        if error.subject != f"Kafka topic {topic}":
            raise
        raise FatalError(
            subject=f"dead-letter topic {topic}",
            cause=error.cause,
            hint="`rowvec run` creates it; or correct [kafka] dead_letter_topic",
        ) from None
    for _, partition in partitions:
        yield from records_to_end(section, topic, partition, BEGINNING)


def records_to_end(
    section: KafkaSection, topic: str, partition: int, offset: int
) -> Iterator[KafkaRecord]:
    """The records of a partition from an offset to its end, as it is when the reader gets there.

    The end is what the client tells when it has fetched everything: not every broker answers a
    question for the end offset right.

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
                # Ask for one alone, so as not to wait for a whole batch at the end.
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
        at: KafkaPosition | None = None  # the last one read, from which the client goes on
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
    return None  # a broker that has not the offset, and does not say so


def _producer_config(section: KafkaSection) -> dict[str, Any]:
    return {
        "enable.idempotence": True,
        "linger.ms": 5,
        "delivery.timeout.ms": int(REQUEST_TIMEOUT_S * 3_000),
        **client_config(section),
        "error_cb": ignore,
    }


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
