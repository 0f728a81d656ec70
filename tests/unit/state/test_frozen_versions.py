"""Frozen versions are restored exactly, even if CRC-32 codes collide; and a map that freezes rows behaves
like one that keeps them in dicts."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.changes.row_key import RowKey
from operators.changes.version import (
    NO_POSITION,
    Version,
    emptied_by,
    has_position,
    make_version,
    offset_of,
    tail_of,
)
from operators.state import frozen_versions
from operators.state import map_generation as generation_module
from operators.state.frozen_versions import FrozenVersions, Known
from operators.state.map_generation import FREEZE_FROM
from operators.state.refused_changes import MAX_REFUSED
from operators.state.version_map import VersionMap

HORIZON = 100.0
HEX = "b7aaf7932979564556c86cb1eac5ab8a"
PLAIN = make_version(1, f"{7:016x}.{8:016x}", 9)


@contextmanager
def few_codes(codes: int) -> Iterator[None]:
    """Make codes collide: all keys share this many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen_versions, "crc32", lambda name: sum(name) % codes)
        yield


VERSIONS = [
    PLAIN,
    make_version(0, NO_POSITION, 3),
    make_version(0, f"{11:032x}", 3),
    make_version(0, f"{2**64 - 1:016x}.{0:016x}", 2**64 - 1),
    make_version(1, f"{7:016x}.{8:016x}", 9, tail_of("1234567", "89abcdef01234567")),
    make_version(1, NO_POSITION, 9, tail_of("1234567")),
    make_version(0, f"{11:032x}", 3, tail_of("fffffff", "f" * 16)),
    *("", ".", "..", "...", "0", "7", "00", "zz", "00.11", "ABCD.0011.0123456789abcdef"),
    *(PLAIN.upper(), PLAIN.replace(".", "-"), PLAIN.replace(".", ""), f" {PLAIN}", f"{PLAIN}."),
    *(PLAIN + "\n", "Ünï", "\ud800", "0" * 300, f"0000.{'0' * 200}.{0:016x}", "é" * 40_000),
]
HASHES = [None, "", HEX, HEX.upper(), "abc", "ab", "one", "Grüße", "\ud800", "00" * 500, "\n"]

keys = st.builds(RowKey, st.text("docs:1%,", min_size=1, max_size=4))
knowns: st.SearchStrategy[Known] = st.tuples(
    st.one_of(st.sampled_from(VERSIONS), st.text("01afA.")).map(Version),
    st.one_of(st.sampled_from(HASHES), st.text("01afA")),
)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_and_hash_comes_back_to_the_letter(version):
    rows = {RowKey(f"docs:{i}"): (Version(version), digest) for i, digest in enumerate(HASHES)}
    frozen = FrozenVersions.none().with_rows(rows)
    assert {key: frozen.get(key) for key in rows} == rows
    assert dict(frozen.items_of("")) == rows


@settings(deadline=None)
@given(st.lists(st.dictionaries(keys, knowns, max_size=8), max_size=5), st.integers(1, 5))
def test_frozen_rows_are_those_of_a_dict(changes, codes):
    with few_codes(codes):
        frozen, rows = FrozenVersions.none(), dict[RowKey, Known]()
        for changed in changes:
            before, frozen = (frozen, dict(rows)), frozen.with_rows(changed)
            rows |= changed
            assert dict(before[0].items_of("")) == before[1]
        for same in (frozen, FrozenVersions.unpack(pickle.loads(pickle.dumps(frozen.pack())))):
            assert len(same) == len(rows)
            assert dict(same.items_of("")) == rows
            assert sorted(same.keys()) == sorted(rows)
            assert dict(same.items_of("d")) == {k: v for k, v in rows.items() if k[0] == "d"}
            assert {key: same.get(key) for key in rows} == rows
            for other in ("docs", "d:", "1", ",,"):
                assert same.get(RowKey(other)) == rows.get(RowKey(other))


def test_a_row_as_the_stages_make_it_takes_little():
    frozen = FrozenVersions.none().with_rows(
        {RowKey(f"docs:{i:07}"): (PLAIN, HEX) for i in range(1_000)}
    )
    assert sum(map(len, frozen.pack())) < 70 * 1_000


# The version map, compared with one of plain dicts.


