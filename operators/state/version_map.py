"""The version map: newest versions of recently changed rows, to drop stale events without look-ups."""

from collections.abc import Iterator
from typing import TypedDict

from operators.changes.row_key import RowKey
from operators.changes.version import (
    NO_GENERATION,
    NO_PLACE,
    Version,
    emptied_by,
    is_emptied,
    is_older,
    offset_of,
    origin_of,
    place_of,
)
from operators.state.frozen_versions import Known
from operators.state.map_generation import Generation, PackedGeneration
from operators.state.refusal_queue import Refusals
from operators.state.refused_changes import PackedRefused, RefusedChanges
from operators.state.row_marks import OwedTombstones, PackedOwed, RowMarks


class PackedVersions(TypedDict):
    """A version map as plain values, for the recovery files.

    Attributes:
        complete: Whether it has every row that was ever written for the shard.
        young: Rows that changed within the current horizon.
        old: Rows that last changed within the horizon before.
        unverified: Rows of which the store may hold a newer version.
        owed_tombstones: Rows whose delete has come, but not yet its tombstone; see `OwedTombstones`.
        anew: Where logs began anew; see `VersionMap.begins_anew`.
        truncated: The last TRUNCATE of each physical table, by the prefix of its row keys and
            `origin_of` its version.
        refused: Refused changes; see `RefusedChanges`.
    """

    complete: bool
    young: PackedGeneration
    old: PackedGeneration
    unverified: frozenset[RowKey]
    owed_tombstones: PackedOwed
    anew: dict[str, int]
    truncated: dict[str, Version]
    refused: PackedRefused


