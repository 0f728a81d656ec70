"""What a shard of `dedup` keeps in the recovery files: plain values, none of our classes."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from operators.changes.events import DeadLetter, Delete, KafkaPosition, Truncate, Upsert
from operators.changes.rows import Followed, Follows, PartialRow, Pending, Row
from operators.changes.version import Version
from operators.errors import FatalError
from operators.state.version_map import PackedVersions

STATE_FORMAT = 3

Packed: TypeAlias = tuple[Any, ...]

DedupState: TypeAlias = tuple[
    int, PackedVersions, tuple[Packed, ...], tuple[Packed, ...], tuple[Packed, ...]
]
"""(STATE_FORMAT, version map, pending winners, truncates, dead letters): plain values."""


def check_format(state: DedupState) -> None:
    """Refuse a state of another release.

    Raises:
        FatalError: Its format is not the one that this release writes.
    """
    if state[0] != STATE_FORMAT:  # guard: state-format
        raise FatalError(
            subject="recovery state of the step 'dedup'",
            cause=f"it has format {state[0]}, and this release reads format {STATE_FORMAT}",
            hint="run the release that wrote it, or start with an empty recovery directory",
        )


def pack(winner: Pending) -> Packed:
    """A rendered winner as plain values."""
    assert not isinstance(winner, Upsert)  # all are rendered by now
    key, version, position, *rest = winner
    packed = (_KINDS[type(winner)], key, version, tuple(position), *rest)
    return (
        (*packed[:-1], _pack_follows(winner.follows)) if isinstance(winner, PartialRow) else packed
    )


def unpack(values: Packed) -> Row | PartialRow | Delete:
    """The winner that `pack` saw."""
    kind, key, version, position, *rest = values
    if kind == "partial":
        rest[-1] = _unpack_follows(rest[-1])
    return _CLASSES[kind](key, version, KafkaPosition(*position), *rest)


def _pack_follows(follows: Followed) -> str | None:
    """None for an unknown version, "" for a refused one: the same plain values as in format 3."""
    if isinstance(follows, Follows):
        return None if follows is Follows.UNKNOWN else ""
    return follows


def _unpack_follows(packed: str | None) -> Followed:
    if packed is None:
        return Follows.UNKNOWN
    return Version(packed) if packed else Follows.REFUSED


_CLASSES: Mapping[str, type[Row] | type[PartialRow] | type[Delete]] = {
    "row": Row,
    "partial": PartialRow,
    "delete": Delete,
}

_KINDS = {kind: name for name, kind in _CLASSES.items()}


def pack_truncate(truncate: Truncate) -> Packed:
    """A TRUNCATE as plain values."""
    return (truncate.table, truncate.version, tuple(truncate.position), truncate.source_ts_ms)


def unpack_truncate(values: Packed) -> Truncate:
    """The TRUNCATE that `pack_truncate` saw."""
    table, version, position, source_ts_ms = values
    return Truncate(table, version, KafkaPosition(*position), source_ts_ms)


def pack_letter(letter: DeadLetter) -> Packed:
    """A dead letter as plain values."""
    return (tuple(letter.position), *letter[1:])


def unpack_letter(values: Packed) -> DeadLetter:
    """The letter that `pack_letter` saw."""
    position, *rest = values
    return DeadLetter(KafkaPosition(*position), *rest)
