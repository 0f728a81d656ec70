"""The version of every row within a horizon: what fences stale events without asking the store."""

from typing import TypeAlias

from operators.events import RowKey, Version, at_offset, has_position, offset_of

Known: TypeAlias = tuple[Version, str | None]
"""Version and text hash of a row; the hash is None for a deleted row (its delete marker), and "" where
the text is not known here."""

PackedVersions: TypeAlias = tuple[
    bool,
    dict[RowKey, Known],
    dict[RowKey, Known],
    frozenset[RowKey],
    frozenset[RowKey],
    frozenset[RowKey],
    dict[str, Version],
    dict[RowKey, tuple[Version, ...]],
]

MAX_TAINTS = 8
"""Refused changes of one row that are told apart; of more, those in the middle are forgotten."""


class VersionMap:
    """{row key → (version, text hash)} of one shard, by two rotating generations.

    A key is kept for at least one horizon after its last change and dropped after two. A key that the
    map does not know has to be looked up in the store, and so has one that is *unverified*: entered
    without knowing whether the store holds a newer version.

    Attributes:
        whole: True while the map holds every row that was ever written for this shard, so that a key
            it does not know cannot be in the store.
    """

    def __init__(self, *, whole: bool, horizon_s: float, now: float) -> None:
        self.whole = whole
        self._horizon_s = horizon_s
        self._rotate_at = now + horizon_s
        self._young: dict[RowKey, Known] = {}
        self._old: dict[RowKey, Known] = {}
        # Of all but these the store itself can tell: rows that are known to be deleted, and those that
        # are on their way to the store, which may yet refuse them.
        self._gone: set[RowKey] = set()
        self._sent: set[RowKey] = set()
        self._unverified: set[RowKey] = set()
        self._young_stale: set[RowKey] = set()
        self._old_stale: set[RowKey] = set()
        self._truncated: dict[str, Version] = {}
        self._tainted: dict[RowKey, tuple[Version, ...]] = {}

    def get(self, key: RowKey) -> Known | None:
        """What is known of the row, or None."""
        known = self._young.get(key)
        return self._old.get(key) if known is None else known

    def newest(self, key: RowKey) -> Version | None:
        """The version that an event of the row must not be older than; None if nothing is known."""
        known = self.get(key)
        if self._truncated:
            emptied = self._truncated.get(key[: key.index(":") + 1])
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
            for key, known in generation.items():
                if known[0] < version and has_position(known[0]) and key.startswith(prefix):
                    # The offset is of another partition: the row keeps its own.
                    generation[key] = (at_offset(version, offset_of(known[0])), None)
                    self._gone.add(key)
        for key in [key for key in self._tainted if key.startswith(prefix)]:
            self._untaint(key, version)

    def taint(self, key: RowKey, version: Version) -> None:
        """Note that a change of the row was refused: what the store holds is not the last version.

        Kept until a newer, whole row replaces it; for as many rows as there are dead letters at the
        most. A lane may call this too, when a newer row has been sent already.
        """
        known = self.get(key)
        if known is not None and known[0] > version and known[1] != "":
            return
        refused = sorted({*self._tainted.get(key, ()), version})
        half = MAX_TAINTS // 2
        self._tainted[key] = (*refused[:half], *refused[half:][-half:])

    def _untaint(self, key: RowKey, version: Version) -> None:
        later = tuple(refused for refused in self._tainted.pop(key) if refused > version)
        if later:
            self._tainted[key] = later

    def is_tainted(self, key: RowKey, version: Version, since: str = "") -> bool:
        """Whether a change was refused before this version, and after the one that it follows.

        A column that this version lacks must not be taken from anything older then.
        """
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
        if self._tainted and text_hash != "" and key in self._tainted:
            self._untaint(key, version)
        if not self.whole and key not in self._young and key not in self._old:
            self._unverified.add(key)
        self._keep(key, (version, text_hash))
        self._sent.add(key)

    def _keep(self, key: RowKey, known: Known) -> None:
        self._young[key] = known
        if known[1] is None:
            self._gone.add(key)
        elif self._gone:
            self._gone.discard(key)

    def must_look_up(self, key: RowKey) -> bool:
        """Whether the store may hold a newer version of the row than the map."""
        return key in self._unverified

    def distrust(self) -> None:
        """Have every row looked up: the store may hold newer ones than the map."""
        self.whole = False
        self._unverified |= self._young.keys() | self._old.keys()

    def learn(self, key: RowKey, stored: Known | None) -> None:
        """Take over what the store holds; whatever is newer stays."""
        self._unverified.discard(key)
        known = self.get(key)
        if stored is not None and (known is None or known[0] < stored[0]):
            self._keep(key, stored)

    def dropped_delete(self, key: RowKey) -> None:
        """Note that a delete was dropped as stale; its tombstone belongs to the past as well."""
        self._young_stale.add(key)

    def ends_dropped_delete(self, key: RowKey) -> bool:
        """Whether a tombstone is the second half of a delete that was dropped."""
        known = key in self._young_stale or key in self._old_stale
        self._young_stale.discard(key)
        self._old_stale.discard(key)
        return known

    def rotate(self, now: float) -> None:
        """Forget what has not changed for a horizon, when one is over."""
        if now < self._rotate_at:
            return
        if self._old:
            self.whole = False
        self._old, self._young = self._young, {}
        self._rotate_at = now + self._horizon_s
        self._unverified &= self._old.keys()
        self._gone &= self._old.keys()
        self._old_stale, self._young_stale = self._young_stale, set()

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def pack(self, *, ending: bool) -> PackedVersions:
        """The state as plain values that later changes do not touch.

        Args:
            ending: The flow comes to a clean end: all that is known is kept, so that nothing has to be
                looked up after it. Otherwise only what the store cannot tell is: which rows are gone,
                what was refused, and what was put since the last call, for it may be refused yet. The
                rest would have to be written anew with each checkpoint, and a million rows take a
                second; after a crash they are looked up as they change.
        """
        young, old, whole = self._young, self._old, self.whole
        # Whoever goes on from here does not hear of what the store refuses after this.
        unverified = self._unverified | (self._sent - self._gone)
        if not ending:
            kept = self._gone | unverified
            young = {key: young[key] for key in kept if key in young}
            old = {key: old[key] for key in kept if key in old}
            whole = whole and (len(young), len(old)) == (len(self._young), len(self._old))
        self._sent.clear()
        return (
            whole,
            dict(young),
            dict(old),
            frozenset(unverified),
            frozenset(self._young_stale),
            frozenset(self._old_stale),
            dict(self._truncated),
            dict(self._tainted),
        )

    @classmethod
    def unpack(cls, packed: PackedVersions, *, horizon_s: float, now: float) -> "VersionMap":
        """The map that `pack` saw; its horizon starts anew, so that no downtime shortens it."""
        whole, young, old, unverified, young_stale, old_stale, truncated, tainted = packed
        versions = cls(whole=whole, horizon_s=horizon_s, now=now)
        versions._young, versions._old = dict(young), dict(old)
        versions._gone = {
            k for each in (old, young) for k, known in each.items() if known[1] is None
        }
        versions._gone -= {k for k, known in young.items() if known[1] is not None}
        versions._unverified = set(unverified)
        versions._young_stale, versions._old_stale = set(young_stale), set(old_stale)
        versions._truncated, versions._tainted = dict(truncated), dict(tainted)
        return versions
