"""Completing left-out values: from the store, from the old key, and from the database."""

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flows.sync import rules_of
from operators.changes.events import Delete, KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.rows import Followed, Follows, Move, PartialRow, Row
from operators.changes.text_hash import text_hash
from operators.changes.version import Version, make_version, place_of_partition, tail_of
from operators.contract.table import MAX_VARCHAR_BYTES, UNAVAILABLE, TableSection
from operators.errors import FatalError, RecordError, RetriableError
from operators.retry import RetryPolicy
from operators.store.protocol import Entity, entity_id
from operators.telemetry import Telemetry
from operators.toast.completer import Completer, Database
from operators.toast.donor import Donor, donor_of_entities, donor_of_row, joined
from operators.toast.key_changes import Held, Moves, MoveStage
from tests.changes import TOPIC, contract, table

ONE, TWO, THREE = RowKey("docs:1"), RowKey("docs:2"), RowKey("docs:3")


def version(lsn: int, offset: int = 0) -> Version:
    return make_version(0, f"{lsn:016x}.{lsn:016x}", offset)


def at(offset: int = 0) -> KafkaPosition:
    return KafkaPosition(TOPIC, 0, offset)


def partial(key: RowKey = ONE, lsn: int = 5, **more: Any) -> PartialRow:
    """A row whose `doc` was left out."""
    values: dict[str, Any] = {
        "texts": {"name": "new"},
        "columns": {"kind": "page", "size": 1},
        "missing": ("doc",),
    }
    return PartialRow(key, version(lsn), at(), 0, "u", "docs", **{**values, **more})


def whole(doc: str, key: RowKey = ONE, lsn: int = 3) -> Row:
    text = f"old\n{doc}"
    spans = (("name", 0, 3), ("doc", 4, 4 + len(doc)))
    columns = {"kind": "page", "size": 0}
    return Row(key, version(lsn), at(), 0, "u", "docs", text, text_hash(text), columns, spans)


def stored(row: Row, *starts: int) -> tuple[Entity, ...]:
    """A stored row, cut at `starts` into chunks that overlap by two characters."""
    edges = [0, *starts]
    return tuple(
        Entity(
            entity_id(row.row_key, number),
            np.ones(8, np.float32),
            row.text[max(0, start - 2) : end],
            row.text_hash,
            row.columns,
            row.table,
            row.row_key,
            row.version,
            row.op,
            0,
            row.position,
            "hash@1",
            number,
            len(edges),
            max(0, start - 2),
            row.spans,
        )
        for number, (start, end) in enumerate(zip(edges, [*starts, None], strict=True))
    )


def delete(key: RowKey = ONE, lsn: int = 5, offset: int = 0) -> Delete:
    return Delete(key, version(lsn, offset), at(offset), 0, moved=True)


def completer(
    moves: Moves | None = None, database: Database | None = None, **changed: Any
) -> Completer:
    rules = rules_of(contract().model_copy(update={"tables": (table(**changed),)}))
    retry = RetryPolicy(1.0, Telemetry(), max_wait_s=0.0)
    return Completer(rules, Moves() if moves is None else moves, retry, database)


def test_the_database_answers_with_a_text_that_is_the_placeholder_itself() -> None:
    class Literal:
        def select(self, *_: Any) -> Mapping[str, Any]:
            return {"doc": UNAVAILABLE}

    row = completer(database=Literal()).complete(partial(), None)
    assert isinstance(row, Row)
    assert row.text == f"new\n{UNAVAILABLE}"


# Values from the store. `test_resolver` tests the rules for donors.


def test_only_the_version_that_the_row_follows_is_taken_from_the_store() -> None:
    row = completer().complete(partial(follows=version(3)), stored(whole("text", lsn=3)))
    assert isinstance(row, Row)
    assert (row.version, row.text) == (version(5), "new\ntext")
    with pytest.raises(RecordError, match="does not hold the version before this one"):
        completer().complete(partial(follows=version(3)), stored(whole("text", lsn=2)))


class _Answers:
    def select(self, *_: Any) -> Mapping[str, Any]:
        return {"doc": "from sql"}


