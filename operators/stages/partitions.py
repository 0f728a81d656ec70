"""All partitions of a flow as one Bytewax source: those that it reads, and those that it only keeps."""

from collections.abc import Callable, Collection, Sequence

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from operators.kafka.log_reader import BEGINNING, LogReader
from operators.stages.epoch_budget import FIRST_CAP, FIRST_CAP_BYTES
from operators.stages.source import PartitionLogic, SourceSettings
from operators.stages.window import SourceBatch
from operators.state.source_checkpoint import STATE_FORMAT, PackedPartition, SourceState, read

_NEVER_READ = PackedPartition(
    next_offset=BEGINNING,
    epoch_records=FIRST_CAP,
    epoch_bytes=FIRST_CAP_BYTES,
    last_digest=None,
    collection="",
    ledger_sequence=0,
)
"""State of a partition whose first epoch was not committed."""


class ParkedPartition(StatefulSourcePartition[SourceBatch, SourceState]):
    """A partition of the recovery files that is not read: its table left the contract, or it is gone.

    It ends at once, and its state stays in the recovery files: if the table comes back, the partition
    is read on from there, after the same checks as at any start.
    """

    def __init__(self, name: str, state: SourceState | None) -> None:
        self._state = (STATE_FORMAT, _NEVER_READ if state is None else read(state, name))

    def next_batch(self) -> list[SourceBatch]:
        """Nothing.

        Raises:
            StopIteration: Always.
        """
        raise StopIteration

    def snapshot(self) -> SourceState:
        """The state as it was, in the current format."""
        return self._state


class PartitionedSource(FixedPartitionedSource[SourceBatch, SourceState]):
    """All partitions of all topics.

    Args:
        partitions: (topic, partition) pairs to read.
        open_reader: Opens a partition at an offset.
        settings: What all partitions share.
        recorded: Names of all partitions that the recovery files have. Bytewax resumes only if the
            source has each of them, so those that are not read are parked.
    """

    def __init__(
        self,
        partitions: Sequence[tuple[str, int]],
        open_reader: Callable[[str, int, int], LogReader],
        settings: SourceSettings,
        recorded: Collection[str] = (),
    ) -> None:
        self._partitions = {part_name(*each): each for each in partitions}
        self._open_reader = open_reader
        self._settings = settings
        self.parked = [name for name in recorded if name not in self._partitions]

    def list_parts(self) -> list[str]:
        """Names of the partitions, `topic/number`."""
        return [*self._partitions, *self.parked]  # guard: parked-listed

    def build_part(
        self, step_id: str, for_part: str, resume_state: SourceState | None
    ) -> PartitionLogic | ParkedPartition:
        """Open one partition where the last committed epoch ended."""
        if for_part not in self._partitions:
            return ParkedPartition(for_part, resume_state)
        topic, partition = self._partitions[for_part]
        return PartitionLogic(
            topic,
            partition,
            lambda offset: self._open_reader(topic, partition, offset),
            self._settings,
            resume_state,
        )


def part_name(topic: str, partition: int) -> str:
    """What the recovery files call a partition."""
    return f"{topic}/{partition}"
