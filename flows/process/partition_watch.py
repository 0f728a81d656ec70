"""Notices partitions that a topic got, or lost, while the flow is running."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from flows.process.periodic import Periodic
from operators.kafka.log_reader import BEGINNING, Bounds
from operators.telemetry import Telemetry, partition_labels

logger = logging.getLogger(__name__)

Partition = tuple[str, int]


class PartitionWatch(Periodic):
    """Compares the partitions of the topics with those that the flow reads, now and then.

    A partition that the flow does not read yet is told in the log once, and its records count as lag. A
    partition that is no longer there is told as well, once it was missed twice in a row: a broker that
    is restarting may not know it for a moment.

    Threads: its own thread calls `check`; any thread may read `unread`, which is only replaced.

    Args:
        reads: All partitions that the flow reads, in every process.
        look: Asks Kafka for the partitions of the topics; None if no broker answers.
        bounds: Asks Kafka for the bounds of partitions.
        telemetry: Gets the lag of partitions that are not read yet.
        on_added: Called once, when the first new partition was seen.
        what_then: What becomes of new partitions, for the message: "It will be read …".
        every_s: Seconds between two looks.
    """

    def __init__(
        self,
        reads: Collection[Partition],
        look: Callable[[], Mapping[str, Collection[int]] | None],
        bounds: Callable[[Sequence[Partition]], Mapping[Partition, Bounds]],
        telemetry: Telemetry,
        on_added: Callable[[], None],
        what_then: str,
        every_s: float,
    ) -> None:
        super().__init__("rowvec-partitions", every_s, self._check_or_warn)
        self.unread: tuple[Partition, ...] = ()
        """Partitions that were added since the flow started."""
        self._reads = frozenset(reads)
        self._look = look
        self._bounds = bounds
        self._telemetry = telemetry
        self._on_added = on_added
        self._what_then = what_then
        self._missed: frozenset[Partition] = frozenset()
        self._told_missing: frozenset[Partition] = frozenset()

    def check(self) -> None:
        """Look once."""
        found = self._look()
        if found is None:
            return  # the readers tell that no broker answers
        there = {(topic, number) for topic, numbers in found.items() for number in numbers}
        self._tell_missing(self._reads - there)
        added = there - self._reads - set(self.unread)
        if added:
            first = not self.unread
            self.unread = (*self.unread, *sorted(added))
            for topic, numbers in _by_topic(added):
                logger.warning(
                    "Kafka topic %s has new partitions: %s. They are read %s",
                    *(topic, numbers, self._what_then),
                )
            if first:
                self._on_added()
        for (topic, number), bounds in self._bounds(self.unread).items():
            # guard: lag-of-unread
            self._telemetry.lag.set(bounds.lag(BEGINNING), partition_labels(topic, number))

    def _tell_missing(self, missed: frozenset[Partition]) -> None:
        gone = missed & self._missed
        for topic, numbers in _by_topic(gone - self._told_missing):
            logger.warning(
                "Kafka topic %s no longer has partitions: %s. It was deleted or made anew; records of "
                "them that were not read yet are lost. The next start says what can be done",
                *(topic, numbers),
            )
        self._missed, self._told_missing = missed, gone

    def _check_or_warn(self) -> None:
        try:
            self.check()
        except Exception as error:  # noqa: BLE001 - the flow must not depend on this look
            logger.warning("New partitions: %s; looks again", type(error).__name__)


def _by_topic(partitions: Collection[Partition]) -> list[tuple[str, str]]:
    """Each topic, and the numbers of its partitions as text."""
    topics = sorted({topic for topic, _ in partitions})
    return [
        (topic, ", ".join(str(number) for each, number in sorted(partitions) if each == topic))
        for topic in topics
    ]
