"""Versions: the order of the changes of one row."""

from typing import NewType

Version = NewType("Version", str)
"""Order of the changes of one row: the source's log position, tie broken by the Kafka offset.

Sortable as a string: `{generation:04x}.{position}.{offset:016x}`. Only versions of one row may be
compared, or that of a row with that of a TRUNCATE of its table. `operators.codec.log_positions` says
what the position is for each database.
"""

OFFSET_DIGITS = 16

NO_POSITION = "0" * 16
"""Position of a change whose place in the source's log is not known; it sorts before every other."""

_NOWHERE = f"{NO_POSITION}."


def make_version(generation: int, position: str, offset: int) -> Version:
    """The version of a change; all positions of one database have the same width."""
    # guard: offset-tie-break, generation
    return Version(f"{generation:04x}.{position}.{offset:016x}")


def at_offset(version: Version, offset: int) -> Version:
    """The same source position with another Kafka offset."""
    return Version(f"{version[:-OFFSET_DIGITS]}{offset:016x}")


def same_position(one: str, other: str) -> bool:
    """Whether two versions differ by no more than their Kafka offset."""
    return one[:-OFFSET_DIGITS] == other[:-OFFSET_DIGITS]


def offset_of(version: Version) -> int:
    """The Kafka offset that a version ends with."""
    return int(version[-OFFSET_DIGITS:], 16)


def has_position(version: Version) -> bool:
    """Whether a version has a source position, and not only a Kafka offset."""
    return not version.startswith(_NOWHERE, 5)


def is_before(version: Version, other: str) -> bool:
    """Whether a version is known to be older than another; one without a position never is."""
    # guard: truncate-without-position, fallback-without-position
    return has_position(version) and version < other
