"""The version map: what it must still know, what it may forget, and what it must ask the store."""

import pickle

import pytest

from operators.events import RowKey, Version, make_version
from operators.versions import VersionMap

A, B = RowKey("docs:1"), RowKey("docs:2")
HORIZON = 100.0


def version(position: int, offset: int = 0) -> Version:
    return make_version(0, (position, position), offset)


def versions(*, whole: bool = False) -> VersionMap:
    return VersionMap(whole=whole, horizon_s=HORIZON, now=0.0)


def test_it_knows_what_was_put_last():
    known = versions()
    assert known.get(A) is None
    known.put(A, version(1), "one")
    known.put(A, version(2), None)
    assert known.get(A) == (version(2), None)
    assert known.get(B) is None
    assert len(known) == 1


def test_a_row_is_kept_for_a_horizon_and_dropped_after_two():
    known = versions()
    known.rotate(99.0)
    known.put(A, version(1), "one")
    known.rotate(100.0)
    assert known.get(A) is not None
    # A full horizon after its last change.
    known.rotate(199.0)
    assert known.get(A) is not None
    known.rotate(200.0)
    assert known.get(A) is None
    assert len(known) == 0


def test_a_change_keeps_a_row_for_another_horizon():
    known = versions()
    known.put(A, version(1), "one")
    known.rotate(100.0)
    known.put(A, version(2), "two")
    known.rotate(200.0)
    assert known.get(A) == (version(2), "two")
    known.rotate(300.0)
    assert known.get(A) is None


def test_nothing_is_dropped_before_the_time():
    known = versions()
    known.put(A, version(1), "one")
    for now in (10.0, 50.0, 99.9):
        known.rotate(now)
        known.rotate(now)
    known.rotate(100.0)
    known.rotate(100.0)
    assert known.get(A) is not None


def test_a_long_pause_is_one_rotation():
    known = versions()
    known.put(A, version(1), "one")
    known.rotate(10_000.0)
    assert known.get(A) is not None
    known.rotate(10_099.0)
    assert known.get(A) is not None
    known.rotate(10_100.0)
    assert known.get(A) is None


def test_the_newer_generation_wins():
    known = versions()
    known.put(A, version(1), "one")
    known.rotate(100.0)
    known.put(A, version(2), "two")
    assert known.get(A) == (version(2), "two")
    assert len(known) == 1


# Whole: nothing needs to be looked up while the map has every row that was ever written.


def test_a_whole_map_never_asks():
    known = versions(whole=True)
    known.put(A, version(1), "one")
    assert not known.must_look_up(A)


def test_it_stays_whole_until_it_forgets():
    known = versions(whole=True)
    known.rotate(100.0)
    known.put(A, version(1), "one")
    known.rotate(200.0)
    assert known.whole
    known.put(B, version(2), "two")
    assert not known.must_look_up(B)
    known.rotate(300.0)
    assert not known.whole
    known.put(A, version(3), "three")
    assert known.must_look_up(A)


# Unverified: entered without knowing whether the store holds something newer.


def test_an_unknown_row_must_be_looked_up_until_it_was():
    known = versions()
    known.put(A, version(1), "one")
    known.put(A, version(2), "two")
    assert known.must_look_up(A)
    assert not known.must_look_up(B)
    known.learn(A, None)
    assert not known.must_look_up(A)
    known.put(A, version(3), "three")
    assert not known.must_look_up(A)


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        (None, (version(5), "five")),
        ((version(4), "four"), (version(5), "five")),
        ((version(5), "other"), (version(5), "five")),
        ((version(6), "six"), (version(6), "six")),
        ((version(6), None), (version(6), None)),
    ],
)
def test_what_the_store_holds_is_taken_over_if_it_is_newer(stored, kept):
    known = versions()
    known.put(A, version(5), "five")
    known.learn(A, stored)
    assert known.get(A) == kept
    assert not known.must_look_up(A)


def test_a_row_from_the_last_generation_needs_no_look_up():
    known = versions()
    known.put(A, version(1), "one")
    known.learn(A, None)
    known.rotate(100.0)
    known.put(A, version(2), "two")
    assert not known.must_look_up(A)


def test_unverified_survives_one_rotation_and_goes_with_its_row():
    known = versions()
    known.put(A, version(1), "one")
    known.rotate(100.0)
    assert known.must_look_up(A)
    known.rotate(200.0)
    assert not known.must_look_up(A)
    known.put(A, version(2), "two")
    assert known.must_look_up(A)


# Deletes that were dropped as stale, and the tombstone that follows.


def test_the_tombstone_of_a_dropped_delete_ends_it_once():
    known = versions()
    assert not known.ends_dropped_delete(A)
    known.dropped_delete(A)
    assert not known.ends_dropped_delete(B)
    assert known.ends_dropped_delete(A)
    assert not known.ends_dropped_delete(A)


def test_a_dropped_delete_is_remembered_as_long_as_a_row():
    known = versions()
    known.dropped_delete(A)
    known.dropped_delete(B)
    known.rotate(100.0)
    assert known.ends_dropped_delete(A)
    assert not known.ends_dropped_delete(A)
    known.rotate(200.0)
    assert not known.ends_dropped_delete(B)


def test_what_a_truncate_took_is_known_as_gone_and_no_older_than_it():
    known = versions()
    known.put(A, version(1, 7), "one")
    known.put(B, version(9, 8), "two")
    known.truncate("docs:", version(5, 3))
    # The offset is the row's own: what has no position is ordered by it.
    assert known.get(A) == (version(5, 7), None)
    assert known.get(B) == (version(9, 8), "two")


# State.


def filled() -> VersionMap:
    known = versions()
    known.put(A, version(1), "one")
    known.learn(A, None)
    known.dropped_delete(A)
    known.rotate(100.0)
    known.put(B, version(2), None)
    known.dropped_delete(B)
    return known


def test_packed_and_pickled_and_unpacked_it_is_the_same():
    packed = filled().pack()
    again = VersionMap.unpack(pickle.loads(pickle.dumps(packed)), horizon_s=HORIZON, now=150.0)
    assert again.pack() == packed
    assert not again.whole
    assert again.get(A) == (version(1), "one")
    assert again.get(B) == (version(2), None)
    assert not again.must_look_up(A)
    assert again.must_look_up(B)
    assert again.ends_dropped_delete(A)
    assert again.ends_dropped_delete(B)
    assert VersionMap.unpack(versions(whole=True).pack(), horizon_s=HORIZON, now=0.0).whole


def test_downtime_does_not_shorten_the_horizon():
    again = VersionMap.unpack(filled().pack(), horizon_s=HORIZON, now=1_000.0)
    again.rotate(1_099.0)
    assert again.get(A) is not None
    again.rotate(1_100.0)
    assert again.get(A) is None
    assert again.get(B) is not None


def test_what_was_packed_does_not_change_any_more():
    known = filled()
    packed = known.pack()
    frozen = pickle.dumps(packed)
    known.put(A, version(9), "nine")
    known.learn(B, None)
    known.ends_dropped_delete(A)
    known.dropped_delete(RowKey("docs:3"))
    known.rotate(10_000.0)
    assert pickle.dumps(packed) == frozen
    # Nor does the map that is restored from it share anything with it.
    again = VersionMap.unpack(packed, horizon_s=HORIZON, now=0.0)
    again.put(A, version(9), "nine")
    again.dropped_delete(RowKey("docs:3"))
    again.ends_dropped_delete(A)
    again.learn(B, (version(9), None))
    assert pickle.dumps(packed) == frozen
