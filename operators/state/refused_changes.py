"""Refused changes: a later change of the row must not take a column from before one of them."""

from typing import TypeAlias

from operators.changes.row_key import RowKey
from operators.changes.version import (
    NO_PLACE,
    Version,
    has_position,
    is_older,
    offset_of,
    other_table,
    place_of,
)

MAX_REFUSED = 8
"""Most refused changes that are kept for one row; of more, the ones in the middle are dropped."""

PackedRefused: TypeAlias = dict[RowKey, tuple[Version, ...]]


class RefusedChanges:
    """{row key → versions of its changes that could not be read, rendered or stored}.

    A partial row takes missing columns from the version that it follows. If a refused change lies
    between the two, it may have changed those columns. An entry is kept until a newer, whole change of
    its row comes, so there are at most as many entries as dead letters.
    """

    __slots__ = ("_versions",)

    def __init__(self, packed: PackedRefused | None = None) -> None:
        self._versions: PackedRefused = dict(packed or {})

    def __contains__(self, key: RowKey) -> bool:
        return key in self._versions

    def add(self, key: RowKey, version: Version) -> None:
        """Note that this change of the row was refused."""
        refused = sorted({*self._versions.get(key, ()), version})
        half = MAX_REFUSED // 2
        self._versions[key] = (*refused[:half], *refused[half:][-half:])

    def end(self, key: RowKey, version: Version) -> None:
        """Forget a row's refused changes up to a version in which the row is whole or deleted."""
        later = tuple(
            refused
            for refused in self._versions.pop(key)
            if refused != version and not is_older(refused, version)
        )
        if later:
            self._versions[key] = later

    def end_table(self, prefix: str, version: Version) -> None:
        """The same for all rows whose key has this prefix, after a TRUNCATE of their physical table."""
        for key in [key for key in self._versions if key.startswith(prefix)]:
            if not any(other_table(refused, version) for refused in self._versions[key]):
                self.end(key, version)

    def any_between(self, key: RowKey, since: str, version: Version) -> bool:
        """Whether a change of the row between the two versions was refused.

        A version without a position sorts before all that have one: there only the offset tells what
        was refused before it.
        """
        refused = self._versions.get(key, ())
        if refused and not has_position(version):
            # guard: taint-unpositioned
            return any(
                _comes_before(each, version) and not (since and _is_behind(each, since))
                for each in refused
            )
        # guard: taint-at-position
        return any(
            is_older(each, version) and (not since or is_older(since, each)) for each in refused
        )

    def pack(self) -> PackedRefused:
        """The refused changes as plain values."""
        return dict(self._versions)


def _comes_before(refused: Version, version: Version) -> bool:
    """Whether a refused change has the smaller offset, or comes from another partition."""
    return _is_elsewhere(refused, version) or offset_of(refused) < offset_of(version)


def _is_behind(refused: Version, since: str) -> bool:
    """Whether a refused change is known to come before another one: it has the smaller offset."""
    return not _is_elsewhere(refused, since) and offset_of(refused) < offset_of(since)


def _is_elsewhere(one: str, other: str) -> bool:
    places = place_of(one), place_of(other)
    return places[0] != places[1] and NO_PLACE not in places
