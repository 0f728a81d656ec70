"""Replays dead letters without taking a row back in time.

A letter is replayed by sending its original record, unchanged, to its source topic once more. The
running flow treats it like any other record: it has its old position in the database's log, and a
later Kafka offset. The flow remembers versions of rows for an hour only, so before sending, the topic
is read: it must hold nothing newer about the same row. Changes that arrive between this reading and
the sending are less than an hour old, so the flow's version check handles them.

That check needs a log position. A record without one (a tombstone, a row of a source without
positions) is ordered by its offset alone, and its new offset would make it the newest. So such a
record is not sent.
"""

import logging
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from flows.replay.letters import Letter, digest_of, path_of
from flows.replay.overtaking import Overtaking, RowEvent, ordered
from flows.sync import rules_of
from operators.changes.events import Delete, Ignored, KafkaPosition, Tombstone, Truncate, Upsert
from operators.changes.row_key import RowKey
from operators.codec.decoder import Decoder
from operators.codec.messages import FramedDecoder
from operators.contract.sections import Contract
from operators.errors import FatalError, RecordError, RowvecError
from operators.kafka.dead_letters import (
    OVERTAKEN,
    REPLAY_OF,
    REPLAYED,
    Outgoing,
    Resender,
    letter_key,
)
from operators.kafka.log import BEGINNING
from operators.kafka.records import KafkaRecord, first_offset, records_at, records_to_end
from operators.kafka.topics import topic_partitions
from operators.retry import RetryPolicy
from operators.telemetry import Telemetry

logger = logging.getLogger(__name__)

SEND_AT_ONCE = 500
"""Records that are sent before they are marked. After a crash in between, the next replay finds that
they are overtaken by their own copies."""

Result: TypeAlias = Literal["replayed", "would replay", "overtaken", "gone", "bad", "unproven"]

SETTLED: frozenset[Result] = frozenset({"replayed", "would replay", "overtaken"})
"""Results after which nothing is left to do."""

GONE = (
    "the original record is gone from the topic (retention, compaction, or a topic made anew), so "
    "nothing proves what came after it. Change the row once more in SQL, or have Debezium read the "
    "table again by an incremental snapshot"
)


class Outcome(NamedTuple):
    """The result for one letter; `detail` is for people."""

    letter: Letter
    result: Result
    detail: str


@dataclass(slots=True)
class _Candidate:
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


