"""The version of every row within a horizon: what fences stale events without asking the store."""

from collections.abc import Iterator
from typing import TypedDict

from operators.changes.row_key import RowKey
from operators.changes.version import Version, at_offset, is_before, offset_of
from operators.state.frozen_versions import Known
from operators.state.generation import Generation, PackedGeneration
from operators.state.refusals import Refusals
from operators.state.refused_changes import PackedRefused, RefusedChanges
from operators.state.row_marks import PackedStaleDeletes, RowMarks, StaleDeletes


class PackedVersions(TypedDict):
    """A version map as plain values, for the recovery files.

    Attributes:
        complete: Whether it holds every row that was ever written for the shard.
        young: What changed within the horizon that runs now; `old` within the one before.
        unverified: Rows of which the store may hold a newer version.
        stale_deletes: Rows whose delete was dropped as stale, and whose tombstone has not come yet.
        truncated: The last TRUNCATE of each table, by what its row keys begin with.
        refused: Changes after which no row may take an older value.
    """

    complete: bool
    young: PackedGeneration
    old: PackedGeneration
    unverified: frozenset[RowKey]
    stale_deletes: PackedStaleDeletes
    truncated: dict[str, Version]
    refused: PackedRefused


class VersionMap:
    """{row key → (version, text hash)} of one shard, by two rotating generations.

    A key is kept for at least one horizon after its last change and dropped after two. A key that the
    map does not know has to be looked up in the store, and so has one that is *unverified*: entered
    without knowing whether the store holds a newer version. One that was so before a start is kept
    until it is looked up.

    It belongs to the worker's thread. Of all that is in it, a lane touches `refusals` alone.

    Attributes:
        whole: True while the map holds every row that was ever written for this shard, so that a key
            it does not know cannot be in the store.
        refusals: Where the shard's lane tells what the store refused; see `apply_refusals`.
    """

    def __init__(self, *, whole: bool, horizon_s: float, now: float) -> None:
        self.whole = whole
        self._horizon_s = horizon_s
        self._rotate_at = now + horizon_s
        self._young = Generation({})
        self._old = Generation({})
        self._marks = RowMarks()
        self._truncated: dict[str, Version] = {}
        self._refused = RefusedChanges()
        self.refusals = Refusals()

    def get(self, key: RowKey) -> Known | None:
        """What is known of the row, or None."""
        # Called several times for every change: most rows are found without another call.
        known = self._young.recent.get(key)
        if known is None:
            known = self._young.get(key)
        return self._old.get(key) if known is None else known

    def newest(self, key: RowKey) -> Version | None:
        """The version that an event of the row must not be older than; None if nothing is known."""
        known = self.get(key)
        if self._truncated:
            emptied = self._truncated.get(key[: key.index(":") + 1])
            # guard: truncate-fence
            if emptied is not None and (known is None or known[0] < emptied):
                return emptied
        return None if known is None else known[0]

    def truncate(self, prefix: str, version: Version) -> None:
        """Enter that every older row of a table is gone.

        Args:
            prefix: What the row keys of the table begin with, up to the colon.
            version: The TRUNCATE's. Kept for good: there is one for a table.
        """
        if version > self._truncated.get(prefix, ""):
            self._truncated[prefix] = version
        for generation in (self._young, self._old):
            taken: dict[RowKey, Known] = {}
            for key, known in generation.items_of(prefix):
                if is_before(known[0], version):
                    # The offset is of another partition: the row keeps its own.
                    # guard: truncate-known
                    taken[key] = (at_offset(version, offset_of(known[0])), None)
            generation.recent.update(taken)
            # But for those that changed again, in the younger generation.
            self._marks.gone.update(filter(self._is_gone, taken))  # guard: truncate-newer-stays
        self._refused.end_table(prefix, version)

    def taint(self, key: RowKey, version: Version) -> None:
        """Note that a change of the row was refused: what the store holds is not the last version.

        Kept until a newer, whole row replaces it; for as many rows as there are dead letters at the
        most. Where such a row was sent already, nothing is noted.
        """
        known = self.get(key)
        if known is not None:
            # guard: taint-late
            whole = known[0] if known[1] != "" else self._marks.sent.last_whole(key)
            if whole is not None and whole > version:  # guard: taint-superseded
                return
        self._refused.add(key, version)

    def apply_refusals(self) -> None:
        """Note what the shard's lane was refused since the last call.

        Call it before anything is sent or packed: a row that lacks columns must not be completed from
        what was there before a refused one, in this process or the next.
        """
        for key, version in self.refusals.take():
            self.taint(key, version)

    def is_tainted(self, key: RowKey, version: Version, since: str = "") -> bool:
        """Whether a change was refused before this version, and after the one that it follows.

        A column that this version lacks must not be taken from anything older then.
        """
        return self._refused.any_between(key, since, version)

    def put(self, key: RowKey, version: Version, text_hash: str | None) -> None:
        """Enter a change that is on its way to the store.

        What the store has told since the change was read may be newer: then that stays, and the change
        has to be looked up.
        """
        known = self.get(key)
        marks = self._marks
        if known is not None and version < known[0]:
            marks.unverified.add(key)
            return
        if self._refused and text_hash != "" and key in self._refused:  # guard: taint-ends
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
        """Have every row looked up: the store may hold newer ones than the map."""
        self.whole = False
        self._marks.unverified.update(self._keys())

    def learn(self, key: RowKey, stored: Known | None) -> None:
        """Take over what the store holds; whatever is newer stays."""
        self._marks.unverified.discard(key)
        known = self.get(key)
        if stored is not None and (known is None or known[0] < stored[0]):  # guard: learn-newer
            self._keep(key, stored)

    def dropped_delete(self, key: RowKey) -> None:
        """Note that a delete was dropped as stale; its tombstone belongs to the past as well."""
        self._marks.stale_deletes.add(key)

    def ends_dropped_delete(self, key: RowKey) -> bool:
        """Whether a tombstone is the second half of a delete that was dropped."""
        return self._marks.stale_deletes.take(key)

    def rotate(self, now: float) -> None:
        """Forget what has not changed for a horizon, when one is over."""
        if now < self._rotate_at:  # guard: horizon
            return
        if self._old:
            self.whole = False  # guard: whole
        # What was on its way when a crash came may have been refused, and nothing else tells so: a row
        # that follows it must not be completed from what the store holds.
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
        """The state as plain values that later changes do not touch.

        Args:
            ending: The flow comes to a clean end: all that is known is kept, so that nothing has to be
                looked up after it. Otherwise only what the store cannot tell is: which rows are gone,
                what was refused, and what was put since the last call, for it may be refused yet. The
                rest would have to be written anew with each checkpoint, and a million rows take a
                second; after a crash they are looked up as they change.
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
            stale_deletes=self._marks.stale_deletes.pack(),  # guard: stale-tombstone-over-crash
            truncated=dict(self._truncated),
            refused=self._refused.pack(),  # guard: taint-over-crash
        )

    @classmethod
    def unpack(cls, packed: PackedVersions, *, horizon_s: float, now: float) -> "VersionMap":
        """The map that `pack` saw; its horizon starts anew, so that no downtime shortens it."""
        versions = cls(whole=packed["complete"], horizon_s=horizon_s, now=now)
        versions._young = Generation.unpack(packed["young"])
        versions._old = Generation.unpack(packed["old"])
        recent = (*packed["old"]["recent"].items(), *packed["young"]["recent"].items())
        deleted = (key for key, known in recent if known[1] is None)  # none of them is frozen
        unverified = packed["unverified"]
        versions._marks = RowMarks(
            gone={key for key in deleted if versions._is_gone(key)},
            unverified=set(unverified),
            doubtful=set(unverified),
            stale_deletes=StaleDeletes(packed["stale_deletes"]),
        )
        versions._truncated = dict(packed["truncated"])
        versions._refused = RefusedChanges(packed["refused"])
        return versions
