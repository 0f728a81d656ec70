"""What a shard of `dedup` keeps in the recovery files: plain values, none of our classes."""

from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict

from operators.changes.events import DeadLetter, Delete, KafkaPosition, Truncate, Upsert
from operators.changes.rows import Followed, Follows, PartialRow, Pending, Row
from operators.changes.version import NO_ORIGIN, NO_PLACE, Version
from operators.state.formats import record_of
from operators.state.map_generation import PackedGeneration
from operators.state.version_map import PackedVersions

STATE_FORMAT = 4

Packed: TypeAlias = tuple[Any, ...]


class PackedShard(TypedDict):
    """The state of one shard of `dedup`.

    Attributes:
        versions: The version map.
        pending: Rendered changes of the open window; those of one row from the oldest to the newest.
        truncates: TRUNCATEs that wait for the window to close.
        dead_letters: Dead letters that wait for the window to close.
    """

    versions: PackedVersions
    pending: tuple[Packed, ...]
    truncates: tuple[Packed, ...]
    dead_letters: tuple[Packed, ...]


DedupState: TypeAlias = tuple[int, PackedShard]
"""(STATE_FORMAT, the shard's state): plain values."""


def read(state: Any) -> PackedShard:
    """Read a state of the current format or the one before.

    Raises:
        FatalError: The state has another format.
    """
    return record_of(state, "the step 'dedup'", STATE_FORMAT, _of_format_3)


def _of_format_3(state: Any) -> PackedShard:
    _, versions, pending, truncates, dead_letters = state
    whole, young, old, unverified, young_stale, old_stale, truncated, refused = versions
    return PackedShard(
        versions=PackedVersions(
            complete=whole,
            young=_generation_of_format_3(young),
            old=_generation_of_format_3(old),
            unverified=unverified,
            # A place that no tombstone comes from: the partition of the dropped delete is not known.
            owed_tombstones=(
                dict.fromkeys(young_stale, NO_PLACE),
                dict.fromkeys(old_stale, NO_PLACE),
            ),
            anew={},
            truncated={f"{name}{NO_ORIGIN}": each for name, each in truncated.items()},
            refused=refused,
        ),
        pending=pending,
        truncates=truncates,
        dead_letters=dead_letters,
    )


def _generation_of_format_3(packed: Any) -> PackedGeneration:
    recent, frozen = packed
    return PackedGeneration(recent=recent, frozen=frozen)


def pack(winner: Pending) -> Packed:
    """A rendered change as plain values."""
    assert not isinstance(winner, Upsert)  # rendered before the checkpoint
    key, version, position, *rest = winner
    packed = (_KINDS[type(winner)], key, version, tuple(position), *rest)
    match winner:
        case PartialRow():
            return (*packed[:-1], _pack_follows(winner.follows))
        case Delete():
            return packed[:-2]  # `before` and `of_tombstone` have been used by now
    return packed


def unpack(values: Packed) -> Row | PartialRow | Delete:
    """The change that `pack` was given."""
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
    """The TRUNCATE that `pack_truncate` was given."""
    table, version, position, source_ts_ms = values
    return Truncate(table, version, KafkaPosition(*position), source_ts_ms)


def pack_letter(letter: DeadLetter) -> Packed:
    """A dead letter as plain values."""
    return (tuple(letter.position), *letter[1:])


def unpack_letter(values: Packed) -> DeadLetter:
    """The dead letter that `pack_letter` was given."""
    position, *rest = values
    return DeadLetter(KafkaPosition(*position), *rest)