ELSEWHERE = [(TOPIC, 1), ("app.public.before", 0)]


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_version_of_another_partition_or_topic_gives_nothing(place: tuple[str, int]) -> None:
    there = whole("text")
    there = there._replace(version=Version(there.version + tail_of(place_of_partition(*place))))
    for follows in (Follows.UNKNOWN, there.version):
        asks = partial(follows=follows)
        here = tail_of(place_of_partition(TOPIC, 0))
        asks = asks._replace(version=Version(asks.version + here))
        with pytest.raises(RecordError, match="another partition or topic") as caught:
            completer().complete(asks, stored(there))
        assert "dsn in [source]" in caught.value.hint
        found = completer(database=_Answers()).complete(asks, stored(there))
        assert isinstance(found, Row)
        assert found.text == "new\nfrom sql"


def test_a_row_that_an_older_release_stored_is_known_by_its_partition() -> None:
    # Its version names no place; rv_topic and rv_partition do.
    asks = partial(follows=Follows.UNKNOWN)
    elsewhere = Version(asks.version + tail_of(place_of_partition(TOPIC, 1)))
    with pytest.raises(RecordError, match="another partition or topic"):
        completer().complete(asks._replace(version=elsewhere), stored(whole("text")))


def test_what_is_nowhere_is_refused_without_a_word_of_the_data() -> None:
    with pytest.raises(RecordError, match="column 'doc'") as caught:
        completer().complete(partial(texts={"name": "private"}, follows=version(3)), None)
    assert "REPLICA IDENTITY FULL" in caught.value.hint
    assert "private" not in str(caught.value)


def test_chunks_that_overlap_are_joined() -> None:
    assert joined([(0, "abcd"), (2, "cdef"), (6, "gh")]) == "abcdefgh"
    assert joined([]) == ""
    row = whole("a text of some length")
    for starts in [(), (9,), (5, 9, 20)]:
        donor = donor_of_entities(stored(row, *starts))
        assert donor.texts == {"name": "old", "doc": "a text of some length"}
        assert replace(donor, version=row.version) == donor_of_row(row)


def test_a_value_of_null_is_given_as_such() -> None:
    row = whole("")._replace(spans=(("name", 0, 3), ("doc", -1, -1)))
    found = completer().complete(partial(), stored(row))
    assert isinstance(found, Row)
    assert found.spans == (("name", 0, 3), ("doc", -1, -1))


# Key changes.


def test_what_a_row_held_is_told_once() -> None:
    moves = Moves()
    donor = donor_of_row(whole("text"))
    assert moves.stage(ONE, version(5)) is MoveStage.UNKNOWN
    moves.announce(ONE, version(5))
    assert moves.stage(ONE, version(5)) is MoveStage.ANNOUNCED
    moves.dispatch(ONE, version(5))
    assert moves.stage(ONE, version(5)) is MoveStage.DISPATCHED
    moves.deliver(ONE, version(5), donor)
    # The new row is on another partition, so it has another offset.
    assert moves.stage(ONE, version(5, offset=77)) is MoveStage.DELIVERED
    assert moves.take(ONE, version(5, offset=77)) == donor
    assert moves.take(ONE, version(5)) is None
    assert moves.stage(ONE, version(5)) is MoveStage.UNKNOWN


def test_another_change_of_the_same_key_is_another_one() -> None:
    moves = Moves()
    moves.deliver(ONE, version(5), donor_of_row(whole("first")))
    moves.deliver(ONE, version(9), donor_of_row(whole("second")))
    second = moves.take(ONE, version(9))
    assert isinstance(second, Donor)
    assert second.texts["doc"] == "second"


def test_a_delete_that_comes_again_neither_takes_back_nor_asks_again() -> None:
    moves = Moves()
    donor = donor_of_row(whole("text"))
    moves.deliver(ONE, version(5), donor)
    moves.announce(ONE, version(5, 1))
    moves.dispatch(ONE, version(5, 1))
    assert moves.stage(ONE, version(5)) is MoveStage.DELIVERED
    moves.deliver(ONE, version(5, 1), None)
    assert moves.take(ONE, version(5)) == donor


@pytest.mark.parametrize("held", [whole("x" * 1_000), donor_of_row(whole("x" * 1_000)), partial()])
def test_what_nobody_takes_is_forgotten_in_the_end(held: Held) -> None:
    moves = Moves(characters=20_000)
    for lsn in range(1, 1_000):
        moves.dispatch(ONE, version(lsn))
        moves.deliver(ONE, version(lsn), held)
        assert moves._size <= 20_000 or len(moves._kept) == 1
    assert 5 <= len(moves._kept) <= 20
    assert moves.stage(ONE, version(999)) is MoveStage.DELIVERED
    assert moves.stage(ONE, version(1)) is MoveStage.UNKNOWN
    for lsn in range(1, 1_000):
        moves.take(ONE, version(lsn))
    assert (moves._size, len(moves._kept), len(moves._coming)) == (0, 0, 0)


