"""What travels between the stages: records of a partition, records of a shard, a shard's winners."""

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
"""(offset, row key or "" for a record that is about no row, key bytes, value bytes, other key)."""


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Records of one partition in offset order; the only item kind of the source.

    Attributes:
        resumed: All that may have been written before this start is in this batch.
        last: The epoch takes no more from this partition.
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
        resumed: With these the shard has every record of the range that may have been written before
            a crash; it may flush what it holds of this partition.
        last: Until the next checkpoint no more come of this partition.
    """

    topic: str
    partition: int
    resumed: bool
    changes: tuple[RawChange, ...]
    context: TraceContext | None
    last: bool = False


@dataclass(slots=True)
class Window:
    """Winners of one shard on their way to the store; the next steps fill in what they find out.

    It never leaves the worker's process: `dedup` and `upsert` share the shard key, and what lies
    between them is not keyed.

    Threads: it belongs to the worker until `upsert` hands it to its lane, and to the lane from then on.
    While it waits for the model, the lane looks at `embedding` alone: `EmbedStep` may still take rows
    out of it until a thread of the model begins with it, which fills in `vectors` and then ends
    `embedding`.

    Attributes:
        fallbacks: Of partial rows, oldest first: what to write where such a row cannot be completed.
        unchanged: Rows whose vector the store should hold; see `operators.stages.unchanged_text`.
        truncates: Tables that were emptied; of older versions than the window's rows of that table.
        moves: Rows whose key changed, to be read before the rest is written.
        vectors: Of every whole row that is not in `unchanged`, once `embedding` is done.
        embedding: What fills them in; None: they are there, or none is wanted.
        versions: The shard's own map, which the worker tells what the store holds. A lane leaves in its
            `refusals` what was refused, and touches nothing else of it.
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
        """Whether the model is through with it, well or not."""
        return self.embedding is None or self.embedding.done()

    def check_embedded(self) -> None:
        """Look whether it went well, once the model is through.

        Raises:
            Exception: Whatever stopped the model.
        """
        if self.embedding is not None:
            self.embedding.result()

    def holds_anything(self) -> bool:
        """Whether there is anything in it for the next steps."""
        return bool(self.rows or self.deletes or self.dead or self.truncates or self.moves)
