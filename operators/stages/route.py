"""Records of a partition → records by shard of their primary key."""

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

    The shard comes from the primary key, never from the Kafka partition: however many partitions the
    topic has or gets, a row stays with its state. A batch after a resume goes to every shard, because
    each of them may hold rows until it has seen it; and so does a TRUNCATE, which is about every row.
    """

    def __init__(self, decoders: Mapping[str, Decoder]) -> None:
        self._decoders = decoders

    def __call__(self, batches: list[SourceBatch]) -> Iterable[tuple[str, ShardRecords]]:
        """All batches of one activation."""
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
                # The shard's step reads it again to say why; any shard will do.
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
