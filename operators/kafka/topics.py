"""Asks the brokers, before the first message is read, for topics, partitions and first records."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from operators.contract.sections import KafkaSection
from operators.errors import FatalError
from operators.kafka.config import REQUEST_TIMEOUT_S, client_config, consumer_config, ignore
from operators.kafka.log_reader import Bounds, Record
from operators.kafka.reader import record_of

logger = logging.getLogger(__name__)
_TELLING = frozenset({KafkaError._SSL, KafkaError._AUTHENTICATION, KafkaError._RESOLVE})
"""Why a connection failed, as opposed to that it did."""


def topic_partitions(section: KafkaSection, topics: Iterable[str]) -> list[tuple[str, int]]:
    """All partitions of `topics`.

    Raises:
        FatalError: No broker answers, or topics are missing; all of them are named together.
    """
    metadata = _list_topics(_admin(section), section)
    missing: list[str] = []
    partitions: list[tuple[str, int]] = []
    for topic in topics:
        numbers = _numbers(metadata, topic)
        if not numbers:
            missing.append(topic)
        partitions += [(topic, number) for number in numbers]
    if missing:
        similar = sorted(t for t in metadata.topics if not t.startswith("_"))[:20]
        raise FatalError(
            subject=f"Kafka topic{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            cause=f"not at {section.bootstrap_servers}, which has {', '.join(similar) or 'no topics'}",
            hint="correct `topic` in the contract, or let the connector create it first: its name is "
            "<topic.prefix>.<schema>.<table>",
        )
    return partitions


def broker_count(section: KafkaSection) -> int:
    """How many brokers the cluster has.

    Raises:
        FatalError: No broker answers.
    """
    return len(_list_topics(_admin(section), section).brokers)


def partitions_now(section: KafkaSection, topics: Iterable[str]) -> dict[str, list[int]] | None:
    """The partitions that each topic has now, for a flow that is running; None if no broker answers.

    One request asks for all topics, whatever their number: that creates none of them, as asking for one
    by name would where the brokers create topics by themselves.
    """
    try:
        metadata = _list_topics(_admin(section), section)
    except FatalError:
        return None
    return {topic: _numbers(metadata, topic) for topic in topics}


def _numbers(metadata: Any, topic: str) -> list[int]:
    found = metadata.topics.get(topic)
    return [] if found is None or found.error is not None else sorted(found.partitions)


def first_records(
    section: KafkaSection, partitions: Sequence[tuple[str, int]], count: int
) -> dict[str, list[Record]]:
    """By topic, up to `count` records from the beginning of its partitions, for the start-up checks."""
    records: dict[str, list[Record]] = {topic: [] for topic, _ in partitions}
    consumer = Consumer({**consumer_config(section), "error_cb": ignore})
    try:
        for topic, partition in partitions:
            if len(records[topic]) >= count:
                continue
            # Without the leader's address, the client would look for the beginning 0.5 s later.
            consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S)
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            message = consumer.poll(REQUEST_TIMEOUT_S)
            while message is not None and message.error() is None:
                records[topic].append(record_of(message, ()))
                if len(records[topic]) >= count:
                    break
                message = consumer.poll(REQUEST_TIMEOUT_S)
            consumer.unassign()
    except KafkaException as error:
        raise _no_broker(section, error.args[0]) from None
    finally:
        consumer.close()
    return records


def bounds_of(
    section: KafkaSection, partitions: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], Bounds]:
    """The bounds of partitions, by two requests for all; left out are those that no broker tells."""
    if not partitions:
        return {}
    admin = _admin(section)
    asked = [TopicPartition(topic, partition) for topic, partition in partitions]
    found: list[dict[tuple[str, int], int]] = []
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):  # type: ignore[no-untyped-call]
        offsets: dict[tuple[str, int], int] = {}
        futures = admin.list_offsets(dict.fromkeys(asked, spec), request_timeout=REQUEST_TIMEOUT_S)
        for each, future in futures.items():
            try:
                offsets[each.topic, each.partition] = future.result(REQUEST_TIMEOUT_S).offset
            except (KafkaException, TimeoutError) as error:
                logger.debug(
                    "%s[%s]: its bounds are not known: %s", each.topic, each.partition, error
                )
        found.append(offsets)
    first, end = found
    return {
        part: Bounds(first[part], end[part]) for part in partitions if part in first and part in end
    }


def ensure_dead_letter_topic(section: KafkaSection) -> None:
    """Create the dead-letter topic unless it is there.

    Raises:
        FatalError: It is not there and may not be created.
    """
    admin = _admin(section)
    topic = section.dead_letter_topic
    if topic in _list_topics(admin, section).topics:
        return
    future = admin.create_topics([NewTopic(topic, 1)], request_timeout=REQUEST_TIMEOUT_S)[topic]
    try:
        future.result(REQUEST_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise FatalError(
                subject=f"dead-letter topic {topic}",
                cause=f"it is not there and cannot be created: {error.args[0].str()}",
                hint="create it, or name another in [kafka] dead_letter_topic",
            ) from None


class _Admin(AdminClient):
    """A client for requests about topics.

    Attributes:
        reasons: Why connections failed. A request that gets no answer does not say it.
    """

    def __init__(self, section: KafkaSection) -> None:
        self.reasons: list[KafkaError] = []
        config: dict[str, Any] = {**client_config(section), "error_cb": self.reasons.append}
        super().__init__(config)


def _admin(section: KafkaSection) -> _Admin:
    return _Admin(section)


def _list_topics(admin: _Admin, section: KafkaSection) -> Any:
    try:
        return admin.list_topics(timeout=REQUEST_TIMEOUT_S)
    except KafkaException as error:
        admin.poll(0)  # has the client report its reasons
        telling = [reason for reason in admin.reasons if reason.code() in _TELLING]
        raise _no_broker(section, telling[0] if telling else error.args[0]) from None


def _no_broker(section: KafkaSection, error: KafkaError) -> FatalError:
    return FatalError(
        subject=f"Kafka at {section.bootstrap_servers}",
        cause=f"no broker answers: {error.str()}",
        hint="check [kafka] bootstrap_servers, security_protocol and that the broker is up",
    )
