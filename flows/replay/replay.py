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

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from flows.replay.dead_letters import Letter, path_of
from flows.replay.examiner import Candidate, Examiner
from operators.changes.events import KafkaPosition
from operators.contract.sections import Contract
from operators.kafka.dead_letters import (
    OVERTAKEN,
    REPLAY_OF,
    REPLAYED,
    Outgoing,
    Resender,
    letter_key,
)
from operators.kafka.records import KafkaRecord

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
        self._topics = {table.topic for table in contract.tables}
        self._examiner = Examiner(contract)
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
            if topic not in self._topics:
                for letter in those:
                    yield Outcome(letter, "bad", f"topic {topic} is not in the contract")
                continue
            yield from self._topic(topic, those)

    def _topic(self, topic: str, letters: Sequence[Letter]) -> Iterator[Outcome]:
        candidates = self._examiner.find(topic, letters)
        found = {candidate.letter.position for candidate in candidates}
        for letter in letters:
            if letter.position not in found:
                yield Outcome(letter, "gone", GONE)
        self._examiner.prove(topic, candidates)
        to_send: list[Candidate] = []
        overtaken: list[tuple[Candidate, KafkaPosition]] = []
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

    def _refusal(self, candidate: Candidate) -> Outcome | None:
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
        self, overtaken: Sequence[tuple[Candidate, KafkaPosition]]
    ) -> Iterator[Outcome]:
        if overtaken and not self._dry_run:
            self._resender().send([_mark(each.letter, OVERTAKEN, by) for each, by in overtaken])
        for candidate, by in overtaken:
            yield Outcome(candidate.letter, "overtaken", f"by {path_of(by)}")

    def _send(self, candidates: Sequence[Candidate]) -> Iterator[Outcome]:
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


def _mark(letter: Letter, header: str, by: KafkaPosition) -> Outgoing:
    """The record that marks a letter as settled: behind it in its partition, with the same key."""
    value = path_of(by).encode()
    return Outgoing(*letter.at[:2], letter_key(letter.position), None, [(header, value)])


def _copy(record: KafkaRecord) -> Outgoing:
    topic, partition, _ = record.position
    origin = (REPLAY_OF, path_of(record.position).encode())
    return Outgoing(topic, partition, record.key, record.value, [*record.headers, origin])
