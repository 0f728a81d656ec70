"""Which changes supersede a letter, by examples and by a property; and reading the letters' topic."""

from typing import NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.replay.dead_letters import letters_from, path_of, position_from, select
from flows.replay.overtaking import Overtaking, RowEvent, ordered
from operators.changes.events import DeadLetter, Delete, KafkaPosition, Tombstone, Truncate, Upsert
from operators.changes.row_key import RowKey
from operators.changes.version import NO_POSITION, make_version
from operators.contract.sections import KafkaSection
from operators.errors import FatalError
from operators.kafka.dead_letters import OVERTAKEN, REPLAYED, DeadLetterProducer, letter_key
from operators.kafka.records import KafkaRecord
from tests.changes import PAIRS_TOPIC, TOPIC, contract

ROW = RowKey("docs:1")


def at(offset: int, partition: int = 0) -> KafkaPosition:
    return KafkaPosition(TOPIC, partition, offset)


def upsert(lsn: int | None, offset: int, partition: int = 0) -> Upsert:
    version = make_version(0, NO_POSITION if lsn is None else f"{lsn:033x}", offset)
    return Upsert(ROW, version, at(offset, partition), 0, "u", {}, unpositioned=lsn is None)


def delete(lsn: int | None, offset: int, partition: int = 0, *, moved: bool = False) -> Delete:
    version = make_version(0, NO_POSITION if lsn is None else f"{lsn:033x}", offset)
    return Delete(ROW, version, at(offset, partition), 0, unpositioned=lsn is None, moved=moved)


def tombstone(offset: int, partition: int = 0) -> Tombstone:
    return Tombstone(ROW, at(offset, partition))


def truncate(lsn: int, offset: int, partition: int = 0) -> Truncate:
    return Truncate("docs", make_version(0, f"{lsn:033x}", offset), at(offset, partition), 0)


def shown(event: RowEvent, *others: RowEvent) -> Overtaking:
    proof = Overtaking(event)
    for other in others:
        proof.see(other)
    return proof


LETTER = upsert(10, 5)


class TestOvertaking:
    @pytest.mark.parametrize(
        "others",
        [
            [upsert(11, 6)],
            [delete(11, 6), tombstone(7)],
            [tombstone(6)],
            [delete(11, 6, moved=True)],
            [truncate(11, 6)],
            [upsert(11, 2, partition=1)],
            [delete(11, 2, partition=1)],
            [truncate(11, 2, partition=1)],
            [upsert(10, 6)],
            [upsert(11, 4)],
            [upsert(None, 6)],
            [delete(None, 6)],
            [upsert(9, 6), upsert(11, 7)],
            [delete(9, 6), tombstone(7), tombstone(8)],
            [delete(9, 6), upsert(9, 7), tombstone(8)],
        ],
        ids=[
            "upsert",
            "delete",
            "tombstone",
            "key change",
            "truncate",
            "upsert on another partition",
            "delete on another partition",
            "truncate on another partition",
            "its own copy",
            "newer one before it, which the connector sent again",
            "upsert without a position",
            "delete without a position",
            "older, then newer",
            "a second tombstone",
            "a tombstone that is not the delete's",
        ],
    )
    def test_by_what_is_newer(self, others):
        proof = shown(LETTER, *others)
        assert proof.by is not None
        assert proof.by in [other.position for other in others]

    @pytest.mark.parametrize(
        "others",
        [
            [],
            [LETTER],
            [upsert(9, 6)],
            [delete(9, 6)],
            [delete(9, 6), tombstone(7)],
            [truncate(9, 6)],
            [upsert(9, 7, partition=1)],
            [delete(9, 7, partition=1), tombstone(8, partition=1)],
            [tombstone(4)],
            [delete(None, 4), tombstone(5)],
        ],
        ids=[
            "nothing",
            "itself",
            "older upsert sent again",
            "older delete sent again",
            "older delete and its tombstone sent again",
            "older truncate",
            "older upsert on another partition",
            "older delete and its tombstone on another partition",
            "tombstone before it",
            "what has no position before it",
        ],
    )
    def test_not_by_what_is_older(self, others):
        proof = shown(LETTER, *others)
        assert proof.by is None
        assert proof.doubts == []

    @pytest.mark.parametrize(
        ("event", "other"),
        [
            (LETTER, tombstone(9, partition=1)),
            (LETTER, upsert(None, 9, partition=1)),
            (LETTER, delete(None, 2, partition=1)),
            (upsert(None, 5), upsert(1, 9, partition=1)),
            (tombstone(5), upsert(1, 9, partition=1)),
        ],
    )
    def test_what_cannot_be_ordered_is_a_doubt(self, event, other):
        proof = shown(event, other)
        assert proof.by is None
        assert proof.doubts == [other.position]

    def test_a_delete_is_not_overtaken_by_its_own_tombstone(self):
        assert shown(delete(10, 5), delete(10, 5), tombstone(6)).by is None
        assert shown(delete(10, 5), upsert(9, 6), tombstone(7)).by == at(7)
        assert shown(delete(10, 5), upsert(9, 3), tombstone(6)).by is None

    def test_without_a_position_the_partition_decides(self):
        letter = upsert(None, 5)
        assert not ordered(letter)
        assert shown(letter, upsert(None, 4), upsert(99, 4), tombstone(4)).by is None
        assert shown(letter, upsert(None, 6)).by == at(6)
        assert shown(tombstone(5), upsert(1, 6)).by == at(6)

    def test_a_truncate_is_overtaken_by_a_later_one_alone(self):
        assert shown(truncate(10, 5), truncate(10, 5), truncate(9, 6)).by is None
        assert shown(truncate(10, 5), truncate(11, 2, partition=1)).by == at(2, 1)

    def test_of_two_copies_of_one_change_exactly_one_is_left(self):
        for one, other in [
            (upsert(10, 5), upsert(10, 6)),
            (upsert(10, 5), upsert(10, 3, partition=1)),
            (upsert(10, 5), upsert(10, 5, partition=1)),
        ]:
            assert (shown(one, other).by is None) != (shown(other, one).by is None)