class PlainMap:
    """A `VersionMap` of plain dicts, without any optimisation."""

    def __init__(self, *, whole: bool, now: float) -> None:
        self.whole = whole
        self.rotate_at = now + HORIZON
        self.young: dict[RowKey, Known] = {}
        self.old: dict[RowKey, Known] = {}
        self.sent: set[RowKey] = set()
        self.unverified: set[RowKey] = set()
        self.doubtful: set[RowKey] = set()
        self.truncated: dict[str, Version] = {}
        self.refused: dict[RowKey, list[Version]] = {}
        # Version of the whole row before a partial one, and the number of checkpoints since.
        self.wholes: dict[RowKey, tuple[Version, int]] = {}

    def get(self, key: RowKey) -> Known | None:
        return (self.old | self.young).get(key)

    def newest(self, key: RowKey) -> Version | None:
        known = self.get(key)
        emptied = self.truncated.get(key[: key.index(":") + 1])
        return max(filter(None, (emptied, known and known[0])), default=None)

    def is_emptied(self, key: RowKey, version: Version) -> bool:
        emptied = self.truncated.get(key[: key.index(":") + 1])
        return emptied is not None and version < emptied and has_position(version)

    def truncate(self, prefix: str, version: Version) -> None:
        self.truncated[prefix] = max(version, self.truncated.get(prefix, version))
        for rows in (self.young, self.old):
            for key, (was, _) in rows.items():
                if key.startswith(prefix) and was < version and has_position(was):
                    rows[key] = (emptied_by(version, was), None)
        for key in self.refused:
            if key.startswith(prefix):
                self._untaint(key, version)

    def taint(self, key: RowKey, version: Version) -> None:
        known = self.get(key)
        whole = known and known[0]
        if known is not None and known[1] == "":
            whole, _ = self.wholes.get(key, (None, 0))
        if whole is None or whole <= version:
            refused = sorted({*self.refused.get(key, ()), version})
            half = MAX_REFUSED // 2
            self.refused[key] = refused[:half] + refused[half:][-half:]

    def _untaint(self, key: RowKey, version: Version) -> None:
        self.refused[key] = [each for each in self.refused.get(key, ()) if each > version]

    def is_tainted(self, key: RowKey, version: Version) -> bool:
        refused = self.refused.get(key, ())
        if not has_position(version):
            return any(offset_of(each) < offset_of(version) for each in refused)
        return any(each < version for each in refused)

    def put(self, key: RowKey, version: Version, text_hash: str | None) -> None:
        known = self.get(key)
        if known is not None and version < known[0]:
            self.unverified.add(key)
            return
        if text_hash != "":
            self._untaint(key, version)
        if known is None and not self.whole:
            self.unverified.add(key)
        if text_hash == "" and known is not None and known[1] != "":
            self.wholes[key] = (known[0], 0)
        self.young[key] = (version, text_hash)
        self.sent.add(key)

    def must_look_up(self, key: RowKey) -> bool:
        return key in self.unverified

    def distrust(self) -> None:
        self.whole = False
        self.unverified |= (self.old | self.young).keys()

    def learn(self, key: RowKey, stored: Known | None) -> None:
        self.unverified.discard(key)
        known = self.get(key)
        if stored is not None and (known is None or known[0] < stored[0]):
            self.young[key] = stored

    def rotate(self, now: float) -> None:
        if now >= self.rotate_at:
            self.whole = self.whole and not self.old
            self.doubtful &= self.unverified
            kept = self.doubtful & self.old.keys() - self.young.keys()
            self.old, self.young = self.young, {key: self.old[key] for key in kept}
            self.rotate_at = now + HORIZON
            self.unverified &= (self.old | self.young).keys()

    def checkpoint(self) -> None:
        self.sent = set()
        self.wholes = {key: (v, age + 1) for key, (v, age) in self.wholes.items() if age < 1}

    def resumed(self, *, ending: bool, now: float) -> "PlainMap":
        all_rows = self.old | self.young
        gone = {key for key, known in all_rows.items() if known[1] is None}
        unverified = self.unverified | (self.sent - gone)
        kept = all_rows.keys() if ending else gone | unverified
        self.sent = set()
        again = PlainMap(whole=self.whole and kept == all_rows.keys(), now=now)
        again.young = {key: known for key, known in self.young.items() if key in kept}
        # A checkpoint has a row of both generations only in the younger one.
        again.old = {
            key: known
            for key, known in self.old.items()
            if key in kept and (ending or key not in self.young)
        }
        again.unverified, again.doubtful = unverified, set(unverified)
        again.truncated = dict(self.truncated)
        again.refused = {key: list(refused) for key, refused in self.refused.items()}
        return again


ROWS = [RowKey(f"{table}:{i}") for table in ("a", "ab") for i in range(5)]
LATEST = [make_version(0, f"{position:016x}.{position:016x}", 0) for position in range(1, 9)]
rows = st.sampled_from(ROWS)
moments = st.builds(
    lambda position, offset: make_version(
        0, f"{position:016x}.{position:016x}" if position else NO_POSITION, offset
    ),
    st.integers(0, 6),
    st.integers(0, 3),
)
hashes = st.sampled_from([None, "", HEX, "one"])
steps = st.one_of(
    st.tuples(st.just("put"), rows, moments, hashes),
    st.tuples(st.just("put"), rows, moments, hashes),
    st.tuples(st.just("put"), rows, moments, hashes),
    st.tuples(st.just("learn"), rows, st.one_of(st.none(), st.tuples(moments, hashes))),
    st.tuples(st.just("learn"), rows, st.none()),
    st.tuples(st.just("taint"), rows, moments),
    st.tuples(st.just("truncate"), st.sampled_from(["a:", "ab:"]), moments),
    st.tuples(st.just("distrust")),
    st.tuples(st.just("rotate"), st.sampled_from([40.0, 100.0])),
    st.tuples(st.just("resume"), st.booleans()),
    st.tuples(st.just("checkpoint")),
)


