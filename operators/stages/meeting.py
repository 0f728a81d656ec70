"""What may be said of two changes of one key that nothing orders, or that come from two tables.

A topic can bring the rows of several physical tables, or of several servers; a key can come from
several partitions. `dedup` compares a change with the row that it knows, and `resolve` with the stored
one. Both ask here first whether the two may be compared at all.
"""

import logging
from collections.abc import Collection
from enum import Enum, auto

from operators.changes.events import Delete, Upsert
from operators.changes.rows import Winner
from operators.changes.version import (
    NO_PLACE,
    Version,
    borrowed,
    came_behind,
    offset_of,
    origin_of,
    other_log,
    other_table,
    place_of,
    place_of_partition,
    position_of,
    renamed_log,
)
from operators.contract.table import TableSection
from operators.errors import FatalError, RecordError
from operators.state.version_map import VersionMap
from operators.telemetry import Telemetry

_log = logging.getLogger("rowvec")

STALE_ROWS = 100
"""So many rows in a row whose changes are stale, and none is a repeat: the log may have gone back."""


class Meeting(Enum):
    """What a change of one key is to the row that is known under it."""

    COMPARED = auto()
    """Their versions say which is older."""

    NEWER = auto()
    """The known row comes from a topic that is not read any more, and from another log."""

    TAKES_OVER = auto()
    """The key was another table's, whose row is deleted."""

    IGNORED = auto()
    """It deletes another table's row."""

    REFUSED = auto()
    """The key is another table's, and its row is there."""


class Places:
    """The partitions that the flow reads, and what it could not order.

    Args:
        partitions: Of all processes: (topic, partition).
        telemetry: Counts what could not be ordered.
    """

    def __init__(self, partitions: Collection[tuple[str, int]], telemetry: Telemetry) -> None:
        self._read = {place_of_partition(*each) for each in partitions}
        self._telemetry = telemetry
        self._told: set[str] = set()

    def is_left(self, place: str, other: str) -> bool:
        """Whether a place is one that the flow does not read any more: its topic was another one."""
        return place not in (NO_PLACE, other) and place not in self._read

    def came_later(self, topic: str, partition: int, offset: int, known: Version) -> bool:
        """Whether a change that only its offset orders came after what is known of its row.

        Offsets order within one partition of one topic. A row of a topic that is not read any more is
        older. From another partition, what is read later counts as newer: keys change their partition
        when a topic gets more of them. That is counted, and said once.
        """
        place, before = place_of_partition(topic, partition), place_of(known)
        if before in (NO_PLACE, place):
            return offset_of(known) <= offset  # guard: unpositioned-offset
        if not self.is_left(before, place):
            self._unordered(topic)
        return True

    def _unordered(self, topic: str) -> None:
        self._telemetry.rows_unordered.add(1)
        if topic not in self._told:
            self._told.add(topic)
            _log.warning(
                "topic %s: a change that names no position in the database's log (a tombstone, or any "
                "change of MongoDB) comes from another partition than its row did. It counts as newer, "
                "which is right if the topic got more partitions, and may be wrong if a transform "
                "chooses the partition by the row's content",
                topic,
            )


def meet(
    version: Version,
    known: Version,
    table: TableSection,
    places: Places,
    versions: VersionMap,
    *,
    deletes: bool,
    alive: bool,
) -> Meeting:
    """What a change is to the known row.

    Args:
        version: The change's.
        known: The row's.
        table: The contract's.
        places: The partitions that the flow reads.
        versions: Of its shard.
        deletes: Whether the change is a delete.
        alive: Whether the known row is there.

    Raises:
        FatalError: It is the same table in another log: its server or connector is another one.
    """
    if version[-16:] == known[-16:] or version[:4] != known[:4]:
        return Meeting.COMPARED  # one table in one log, or another generation
    if not other_table(version, known):
        return Meeting.COMPARED
    logs_differ = other_log(version, known)
    if places.is_left(place_of(known), place_of(version)):
        return Meeting.NEWER if logs_differ else Meeting.COMPARED
    if table.source_tables:
        # Its key is unique over all its parts: what one part deletes is not what another one holds.
        return Meeting.IGNORED if logs_differ and deletes and alive else Meeting.COMPARED
    if alive and renamed_log(version, known):
        if versions.begins_anew(version, known, shows=True):
            return Meeting.NEWER
        raise moved_log(table, version, known)
    if deletes:  # guard: other-table-deletes-nothing
        return Meeting.IGNORED
    return Meeting.REFUSED if alive else Meeting.TAKES_OVER  # guard: other-table-refused