class Change(NamedTuple):
    lsn: int
    partition: int
    deletes: bool
    refused: bool


CHANGES = st.lists(
    st.builds(Change, st.integers(1, 6), st.integers(0, 1), st.booleans(), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(CHANGES)
def test_a_replay_ends_in_what_the_log_says(changes):
    """Even if the fence has forgotten everything, so that a replayed record is always applied."""
    # A change of one position in the source's log has the same effect each time it is sent.
    kinds: dict[int, bool] = {}
    log: list[tuple[RowEvent, bool]] = []
    ends = [0, 0]
    for change in changes:
        partition = change.partition
        deletes = kinds.setdefault(change.lsn, change.deletes)
        make = delete if deletes else upsert
        log.append((make(change.lsn, ends[partition], partition), change.refused))
        ends[partition] += 1
        if deletes:
            log.append((tombstone(ends[partition], partition), False))
            ends[partition] += 1
    log.sort(key=lambda entry: entry[0].position.partition)
    changed = [(event, bad) for event, bad in log if not isinstance(event, Tombstone)]

    def newest(events):
        return max(events, key=lambda e: (e.version, e.position.partition), default=None)

    def state(event):
        return None if event is None or isinstance(event, Delete) else event.version[:-17]

    now = state(newest([event for event, bad in changed if not bad]))
    for letter, bad in changed:
        if bad:
            proof = shown(letter, *(event for event, _ in log))
            assert proof.doubts == []
            if proof.by is None:
                now = state(letter)
    assert now == state(newest([event for event, _ in changed]))


def letter(
    position: KafkaPosition, offset: int, *, stage: str = "render", value: bytes | None = b"secret"
) -> KafkaRecord:
    headers = {"stage": stage, "subject": "s", "cause": "c", "hint": "h", "generation": "3"}
    return KafkaRecord(
        KafkaPosition("dead", 0, offset),
        letter_key(position),
        value,
        [(f"rowvec.{name}", text.encode()) for name, text in headers.items()],
        1_700_000_000_000,
    )


def mark(position: KafkaPosition, offset: int, header: str) -> KafkaRecord:
    at_ = KafkaPosition("dead", 0, offset)
    return KafkaRecord(at_, letter_key(position), None, [(header, b"t/0/9")])


class TestLetters:
    def test_one_that_is_there_twice_is_listed_once(self):
        first, second = letters_from([letter(at(7), 0), letter(at(3), 1), letter(at(7), 2)])
        assert (first.position, second.position) == (at(3), at(7))
        assert second.status == "open"
        assert (second.stage, second.cause, second.hint, second.generation) == (
            "render",
            "c",
            "h",
            3,
        )

    @pytest.mark.parametrize(
        ("records", "status"),
        [
            ([letter(at(7), 0), mark(at(7), 1, REPLAYED)], "replayed"),
            ([letter(at(7), 0), mark(at(7), 1, OVERTAKEN)], "overtaken"),
            ([letter(at(7), 0), mark(at(8), 1, REPLAYED)], "open"),
            ([letter(at(7), 0), mark(at(7), 1, REPLAYED), letter(at(7), 2)], "open"),
            ([letter(at(7), 0, value=None)], "open"),
        ],
        ids=["replayed", "overtaken", "of another", "refused again", "without its value"],
    )
    def test_status(self, records, status):
        assert [each.status for each in letters_from(records)] == [status]

    def test_the_value_is_not_kept(self):
        assert "secret" not in repr(letters_from([letter(at(7), 0)]))

    @pytest.mark.parametrize("key", [None, b"", b"x", b"[]", b'["t",0]', b'["t","0",1]', b"{}"])
    def test_what_is_no_letter_is_told(self, key, caplog):
        assert letters_from([KafkaRecord(KafkaPosition("dead", 0, 0), key, b"{}")]) == []
        assert "1 records in the dead-letter topic are no dead letters" in caplog.text

    def test_select(self):
        other = KafkaPosition(PAIRS_TOPIC, 0, 1)
        both = letters_from([letter(at(7), 0), letter(other, 1, stage="decode")])

        def chosen(**by) -> list[KafkaPosition]:
            return [each.position for each in select(both, contract(), **by)]

        assert chosen() == [at(7), other]
        assert chosen(tables=["pairs"]) == [other]
        assert chosen(stages=["render"]) == [at(7)]
        assert chosen(positions=[at(7)]) == [at(7)]
        assert chosen(tables=["docs"], stages=["decode"]) == []
        with pytest.raises(
            FatalError, match=r"'nope': is not in the contract\. It has docs, pairs"
        ):
            chosen(tables=["nope"])
        with pytest.raises(FatalError, match=r"position app.public.docs/0/8: there is no dead"):
            chosen(positions=[at(7), at(8)])

    def test_a_position_as_text(self):
        assert position_from(path_of(at(7, 3))) == at(7, 3)
        for path in ("", "t", "t/0", "t/0/x", "t/-1/2", "/0/1", "t/0/1/2"):
            with pytest.raises(FatalError, match="is not topic/partition/offset"):
                position_from(path)


class TestProducer:
    def headers(self, letter: DeadLetter) -> dict[str, str]:
        producer = DeadLetterProducer(KafkaSection(bootstrap_servers="127.0.0.1:1"), {TOPIC: 2})
        return producer._headers(letter)

    def test_a_letter_says_what_a_replay_needs(self):
        said = self.headers(
            DeadLetter(at(7, 1), "render", "s", "c", "h", b'{"id":1}', b"{}", row_key=ROW)
        )
        assert said["rowvec.row_key"] == "docs:1"
        assert said["rowvec.generation"] == "2"
        assert said["rowvec.key"] == '{"id":1}'
        assert said["rowvec.value"] == "whole"
        assert orjson.loads(letter_key(at(7, 1))) == [TOPIC, 1, 7]

    def test_what_a_letter_has_not_is_not_said(self):
        said = self.headers(DeadLetter(at(7), "render", "s", "c", "h"))
        assert said.keys().isdisjoint({"rowvec.row_key", "rowvec.key"})
        assert said["rowvec.value"] == "omitted"
