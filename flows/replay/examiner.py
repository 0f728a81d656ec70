"""Finds the original records of dead letters, and proves whether newer changes have overtaken them."""

import logging
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from flows.replay.dead_letters import Letter, private_digest
from flows.replay.overtaking import Overtaking, RowEvent, ordered
from flows.sync import rules_of
from operators.changes.events import Delete, Ignored, KafkaPosition, Tombstone, Truncate, Upsert
from operators.changes.row_key import RowKey
from operators.codec.decoder import Decoder
from operators.codec.messages import FramedDecoder
from operators.contract.sections import Contract
from operators.errors import FatalError, RecordError, RowvecError
from operators.kafka.log_reader import BEGINNING
from operators.kafka.records import KafkaRecord, first_offset, records_at, records_to_end
from operators.kafka.topics import topic_partitions
from operators.retry import RetryPolicy
from operators.telemetry import Telemetry

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Candidate:
    """A letter whose original record was found.

    Attributes:
        events: The record's events; none if it cannot be decoded.
        proofs: For each event, whether anything has overtaken it.
        unread: Why the flow cannot apply the record; None if it can.
        doubts: Reasons why it cannot be proven that nothing has overtaken it.
    """

    letter: Letter
    record: KafkaRecord
    events: list[RowEvent] = field(default_factory=list)
    proofs: list[Overtaking] = field(default_factory=list)
    unread: RowvecError | None = None
    doubts: list[str] = field(default_factory=list)

    def overtaken_by(self) -> KafkaPosition | None:
        """Position of an event that has overtaken the record, if all its events are overtaken."""
        if not self.proofs or any(proof.by is None for proof in self.proofs):
            return None
        return self.proofs[0].by

    def partly_overtaken(self) -> bool:
        """Whether the record is about two rows (a changed key), and only one of them is overtaken.

        Sending it would take that row back in time; not sending it would leave the other one old.
        """
        return self.overtaken_by() is None and any(
            proof.by is not None and isinstance(event, Upsert)
            for proof, event in zip(self.proofs, self.events, strict=True)
        )


class Examiner:
    """Examines letters under the current contract: `find` their records, then `prove` them.

    Args:
        contract: Says how records are decoded and rendered.
    """

    def __init__(self, contract: Contract) -> None:
        self._section = contract.kafka
        self._rules = rules_of(contract, _framed(contract))

    def find(self, topic: str, letters: Sequence[Letter]) -> list[Candidate]:
        """The letters of a topic whose original records are still there, each with its record."""
        partitions = self._partitions(topic)
        records = records_at(
            self._section,
            [letter.position for letter in letters if letter.position.partition in partitions],
        )
        return [
            Candidate(letter, record)
            for letter in letters
            if (record := records.get(letter.position)) is not None and _is_original(letter, record)
        ]

    def prove(self, topic: str, candidates: Sequence[Candidate]) -> None:
        """Decode the records, and read the topic for everything that may have overtaken them."""
        for candidate in candidates:
            self._read(candidate)
        self._compare(topic, [each for each in candidates if each.proofs])
        self._settle_second_halves(candidates)

    def _partitions(self, topic: str) -> list[int]:
        return [number for _, number in topic_partitions(self._section, [topic])]

    def _read(self, candidate: Candidate) -> None:
        """Decode and render a record under the current contract, as the flow will."""
        table, decoder, renderer = self._rules[candidate.record.position.topic]
        try:
            candidate.events = list(_events(decoder, candidate.record))
        except RecordError as error:
            candidate.unread = error
        try:
            for event in candidate.events:
                if isinstance(event, Upsert):
                    renderer.render(event)
        except (RecordError, FatalError) as error:
            # A FatalError here means drift that the contract forbids: the record would stop the flow.
            candidate.unread = error
        one_table = bool(table.source_tables)
        candidate.proofs = [Overtaking(each, one_table=one_table) for each in candidate.events]
        if candidate.letter.generation != table.generation:
            candidate.doubts.append(
                f"it was read in generation {candidate.letter.generation} of the source's log, and "
                f"sent again it would count as one of generation {table.generation}"
            )
        if not all(map(ordered, candidate.events)):
            candidate.doubts.append(
                "it has no place in the source's log, and sent again it would be newer than what "
                "comes in meanwhile"
            )

    def _compare(self, topic: str, candidates: Sequence[Candidate]) -> None:
        """Read the topic once, and show each candidate everything that may have overtaken it."""
        if not candidates:
            return
        rows: defaultdict[RowKey, list[Overtaking]] = defaultdict(list)
        proofs = [proof for candidate in candidates for proof in candidate.proofs]
        for candidate in candidates:
            for event, proof in zip(candidate.events, candidate.proofs, strict=True):
                if not isinstance(event, Truncate):
                    rows[event.row_key].append(proof)
        decoder = self._rules[topic].decoder
        for partition in self._partitions(topic):
            elsewhere = [each for each in candidates if each.letter.position.partition != partition]
            start = (
                BEGINNING if elsewhere else min(each.letter.position.offset for each in candidates)
            )
            first: KafkaRecord | None = None
            logger.info("Reading %s[%d] to its end", topic, partition)
            for record in records_to_end(self._section, topic, partition, start):
                first = first or record
                for event in _events_about(decoder, record, rows):
                    shown = proofs if isinstance(event, Truncate) else rows[event.row_key]
                    for proof in shown:
                        proof.see(event)
            if elsewhere and first_offset(self._section, topic, partition) > 0:
                _doubt_lost_records(elsewhere, partition, first)

    def _settle_second_halves(self, candidates: Sequence[Candidate]) -> None:
        """Count a tombstone right behind the delete of its row as overtaken: it adds nothing to it."""
        tombstones = {
            candidate.letter.position: candidate
            for candidate in candidates
            if any(isinstance(event, Tombstone) for event in candidate.events)
            and candidate.letter.position.offset > 0
        }
        before = records_at(
            self._section,
            [position._replace(offset=position.offset - 1) for position in tombstones],
        )
        for position, candidate in tombstones.items():
            record = before.get(position._replace(offset=position.offset - 1))
            if record is None:
                continue
            rows = {event.row_key for event in candidate.events if isinstance(event, Tombstone)}
            for event in _events_about(self._rules[position.topic].decoder, record, rows):
                if isinstance(event, Delete):
                    for proof in candidate.proofs:
                        proof.by = proof.by or event.position


