"""The version of every row within a horizon: what fences stale events without asking the store."""

from collections.abc import Iterator, Set
from typing import TypeAlias

from operators.changes.row_key import RowKey
from operators.changes.version import Version, at_offset, is_before, offset_of
from operators.state.frozen_versions import FrozenVersions, Known, PackedFrozen
from operators.state.refusals import Refusals
from operators.state.sent_rows import SentRows

PackedGeneration: TypeAlias = tuple[dict[RowKey, Known], PackedFrozen | None]

PackedVersions: TypeAlias = tuple[
    bool,
    PackedGeneration,
    PackedGeneration,
    frozenset[RowKey],
    frozenset[RowKey],
    frozenset[RowKey],
    dict[str, Version],
    dict[RowKey, tuple[Version, ...]],
]

FREEZE_FROM = 512
"""Rows of a generation: fewer stay in a dict, which is faster, and no memory is worth the while."""

_FREEZE_SHARE = 8
"""Of a generation, one in so many comes before they are frozen: what a dict adds to the memory stays
small, and so does what is copied for each."""

MAX_TAINTS = 8
"""Refused changes of one row that are told apart; of more, those in the middle are forgotten."""


class _Generation:
    """What was entered within one horizon: a dict of the last changes, over what is frozen."""

    __slots__ = ("frozen", "limit", "recent")

    def __init__(self, recent: dict[RowKey, Known], frozen: FrozenVersions | None = None) -> None:
        self.recent = recent
        self.frozen = frozen
        self.limit = self._next_limit()

    def _next_limit(self) -> int:
        """How many recent rows there may be before they are frozen."""
        recent, frozen = len(self.recent), 0 if self.frozen is None else len(self.frozen)
        return max(FREEZE_FROM - frozen, recent + (recent + frozen) // _FREEZE_SHARE)

    def __bool__(self) -> bool:
        return bool(self.recent or self.frozen)

    def get(self, key: RowKey) -> Known | None:
        known = self.recent.get(key)
        if known is None and self.frozen is not None:
            known = self.frozen.get(key)
        return known

    def of(self, keys: Set[RowKey]) -> dict[RowKey, Known]:
        """What is known of these rows."""
        return {key: known for key in keys if (known := self.get(key)) is not None}

    def freeze(self, held: Set[RowKey]) -> None:
        """Freeze the recent rows, but for those that each checkpoint has to find."""
        settled = {key: known for key, known in self.recent.items() if key not in held}
        if settled:
            frozen = FrozenVersions.none() if self.frozen is None else self.frozen
            self.frozen = frozen.with_rows(settled)
            self.recent = {key: known for key, known in self.recent.items() if key in held}
        self.limit = self._next_limit()

    def keys(self) -> Iterator[RowKey]:
        """Of all rows; of one that changed after it was frozen, twice."""
        yield from self.recent
        if self.frozen is not None:
            yield from self.frozen.keys()

    def items_of(self, prefix: str) -> Iterator[tuple[RowKey, Known]]:
        """All rows whose key begins so."""
        for key, known in self.recent.items():
            if key.startswith(prefix):
                yield key, known
        if self.frozen is not None:
            for key, known in self.frozen.items_of(prefix):
                if key not in self.recent:  # guard: recent-before-frozen
                    yield key, known

    def pack(self) -> PackedGeneration:
        # guard: state-is-a-copy
        return dict(self.recent), None if self.frozen is None else self.frozen.pack()

    @classmethod
    def unpack(cls, packed: PackedGeneration) -> "_Generation":
        recent, frozen = packed
        # guard: restored-is-a-copy
        return cls(dict(recent), None if frozen is None else FrozenVersions.unpack(frozen))


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
        self._young = _Generation({})
        self._old = _Generation({})
        # Of all but these the store itself can tell: rows that are known to be deleted, and those that
        # are on their way to the store, which may yet refuse them.
        self._gone: set[RowKey] = set()
        self._sent = SentRows()
        self.refusals = Refusals()
        self._unverified: set[RowKey] = set()
        self._doubtful: set[RowKey] = set()
        self._young_stale: set[RowKey] = set()
        self._old_stale: set[RowKey] = set()
        self._truncated: dict[str, Version] = {}
        self._tainted: dict[RowKey, tuple[Version, ...]] = {}

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
            self._gone.update(filter(self._is_gone, taken))  # guard: truncate-newer-stays
        for key in [key for key in self._tainted if key.startswith(prefix)]:
            self._untaint(key, version)

    def taint(self, key: RowKey, version: Version) -> None:
        """Note that a change of the row was refused: what the store holds is not the last version.

        Kept until a newer, whole row replaces it; for as many rows as there are dead letters at the
        most. Where such a row was sent already, nothing is noted.
        """
        known = self.get(key)
        if known is not None:
            # guard: taint-late
            whole = known[0] if known[1] != "" else self._sent.last_whole(key)
            if whole is not None and whole > version:  # guard: taint-superseded
                return
        refused = sorted({*self._tainted.get(key, ()), version})
        half = MAX_TAINTS // 2
        self._tainted[key] = (*refused[:half], *refused[half:][-half:])

    def apply_refusals(self) -> None:
        """Note what the shard's lane was refused since the last call.

        Call it before anything is sent or packed: a row that lacks columns must not be completed from
        what was there before a refused one, in this process or the next.
        """
        for key, version in self.refusals.take():
            self.taint(key, version)

    def _untaint(self, key: RowKey, version: Version) -> None:
        later = tuple(refused for refused in self._tainted.pop(key) if refused > version)
        if later:
            self._tainted[key] = later

    def is_tainted(self, key: RowKey, version: Version, since: str = "") -> bool:
        """Whether a change was refused before this version, and after the one that it follows.

        A column that this version lacks must not be taken from anything older then.
        """
        # guard: taint-at-position
        return any(since < refused < version for refused in self._tainted.get(key, ()))

    def put(self, key: RowKey, version: Version, text_hash: str | None) -> None:
        """Enter a change that is on its way to the store.

        What the store has told since the change was read may be newer: then that stays, and the change
        has to be looked up.
        """
        known = self.get(key)
        if known is not None and version < known[0]:
            self._unverified.add(key)
            return
        if self._tainted and text_hash != "" and key in self._tainted:  # guard: taint-ends
            self._untaint(key, version)
        if not self.whole and known is None:  # guard: unverified
            self._unverified.add(key)
        if text_hash == "" and known is not None and known[1] != "":
            self._sent.follows_whole(key, known[0])
        self._sent.add(key)
        self._keep(key, (version, text_hash))

    def _keep(self, key: RowKey, known: Known) -> None:
        young = self._young
        young.recent[key] = known
        if known[1] is None:
            self._gone.add(key)
        elif self._gone:
            self._gone.discard(key)
        if len(young.recent) > young.limit:
            young.freeze(self._gone | self._unverified)  # guard: deleted-not-frozen

    def _is_gone(self, key: RowKey) -> bool:
        known = self.get(key)
        return known is not None and known[1] is None

    def must_look_up(self, key: RowKey) -> bool:
        """Whether the store may hold a newer version of the row than the map."""
        return key in self._unverified

    def distrust(self) -> None:
        """Have every row looked up: the store may hold newer ones than the map."""
        self.whole = False
        self._unverified.update(self._keys())

    def learn(self, key: RowKey, stored: Known | None) -> None:
        """Take over what the store holds; whatever is newer stays."""
        self._unverified.discard(key)
        known = self.get(key)
        if stored is not None and (known is None or known[0] < stored[0]):  # guard: learn-newer
            self._keep(key, stored)

    def dropped_delete(self, key: RowKey) -> None:
        """Note that a delete was dropped as stale; its tombstone belongs to the past as well."""
        self._young_stale.add(key)

    def ends_dropped_delete(self, key: RowKey) -> bool:
        """Whether a tombstone is the second half of a delete that was dropped."""
        if not (self._young_stale or self._old_stale):
            return False  # as nearly always, and it is asked for every change
        known = key in self._young_stale or key in self._old_stale
        self._young_stale.discard(key)
        self._old_stale.discard(key)
        return known

    def rotate(self, now: float) -> None:
        """Forget what has not changed for a horizon, when one is over."""
        if now < self._rotate_at:  # guard: horizon
            return
        if self._old:
            self.whole = False  # guard: whole
        # What was on its way when a crash came may have been refused, and nothing else tells so: a row
        # that follows it must not be completed from what the store holds.
        self._doubtful &= self._unverified
        doubtful = self._old.of(self._doubtful - self._young.of(self._doubtful).keys())
        self._old, self._young = self._young, _Generation(doubtful)  # guard: versions-doubtful
        self._rotate_at = now + self._horizon_s
        self._unverified = {key for key in self._unverified if self.get(key) is not None}
        self._gone = {key for key in self._gone if self.get(key) is not None}
        self._old_stale, self._young_stale = self._young_stale, set()

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
        whole = self.whole
        # Whoever goes on from here does not hear of what the store refuses after this.
        unverified = self._unverified | (self._sent.keys - self._gone)  # guard: sent-over-crash
        if ending:
            young, old = self._young.pack(), self._old.pack()
        else:
            kept = self._gone | unverified  # guard: gone-over-crash
            young = self._young.of(kept), None
            old = self._old.of(kept - young[0].keys()), None
            whole = whole and all(key in kept for key in self._keys())  # guard: whole-over-crash
        self._sent.checkpoint()
        return (
            whole,
            young,
            old,
            frozenset(unverified),  # guard: unverified-over-crash
            frozenset(self._young_stale),  # guard: stale-tombstone-over-crash
            frozenset(self._old_stale),
            dict(self._truncated),
            dict(self._tainted),  # guard: taint-over-crash
        )

    @classmethod
    def unpack(cls, packed: PackedVersions, *, horizon_s: float, now: float) -> "VersionMap":
        """The map that `pack` saw; its horizon starts anew, so that no downtime shortens it."""
        whole, young, old, unverified, young_stale, old_stale, truncated, tainted = packed
        versions = cls(whole=whole, horizon_s=horizon_s, now=now)
        versions._young, versions._old = map(_Generation.unpack, (young, old))
        # None of them is frozen.
        deleted = (k for each in (old, young) for k, known in each[0].items() if known[1] is None)
        versions._gone = {k for k in deleted if versions._is_gone(k)}
        versions._unverified, versions._doubtful = set(unverified), set(unverified)
        versions._young_stale, versions._old_stale = set(young_stale), set(old_stale)
        versions._truncated, versions._tainted = dict(truncated), dict(tainted)
        return versions
