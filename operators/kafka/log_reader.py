"""The protocol by which the source reads a partition; `reader` implements it for Kafka."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from operators.telemetry import TraceContext

BEGINNING = -2
"""Start offset for a partition that was never read: its first record, whichever offset that has."""

Record: TypeAlias = tuple[int, bytes | None, bytes | None, bytes | None]
"""(offset, key, value, other key): the last is the old or the new key of a primary-key change."""


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
            OffsetGone: The next record no longer exists, or never did.
            FatalError: Access was revoked.
        """
        ...

    def at_end(self) -> bool:
        """Whether everything that the partition held at the last `read` has been returned."""
        ...

    def lag(self) -> int | None:
        """Records between the reader and the partition's end, or None if not known yet."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...
