"""Versions: the order of the changes of one row.

A version is `{generation}.{position}.{offset}.{tail}`, all in hex of fixed width. The tail says where
the change comes from, because a position orders only within one log of a database, and an offset only
within one partition of one topic:

| digits of the tail | mean |
|---|---|
| 1 | marks: `BORROWED`, `TOOK_OVER` |
| 7 | the place: topic and partition |
| 8 | the log: connector, `source.name` and database |
| 8 | the table: database, schema and table |

Zeros mean "not known". A version of a release before this one has no tail, and nothing is known of it.
"""

from functools import lru_cache
from typing import NewType
from zlib import crc32

Version = NewType("Version", str)
"""Order of the changes of one row: the source's log position, tie broken by the Kafka offset.

Sortable as a string as far as two versions have the log and the place in common; `is_older` compares
any two. Only versions of one row may be compared, or that of a row with that of a TRUNCATE of its
table. `operators.codec.log_positions` says what the position is for each database.
"""

OFFSET_DIGITS = 16

_TAIL = 24
_PLACE = slice(-23, -16)
_ORIGIN = slice(-16, None)
_LOG = slice(-16, -8)
_TABLE = slice(-8, None)

NO_POSITION = "0" * 16
"""Position of a change whose place in the source's log is not known; it sorts before every other."""

_NOWHERE = f"{NO_POSITION}."

NO_PLACE = "0" * 7

NO_ORIGIN = "0" * 16

NO_GENERATION = "0000"

_NO_DIGEST = "0" * 8

_NO_TAIL = "0" * _TAIL

BORROWED = 1
"""The position is that of the change before: the change's own message names none. So the change is
newer than every other change at that position, whatever partition that one comes from."""

TOOK_OVER = 2
"""Another table had the row, and has deleted it: what the store holds of that table is gone."""


def make_version(generation: int, position: str, offset: int, tail: str = "") -> Version:
    """The version of a change; all positions of one database have the same width.

    Args:
        generation: The table's.
        position: In the database's log.
        offset: The record's.
        tail: `tail_of` its place and origin.
    """
    # guard: offset-tie-break, generation
    return Version(f"{generation:04x}.{position}.{offset:016x}{tail}")


@lru_cache(4_096)
def place_of_partition(topic: str, partition: int) -> str:
    """Seven hex digits for one partition of one topic."""
    return f"{crc32(f'{topic}/{partition}'.encode()) % 0xFFFFFFF + 1:07x}"


def origin_of_table(log: tuple[str, ...], table: tuple[str, ...]) -> str:
    """Sixteen hex digits for the log that a change comes from, and for its table.

    Args:
        log: Names that tell the log from others; () if they are not known.
        table: The same for the table.
    """
    return _digest(log) + _digest(table)


def _digest(names: tuple[str, ...]) -> str:
    if not names:
        return _NO_DIGEST
    text = "\0".join(names).encode("utf-8", "surrogatepass")
    return f"{crc32(text) % 0xFFFFFFFF + 1:08x}"


def _split(version: str) -> tuple[str, str]:
    """A version up to its offset, and its tail."""
    if version[-_TAIL - 1 : -_TAIL] == ".":
        return version[: -_TAIL - 1], version[-_TAIL:]
    return version, _NO_TAIL


def tail_of(place: str, origin: str = NO_ORIGIN) -> str:
    """The tail of a version, with its dot."""
    return f".0{place}{origin}"


def place_of(version: str) -> str:
    """The partition that a version's offset belongs to; `NO_PLACE` if it is not known."""
    return _split(version)[1][_PLACE]


def origin_of(version: str) -> str:
    """Log and table that a version's change comes from; zeros for what is not known."""
    return _split(version)[1][_ORIGIN]


def with_place(version: Version, place: str) -> Version:
    """The version, in this place if it knows none itself."""
    core, tail = _split(version)
    if not place or tail[_PLACE] != NO_PLACE or len(core) <= OFFSET_DIGITS:
        return version
    return Version(f"{core}.{tail[0]}{place}{tail[_ORIGIN]}")


def borrowed(version: Version, offset: int, place: str, origin: str = NO_ORIGIN) -> Version:
    """The version of a change that names no position, and came after this one.

    Args:
        version: The version of the change before it.
        offset: Its own offset.
        place: The place of its offset.
        origin: Its own log and table, if the change before it knows none.
    """
    core, tail = _split(version)
    marks = int(tail[0], 16) | BORROWED
    origin = origin if tail[_ORIGIN] == NO_ORIGIN else tail[_ORIGIN]
    return Version(f"{core[:-OFFSET_DIGITS]}{offset:016x}.{marks:x}{place}{origin}")


def emptied_by(truncate: Version, known: Version) -> Version:
    """The version of a row that a TRUNCATE deleted.

    The TRUNCATE's offset may be of another partition, so the row keeps its own.
    """
    core, tail = _split(truncate)
    before, place = _split(known)
    offset = before[-OFFSET_DIGITS:]
    if tail is _NO_TAIL and place is _NO_TAIL:
        return Version(f"{core[:-OFFSET_DIGITS]}{offset}")
    return Version(f"{core[:-OFFSET_DIGITS]}{offset}.{tail[0]}{place[_PLACE]}{tail[_ORIGIN]}")


