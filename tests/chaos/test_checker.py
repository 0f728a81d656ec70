"""Tests of the checker: it reports each wrong history, and nothing for the right one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from operators.changes.version import make_version
from operators.crash_points import POINTS
from tests.chaos.checker import Checker, Replayed, Sight
from tests.chaos.kills import draw_kills
from tests.chaos.notes import Notes, Resume, Write, read_notes
from tests.chaos.stream import PARTITIONS, Stream, Truth

ROW = "docs:0#0"
CAP = 500


def truth() -> Truth:
    """Row 0: insert at 1, update at 2, delete at 3, insert at 4, update at 5; row 3: insert at 6.

    All are on partition 0, at the offsets 0, 1, 2 and 3 (the delete's tombstone), 4, 5 and 6.
    """
    known = Truth()
    for row, text in ((0, 1), (0, 1), (0, 0), (0, 4), (0, 4), (3, 6)):
        lsn = known.changed(row, text)
        known.logged(lsn, delete=not text)
        if not text:
            known.logged(lsn)
    return known


def version(lsn: int, offset: int | None = None) -> str:
    if offset is None:
        offset = lsn - 1 if lsn <= 3 else lsn
    return str(make_version(0, f"{lsn:016x}.{lsn:016x}", offset))


def sight(lsn: int, offset: int | None = None, entity: str = ROW) -> Sight:
    _, text, size = truth().state(lsn)
    return Sight(entity, version(lsn, offset), text, size)


def upsert(lsn: int, began: float, acked: float | None = None, entity: str = ROW) -> Write:
    return Write(False, [(entity, version(lsn))], began, acked)


def notes(
    *writes: Write, next: int = 0, cap: int = CAP, pending: dict[str, str] | None = None
) -> Notes:
    return Notes(0.1, [Resume(0, next, cap)], pending or {}, list(writes))


def look(checker: Checker, began: float, *rows: Sight) -> None:
    checker.look("reader", rows, began, began + 0.5)


def right(checker: Checker) -> None:
    look(checker, 1)
    look(checker, 2, sight(1))
    look(checker, 3, sight(2))
    look(checker, 4)
    look(checker, 5)
    look(checker, 6, sight(5))
    checker.ended("a", notes(upsert(5, 6.5, 6.6), upsert(6, 6.7, entity="docs:3#0")))
    last = (sight(5), sight(6, entity="docs:3#0"))
    checker.at_rest("b", last, 2, 7)
    checker.ended("c", notes(upsert(5, 8, 9), next=7))
    checker.final(last)
    checker.vectors({ROW: 1e-6})


def test_a_right_history_is_found_to_be_right() -> None:
    checker = Checker(truth())
    right(checker)
    assert checker.violations == []
    assert checker.total == 0
    assert (checker.versions, checker.absences, checker.seen) == (4, 1, [7, 0, 0])


def falls(checker: Checker) -> None:
    look(checker, 1, sight(2))
    look(checker, 2, sight(1))


def falls_at_one_position(checker: Checker) -> None:
    checker._truth.logged(5)  # Sent again, at offset 7.
    look(checker, 1, sight(5, 7))
    look(checker, 2, sight(5, 5))


def comes_back(checker: Checker) -> None:
    look(checker, 1, sight(2))
    look(checker, 2)
    look(checker, 3, sight(2))


def comes_back_by_a_write(checker: Checker) -> None:
    removed = Write(True, [(ROW, "")], 2, 3)
    checker.ended("a", notes(upsert(2, 0, 1), removed, upsert(2, 4, 5)))


def is_written_back(checker: Checker) -> None:
    checker.ended("a", notes(upsert(5, 1, 2)))
    checker.ended("b", notes(upsert(4, 3, 4)))


def is_sent_back(checker: Checker) -> None:
    look(checker, 1, sight(5))
    checker.ended("b", notes(upsert(4, 3)))


def acked_is_not_there(checker: Checker) -> None:
    checker.ended("a", notes(upsert(5, 1, 2)))
    checker.at_rest("b", [sight(4)], 1, 3)


def is_gone(checker: Checker) -> None:
    look(checker, 1, sight(5))
    look(checker, 2)


def committed_is_not_there(checker: Checker) -> None:
    checker.at_rest("a", [sight(4)], 1, 1)
    checker.ended("b", notes(upsert(5, 2, 3), next=6))


def committed_delete_is_there(checker: Checker) -> None:
    checker.at_rest("a", [sight(2)], 1, 1)
    checker.ended("b", notes(upsert(4, 2, 3), next=4))


def committed_is_missing(checker: Checker) -> None:
    checker.at_rest("a", [], 0, 1)
    checker.ended("b", notes(upsert(5, 2, 3), next=6))


def older_is_pending(checker: Checker) -> None:
    checker.at_rest("a", [sight(2)], 1, 1)
    checker.ended("b", notes(upsert(5, 2, 3), next=6, pending={ROW: version(4)}))


def goes_back_in_the_log(checker: Checker) -> None:
    checker.at_rest("a", [sight(5)], 1, 1)
    checker.ended("b", notes(upsert(5, 2, 3), next=6))
    checker.ended("c", notes(upsert(5, 4, 5), next=5))


def is_written_beyond_the_cap(checker: Checker) -> None:
    checker.ended("a", notes(upsert(5, 1, 2)))
    checker.ended("b", notes(next=0, cap=5))


def is_there_twice(checker: Checker) -> None:
    look(checker, 1, sight(5), sight(5))


def counts_otherwise(checker: Checker) -> None:
    checker.at_rest("a", [sight(5)], 2, 1)


def has_another_text(checker: Checker) -> None:
    look(checker, 1, sight(5)._replace(text=sight(2).text))


def has_another_column(checker: Checker) -> None:
    look(checker, 1, sight(5)._replace(size=4))


def was_never_produced(checker: Checker) -> None:
    look(checker, 1, sight(5)._replace(version=version(9)))


def has_a_version_of_another(checker: Checker) -> None:
    look(checker, 1, sight(6)._replace(entity=ROW))


def ends_older(checker: Checker) -> None:
    checker.final([sight(4), sight(6, entity="docs:3#0")])


def ends_without_a_row(checker: Checker) -> None:
    checker.final([sight(5)])


def ends_with_a_row_too_many(checker: Checker) -> None:
    checker.final([sight(5), sight(6, entity="docs:3#0"), sight(1, entity="docs:9#0")])


def has_another_vector(checker: Checker) -> None:
    checker.vectors({ROW: 0.01})


def has_no_numbers_as_vector(checker: Checker) -> None:
    checker.vectors({ROW: float("nan")})


@pytest.mark.parametrize(
    ("history", "invariant"),
    [
        (falls, "I4"),
        (falls_at_one_position, "I4"),
        (is_written_back, "I4"),
        (is_sent_back, "I4"),
        (acked_is_not_there, "I4"),
        (comes_back, "I3"),
        (comes_back_by_a_write, "I3"),
        (is_gone, "I2"),
        (committed_is_not_there, "I2"),
        (committed_delete_is_there, "I2"),
        (committed_is_missing, "I2"),
        (older_is_pending, "I2"),
        (goes_back_in_the_log, "I2"),
        (is_written_beyond_the_cap, "I7"),
        (is_there_twice, "I5"),
        (counts_otherwise, "I5"),
        (has_another_text, "text"),
        (has_another_column, "text"),
        (was_never_produced, "text"),
        (has_a_version_of_another, "text"),
        (ends_older, "I1"),
        (ends_without_a_row, "I1"),
        (ends_with_a_row_too_many, "I1"),
        (has_another_vector, "I6"),
        (has_no_numbers_as_vector, "I6"),
    ],
)
def test_a_wrong_history_is_told(history: Callable[[Checker], None], invariant: str) -> None:
    checker = Checker(truth())
    history(checker)
    assert checker.counts == {invariant: 1}
    assert [violation.invariant for violation in checker.violations] == [invariant]


def test_what_was_learned_while_a_look_was_under_way_is_not_held_against_it() -> None:
    checker = Checker(truth())
    checker.look("slow", [sight(2)], 1, 2)
    checker.look("quick", [sight(5)], 3, 4)
    checker.look("slow", [sight(4)], 3.5, 5)  # Began before the quick read ended.
    assert checker.total == 0
    checker.look("slow", [sight(4)], 5, 6)
    assert checker.counts == {"I4": 1}


def test_a_look_at_some_rows_tells_nothing_of_others() -> None:
    checker = Checker(truth())
    look(checker, 1, sight(5), sight(6, entity="docs:3#0"))
    checker.look("reader", [sight(6, entity="docs:3#0")], 2, 3, asked=["docs:3#0"])
    assert checker.total == 0
    checker.look("reader", [], 4, 5, asked=["docs:3#0"])
    assert checker.counts == {"I2": 1}


def test_a_change_that_waits_in_an_open_window_is_not_lost() -> None:
    checker = Checker(truth())
    checker.at_rest("a", [sight(2)], 1, 1)
    checker.ended("b", notes(upsert(5, 2, 3), next=6, pending={ROW: version(5)}))
    assert checker.total == 0


def test_a_process_that_wrote_nothing_may_not_have_read_its_recovery_files() -> None:
    checker = Checker(truth())
    checker.at_rest("a", [sight(4)], 1, 1)
    checker.ended("b", notes(next=6))
    assert checker.total == 0
    checker.ended("c", notes(upsert(5, 2, 3), next=6))
    assert checker.counts == {"I2": 1}


def test_what_is_written_again_is_counted_by_rows() -> None:
    checker = Checker(truth())
    removed = Write(True, [(ROW, "")], 3, None)
    checker.ended("a", notes(upsert(2, 1, 2), removed))
    checker.ended("b", notes(upsert(2, 4), next=1))
    once_more = (removed._replace(began=6), removed._replace(began=7))
    other = upsert(6, 8, 9, entity="docs:3#0")
    assert checker.ended("c", notes(*once_more, upsert(4, 8, 9), other)) == Replayed(0, 2, CAP)


def test_a_delete_that_is_read_again_counts_and_one_that_was_committed_does_not() -> None:
    for start, rows in ((1, 1), (6, 0)):
        checker = Checker(truth())
        removed = Write(True, [(ROW, "")], 3, 4)
        newer = upsert(6, 5, 6, entity="docs:3#0")
        checker.ended("a", notes(upsert(2, 1, 2), removed, newer))
        again = checker.ended("b", notes(removed._replace(began=7, acked=8), next=start))
        assert again == Replayed(rows, 7 - start, CAP)


def test_a_thousand_kills_come_to_every_point_and_are_the_same_for_a_seed() -> None:
    kills = draw_kills(1_000, seed=3)
    assert len(kills) == 1_000
    for point in POINTS:
        assert sum(kill.point == point for kill in kills) >= 40
    assert sum(kill.point is None for kill in kills) >= 500
    assert kills == draw_kills(1_000, seed=3)
    assert kills != draw_kills(1_000, seed=4)


def test_a_stream_is_the_same_for_a_seed_and_its_truth_is_what_it_sends() -> None:
    one, other = Stream(100, seed=5), Stream(100, seed=5)
    sent = one.take(3_000)
    assert sent == [record for _ in range(60) for record in other.take(50)]
    assert one.resent > 0
    assert len(sent) > 3_000 + one.resent_records
    assert one.truth.records == len(sent)
    for partition in range(PARTITIONS):
        keys = [record.key for record in sent if record.partition == partition]
        logged = one.truth.of(partition, 0, len(keys))
        assert [key.decode() for key in keys] == [f'{{"id":{row}}}' for row, _ in logged]
    assert any(record.value is None for record in sent)
    assert 0 < len(one.truth.final()) < 100


def test_a_note_that_the_kill_has_cut_tells_nothing(tmp_path: Path) -> None:
    written = tmp_path / "notes.json"
    whole = b'{"upsert":[["docs:1#0","a"]],"at":1.0}\n{"acked":true,"at":2.0}\n'
    for cut in (b'{"upsert":[["docs:2#0","b', b'{"upsert":[["docs:2#0","b"]],"at":3.0}', b""):
        written.write_bytes(whole + cut)
        assert read_notes(written).writes == [Write(False, [("docs:1#0", "a")], 1.0, 2.0)]
    written.write_bytes(whole + b'{"upsert":[["docs:2#0","b"]],"at":3.0}\n{"acked":tr')
    assert read_notes(written).writes[-1].acked is None
