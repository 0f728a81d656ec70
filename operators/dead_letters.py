"""Dead letters to a Kafka topic."""

import logging
from collections.abc import Sequence
from typing import Any

import orjson
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from operators.contract import KafkaSection
from operators.errors import RetriableError
from operators.events import DeadLetter
from operators.kafka import REQUEST_TIMEOUT_S, client_config, ignore

logger = logging.getLogger(__name__)


class DeadLetterProducer:
    """Sends dead letters to a Kafka topic and waits until they are stored.

    A letter's key is its position, so one that is sent again after a crash can be told from a second
    one. The reason is in the headers `rowvec.*`; the body is the record's value.
    """

    def __init__(self, section: KafkaSection) -> None:
        self._topic = section.dead_letter_topic
        config: dict[str, Any] = {
            "enable.idempotence": True,
            "linger.ms": 5,
            "delivery.timeout.ms": int(REQUEST_TIMEOUT_S * 3_000),
            **client_config(section),
            "error_cb": ignore,
        }
        self._producer = Producer(config)

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
            headers = {
                "rowvec.topic": letter.position.topic,
                "rowvec.partition": str(letter.position.partition),
                "rowvec.offset": str(letter.position.offset),
                "rowvec.stage": letter.stage,
                "rowvec.subject": letter.subject,
                "rowvec.cause": letter.cause,
                "rowvec.hint": letter.hint,
                "rowvec.value": "whole" if letter.value is not None else "omitted",
            }
            if letter.key is not None:
                headers["rowvec.key"] = letter.key.decode("utf-8", "replace")
            try:
                self._producer.produce(
                    self._topic,
                    key=orjson.dumps(
                        [letter.position.topic, letter.position.partition, letter.position.offset]
                    ),
                    value=letter.value,
                    headers=list(headers.items()),
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