def is_stale(
    change: Upsert | Winner, known: Version, table: TableSection, versions: VersionMap
) -> bool:
    """Whether a change that is older than what is known of its row is stale: no log has begun anew.

    Raises:
        FatalError: It is a snapshot read, so that the database's log has gone back.
    """
    version = change.version
    goes_back = not isinstance(change, Delete) and change.op == "r" and came_behind(version, known)
    if versions.begins_anew(version, known, shows=goes_back):
        return False
    if goes_back:
        raise went_back(table, version, known)  # guard: log-went-back
    return True


def at_position_of(known: Version, change: Upsert | Winner) -> Version:
    """The known row's position, for a change that names none and came later."""
    topic, partition, offset = change.position
    place = place_of_partition(topic, partition)
    return borrowed(known, offset, place, origin_of(change.version))


def other_tables_row(table: TableSection) -> RecordError:
    """The error of a change whose key is another table's."""
    return RecordError(
        subject=f"table '{table.name}'",
        cause=f"topic {table.topic} brings rows of several tables, and the row of this key belongs to "
        "another one than this change",
        hint="if they are parts of one table (partitions, shards), name them in `source_tables`; if "
        "only one is wanted, name that one there; else name a column in `key` that tells them apart, "
        "such as ByLogicalTableRouter's __dbz__physicalTableIdentifier",
    )


def mixed_tombstone(table: TableSection) -> RecordError:
    """The error of a tombstone in a topic of several tables that does not say whose row it deletes."""
    return RecordError(
        subject=f"tombstone in {table.topic}",
        cause="the topic brings rows of several tables, and a tombstone does not say whose row it "
        "deletes",
        hint="name a column in `key` that tells the tables apart, or let ExtractNewRecordState keep "
        'the deletes (delete.tombstone.handling.mode = "rewrite")',
    )


def moved_log(table: TableSection, version: Version, known: Version) -> FatalError:
    """The error of a change whose table is known from another server or connector."""
    return FatalError(
        subject=f"table '{table.name}'",
        cause=f"a change comes from another log than the row that it changes ({position_of(version)}; "
        f"known is {position_of(known)}): `source.name` or the database is another one, so that their "
        "positions cannot be compared",
        hint=f"if the server or the connector was replaced, raise `generation` of the table to "
        f"{table.generation + 1}: then every change from here on is newer; if two servers write to "
        f"topic {table.topic}, name their tables in `source_tables`, or a column in `key` that tells "
        "them apart",
    )


def went_back(table: TableSection, version: Version, known: Version) -> FatalError:
    """The error of a snapshot read that is older than what is known of its row."""
    return FatalError(
        subject=f"table '{table.name}'",
        cause=f"the database's log has gone back: a snapshot read at {position_of(version)} comes "
        f"after a change at {position_of(known)}. Another cluster, a restored dump or another timeline "
        "begins its log anew, and all that it sends would be dropped as stale",
        hint=f"raise `generation` of the table to {table.generation + 1}: then every change from here "
        "on is newer. Nothing has been dropped. Rows that the old log had, and the new one does not, "
        "stay until the collection is filled anew",
    )


class StaleWatch:
    """Says once if all changes of a topic are stale, and again when that is over.

    After a restart Debezium sends a stretch of its log again. Then the last change of each row in it is
    one that is known already. If many rows' changes are stale and none is a repeat, the database's log
    has probably gone back.

    Threads: it belongs to the worker.

    Attributes:
        rows: By topic, the rows of the stale changes since the last one that was not. Empty as a
            rule, so that a change of a known row need not ask.
    """

    def __init__(self) -> None:
        self.rows: dict[str, set[str]] = {}
        self._told: set[str] = set()

    def stale(self, table: TableSection, key: str, version: Version, known: Version) -> None:
        """Note a change that is older than what is known of its row."""
        topic = table.topic
        if topic in self._told or offset_of(version) <= offset_of(known):
            return  # the record itself is read again
        rows = self.rows.setdefault(topic, set())
        rows.add(key)
        if len(rows) >= STALE_ROWS:
            self._told.add(topic)
            _log.warning(
                "table '%s': the changes of the last %d rows in topic %s are older than what is "
                "known of them, and are dropped as stale: %s is known, and %s came after it. If the "
                "connector sends a stretch of its log again, this ends by itself. If the database "
                "was restored or replaced, stop, and raise `generation` to %d; docs/recovery.md says "
                "how to bring back what was dropped",
                table.name,
                len(rows),
                topic,
                position_of(known),
                position_of(version),
                table.generation + 1,
            )

    def fresh(self, table: TableSection) -> None:
        """Note a change that is not older than what is known of its row."""
        if self.rows.pop(table.topic, None) is not None and table.topic in self._told:
            self._told.discard(table.topic)
            _log.warning(
                "table '%s': changes of topic %s are newer than what is known again",
                table.name,
                table.topic,
            )
