"""The source's state of a partition in the recovery files: plain values, none of our classes."""

from typing import Any, TypeAlias, TypedDict

from operators.state.formats import record_of

STATE_FORMAT = 3


class PackedPartition(TypedDict):
    """Where to resume a partition, and how many records the source gathers first.

    Attributes:
        next_offset: The first record that is not committed.
        epoch_records: How many records the epoch that starts there may hold.
        epoch_bytes: How many bytes it may hold.
        last_digest: Digest of the record before `next_offset`; None if none was read.
        collection: Identity of the collection that its records go to, as `Stamp.identity` of
            `operators.ownership.ledger_entries`.
        ledger_sequence: See `Stamp.sequence` there.
    """

    next_offset: int
    epoch_records: int
    epoch_bytes: int
    last_digest: int | None
    collection: str
    ledger_sequence: int


SourceState: TypeAlias = tuple[int, PackedPartition]
"""(STATE_FORMAT, the partition's state): plain values."""


def read(state: Any, partition: str) -> PackedPartition:
    """Read a state of the current format or the one before.

    Args:
        state: The state from the recovery files.
        partition: What to call the partition in an error message.

    Raises:
        FatalError: The state has another format.
    """
    return record_of(state, partition, STATE_FORMAT, _of_format_2)


def _of_format_2(state: Any) -> PackedPartition:
    _, next_offset, records, size, digest, collection, sequence = state
    return PackedPartition(
        next_offset=next_offset,
        epoch_records=records,
        epoch_bytes=size,
        last_digest=digest,
        collection=collection,
        ledger_sequence=sequence,
    )
