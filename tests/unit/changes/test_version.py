"""Which of two versions is older, if they come from several logs, tables, partitions and topics."""

from itertools import permutations

import pytest

from operators.changes.version import (
    NO_ORIGIN,
    NO_POSITION,
    TOOK_OVER,
    Version,
    borrowed,
    has_mark,
    is_emptied,
    is_older,
    is_same_or_older,
    make_version,
    marked,
    offset_of,
    origin_of_table,
    other_log,
    other_table,
    place_of,
    place_of_partition,
    position_key,
    renamed_log,
    same_position,
    tail_of,
    with_place,
)

HERE, THERE = place_of_partition("t", 0), place_of_partition("t", 1)
DOCS = origin_of_table(("app", "db"), ("db", "public", "docs"))
NOTES = origin_of_table(("app", "db"), ("db", "public", "notes"))
SHARD = origin_of_table(("app", "db2"), ("db2", "", "docs"))
MOVED = origin_of_table(("other", "db"), ("db", "public", "docs"))


def at(
    lsn: int | None, offset: int, place: str = HERE, origin: str = DOCS, generation: int = 0
) -> Version:
    position = NO_POSITION if lsn is None else f"{lsn:016x}.{lsn:016x}"
    return make_version(generation, position, offset, tail_of(place, origin) if place else "")


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (at(1, 9), at(2, 1)),
        (at(1, 1), at(1, 2)),
        (at(9, 1), at(1, 1, generation=1)),
        (at(1, 9, HERE), at(2, 1, THERE)),
        (at(1, 9, origin=DOCS), at(2, 1, origin=NOTES)),
        (at(9, 1, origin=DOCS), at(1, 2, origin=SHARD)),
        (at(9, 9, THERE, SHARD), at(1, 1, HERE, DOCS, generation=1)),
        (at(None, 9), at(1, 1, THERE)),
        (at(None, 1), at(None, 2)),
        (at(1, 9, ""), at(2, 1)),
        (at(1, 1, ""), at(1, 2)),
        (at(1, 1), at(1, 2, "")),
        (at(1, 1, origin=NO_ORIGIN), at(2, 0, origin=DOCS)),
        (at(1, 9, HERE), borrowed(at(1, 9, HERE), 3, THERE)),
    ],
)
def test_what_is_older(older, newer):
    assert is_older(older, newer)
    assert not is_older(newer, older)
    assert is_same_or_older(older, newer)
    assert not is_same_or_older(newer, older)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (at(1, 9, HERE), at(1, 1, THERE)),
        (at(None, 9, HERE), at(None, 1, THERE)),
        (at(9, 9, HERE, DOCS), at(1, 1, THERE, SHARD)),
        (at(9, 9, HERE, DOCS), at(1, 1, THERE, MOVED)),
        (at(1, 1), at(1, 1)),
        (at(1, 1, ""), at(1, 1)),
        (borrowed(at(1, 9, HERE), 3, THERE), borrowed(at(1, 9, HERE), 9, HERE)),
    ],
)
def test_what_nothing_orders(one, other):
    assert not is_older(one, other)
    assert not is_older(other, one)


def test_the_order_of_one_partition_has_no_circle():
    versions = [at(lsn, offset) for lsn in (None, 1, 2) for offset in (1, 2)]
    for one, two, three in permutations(versions, 3):
        if is_older(one, two) and is_older(two, three):
            assert is_older(one, three)


def test_a_borrowed_position_keeps_the_log_and_takes_its_own_place():
    version = borrowed(at(5, 9, HERE, DOCS), 3, THERE, NOTES)
    assert (offset_of(version), place_of(version)) == (3, THERE)
    assert same_position(version, at(5, 9))
    assert not other_table(version, at(5, 9))
    assert not other_table(
        borrowed(at(5, 9, HERE, NO_ORIGIN), 3, THERE, NOTES), at(1, 1, HERE, NOTES)
    )


def test_a_mark_stays_with_what_borrows():
    version = marked(at(5, 9), TOOK_OVER)
    assert has_mark(version, TOOK_OVER)
    assert has_mark(borrowed(version, 10, HERE), TOOK_OVER)
    assert not has_mark(borrowed(at(5, 9), 10, HERE), TOOK_OVER)
    assert not has_mark(at(5, 9, ""), TOOK_OVER)


def test_tables_and_logs_are_told_apart_as_far_as_they_are_known():
    docs, notes, shard, moved = (at(1, 1, origin=each) for each in (DOCS, NOTES, SHARD, MOVED))
    assert other_table(docs, notes)
    assert not other_log(docs, notes)
    assert other_log(docs, shard)
    assert not renamed_log(docs, shard)
    assert renamed_log(docs, moved)
    for unknown in (at(1, 1, ""), at(1, 1, origin=NO_ORIGIN)):
        assert not other_table(unknown, docs)
        assert not other_log(unknown, docs)


def test_a_truncate_empties_its_physical_table():
    truncate = at(5, 5)
    assert is_emptied(at(4, 9), truncate)
    assert is_emptied(at(4, 9, ""), truncate)
    assert not is_emptied(at(4, 9, origin=NOTES), truncate)
    assert not is_emptied(at(4, 9, origin=SHARD), truncate)
    assert not is_emptied(at(6, 1), truncate)
    assert not is_emptied(at(None, 1), truncate)


def test_a_stored_version_without_a_place_gets_that_of_its_row():
    assert place_of(with_place(at(1, 1, ""), THERE)) == THERE
    assert with_place(at(1, 1, HERE), THERE) == at(1, 1, HERE)
    assert with_place(Version("f" * 16), THERE) == "f" * 16


def test_both_halves_of_a_key_change_share_their_position_key():
    assert position_key(at(5, 1, HERE)) == position_key(at(5, 2, THERE))
    assert position_key(at(5, 1)) != position_key(at(6, 1))
