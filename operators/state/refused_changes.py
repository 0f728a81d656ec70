"""Changes that were refused: after one, an older value must not be taken for the row's."""

from typing import TypeAlias

from operators.changes.row_key import RowKey
from operators.changes.version import Version

MAX_REFUSED = 8
"""Refused changes of one row that are told apart; of more, those in the middle are forgotten."""

PackedRefused: TypeAlias = dict[RowKey, tuple[Version, ...]]


class RefusedChanges:
    """{row key → versions of its changes that could not be read, rendered or stored}.

    A row that lacks a column takes it from the version that it follows. Where a refused one is in
    between, the value may be another by now. Rows have an entry until a newer, whole change of theirs
    comes: there are as many as dead letters, at the most.
    """

    __slots__ = ("_versions",)

    def __init__(self, packed: PackedRefused | None = None) -> None:
        self._versions: PackedRefused = dict(packed or {})

    def __contains__(self, key: RowKey) -> bool:
        return key in self._versions

    def __bool__(self) -> bool:
        return bool(self._versions)

    def add(self, key: RowKey, version: Version) -> None:
        """Note that this change of the row was refused."""
        refused = sorted({*self._versions.get(key, ()), version})
        half = MAX_REFUSED // 2
        self._versions[key] = (*refused[:half], *refused[half:][-half:])

    def end(self, key: RowKey, version: Version) -> None:
        """Forget what was refused of a row up to a version in which it is whole, or deleted."""
        later = tuple(refused for refused in self._versions.pop(key) if refused > version)
        if later:
            self._versions[key] = later

    def end_table(self, prefix: str, version: Version) -> None:
        """The same for all rows whose key begins so."""
        for key in [key for key in self._versions if key.startswith(prefix)]:
            self.end(key, version)

    def any_between(self, key: RowKey, since: str, version: Version) -> bool:
        """Whether a change of the row was refused after one version and before another."""
        # guard: taint-at-position
        return any(since < refused < version for refused in self._versions.get(key, ()))

    def pack(self) -> PackedRefused:
        """All of it as plain values."""
        return dict(self._versions)
