"""The version map: which rows it keeps, which it may forget, and which have to be looked up."""

import pickle

import pytest

from operators.changes.row_key import RowKey
from operators.changes.version import NO_POSITION, Version, make_version, place_of_partition
from operators.state.version_map import VersionMap

A, B = RowKey("docs:1"), RowKey("docs:2")
HORIZON = 100.0
HERE, THERE = place_of_partition("t", 0), place_of_partition("t", 1)


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
    # Kept for a full horizon after its last change.
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


# Whole: no look-ups while the map has every row that was ever written.


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


# Unverified: entered without knowing whether the store holds a newer version.


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


# Deletes that were dropped as stale, and their tombstones.


def test_the_tombstone_of_a_dropped_delete_ends_it_once():
    known = versions()
    assert not known.ends_delete(A, HERE)
    known.deleted(A, HERE)
    assert not known.ends_delete(B, HERE)
    assert known.ends_delete(A, HERE)
    assert not known.ends_delete(A, HERE)


def test_a_tombstone_belongs_to_the_delete_right_before_it_or_in_another_partition():
    known = versions()
    known.deleted(A, HERE)
    known.written(A, HERE)
    assert not known.ends_delete(A, HERE)
    known.deleted(A, HERE)
    known.written(A, THERE)
    assert known.ends_delete(A, HERE)
    known.deleted(A, HERE)
    known.written(A, HERE)
    assert known.ends_delete(A, THERE)
    assert not known.ends_delete(A, THERE)


def test_a_dropped_delete_is_remembered_as_long_as_a_row():
    known = versions()
    known.deleted(A, HERE)
    known.deleted(B, HERE)
    known.rotate(100.0)
    assert known.ends_delete(A, HERE)
    assert not known.ends_delete(A, HERE)
    known.rotate(200.0)
    assert not known.ends_delete(B, HERE)


def test_what_a_truncate_took_is_known_as_gone_and_no_older_than_it():
    known = versions()
    known.put(A, version(1, 7), "one")
    known.put(B, version(9, 8), "two")
    known.truncate("docs:", version(5, 3))
    # The offset stays the row's own, because changes without a position are ordered by it.
    assert known.get(A) == (version(5, 7), None)
    assert known.get(B) == (version(9, 8), "two")


# Packed state.


def filled() -> VersionMap:
    known = versions()
    known.put(A, version(1), "one")
    known.learn(A, None)
    known.pack(ending=False)  # by the next checkpoint the store has it
    known.deleted(A, HERE)
    known.rotate(100.0)
    known.put(B, version(2), None)
    known.deleted(B, HERE)
    return known


def test_packed_and_pickled_and_unpacked_it_is_the_same():
    packed = filled().pack(ending=True)
    again = VersionMap.unpack(pickle.loads(pickle.dumps(packed)), horizon_s=HORIZON, now=150.0)
    assert again.pack(ending=True) == packed
    assert not again.whole
    assert again.get(A) == (version(1), "one")
    assert again.get(B) == (version(2), None)
    assert not again.must_look_up(A)
    assert again.must_look_up(B)
    assert again.ends_delete(A, HERE)
    assert again.ends_delete(B, HERE)
    assert VersionMap.unpack(
        versions(whole=True).pack(ending=True), horizon_s=HORIZON, now=0.0
    ).whole


def at_checkpoint(known: VersionMap) -> VersionMap:
    """The map of the next process, if this one crashes after a checkpoint."""
    packed = pickle.loads(pickle.dumps(known.pack(ending=False)))
    return VersionMap.unpack(packed, horizon_s=HORIZON, now=0.0)


def test_a_checkpoint_keeps_of_a_row_what_the_store_may_not_have_yet():
    known = versions(whole=True)
    known.put(A, version(1), "one")
    crashed = at_checkpoint(known)
    assert crashed.get(A) == (version(1), "one")
    assert crashed.whole
    # The store may have refused the change, and only the process that died was told.
    assert crashed.must_look_up(A)
    # The row is kept until it is looked up, over any number of crashes.
    again = at_checkpoint(at_checkpoint(crashed))
    assert again.get(A) == (version(1), "one")
    assert again.must_look_up(A)
    again.learn(A, None)
    assert at_checkpoint(again).get(A) is None


def test_a_checkpoint_leaves_to_the_store_what_the_store_can_tell():
    known = versions(whole=True)
    known.put(A, version(1), "one")
    known.put(B, version(2), "two")
    known.pack(ending=False)
    known.put(B, version(3), "three")
    crashed = at_checkpoint(known)
    assert crashed.get(A) is None
    assert crashed.get(B) == (version(3), "three")
    assert not crashed.whole
    crashed.put(A, version(4), "four")
    assert crashed.must_look_up(A)


