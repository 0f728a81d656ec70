"""Replaying dead letters without taking a row back in time.

A letter is replayed by sending its original record to its source topic once more, unchanged. The
running flow takes it like any other: the same place in the database's log, a later Kafka offset. Its
version fence remembers what it wrote and what it deleted for an hour only, so before a record is sent
the topic itself is asked: nothing in it may be newer for the same row. What comes in between that
look and the sending is within the hour, and the fence decides.

So a record is sent only where its place in the log orders it against whatever comes in meanwhile. One
that has no such place (a tombstone, a row of a source without positions) is ordered by its offset
alone, and a new offset would make it the newest.
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
"""Records that are sent before they are marked: what a crash leaves to be found by the next replay."""

Result: TypeAlias = Literal["replayed", "would replay", "overtaken", "gone", "bad", "unproven"]

SETTLED: frozenset[Result] = frozenset({"replayed", "would replay", "overtaken"})
"""Results that leave nothing to do."""

GONE = (
    "the original record is gone from the topic (retention, compaction, or a topic made anew), so "
    "nothing proves what came after it. Change the row once more in SQL, or have Debezium read the "
    "table again by an incremental snapshot"
)


class Outcome(NamedTuple):
    """What became of one letter; `detail` is for people."""

    letter: Letter
    result: Result
    detail: str


@dataclass(slots=True)
class _Candidate:
    """A letter whose record is at hand.

    Attributes:
        proofs: One for each of `events`, which are none where the record cannot be decoded.
        unread: Why the flow cannot apply the record.
        doubts: Why it cannot be proven that nothing has overtaken it.
    """

    letter: Letter
    record: KafkaRecord
    events: list[RowEvent] = field(default_factory=list)
    proofs: list[Overtaking] = field(default_factory=list)
    unread: RowvecError | None = None
    doubts: list[str] = field(default_factory=list)

    def overtaken_by(self) -> KafkaPosition | None:
        """What has overtaken all that the record says."""
        if not self.proofs or any(proof.by is None for proof in self.proofs):
            return None
        return self.proofs[0].by

    def partly_overtaken(self) -> bool:
        """Sending it would bring one of its rows back, not sending it leaves another as it was."""
        return self.overtaken_by() is None and any(
            proof.by is not None and isinstance(event, Upsert)
            for proof, event in zip(self.proofs, self.events, strict=True)
        )


class Replay:
    """Replays letters under the contract as it is now.

    Args:
        contract: Corrected, if it was what was wrong; the running flow must have the same.
        force: Send also what still fails, and what nothing proves to be the newest. Never what was
            overtaken.
        dry_run: Find out everything, and send nothing.
    """

    def __init__(self, contract: Contract, *, force: bool = False, dry_run: bool = False) -> None:
        self._section = contract.kafka
        self._rules = rules_of(contract, _framed(contract))
        self._force = force
        self._dry_run = dry_run
        self._sending: Resender | None = None

    def run(self, letters: Sequence[Letter]) -> Iterator[Outcome]:
        """Replay letters; yields what became of each.

        Raises:
            RowvecError: Kafka cannot be read or written. What was sent by then and not marked, the
                next replay finds to be overtaken by its own copy.
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
        """Decode and render a record under the present contract, as the flow will."""
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
            # A fatal one is the contract's word on drift: sent again, the record would halt the flow.
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
        """Show each candidate everything in the topic that may have overtaken it; reads it once."""
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
        """A tombstone right behind the delete of its row says nothing that the delete does not."""
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
    """Reads messages that name their schema in a registry, where the contract names one."""
    section = contract.schema_registry
    if section is None:
        return None
    # Only now: it imports an HTTP client and two formats that most contracts do not need.
    from operators.codec.registry.decoder import RegistryDecoder

    return RegistryDecoder(section, RetryPolicy(section.request_timeout_s, Telemetry()))


def _mark(letter: Letter, header: str, by: KafkaPosition) -> Outgoing:
    """What settles a letter: behind it, in its own partition, under its key."""
    value = path_of(by).encode()
    return Outgoing(*letter.at[:2], letter_key(letter.position), None, [(header, value)])


def _copy(record: KafkaRecord) -> Outgoing:
    topic, partition, _ = record.position
    origin = (REPLAY_OF, path_of(record.position).encode())
    return Outgoing(topic, partition, record.key, record.value, [*record.headers, origin])


def _events(decoder: Decoder, record: KafkaRecord) -> Iterator[RowEvent]:
    """What a record says; nothing if it is about no row.

    Raises:
        RecordError: It cannot be read.
    """
    for key in decoder.row_keys(record.key, record.value) or (RowKey(""),):
        event = decoder.event(key, record.value, record.position)
        if not isinstance(event, Ignored):
            yield event


def _events_about(
    decoder: Decoder, record: KafkaRecord, rows: Container[RowKey]
) -> Iterator[RowEvent]:
    """What a record says of `rows`, or of all rows of its table.

    A record that cannot be read says nothing: the flow has not applied it either.
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
    """Tell those whose row may have had a later change in what a partition has lost.

    Kafka removes from the front: what is lost is older than the first record that is left. The row
    can have been in another partition only if partitions were added, but nothing in Kafka tells.
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

    In a topic that was made anew another record has its offset.
    """
    if letter.value_digest is not None and letter.value_digest != digest_of(record.value):
        return False
    return letter.key_digest is None or letter.key_digest == digest_of(_shown_key(record.key))


def _shown_key(key: bytes | None) -> bytes | None:
    return None if key is None else key.decode("utf-8", "replace").encode()
