"""Decides whether a change of a row was overtaken by a newer one; without any Kafka client."""

from typing import TypeAlias

from operators.changes.events import Delete, KafkaPosition, Tombstone, Truncate, Upsert
from operators.changes.version import is_older, offset_of, other_table, same_position

RowEvent: TypeAlias = Upsert | Delete | Tombstone | Truncate
"""Events that can overtake others, and be overtaken."""


class Overtaking:
    """Whether the topic holds something newer about a row than one event of it.

    The caller shows it all events of the row and all TRUNCATEs of its table in the topic: for each
    partition in order, and at least from the event itself on. The event is overtaken by:

    - an upsert, a delete or a TRUNCATE at a later position of the database's log, in any partition. At
      the same log position the later offset wins, as in the flow. So an older change that the
      connector sent again overtakes nothing, and of two letters with the same change the last remains;
    - a tombstone behind it in its partition, unless that tombstone belongs to a delete, which is
      compared itself;
    - anything behind it in its partition, if either of the two has no log position.

    Attributes:
        by: Position of an event that has overtaken it, or None.
        doubts: Positions of events in other partitions that cannot be ordered against it.
    """

    def __init__(self, event: RowEvent, *, one_table: bool = False) -> None:
        self.by: KafkaPosition | None = None
        self.doubts: list[KafkaPosition] = []
        self._event = event
        self._one_table = one_table
        # Partitions in which the row's last event is a delete whose tombstone has not come yet.
        self._halves = {event.position.partition} if isinstance(event, Delete) else set[int]()

    def see(self, other: RowEvent) -> None:
        """Compare with another event of the same row, or a TRUNCATE of its table."""
        if self._is_another_tables(other):
            return
        mine, partition = self._event.position, other.position.partition
        behind = partition == mine.partition and other.position.offset > mine.offset
        if partition == mine.partition and not behind:
            # At an earlier offset, only a later log position overtakes.
            if self._is_newer(other):
                self.by = other.position
            return
        is_half = isinstance(other, Tombstone) and partition in self._halves
        self._halves.discard(partition)
        if is_half:
            return
        if ordered(self._event) and ordered(other):
            overtakes = self._is_newer(other)
        else:
            overtakes = behind
            if not behind:
                self.doubts.append(other.position)
        if overtakes:
            self.by = other.position
        if isinstance(other, Delete):
            self._halves.add(partition)

    def _is_another_tables(self, other: RowEvent) -> bool:
        """Whether the other event is of another physical table, and says nothing about this row."""
        if isinstance(self._event, Tombstone) or isinstance(other, Tombstone):
            return False
        apart = other_table(self._event.version, other.version)
        return apart and (isinstance(other, Truncate) or not self._one_table)

    def _is_newer(self, other: RowEvent) -> bool:
        if isinstance(self._event, Tombstone) or isinstance(other, Tombstone):
            return False
        if not (ordered(self._event) and ordered(other)):
            return False
        mine = self._event.version
        if same_position(mine, other.version):
            # Of two copies the partition decides, so that they do not overtake each other.
            return (offset_of(other.version), other.position.partition) > (
                offset_of(mine),
                self._event.position.partition,
            )
        return is_older(mine, other.version)


def ordered(event: RowEvent) -> bool:
    """Whether an event has a position in the database's log, and not only an offset in Kafka."""
    match event:
        case Tombstone():
            return False
        case Truncate():
            return True  # the decoder refuses one without a log position
        case _:
            return not event.unpositioned
