"""Records of a partition → records by shard of their primary key."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream

from operators import debezium
from operators.errors import RecordError
from operators.events import RowKey
from operators.shards import ALL_SHARDS, RawChange, ShardRecords, shard_of
from operators.source import Record, SourceBatch
from operators.table import TableSection


class Router:
    """Groups records by shard; keeps the offset order within each.

    The shard comes from the primary key, never from the Kafka partition: however many partitions the
    topic has or gets, a row stays with its state. A batch after a resume goes to every shard, because
    each of them may hold rows until it has seen it.
    """

    def __init__(self, tables: Mapping[str, TableSection]) -> None:
        self._tables = tables

    def __call__(self, batches: list[SourceBatch]) -> Iterable[tuple[str, ShardRecords]]:
        """All batches of one activation."""
        return [item for batch in batches for item in self._split(batch)]

    def _split(self, batch: SourceBatch) -> Iterable[tuple[str, ShardRecords]]:
        table = self._tables[batch.topic]
        shards: defaultdict[str, list[RawChange]] = defaultdict(list)
        for record in batch.records:
            shard, change = _change(table, record)
            shards[shard].append(change)
        for shard in ALL_SHARDS if batch.resumed else shards:
            changes = tuple(shards.get(shard, ()))
            yield (
                shard,
                ShardRecords(batch.topic, batch.partition, batch.resumed, changes, batch.context),
            )


def _change(table: TableSection, record: Record) -> tuple[str, RawChange]:
    offset, raw_key, raw_value = record
    try:
        key = debezium.row_key(table, raw_key)
    except RecordError:
        # The shard's step reads it again to say why; any shard will do.
        return shard_of(str(offset)), (offset, RowKey(""), raw_key, raw_value)
    return shard_of(key), (offset, key, None, raw_value)


@operator
def route(step_id: str, up: Stream[SourceBatch], router: Router) -> KeyedStream[ShardRecords]:
    """Records by shard."""
    return op.flat_map_batch("batch", up, router)
