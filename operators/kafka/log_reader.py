"""The protocol by which the source reads a partition; `reader` implements it for Kafka."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from operators.telemetry import TraceContext

BEGINNING = -2
"""Start offset for a partition that was never read: its first record, whichever offset that has."""

Record: TypeAlias = tuple[int, bytes | None, bytes | None, bytes | None]
"""(offset, key, value, other key): the last is the old or the new key of a primary-key change."""


class Bounds(NamedTuple):
    """The offsets that a partition has.

    Attributes:
        first: The oldest one; of an empty partition, the same as `end`.
        end: The offset that the next record will get.
    """

    first: int
    end: int

    def lag(self, offset: int) -> int:
        """Records from an offset, or from `BEGINNING`, to the end."""
        return max(0, self.end - max(offset, self.first))


class OffsetGone(Exception):
    """The offset to read from does not exist.

    Attributes:
        first: The oldest offset that does.
    """

    def __init__(self, first: int) -> None:
        super().__init__(first)
        self.first = first


class LogReader(Protocol):
    """One partition, read forward."""

    def read(self, max_records: int) -> tuple[Sequence[Record], Sequence[TraceContext]]:
        """The next records without waiting, and the trace contexts their headers carry.

        Raises:
            OffsetGone: The next record no longer exists, or never did. Records that were fetched
                before it are returned first; then the next call raises.
            FatalError: Access was revoked.
        """
        ...

    def at_end(self) -> bool:
        """Whether everything that the partition held at the last `read` has been returned."""
        ...

    def lag(self) -> int | None:
        """Records between the reader and the partition's end, or None if not known yet."""
        ...

    def bounds(self) -> Bounds | None:
        """Ask the broker for the partition's bounds; None if it does not answer."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...
