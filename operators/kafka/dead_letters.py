"""Dead letters in their Kafka topic: sends and reads them, and sends their records again."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson
from confluent_kafka import (
    KafkaError,
    KafkaException,
    Message,
    Producer,
)

from operators.changes.events import DeadLetter, KafkaPosition
from operators.contract.sections import KafkaSection
from operators.errors import FatalError, RetriableError
from operators.kafka.config import REQUEST_TIMEOUT_S, check_clients, producer_config
from operators.kafka.log_reader import BEGINNING
from operators.kafka.records import Headers, KafkaRecord, records_to_end
from operators.kafka.topics import topic_partitions
from operators.printable import printable

logger = logging.getLogger(__name__)

REPLAY_OF = "rowvec.replay-of"
"""Header of a record that was replayed to its topic: the position of the original."""

REPLAYED = "rowvec.replayed"
"""Header of the mark that closes a letter because its record was replayed."""

OVERTAKEN = "rowvec.overtaken"
"""Header of the mark that closes a letter because something superseded its record."""


SHORTENED = "rowvec.shortened"
"""Header of a letter that was too large for its topic: what was left out or cut."""

_TOO_LARGE = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
)

_SHORT_TEXT = 200
"""Characters of a text in the headers of a letter that was shortened."""


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

    A letter's key is its position, so a letter that is sent again after a crash has the same key. The
    reason is in the headers `rowvec.*`; the body is the record's value. A letter that no broker takes
    would stop the flow at each start. So one that is too large loses its value, then its record's key,
    then the ends of its texts; the position always stays, and finds the record in its topic.

    Args:
        section: Where Kafka is, and the topic.
        generations: `generation` of the tables, by topic. A letter keeps it, because positions of
            two generations must never be compared: a replay refuses a letter of another one.
    """

    def __init__(self, section: KafkaSection, generations: Mapping[str, int] | None = None) -> None:
        self._topic = section.dead_letter_topic
        self._generations = generations or {}
        self._producer = Producer(producer_config(section))

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetterSink.send`. A letter that is too large is shortened until it is not."""
        for letter in letters:
            said = (letter.subject, letter.cause, letter.hint)
            # Not every handler of the log escapes what comes from outside.
            logger.error(
                "Dead letter %s (%s): %s: %s. %s",
                letter.position,
                letter.stage,
                *map(printable, said),  # guard: dead-letter-log
            )
        # Brokers measure a whole batch. So of letters that were refused together each may fit alone.
        for letter in self._too_large(letters):
            for shorter, cut in _shortened(letter):
                if not self._too_large([shorter], cut):
                    break
            else:
                raise FatalError(
                    subject=f"dead-letter topic {self._topic}",
                    cause=f"it takes no letter about {letter.position}, not even a shortened one",
                    hint="raise max.message.bytes of the topic to 10,000 at least",
                )

    def _too_large(self, letters: Sequence[DeadLetter], cut: str = "") -> list[DeadLetter]:
        """Send letters; returns those that the client or the broker finds too large.

        Args:
            letters: The letters.
            cut: What was left out of them; the letters say so.

        Raises:
            RetriableError: Some were not stored for another reason.
        """
        too_large: list[DeadLetter] = []
        failures: list[str] = []

        def failed(letter: DeadLetter, error: KafkaError) -> None:
            if error.code() in _TOO_LARGE:  # guard: letter-too-large
                too_large.append(letter)
            else:
                failures.append(error.str())

        for letter in letters:

            def delivered(
                error: KafkaError | None, _message: Message, letter: DeadLetter = letter
            ) -> None:
                if error is not None:
                    failed(letter, error)

            # A lone surrogate, which JSON can bring, is no UTF-8; it must not stop the letter.
            headers: list[tuple[str, str | bytes | None]] = [
                (name, text.encode("utf-8", "backslashreplace"))
                for name, text in self._headers(letter, cut).items()
            ]
            try:
                self._producer.produce(
                    self._topic,
                    key=letter_key(letter.position),
                    value=letter.value,
                    headers=headers,
                    on_delivery=delivered,
                )
            except KafkaException as error:
                failed(letter, error.args[0])
            except BufferError as error:
                failures.append(str(error))
            if failures:
                break
        left = self._producer.flush(REQUEST_TIMEOUT_S * 4)
        if left or failures:
            raise RetriableError(
                subject=f"dead-letter topic {self._topic}",
                cause=failures[0] if failures else f"{left} letters were not acknowledged",
                hint="create the topic and allow writing to it",
            )
        return too_large

    def _headers(self, letter: DeadLetter, cut: str = "") -> dict[str, str]:
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
        if cut:
            headers[SHORTENED] = cut
        if letter.row_key:
            headers["rowvec.row_key"] = letter.row_key
        if letter.key is not None:
            headers["rowvec.key"] = letter.key.decode("utf-8", "replace")
        return headers


class Resender:
    """Sends records to the partitions that they name, and waits until they are stored."""

    def __init__(self, section: KafkaSection) -> None:
        self._producer = Producer(producer_config(section))

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
        FatalError: The topic is not there, or cannot be read; or [kafka] is wrong.
    """
    check_clients(section)
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


def _shortened(letter: DeadLetter) -> Iterator[tuple[DeadLetter, str]]:
    """The letter as it is, then shorter and shorter, each with what was left out so far."""
    cut: list[str] = []
    yield letter, ""
    if letter.value is not None:
        letter = letter._replace(value=None)
        cut.append("value")
        yield letter, ", ".join(cut)
    if letter.key is not None:
        letter = letter._replace(key=None)
        cut.append("key")
        yield letter, ", ".join(cut)
    cut.append("texts")
    yield (
        letter._replace(
            subject=letter.subject[:_SHORT_TEXT],
            cause=letter.cause[:_SHORT_TEXT],
            hint=letter.hint[:_SHORT_TEXT],
            row_key=letter.row_key[:_SHORT_TEXT],
        ),
        ", ".join(cut),
    )