def test_a_value_that_is_larger_than_all_that_is_kept_is_kept_alone() -> None:
    moves = Moves(characters=100)
    moves.deliver(ONE, version(1), whole("x" * 1_000))
    moves.deliver(TWO, version(1), whole("y" * 1_000))
    assert moves.take(ONE, version(1)) is None
    assert moves.take(TWO, version(1)) is not None


def test_a_row_goes_through_several_keys() -> None:
    moves = Moves()
    third = partial(THREE, lsn=7, old_key=TWO, follows=version(7))
    # Row 2 came from row 1, whose values are not delivered yet.
    moves.deliver(TWO, version(7), partial(TWO, lsn=6, old_key=ONE, follows=version(6)))
    assert moves.stage(TWO, version(7)) is MoveStage.UNKNOWN
    assert not completer(moves).waits(third)
    moves.dispatch(ONE, version(6))
    assert moves.stage(TWO, version(7)) is MoveStage.DISPATCHED
    assert completer(moves).waits(third)
    moves.deliver(ONE, version(6), whole("text", ONE))
    assert not completer(moves).waits(third)
    row = completer(moves).complete(third, None)
    assert isinstance(row, Row)
    assert (row.row_key, row.text) == (THREE, "new\ntext")


def test_a_row_may_change_its_key_more_often_than_python_may_recurse() -> None:
    moves = Moves()
    times = sys.getrecursionlimit() + 100
    keys = [RowKey(f"docs:{number}") for number in range(times + 2)]
    moves.deliver(keys[0], version(1), whole("text", keys[0]))
    for number in range(1, times + 1):
        row = partial(keys[number], lsn=number, old_key=keys[number - 1], follows=version(number))
        moves.deliver(keys[number], version(number + 1), row)
    last = partial(keys[times + 1], lsn=times + 1, old_key=keys[times], follows=version(times + 1))
    assert not completer(moves).waits(last)
    row = completer(moves).complete(last, None)
    assert isinstance(row, Row)
    assert row.text == "new\ntext"


def test_keys_that_are_said_to_come_from_each_other_stop_nothing() -> None:
    moves = Moves()
    moves.deliver(ONE, version(5), partial(ONE, old_key=TWO, follows=version(5)))
    moves.deliver(TWO, version(5), partial(TWO, old_key=ONE, follows=version(5)))
    row = partial(THREE, lsn=6, old_key=ONE, follows=version(5))
    assert not completer(moves).waits(row)
    with pytest.raises(RecordError, match="under its old key is not known"):
        completer(moves).complete(row, None)


def test_a_row_under_its_new_key_takes_nothing_of_another_that_had_it_before() -> None:
    row = partial(TWO, old_key=ONE, follows=version(5))
    with pytest.raises(RecordError, match="under its old key is not known"):
        completer().complete(row, stored(whole("another row's", TWO, lsn=4)))


def test_a_row_under_its_new_key_that_was_written_before_a_crash() -> None:
    row = partial(TWO, old_key=ONE, follows=version(5))
    found = completer().complete(row, stored(whole("text", TWO, lsn=5)))
    assert isinstance(found, Row)
    assert found.text == "new\ntext"


@pytest.mark.parametrize(
    ("follows", "lsn", "told"),
    [
        (Follows.UNKNOWN, 3, True),
        (version(3), 3, True),
        (version(4), 3, False),  # the one before the delete was refused
        (Follows.REFUSED, 3, False),
        (Follows.UNKNOWN, 6, False),  # the key was reused later
    ],
)
def test_only_the_version_before_the_delete_is_told(
    follows: Followed, lsn: int, told: bool
) -> None:
    moves, row = Moves(), whole("text", lsn=lsn)
    here = tail_of(place_of_partition(TOPIC, 0))
    row = row._replace(version=Version(row.version + here))
    completer(moves).hand_over(Move(delete(), None, follows), None, stored(row))
    assert moves.take(ONE, version(5)) == (donor_of_row(row) if told else None)
    # The same if the row is still in the lane's batch.
    completer(moves).hand_over(Move(delete(), None, follows), row, None)
    assert moves.take(ONE, version(5)) == (row if told else None)


def test_what_is_on_its_way_is_told_before_what_is_stored() -> None:
    moves = Moves()
    completer(moves).hand_over(Move(delete()), whole("newer"), stored(whole("older")))
    held = moves.take(ONE, version(5))
    assert isinstance(held, Row)
    assert held.text == "old\nnewer"