class VersionMap:
    """{row key → (version, text hash)} of one shard, in two rotating generations.

    A key is kept for at least one horizon after its last change, and dropped after two. A row has to be
    looked up in the store if the map does not have its key, or if the row is *unverified*: entered
    without knowing whether the store holds a newer version. A row that was unverified before a start is
    kept until it is looked up.

    Threads: it belongs to the worker. A lane uses its `refusals` only.

    Attributes:
        whole: True while the map has every row that was ever written for this shard, so that a key
            which is not in the map cannot be in the store.
        refusals: Where the shard's lane reports refused changes; see `apply_refusals`.
    """

    def __init__(self, *, whole: bool, horizon_s: float, now: float) -> None:
        self.whole = whole
        self._horizon_s = horizon_s
        self._rotate_at = now + horizon_s
        self._young = Generation({})
        self._old = Generation({})
        self._marks = RowMarks()
        self._truncated: dict[str, dict[str, Version]] = {}
        self._anew: dict[str, int] = {}
        self._refused = RefusedChanges()
        self.refusals = Refusals()

    def get(self, key: RowKey) -> Known | None:
        """What is known of the row, or None."""
        # Called several times for every change, so the first look-up avoids a method call.
        known = self._young.recent.get(key)
        if known is None:
            known = self._young.get(key)
        return self._old.get(key) if known is None else known

    def newest(self, key: RowKey) -> Version | None:
        """The newest version of the row, or TRUNCATE of its table; None if nothing is known."""
        known = self.get(key)
        newest = None if known is None else known[0]
        for truncate in self._truncated.get(key[: key.index(":") + 1], {}).values():
            if newest is None or is_older(newest, truncate):
                newest = truncate
        return newest

    def is_emptied(self, key: RowKey, version: Version) -> bool:
        """Whether a later TRUNCATE of its physical table has deleted this version of the row."""
        if not self._truncated:
            return False
        truncates = self._truncated.get(key[: key.index(":") + 1], {})
        # guard: truncate-fence
        return any(is_emptied(version, truncate) for truncate in truncates.values())

    def begins_anew(self, version: Version, known: Version, *, shows: bool = False) -> bool:
        """Whether a change is newer whatever its position, because the log began anew before it.

        A raised generation says that the log has begun anew somewhere behind what was committed. Where
        that is, the first change tells that shows it: a snapshot read that is older than the row before
        it in its partition, or a change of another log. From its offset on, everything is newer than
        what lies before it. That may happen once for each partition and generation.

        Args:
            version: The change's.
            known: That of the row.
            shows: Whether the change shows that the log has begun anew.
        """
        if version[:4] == NO_GENERATION or version[:4] != known[:4]:
            return False
        place = place_of(version)
        if place == NO_PLACE or place != place_of(known):
            return False
        if offset_of(version) <= offset_of(known):
            return False
        name = version[:4] + place
        if shows:
            self._anew.setdefault(name, offset_of(version))
        return offset_of(known) < self._anew.get(name, 0) <= offset_of(version)  # guard: log-anew

    def truncate(self, prefix: str, version: Version) -> None:
        """Mark every older row of the TRUNCATE's physical table as deleted.

        Args:
            prefix: Prefix of the table's row keys, up to and including the colon.
            version: Version of the TRUNCATE. Kept for ever: there is one per physical table.
        """
        truncates = self._truncated.setdefault(prefix, {})
        before = truncates.get(origin_of(version))
        if before is None or is_older(before, version):
            truncates[origin_of(version)] = version
        for generation in (self._young, self._old):
            taken: dict[RowKey, Known] = {}
            for key, known in generation.items_of(prefix):
                if is_emptied(known[0], version):
                    taken[key] = (emptied_by(version, known[0]), None)  # guard: truncate-known
            generation.recent.update(taken)
            # Except rows that have a newer change in the younger generation.
            self._marks.gone.update(filter(self._is_gone, taken))  # guard: truncate-newer-stays
        self._refused.end_table(prefix, version)

    def taint(self, key: RowKey, version: Version) -> None:
        """Note that a change of the row was refused: what the store holds is not the last version.

        Kept until a newer, whole change of the row comes, so for at most as many rows as there are dead
        letters. Not noted if such a change was sent already.
        """
        known = self.get(key)
        if known is not None:
            # guard: taint-late
            whole = known[0] if known[1] != "" else self._marks.sent.last_whole(key)
            if whole is not None and is_older(version, whole):  # guard: taint-superseded
                return
        self._refused.add(key, version)

    def apply_refusals(self) -> None:
        """Note the changes that the shard's lane has reported as refused since the last call.

        Call it before anything is sent or packed: neither this process nor the next may complete a
        partial row from a version before a refused one.
        """
        for key, version in self.refusals.take():
            self.taint(key, version)

    def is_tainted(self, key: RowKey, version: Version, since: str = "") -> bool:
        """Whether a change was refused between `since` and this version.

        If so, this version must not take a missing column from any older version.
        """
        return self._refused.any_between(key, since, version)

    def put(self, key: RowKey, version: Version, text_hash: str | None) -> None:
        """Enter a change that is sent to the store.

        A look-up may have found a newer version since the change was read. Then that version stays, and
        the row has to be looked up again.
        """
        known = self.get(key)
        marks = self._marks
        if (
            known is not None
            and is_older(version, known[0])
            and not self.begins_anew(version, known[0])
        ):
            marks.unverified.add(key)
            return
        if text_hash != "" and key in self._refused:  # guard: taint-ends
            self._refused.end(key, version)
        if not self.whole and known is None:  # guard: unverified
            marks.unverified.add(key)
        if text_hash == "" and known is not None and known[1] != "":
            marks.sent.follows_whole(key, known[0])
        marks.sent.keys.add(key)
        self._keep(key, (version, text_hash))

    def _keep(self, key: RowKey, known: Known) -> None:
        young, marks = self._young, self._marks
        young.recent[key] = known
        if known[1] is None:
            marks.gone.add(key)
        elif marks.gone:
            marks.gone.discard(key)
        if len(young.recent) > young.limit:
            young.freeze(marks.gone | marks.unverified)  # guard: deleted-not-frozen

    def _is_gone(self, key: RowKey) -> bool:
        known = self.get(key)
        return known is not None and known[1] is None

    def must_look_up(self, key: RowKey) -> bool:
        """Whether the store may hold a newer version of the row than the map."""
        return key in self._marks.unverified

    def distrust(self) -> None:
        """Have every row looked up, because the store may hold newer versions than the map."""
        self.whole = False
        self._marks.unverified.update(self._keys())

    def learn(self, key: RowKey, stored: Known | None) -> None:
        """Enter what a look-up found, unless the map has a newer version; the row is now verified."""
        self._marks.unverified.discard(key)
        known = self.get(key)
        if stored is not None and (
            known is None or is_older(known[0], stored[0])
        ):  # guard: learn-newer
            self._keep(key, stored)

    def correct(self, key: RowKey, stored: Known) -> None:
        """Enter what the store holds, whatever the map has: what was sent last is not written.

        The row stays unverified, because a newer change may be on its way already.
        """
        self._keep(key, stored)
        self._marks.unverified.add(key)

    def deleted(self, key: RowKey, place: str) -> None:
        """Note that a delete of the row came from this place, so that its tombstone says nothing."""
        self._marks.owed.add(key, place)

    def written(self, key: RowKey, place: str) -> None:
        """Note that a change of the row came from this place after its delete."""
        self._marks.owed.follow(key, place)

    def ends_delete(self, key: RowKey, place: str) -> bool:
        """Whether a tombstone from this place belongs to a delete that has come; forgets that one."""
        return self._marks.owed.take(key, place)

    def rotate(self, now: float) -> None:
        """At the end of a horizon, drop the rows that have not changed within it."""
        if now < self._rotate_at:  # guard: horizon
            return
        if self._old:
            self.whole = False  # guard: whole
        # A write in flight at the crash may have been refused; this entry is the only trace, so keep it
        # until it is looked up. Without it, a partial row could be completed from an older version.
        marks = self._marks
        marks.doubtful &= marks.unverified
        doubtful = self._old.of(marks.doubtful - self._young.of(marks.doubtful).keys())
        self._old, self._young = self._young, Generation(doubtful)  # guard: versions-doubtful
        self._rotate_at = now + self._horizon_s
        marks.rotate(lambda key: self.get(key) is not None)

    def __len__(self) -> int:
        return len(set(self._keys()))

    def _keys(self) -> Iterator[RowKey]:
        yield from self._young.keys()
        yield from self._old.keys()

    def pack(self, *, ending: bool) -> PackedVersions:
        """The state as plain values, independent of later changes.

        Args:
            ending: Whether the flow stops cleanly. Then all rows are kept, so that the next start looks
                nothing up. Otherwise only what the store cannot tell is kept: deleted rows, unverified
                rows, refused changes, and rows that were put since the last call, because they may
                still be refused. Writing a million other rows would take a second at each checkpoint;
                after a crash, they are looked up as they change.
        """
        complete, unverified = self.whole, self._marks.unverified_after_crash()
        if ending:
            young, old = self._young.pack(), self._old.pack()
        else:
            kept = self._marks.gone | unverified  # guard: gone-over-crash
            young = PackedGeneration(recent=self._young.of(kept), frozen=None)
            older = self._old.of(kept - young["recent"].keys())
            old = PackedGeneration(recent=older, frozen=None)
            # guard: whole-over-crash
            complete = complete and all(key in kept for key in self._keys())
        self._marks.sent.checkpoint()
        return PackedVersions(
            complete=complete,
            young=young,
            old=old,
            unverified=frozenset(unverified),  # guard: unverified-over-crash
            owed_tombstones=self._marks.owed.pack(),  # guard: stale-tombstone-over-crash
            anew=dict(self._anew),
            truncated={
                f"{prefix}{origin}": version
                for prefix, truncates in self._truncated.items()
                for origin, version in truncates.items()
            },
            refused=self._refused.pack(),  # guard: taint-over-crash
        )

    @classmethod
    def unpack(cls, packed: PackedVersions, *, horizon_s: float, now: float) -> "VersionMap":
        """The map that `pack` was called on; its horizon starts now, so downtime does not count."""
        versions = cls(whole=packed["complete"], horizon_s=horizon_s, now=now)
        versions._young = Generation.unpack(packed["young"])
        versions._old = Generation.unpack(packed["old"])
        recent = (*packed["old"]["recent"].items(), *packed["young"]["recent"].items())
        deleted = (
            key for key, known in recent if known[1] is None
        )  # deleted rows are never frozen
        unverified = packed["unverified"]
        versions._marks = RowMarks(
            gone={key for key in deleted if versions._is_gone(key)},
            unverified=set(unverified),
            doubtful=set(unverified),
            owed=OwedTombstones(packed["owed_tombstones"]),
        )
        for name, version in packed["truncated"].items():
            prefix = name[: name.index(":") + 1]
            versions._truncated.setdefault(prefix, {})[name[len(prefix) :]] = version
        versions._anew = dict(packed["anew"])
        versions._refused = RefusedChanges(packed["refused"])
        return versions
