"""Kafka by confluent-kafka: options, a partition as a log reader, and topics."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from operators.contract import KafkaSection
from operators.debezium import NEW_KEY_HEADER, OLD_KEY_HEADER
from operators.errors import FatalError
from operators.source import BEGINNING, OffsetGone, Record
from operators.telemetry import TraceContext, context_from_headers

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 10.0

_AUTH_ERRORS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)
_GONE_ERRORS = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)


def client_config(section: KafkaSection) -> dict[str, Any]:
    """Options of any client, by librdkafka's names; `[kafka.librdkafka]` has the last word."""
    config: dict[str, Any] = {
        "bootstrap.servers": section.bootstrap_servers,
        "security.protocol": section.security_protocol,
        "client.id": "rowvec",
    }
    optional = {
        "sasl.mechanism": section.sasl_mechanism,
        "sasl.username": section.username,
        "sasl.password": section.password and section.password.get_secret_value(),
        "ssl.ca.location": section.ca_file and str(section.ca_file),
        "ssl.certificate.location": section.certificate_file and str(section.certificate_file),
        "ssl.key.location": section.key_file and str(section.key_file),
        "ssl.key.password": section.key_password and section.key_password.get_secret_value(),
    }
    config.update({name: value for name, value in optional.items() if value})
    config.update(section.librdkafka)
    # Rowvec reports errors itself; the client's own lines would go to stderr between its own.
    config.setdefault("log_level", 2)
    return config


def consumer_config(section: KafkaSection) -> dict[str, Any]:
    """Options of a consumer that is assigned one partition and never commits an offset."""
    return {
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": 16_384,
        "fetch.wait.max.ms": 100,
        **client_config(section),
        # Not for the contract to change: a lost offset must be told, never skipped over.
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        # Rowvec joins no consumer group; the client refuses to start without a name.
        "group.id": "rowvec",
    }