def _framed(contract: Contract) -> FramedDecoder | None:
    """The decoder of messages that name their schema in a registry, if the contract names one."""
    section = contract.schema_registry
    if section is None:
        return None
    # Imported here: it brings an HTTP client and two formats that most contracts do not need.
    from operators.codec.registry.decoder import RegistryDecoder

    return RegistryDecoder(section, RetryPolicy(section.request_timeout_s, Telemetry()))


def _events(decoder: Decoder, record: KafkaRecord) -> Iterator[RowEvent]:
    """The events of a record; none if it is about no row.

    Raises:
        RecordError: It cannot be decoded.
    """
    for key in decoder.row_keys(record.key, record.value) or (RowKey(""),):
        event = decoder.event(key, record.value, record.position)
        if not isinstance(event, Ignored):
            yield event


def _events_about(
    decoder: Decoder, record: KafkaRecord, rows: Container[RowKey]
) -> Iterator[RowEvent]:
    """Events of a record that concern `rows`, or all rows of the table.

    A record that cannot be decoded has none: the flow has not applied it either.
    """
    try:
        keys = decoder.row_keys(record.key, record.value)
    except RecordError:
        return
    wanted = [key for key in keys if key in rows]
    if not keys and decoder.truncates(record.value):
        wanted = [RowKey("")]
    for key in wanted:
        try:
            event = decoder.event(key, record.value, record.position)
        except RecordError:
            continue
        if not isinstance(event, Ignored):
            yield event


def _doubt_lost_records(
    candidates: Iterable[Candidate], partition: int, first: KafkaRecord | None
) -> None:
    """Add a doubt to candidates whose row may have had a later change that this partition has lost.

    Kafka removes records from the front, so all lost ones are older than the first one left. A row can
    be in a second partition only if partitions were added, which Kafka does not record.
    """
    for candidate in candidates:
        mine = candidate.record.timestamp_ms
        left = None if first is None else first.timestamp_ms
        if mine is None or left is None or left > mine:
            candidate.doubts.append(
                f"partition {partition} of the topic has lost records that may be newer"
            )


def _is_original(letter: Letter, record: KafkaRecord) -> bool:
    """Whether the record at a letter's position is the one that the letter is about.

    If the topic was created again, another record has this offset.
    """
    if letter.value_digest is not None and letter.value_digest != private_digest(record.value):
        return False
    return letter.key_digest is None or letter.key_digest == private_digest(_shown_key(record.key))


def _shown_key(key: bytes | None) -> bytes | None:
    return None if key is None else key.decode("utf-8", "replace").encode()
