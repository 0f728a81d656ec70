"""Routes the records of a partition to the shards of their primary keys."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream

from operators.changes.row_key import RowKey
from operators.changes.shards import ALL_SHARDS, shard_of
from operators.codec.decoder import Decoder
from operators.errors import RecordError
from operators.kafka.log_reader import Record
from operators.stages.window import RawChange, ShardRecords, SourceBatch


class Router:
    """Groups records by shard; keeps the offset order within each.

    The shard depends on the primary key, never on the Kafka partition: a row stays with its state even
    if the topic gets more partitions. The first batch after a resume goes to every shard, because each
    holds rows back until it has seen that batch. A TRUNCATE goes to every shard, because it concerns
    all rows of its table.
    """

    def __init__(self, decoders: Mapping[str, Decoder]) -> None:
        self._decoders = decoders

    def __call__(self, batches: list[SourceBatch]) -> Iterable[tuple[str, ShardRecords]]:
        """Route all batches of one activation."""
        return [item for batch in batches for item in self._split(batch)]

    def _split(self, batch: SourceBatch) -> Iterable[tuple[str, ShardRecords]]:
        decoder = self._decoders[batch.topic]
        shards: defaultdict[str, list[RawChange]] = defaultdict(list)
        for record in batch.records:
            offset, raw_key, raw_value, other_key = record
            try:
                keys = decoder.row_keys(raw_key, raw_value)
            except RecordError:  # guard: dead-letter-route
                keys = ()
            for key in keys:
                shards[shard_of(key)].append((offset, key, raw_key, raw_value, other_key))
            if not keys:
                # `dedup` decodes it again, in any one shard, to make the dead letter.
                change = (offset, RowKey(""), raw_key, raw_value, other_key)
                for shard in _without_a_row(decoder, record):
                    shards[shard].append(change)
        for shard in ALL_SHARDS if batch.resumed else shards:  # guard: resumed-to-all
            changes = tuple(shards.get(shard, ()))
            yield (
                shard,
                ShardRecords(
                    batch.topic,
                    batch.partition,
                    batch.resumed,
                    changes,
                    batch.context,
                    batch.last,
                ),
            )


def _without_a_row(decoder: Decoder, record: Record) -> Iterable[str]:
    offset, _, raw_value, _ = record
    # guard: truncate-to-all
    return ALL_SHARDS if decoder.truncates(raw_value) else (shard_of(str(offset)),)


@operator
def route(step_id: str, up: Stream[SourceBatch], router: Router) -> KeyedStream[ShardRecords]:
    """Records by shard."""
    return op.flat_map_batch("batch", up, router)