@settings(deadline=None)
@given(
    st.lists(steps, max_size=60),
    st.booleans(),
    st.sampled_from([0, 1, 3, 7]),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 4),
)
def test_a_map_that_freezes_is_one_of_dicts(history, whole, freeze_from, share, codes):
    with few_codes(codes), pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation_module, "FREEZE_FROM", freeze_from)
        patch.setattr(generation_module, "FREEZE_SHARE", share)
        known, plain = (
            VersionMap(whole=whole, horizon_s=HORIZON, now=0),
            PlainMap(whole=whole, now=0),
        )
        now = 0.0
        for step, *given_ in history:
            match step:
                case "rotate":
                    now += given_[0]
                    known.rotate(now)
                    plain.rotate(now)
                case "resume":
                    known, plain = (
                        resumed(known, now, *given_),
                        plain.resumed(ending=given_[0], now=now),
                    )
                case "checkpoint":
                    known.pack(ending=False)
                    plain.checkpoint()
                case _:
                    getattr(known, step)(*given_)
                    getattr(plain, step)(*given_)
            assert seen(known) == seen(plain)
            assert len(known) == len(plain.old | plain.young)


def resumed(known: VersionMap, now: float, ending: bool) -> VersionMap:
    packed = known.pack(ending=ending)
    before = pickle.dumps(packed)
    again = VersionMap.unpack(pickle.loads(before), horizon_s=HORIZON, now=now)
    # Later changes of the map must not change its packed state.
    known.put(ROWS[0], make_version(9, NO_POSITION, 0), None)
    known.truncate("a:", make_version(9, NO_POSITION, 1))
    assert pickle.dumps(packed) == before
    return again


def seen(known: Any) -> Any:
    return (
        known.whole,
        [(known.get(key), known.newest(key), known.must_look_up(key)) for key in ROWS],
        [[known.is_tainted(key, LATEST[at]) for at in (0, 3, 7)] for key in ROWS],
    )


def generation(known: VersionMap, *, ending: bool) -> tuple[dict[RowKey, Known], Any]:
    """The packed younger generation: its dict, and its frozen rows."""
    young = known.pack(ending=ending)["young"]
    return young["recent"], young["frozen"]


def test_rows_of_a_large_shard_are_frozen_and_known_all_the_same():
    known = VersionMap(whole=True, horizon_s=HORIZON, now=0)
    many = [RowKey(f"docs:{i}") for i in range(3 * FREEZE_FROM)]
    for key in many:
        known.put(key, PLAIN, HEX)
    recent, frozen = generation(known, ending=True)
    assert frozen is not None
    assert len(recent) < FREEZE_FROM
    assert len(FrozenVersions.unpack(frozen)) + len(recent) == len(many)
    assert all(known.get(key) == (PLAIN, HEX) for key in many)
    assert known.get(RowKey("docs:-1")) is None


def test_a_truncate_goes_by_the_last_change_and_not_by_what_was_frozen():
    known = VersionMap(whole=True, horizon_s=HORIZON, now=0)
    many = [RowKey(f"docs:{i}") for i in range(FREEZE_FROM + 1)]
    for key in many:
        known.put(key, LATEST[1], HEX)
    known.put(many[0], LATEST[5], HEX)
    known.put(many[1], LATEST[5], None)
    known.truncate("docs:", LATEST[3])
    assert known.get(many[0]) == (LATEST[5], HEX)
    assert known.get(many[1]) == (LATEST[5], None)
    assert {known.get(key) for key in many[2:]} == {(LATEST[3], None)}


def test_deleted_rows_and_those_to_be_looked_up_are_not_frozen():
    known = VersionMap(whole=False, horizon_s=HORIZON, now=0)
    many = [RowKey(f"docs:{i}") for i in range(3 * FREEZE_FROM)]
    for key in many[1:]:
        known.put(key, PLAIN, HEX)
        known.learn(key, None)
    known.put(many[0], PLAIN, HEX)
    for key in many[: FREEZE_FROM // 2]:
        known.put(key, make_version(1, f"{9:016x}.{9:016x}", 9), None)
    recent, _ = generation(known, ending=True)
    assert set(many[: FREEZE_FROM // 2]) <= recent.keys()
    # A checkpoint has these rows and no others.
    known.pack(ending=False)
    kept, frozen = generation(known, ending=False)
    assert (kept.keys(), frozen) == (set(many[: FREEZE_FROM // 2]), None)