class KafkaReader:
    """One partition from an offset on, prefetched by the client's own threads.

    Args:
        section: How to reach Kafka.
        topic: The topic.
        partition: Its partition.
        offset: The first to read, or `BEGINNING`.
        traced: Look for trace contexts in the headers.
        needles: Look for another key in the headers where one of these is in the value; None: always.
            Taking the headers out of a message costs as much as the rest of it.
    """

    def __init__(
        self,
        section: KafkaSection,
        topic: str,
        partition: int,
        offset: int,
        *,
        traced: bool,
        needles: Sequence[bytes] | None,
    ) -> None:
        self._subject = f"{topic}[{partition}]"
        self._needles = needles
        self._traced = traced
        self._at_end = False
        self._assigned = TopicPartition(
            topic, partition, OFFSET_BEGINNING if offset == BEGINNING else offset
        )
        self._next = offset
        self._consumer = Consumer({**consumer_config(section), "error_cb": self._on_error})
        self._failed: FatalError | None = None
        self._consumer.assign([self._assigned])

    def read(self, max_records: int) -> tuple[Sequence[Record], Sequence[TraceContext]]:
        """See `LogReader.read`."""
        records: list[Record] = []
        contexts: list[TraceContext] = []
        for message in self._consumer.consume(max_records, 0):
            error = message.error()
            if error is not None:
                self._on_message_error(error)
                continue
            self._at_end = False
            records.append(_record(message, self._needles))
            if self._traced:
                context = context_from_headers(message.headers() or ())
                if context is not None:
                    contexts.append(context)
        if self._failed is not None:
            raise self._failed
        if records:
            self._next = records[-1][0] + 1
        return records, contexts

    def at_end(self) -> bool:
        """See `LogReader.at_end`."""
        return self._at_end

    def lag(self) -> int | None:
        """See `LogReader.lag`; by what the last fetch said, so it costs no request."""
        if self._at_end:
            return 0
        low, high = self._consumer.get_watermark_offsets(self._assigned, cached=True)
        return None if high < 0 else max(0, high - max(self._next, low))

    def close(self) -> None:
        """See `LogReader.close`."""
        self._consumer.close()

    def _first(self) -> int:
        """The oldest offset that is there."""
        try:
            low, _ = self._consumer.get_watermark_offsets(
                self._assigned, timeout=REQUEST_TIMEOUT_S, cached=False
            )
        except KafkaException as error:
            raise FatalError(
                subject=self._subject,
                cause=f"offset {self._next} is not there, and Kafka does not tell which is: "
                f"{error.args[0].str()}",
                hint="look whether the broker is well, and start again",
            ) from None
        return int(low)

    def _on_message_error(self, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._at_end = True
        elif code == KafkaError._AUTO_OFFSET_RESET:
            raise OffsetGone(self._first())
        elif code in _GONE_ERRORS:
            raise FatalError(
                subject=self._subject,
                cause="the topic or partition does not exist any more",
                hint="correct `topic` in the contract, or recreate it and start with an empty "
                "recovery directory",
            )
        elif code in _AUTH_ERRORS or error.fatal():
            raise FatalError(
                subject=self._subject,
                cause=f"Kafka refuses access: {error.str()}",
                hint="check the credentials in [kafka] and the ACLs of the topic",
            )
        else:
            logger.warning("%s: %s; the client tries again", self._subject, error.str())

    def _on_error(self, error: KafkaError) -> None:
        # Runs inside consume(), on the worker's thread; an exception here would be swallowed.
        if error.fatal() or error.code() in _AUTH_ERRORS:
            self._failed = FatalError(
                subject=self._subject,
                cause=f"Kafka refuses access: {error.str()}",
                hint="check the credentials in [kafka]",
            )
        else:
            logger.warning("Kafka: %s; the client tries again", error.str())


def topic_partitions(section: KafkaSection, topics: Iterable[str]) -> list[tuple[str, int]]:
    """All partitions of `topics`.

    Raises:
        FatalError: No broker answers, or topics are missing; all of them are named together.
    """
    admin = _admin(section)
    metadata = _list_topics(admin, section)
    missing: list[str] = []
    partitions: list[tuple[str, int]] = []
    for topic in topics:
        found = metadata.topics.get(topic)
        if found is None or found.error is not None or not found.partitions:
            missing.append(topic)
        else:
            partitions += [(topic, number) for number in sorted(found.partitions)]
    if missing:
        similar = sorted(t for t in metadata.topics if not t.startswith("_"))[:20]
        raise FatalError(
            subject=f"Kafka topic{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            cause=f"not at {section.bootstrap_servers}, which has {', '.join(similar) or 'no topics'}",
            hint="correct `topic` in the contract, or let the connector create it first: its name is "
            "<topic.prefix>.<schema>.<table>",
        )
    return partitions


def first_records(
    section: KafkaSection, partitions: Sequence[tuple[str, int]], count: int
) -> dict[str, list[Record]]:
    """Up to `count` records from the beginning of each topic's partitions, to look at; by topic."""
    records: dict[str, list[Record]] = {topic: [] for topic, _ in partitions}
    consumer = Consumer({**consumer_config(section), "error_cb": ignore})
    try:
        for topic, partition in partitions:
            if len(records[topic]) >= count:
                continue
            # Without knowing the leader, the client would look for the beginning half a second later.
            consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S)
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            message = consumer.poll(REQUEST_TIMEOUT_S)
            while message is not None and message.error() is None:
                records[topic].append(_record(message, ()))
                if len(records[topic]) >= count:
                    break
                message = consumer.poll(REQUEST_TIMEOUT_S)
            consumer.unassign()
    except KafkaException as error:
        raise _no_broker(section, error) from None
    finally:
        consumer.close()
    return records


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


def _admin(section: KafkaSection) -> AdminClient:
    config: dict[str, Any] = {**client_config(section), "error_cb": ignore}
    return AdminClient(config)


def _list_topics(admin: AdminClient, section: KafkaSection) -> Any:
    try:
        return admin.list_topics(timeout=REQUEST_TIMEOUT_S)
    except KafkaException as error:
        raise _no_broker(section, error) from None


def _no_broker(section: KafkaSection, error: KafkaException) -> FatalError:
    return FatalError(
        subject=f"Kafka at {section.bootstrap_servers}",
        cause=f"no broker answers: {error.args[0].str()}",
        hint="check [kafka] bootstrap_servers, security_protocol and that the broker is up",
    )


def _record(message: Message, needles: Sequence[bytes] | None) -> Record:
    offset, value = message.offset(), message.value()
    assert offset is not None  # only a message that was never sent has none
    other_key = None
    if value is not None and (needles is None or any(needle in value for needle in needles)):
        headers = dict(message.headers() or ())
        found = headers.get(OLD_KEY_HEADER) or headers.get(NEW_KEY_HEADER)
        other_key = found.encode() if isinstance(found, str) else found
    return offset, message.key(), value, other_key


def ignore(_error: KafkaError) -> None:
    """An `error_cb` for clients whose calls tell their errors themselves."""
