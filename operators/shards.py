"""What travels between the keyed steps: the records and the winners of one shard."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias
from zlib import crc32

from operators.embedding import Piece
from operators.events import DeadLetter, Delete, Move, PartialRow, Row, RowKey, Truncate
from operators.telemetry import TraceContext
from operators.versions import VersionMap

SHARDS = 256
"""Number of shards, fixed for ever: recovery files are keyed by them."""

ALL_SHARDS = tuple(f"{shard:03d}" for shard in range(SHARDS))

RawChange: TypeAlias = tuple[int, RowKey, bytes | None, bytes | None, bytes | None]
"""(offset, row key or "" for a record that is about no row, key bytes, value bytes, other key)."""


NUMBER_OF_SHARD = {name: number for number, name in enumerate(ALL_SHARDS)}


def shard_of(key: str) -> str:
    """The shard of a row: stable over processes, releases and machines."""
    return ALL_SHARDS[crc32(key.encode()) % SHARDS]


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

    It never leaves the worker: `dedup` and `upsert` share the shard key, and what lies between them
    is not keyed.

    Attributes:
        unchanged: Rows whose text the store holds already, as far as is known.
        truncates: Tables that were emptied; of older versions than the window's rows of that table.
        moves: Rows whose key changed, to be read before the rest is written.
        vectors: Of every whole row that is not in `unchanged`, once `embedding` is done.
        embedding: What fills them in; None: they are there, or none is wanted.
        versions: The shard's own map, to be told what the store holds.
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
