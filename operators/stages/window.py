"""Items between the stages: records of a partition, records of a shard, winners of a shard."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from operators.changes.events import DeadLetter, Delete, Truncate
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Row, Winner
from operators.kafka.log_reader import Record
from operators.model.protocol import Piece
from operators.state.version_map import VersionMap
from operators.telemetry import TraceContext

RawChange: TypeAlias = tuple[int, RowKey, bytes | None, bytes | None, bytes | None]
"""(offset, row key or "" if the record concerns no row, key bytes, value bytes, other key)."""


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Records of one partition in offset order; the only kind of item that the source emits.

    Attributes:
        resumed: Whether this is the partition's first batch after a start. It has all records that may
            have been written before that start.
        last: Whether the epoch takes no more records from this partition.
    """

    topic: str
    partition: int
    resumed: bool
    records: tuple[Record, ...]
    context: TraceContext | None
    last: bool = False


class ShardRecords(NamedTuple):
    """Records of one partition that belong to one shard, in offset order.

    Attributes:
        resumed: Whether the shard now has every record of this partition that may have been written
            before a crash, so that it need not hold back rows because of this partition.
        last: Whether no more records of this partition come before the next checkpoint.
    """

    topic: str
    partition: int
    resumed: bool
    changes: tuple[RawChange, ...]
    context: TraceContext | None
    last: bool = False


@dataclass(slots=True)
class Window:
    """Winners of one shard that go to the store; the steps after `dedup` add to it.

    It never leaves the worker's process: `dedup` and `upsert` have the same shard key, and the steps
    between them have no key of their own.

    Threads: the worker owns it until `upsert` hands it to its lane; then the lane owns it. While it
    waits for the model, the lane reads `embedding` only, and `EmbedStep` may still remove rows. Then a
    thread of the model takes it, fills `vectors`, and completes `embedding`.

    Attributes:
        dead: Dead letters of changes that could not be decoded or rendered.
        fallbacks: By key of a partial row: what to write if it cannot be completed, oldest first.
        unchanged: Rows whose vector the store should hold; see `operators.stages.unchanged_text`.
        unverified: Rows to look up, because the store may hold a newer version.
        truncates: TRUNCATEs, each older than the window's rows of its table.
        moves: Key changes whose old rows the lane reads before it writes anything.
        vectors: Pieces of every whole row that is not in `unchanged`, once `embedding` is done.
        embedding: Completes when `vectors` is filled; None if no text has to be embedded.
        versions: The shard's version map. The worker updates it by what the store holds; a lane adds
            refused changes to its `refusals` and touches nothing else.
        contexts: Spans of the polls that the rows came from.
        shard: The window's key in the stream, which `resolve` copies here for the steps after it.
        context: Span of the activation that resolved the window.
    """

    rows: dict[RowKey, Row | PartialRow]
    deletes: dict[RowKey, Delete]
    dead: list[DeadLetter]
    unchanged: set[RowKey]
    versions: VersionMap
    contexts: tuple[TraceContext, ...]
    truncates: list[Truncate] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    vectors: dict[RowKey, tuple[Piece, ...]] = field(default_factory=dict)
    embedding: Future[None] | None = None
    unverified: set[RowKey] = field(default_factory=set)
    fallbacks: dict[RowKey, list[Winner]] = field(default_factory=dict)
    shard: str = ""
    context: TraceContext | None = None

    def is_embedded(self) -> bool:
        """Whether the model has finished with it, successfully or not."""
        return self.embedding is None or self.embedding.done()

    def check_embedded(self) -> None:
        """Raise the model's error, if it failed. Call it once `is_embedded` is true.

        Raises:
            Exception: The error that stopped the model.
        """
        if self.embedding is not None:
            self.embedding.result()

    def holds_anything(self) -> bool:
        """Whether it has anything for the next steps to do."""
        return bool(self.rows or self.deletes or self.dead or self.truncates or self.moves)
