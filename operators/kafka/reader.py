"""A Kafka partition as a `LogReader`, by confluent-kafka."""

import errno
import logging
import os
from collections.abc import Sequence

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from operators.contract.sections import KafkaSection
from operators.errors import FatalError
from operators.kafka.config import REQUEST_TIMEOUT_S, consumer_config
from operators.kafka.log_reader import BEGINNING, Bounds, OffsetGone, Record
from operators.telemetry import TraceContext, context_from_headers

OLD_KEY_HEADER = "__debezium.oldkey"

NEW_KEY_HEADER = "__debezium.newkey"

logger = logging.getLogger(__name__)

_AUTH_ERRORS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)

_NO_MORE_FILES = os.strerror(errno.EMFILE)

_GONE_ERRORS = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)


class KafkaReader:
    """One partition from an offset on, prefetched by the client's own threads.

    Args:
        section: How to reach Kafka.
        topic: The topic.
        partition: Its partition.
        offset: The first to read, or `BEGINNING`.
        traced: Read trace contexts from the headers.
        needles: Read the other key from the headers if the value contains one of these; None: always.
            Reading the headers of a message costs as much as reading the rest of it.
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
        self._gone = False
        self._assigned = TopicPartition(  # guard: beginning
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
        for message in () if self._gone else self._consumer.consume(max_records, 0):
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._AUTO_OFFSET_RESET:  # guard: offset-gone
                    self._gone = True
                    break
                self._on_message_error(error)
                continue
            self._at_end = False
            records.append(record_of(message, self._needles))
            if self._traced:
                context = context_from_headers(message.headers() or ())
                if context is not None:
                    contexts.append(context)
        if self._failed is not None:
            raise self._failed
        if records:
            self._next = records[-1][0] + 1
        elif self._gone:  # guard: records-before-gone
            raise OffsetGone(self._first())
        return records, contexts

    def at_end(self) -> bool:
        """See `LogReader.at_end`."""
        return self._at_end

    def lag(self) -> int | None:
        """See `LogReader.lag`; it is taken from the last fetch, so it costs no request."""
        if self._at_end:
            return 0
        low, high = self._consumer.get_watermark_offsets(self._assigned, cached=True)
        return None if high < 0 else max(0, high - max(self._next, low))

    def close(self) -> None:
        """See `LogReader.close`."""
        self._consumer.close()

    def bounds(self) -> Bounds | None:
        """See `LogReader.bounds`."""
        try:
            low, high = self._consumer.get_watermark_offsets(
                self._assigned, timeout=REQUEST_TIMEOUT_S, cached=False
            )
        except KafkaException as error:
            logger.warning("%s: its bounds are not known: %s", self._subject, error.args[0].str())
            return None
        return Bounds(int(low), int(high))

    def _first(self) -> int:
        """The oldest offset that exists."""
        bounds = self.bounds()
        if bounds is None:
            raise FatalError(
                subject=self._subject,
                cause=f"offset {self._next} is not there, and Kafka does not tell which is",
                hint="look whether the broker is well, and start again",
            )
        return bounds.first

    def _on_message_error(self, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._at_end = True
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
        elif _NO_MORE_FILES in error.str():  # guard: no-more-files
            # The client would try for ever, and leave the partition unread.
            self._failed = FatalError(
                subject=self._subject,
                cause=f"this process may open no more files: {error.str()}",
                hint="start it with a higher `ulimit -n`",
            )
        else:
            logger.warning("Kafka: %s; the client tries again", error.str())


def record_of(message: Message, needles: Sequence[bytes] | None) -> Record:
    """A message as the source takes it, with the other key of a primary-key change, if it is one."""
    offset, value = message.offset(), message.value()
    assert offset is not None  # only a message that was never sent has none
    other_key = None
    if value is not None and (needles is None or any(needle in value for needle in needles)):
        headers = dict(message.headers() or ())
        found = headers.get(OLD_KEY_HEADER) or headers.get(NEW_KEY_HEADER)
        other_key = found.encode() if isinstance(found, str) else found
    return offset, message.key(), value, other_key