def test_a_partial_row_whose_key_changes_is_completed_first() -> None:
    moves = Moves()
    before = partial(lsn=4, follows=version(3))
    for move, row in ((Move(delete(), before), None), (Move(delete()), before)):
        completer(moves).hand_over(move, row, stored(whole("text")))
        held = moves.take(ONE, version(5))
        assert isinstance(held, Row)
        assert held.text == "new\ntext"
        completer(moves).hand_over(move, row, stored(whole("text", lsn=2)))
        assert moves.take(ONE, version(5)) is None


def test_what_cannot_be_stored_is_not_told() -> None:
    moves = Moves()
    long = "x" * (MAX_VARCHAR_BYTES - 10)
    before = partial(lsn=4, texts={"name": "y" * 1_000}, follows=version(3))
    completer(moves).hand_over(Move(delete(), before), None, stored(whole(long)))
    assert moves.stage(ONE, version(5)) is MoveStage.DELIVERED
    assert moves.take(ONE, version(5)) is None


def test_nobody_waits_for_a_lane_that_has_ended() -> None:
    moves = Moves()
    moves.dispatch(ONE, version(5))
    cause = FatalError(subject="milvus", cause="is gone")
    completer(moves).fail(cause)
    with pytest.raises(FatalError, match="milvus: is gone"):
        completer(moves).waits(partial(TWO, old_key=ONE, follows=version(5)))


def test_lanes_and_worker_tell_and_take_at_the_same_time() -> None:
    moves = Moves(characters=50_000)
    together = threading.Barrier(4, timeout=20)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        together.wait()
        key = RowKey(f"docs:{number}")
        try:
            for lsn in range(1, 300):
                moves.announce(key, version(lsn))
                moves.dispatch(key, version(lsn))
                moves.deliver(key, version(lsn), whole(f"{number} {lsn}", key))
                held = moves.take(key, version(lsn))
                assert isinstance(held, Row)
                assert held.text == f"old\n{number} {lsn}"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (moves._size, len(moves._kept), len(moves._coming)) == (0, 0, 0)


# The database.


class Answers:
    """A database with one row."""

    def __init__(self, values: Mapping[str, Any] | None, failures: int = 0) -> None:
        self._values = values
        self._failures = failures
        self.asked: list[tuple[RowKey, Sequence[str]]] = []

    def select(
        self, table: TableSection, origin: tuple[str, str], row_key: RowKey, columns: Sequence[str]
    ) -> Mapping[str, Any] | None:
        self.asked.append((row_key, columns))
        if self._failures:
            self._failures -= 1
            raise RetriableError(subject="database", cause="is starting")
        return self._values


@pytest.mark.parametrize("follows", [Follows.UNKNOWN, version(3), Follows.REFUSED])
def test_the_database_is_asked_for_what_is_nowhere_else(follows: Followed) -> None:
    database = Answers({"doc": "text"}, failures=2)
    row = completer(database=database).complete(partial(follows=follows), None)
    assert isinstance(row, Row)
    assert row.text == "new\ntext"
    assert database.asked == [(ONE, ("doc",))] * 3


def test_the_database_is_not_asked_for_what_is_stored() -> None:
    database = Answers({"doc": "newer than this version"})
    row = completer(database=database).complete(partial(), stored(whole("text")))
    assert isinstance(row, Row)
    assert row.text == "new\ntext"
    assert database.asked == []


def test_the_database_is_asked_under_the_new_key_whatever_the_old_one_held() -> None:
    """The old key's value may have come from SQL, where another row can own that key by now."""
    moves = Moves()
    moves.deliver(TWO, version(5), whole("of another row", TWO))
    database = Answers({"doc": "text"})
    moved = partial(old_key=TWO, follows=version(5))
    row = completer(moves, database).complete(moved, None)
    assert isinstance(row, Row)
    assert row.text == "new\ntext"
    assert database.asked == [(ONE, ("doc",))]
    assert moves.take(TWO, version(5)) is None  # the entry is removed though it was not used


def test_a_row_that_the_database_no_longer_has_is_deleted() -> None:
    row = completer(database=Answers(None)).complete(partial(), None)
    assert row == Delete(ONE, version(5), at(), 0)


def test_a_column_that_the_database_does_not_have_either() -> None:
    with pytest.raises(RecordError, match="the database does not have it either"):
        completer(database=Answers({})).complete(partial(), None)