def test_a_checkpoint_keeps_deleted_rows_for_their_horizon():
    known = versions(whole=True)
    known.put(A, version(1), None)
    for _ in range(3):
        known.pack(ending=False)
    crashed = at_checkpoint(known)
    assert crashed.get(A) == (version(1), None)
    assert crashed.whole
    crashed.rotate(100.0)
    crashed = VersionMap.unpack(crashed.pack(ending=False), horizon_s=HORIZON, now=100.0)
    assert crashed.get(A) == (version(1), None)
    crashed.rotate(200.0)
    assert crashed.get(A) is None
    # A row that was inserted again no longer counts as deleted.
    known.put(A, version(2), "two")
    known.pack(ending=False)
    assert at_checkpoint(known).get(A) is None


def test_a_truncate_leaves_deleted_rows_to_a_checkpoint():
    known = versions()
    known.put(A, version(1), "one")
    known.pack(ending=False)
    known.truncate("docs:", version(5))
    crashed = at_checkpoint(known)
    assert crashed.get(A) == (version(5), None)
    assert crashed.is_emptied(B, version(4))
    assert not crashed.is_emptied(B, version(6))


def test_a_row_that_changed_after_a_truncate_is_looked_up_after_a_crash():
    known = versions(whole=True)
    known.put(A, version(1), "one")
    known.rotate(100.0)
    known.put(A, version(9), "nine")
    # Both generations have the row; the TRUNCATE is later than the older one's version only.
    known.truncate("docs:", version(5))
    assert known.get(A) == (version(9), "nine")
    crashed = at_checkpoint(known)
    assert crashed.get(A) == (version(9), "nine")
    assert crashed.must_look_up(A)


def test_what_was_on_its_way_at_a_crash_is_known_until_it_is_looked_up():
    known = versions()
    known.put(A, version(1), "one")
    known.learn(A, None)
    known.put(B, version(1), "one")
    known.learn(B, None)
    crashed = at_checkpoint(known)
    for horizons in range(1, 5):
        crashed.rotate(100.0 * horizons)
    # The change may have been refused, and only the process that died was told.
    assert crashed.get(A) == crashed.get(B) == (version(1), "one")
    assert crashed.must_look_up(A)
    crashed.learn(A, (version(1), "one"))
    for horizons in range(5, 8):
        crashed.rotate(100.0 * horizons)
    assert crashed.get(A) is None
    assert crashed.get(B) == (version(1), "one")


def test_a_clean_end_keeps_all():
    known = versions(whole=True)
    known.put(A, version(1), "one")
    known.pack(ending=False)
    known.put(B, version(2), None)
    again = VersionMap.unpack(known.pack(ending=True), horizon_s=HORIZON, now=0.0)
    assert again.get(A) == (version(1), "one")
    assert again.get(B) == (version(2), None)
    assert again.whole
    assert not again.must_look_up(A)


def test_downtime_does_not_shorten_the_horizon():
    again = VersionMap.unpack(filled().pack(ending=True), horizon_s=HORIZON, now=1_000.0)
    again.rotate(1_099.0)
    assert again.get(A) is not None
    again.rotate(1_100.0)
    assert again.get(A) is None
    assert again.get(B) is not None


def test_what_was_packed_does_not_change_any_more():
    known = filled()
    packed = known.pack(ending=True)
    frozen = pickle.dumps(packed)
    known.put(A, version(9), "nine")
    known.learn(B, None)
    known.ends_delete(A, HERE)
    known.deleted(RowKey("docs:3"), HERE)
    known.rotate(10_000.0)
    assert pickle.dumps(packed) == frozen
    # A map that is restored from the packed state shares nothing with it.
    again = VersionMap.unpack(packed, horizon_s=HORIZON, now=0.0)
    again.put(A, version(9), "nine")
    again.deleted(RowKey("docs:3"), HERE)
    again.ends_delete(A, HERE)
    again.learn(B, (version(9), None))
    assert pickle.dumps(packed) == frozen


def test_a_change_without_a_position_comes_after_what_was_refused_at_an_earlier_offset() -> None:
    known = versions()
    known.taint(RowKey("t:1"), version(9, offset=20))
    # Nothing is known of the row any more, so the change cannot be given a position.
    unpositioned = make_version(0, NO_POSITION, 24)
    assert known.is_tainted(RowKey("t:1"), unpositioned)
    assert not known.is_tainted(RowKey("t:1"), make_version(0, NO_POSITION, 18))


def test_deletes_of_two_partitions_have_a_tombstone_each() -> None:
    known = versions()
    known.deleted(A, HERE)
    known.deleted(A, THERE)
    assert known.ends_delete(A, THERE)
    assert known.ends_delete(A, HERE)
    assert not known.ends_delete(A, HERE)


def test_a_change_without_a_position_follows_a_whole_one_after_the_refused_one() -> None:
    known = versions()
    key, whole = RowKey("t:1"), make_version(0, NO_POSITION, 23)
    known.taint(key, version(9, offset=20))
    assert known.is_tainted(key, make_version(0, NO_POSITION, 25))
    assert not known.is_tainted(key, make_version(0, NO_POSITION, 25), since=whole)
    known.put(key, whole, "whole")
    assert not known.is_tainted(key, make_version(0, NO_POSITION, 25))
    assert not known.is_tainted(key, version(10, offset=26))