class Replay:
    """Replays letters under the current contract.

    Args:
        contract: The corrected contract; the running flow must have the same one.
        force: Also send records that still fail, or that cannot be proven to be the newest of their
            row; never those that are overtaken.
        dry_run: Check everything, but send nothing.
    """

    def __init__(self, contract: Contract, *, force: bool = False, dry_run: bool = False) -> None:
        self._section = contract.kafka
        self._rules = rules_of(contract, _framed(contract))
        self._force = force
        self._dry_run = dry_run
        self._sending: Resender | None = None

    def run(self, letters: Sequence[Letter]) -> Iterator[Outcome]:
        """Replay letters; yields the result of each.

        Raises:
            RowvecError: Kafka cannot be read or written. Records that were sent but not marked by then
                are found by the next replay to be overtaken by their own copies.
        """
        by_topic: defaultdict[str, list[Letter]] = defaultdict(list)
        for letter in letters:
            by_topic[letter.position.topic].append(letter)
        for topic, those in sorted(by_topic.items()):
            if topic not in self._rules:
                for letter in those:
                    yield Outcome(letter, "bad", f"topic {topic} is not in the contract")
                continue
            yield from self._topic(topic, those)

    def _topic(self, topic: str, letters: Sequence[Letter]) -> Iterator[Outcome]:
        partitions = [number for _, number in topic_partitions(self._section, [topic])]
        records = records_at(
            self._section,
            [letter.position for letter in letters if letter.position.partition in partitions],
        )
        candidates: list[_Candidate] = []
        for letter in letters:
            record = records.get(letter.position)
            if record is None or not _is_original(letter, record):
                yield Outcome(letter, "gone", GONE)
            else:
                candidates.append(_Candidate(letter, record))
        for candidate in candidates:
            self._read(candidate)
        self._prove(topic, partitions, [each for each in candidates if each.proofs])
        self._settle_second_halves(candidates)
        to_send: list[_Candidate] = []
        overtaken: list[tuple[_Candidate, KafkaPosition]] = []
        for candidate in candidates:
            by = candidate.overtaken_by()
            refusal = self._refusal(candidate)
            if by is not None:
                overtaken.append((candidate, by))
            elif refusal is not None:
                yield refusal
            else:
                to_send.append(candidate)
        yield from self._mark_overtaken(overtaken)
        for start in range(0, len(to_send), SEND_AT_ONCE):
            yield from self._send(to_send[start : start + SEND_AT_ONCE])

    def _read(self, candidate: _Candidate) -> None:
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
        candidate.proofs = [Overtaking(event) for event in candidate.events]
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

    def _prove(
        self, topic: str, partitions: Sequence[int], candidates: Sequence[_Candidate]
    ) -> None:
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
        for partition in partitions:
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

    def _settle_second_halves(self, candidates: Sequence[_Candidate]) -> None:
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

    def _refusal(self, candidate: _Candidate) -> Outcome | None:
        letter = candidate.letter
        if candidate.partly_overtaken():
            return Outcome(
                letter,
                "unproven",
                "a newer change has overtaken one of its rows, but not the other. Change the other "
                "once more in SQL",
            )
        if self._force:
            return None
        if candidate.unread is not None:
            return Outcome(letter, "bad", str(candidate.unread))
        doubts = list(candidate.doubts)
        others = [position for proof in candidate.proofs for position in proof.doubts]
        if others:
            doubts.append(
                f"{path_of(others[0])} is about the same row, and cannot be ordered against it"
            )
        if not doubts:
            return None
        return Outcome(
            letter,
            "unproven",
            f"{'; '.join(doubts)}. Change the row once more in SQL; or pause the connector, make sure "
            "that the row is as this record says, and use --force",
        )

    def _mark_overtaken(
        self, overtaken: Sequence[tuple[_Candidate, KafkaPosition]]
    ) -> Iterator[Outcome]:
        if overtaken and not self._dry_run:
            self._resender().send([_mark(each.letter, OVERTAKEN, by) for each, by in overtaken])
        for candidate, by in overtaken:
            yield Outcome(candidate.letter, "overtaken", f"by {path_of(by)}")

    def _send(self, candidates: Sequence[_Candidate]) -> Iterator[Outcome]:
        if self._dry_run:
            for candidate in candidates:
                yield Outcome(candidate.letter, "would replay", "nothing has overtaken it")
            return
        resender = self._resender()
        offsets = resender.send([_copy(candidate.record) for candidate in candidates])
        copies = [
            candidate.letter.position._replace(offset=offset)
            for candidate, offset in zip(candidates, offsets, strict=True)
        ]
        resender.send(
            [
                _mark(candidate.letter, REPLAYED, copy)
                for candidate, copy in zip(candidates, copies, strict=True)
            ]
        )
        for candidate, copy in zip(candidates, copies, strict=True):
            yield Outcome(candidate.letter, "replayed", f"as {path_of(copy)}")

    def _resender(self) -> Resender:
        self._sending = self._sending or Resender(self._section)
        return self._sending


def _framed(contract: Contract) -> FramedDecoder | None:
    """The decoder of messages that name their schema in a registry, if the contract names one."""
    section = contract.schema_registry
    if section is None:
        return None
    # Imported here: it brings an HTTP client and two formats that most contracts do not need.
    from operators.codec.registry.decoder import RegistryDecoder

    return RegistryDecoder(section, RetryPolicy(section.request_timeout_s, Telemetry()))


def _mark(letter: Letter, header: str, by: KafkaPosition) -> Outgoing:
    """The record that marks a letter as settled: behind it in its partition, with the same key."""
    value = path_of(by).encode()
    return Outgoing(*letter.at[:2], letter_key(letter.position), None, [(header, value)])


def _copy(record: KafkaRecord) -> Outgoing:
    topic, partition, _ = record.position
    origin = (REPLAY_OF, path_of(record.position).encode())
    return Outgoing(topic, partition, record.key, record.value, [*record.headers, origin])


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
    candidates: Iterable[_Candidate], partition: int, first: KafkaRecord | None
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
    if letter.value_digest is not None and letter.value_digest != digest_of(record.value):
        return False
    return letter.key_digest is None or letter.key_digest == digest_of(_shown_key(record.key))


def _shown_key(key: bytes | None) -> bytes | None:
    return None if key is None else key.decode("utf-8", "replace").encode()
