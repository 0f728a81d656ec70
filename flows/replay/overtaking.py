"""Whether a change has been overtaken by another one of its row: pure of Kafka."""

from typing import TypeAlias

from operators.changes.events import Delete, KafkaPosition, Tombstone, Truncate, Upsert

RowEvent: TypeAlias = Upsert | Delete | Tombstone | Truncate
"""What can overtake, and be overtaken."""


class Overtaking:
    """Whether the log holds something newer about a row than one event of it: pure of Kafka.

    It is shown the events of the row, or the TRUNCATEs of its table, that lie in the topic: those of
    one partition in order, from the event itself on at the least. What has overtaken it:

    - an upsert, a delete or a TRUNCATE of a later place in the database's log, wherever it lies; at
      the same place the later offset wins, as it does in the flow. So an older change that the
      connector sent again overtakes nothing, and of two letters with one change the last is left;
    - a tombstone behind it in its partition, unless that is the second half of a delete: then the
      delete tells;
    - where either of the two has no place in the log, whatever is behind it in its partition.

    Attributes:
        by: What has overtaken it, if anything.
        doubts: What lies in other partitions and cannot be ordered against it.
    """

    def __init__(self, event: RowEvent) -> None:
        self.by: KafkaPosition | None = None
        self.doubts: list[KafkaPosition] = []
        self._event = event
        # Partitions in which the row's last event is a delete that its tombstone still has to follow.
        self._halves = {event.position.partition} if isinstance(event, Delete) else set[int]()

    def see(self, other: RowEvent) -> None:
        """Take in an event of the same row, or a TRUNCATE of its table."""
        mine, partition = self._event.position, other.position.partition
        behind = partition == mine.partition and other.position.offset > mine.offset
        if partition == mine.partition and not behind:
            # A place in the log counts wherever it is met; nothing else does that came before.
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

    def _is_newer(self, other: RowEvent) -> bool:
        if isinstance(self._event, Tombstone) or isinstance(other, Tombstone):
            return False
        if not (ordered(self._event) and ordered(other)):
            return False
        # The partition decides between copies at one offset, so that never both are overtaken.
        return (other.version, other.position.partition) > (
            self._event.version,
            self._event.position.partition,
        )


def ordered(event: RowEvent) -> bool:
    """Whether an event has a place in the database's log, and not only an offset in Kafka."""
    match event:
        case Tombstone():
            return False
        case Truncate():
            return True  # one without a place is refused by the decoder
        case _:
            return not event.lone