def marked(version: Version, mark: int) -> Version:
    """The version with a mark; it must have a tail."""
    marks = int(version[-_TAIL], 16) | mark
    return Version(f"{version[:-_TAIL]}{marks:x}{version[-_TAIL + 1 :]}")


def has_mark(version: str, mark: int) -> bool:
    """Whether a version has a mark."""
    return bool(int(_split(version)[1][0], 16) & mark)


def position_key(version: str) -> str:
    """What all changes at one position have in common: generation and position, and the log."""
    core, tail = _split(version)
    return f"{core[:-OFFSET_DIGITS]}{tail[_LOG]}"


def same_position(one: str, other: str) -> bool:
    """Whether two versions are at the same position, by what is known of them."""
    (core, tail), (other_core, other_tail) = _split(one), _split(other)
    return core[:-OFFSET_DIGITS] == other_core[:-OFFSET_DIGITS] and not _differ(
        tail[_LOG], other_tail[_LOG], _NO_DIGEST
    )


def same_transaction(one: str, other: str) -> bool:
    """Whether two versions share the first half of their position, where it is a commit's."""
    return one[:21] == other[:21] and not other_log(one, other)


def offset_of(version: str) -> int:
    """The Kafka offset of a version."""
    return int(_split(version)[0][-OFFSET_DIGITS:], 16)


def has_position(version: str) -> bool:
    """Whether a version has a source position, and not only a Kafka offset."""
    return not version.startswith(_NOWHERE, 5)


def _differ(one: str, other: str, unknown: str) -> bool:
    return one != other and one != unknown and other != unknown


def other_table(one: str, other: str) -> bool:
    """Whether two changes are known to come from two physical tables."""
    return _differ(origin_of(one)[_TABLE], origin_of(other)[_TABLE], _NO_DIGEST) or other_log(
        one, other
    )


def other_log(one: str, other: str) -> bool:
    """Whether two changes are known to come from two logs, whose positions say nothing together."""
    return _differ(origin_of(one)[_LOG], origin_of(other)[_LOG], _NO_DIGEST)


def other_place(one: str, other: str) -> bool:
    """Whether two changes are known to come from two partitions; one of them may be read far behind."""
    return _differ(place_of(one), place_of(other), NO_PLACE)


def renamed_log(one: str, other: str) -> bool:
    """Whether two changes name the same table, but other logs: its server or connector is new."""
    return other_log(one, other) and origin_of(one)[_TABLE] == origin_of(other)[_TABLE]


def is_older(version: str, other: str) -> bool:
    """Whether a version of a row is known to be older than another one of it.

    Neither is older than the other if nothing orders them: their logs differ and their places as well,
    or the position is the same and the places differ. Then the one that was read last counts.
    """
    if version[-_TAIL:] == other[-_TAIL:]:
        return version < other  # the usual case: one log, one partition
    if version[:4] != other[:4]:
        return version[:4] < other[:4]
    (one, tail), (two, other_tail) = _split(version), _split(other)
    elsewhere = _differ(tail[_PLACE], other_tail[_PLACE], NO_PLACE)
    if not _differ(tail[_LOG], other_tail[_LOG], _NO_DIGEST):  # guard: positions-of-one-log
        position, other_position = one[:-OFFSET_DIGITS], two[:-OFFSET_DIGITS]
        if position != other_position:
            return position < other_position
        if elsewhere:  # guard: offsets-of-one-place
            return bool(int(other_tail[0], 16) & BORROWED) and not int(tail[0], 16) & BORROWED
    elif elsewhere or NO_PLACE in (tail[_PLACE], other_tail[_PLACE]):
        return False
    return one[-OFFSET_DIGITS:] < two[-OFFSET_DIGITS:]


def came_behind(version: str, other: str) -> bool:
    """Whether a change lies behind another one in one partition, and both have positions in one log."""
    if version[:4] != other[:4] or not (has_position(version) and has_position(other)):
        return False
    place = place_of(version)
    if place != place_of(other) or place == NO_PLACE or other_log(version, other):
        return False
    return not same_position(version, other) and offset_of(version) > offset_of(other)


def is_same_or_older(version: str, other: str) -> bool:
    """Whether a version is the other one, or known to be older."""
    if version == other:
        return True
    (one, tail), (two, other_tail) = _split(version), _split(other)
    same = one == two and not _differ(tail[_PLACE], other_tail[_PLACE], NO_PLACE)
    return same or is_older(version, other)


def is_before(version: Version, other: str) -> bool:
    """Whether a version is known to be older than another; one without a position never is."""
    # guard: truncate-without-position, fallback-without-position
    return has_position(version) and is_older(version, other)


def is_emptied(version: Version, truncate: Version) -> bool:
    """Whether a TRUNCATE has deleted a row of this version: an older one of the same physical table."""
    # guard: truncate-one-table
    return not other_table(version, truncate) and is_before(version, truncate)


def position_of(version: Version) -> str:
    """The position as a message shows it, with the offset."""
    core, _ = _split(version)
    position = core[5 : -OFFSET_DIGITS - 1]
    return f"position {position} (offset {offset_of(version)})"
