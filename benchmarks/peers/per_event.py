"""One embedding and one request per event, as Debezium Server writes to Milvus.

Its sink (`debezium-server-milvus`, `MilvusChangeConsumer.handleBatch`) splits the engine's batch and
sends one `upsert` of one row for each record, or one `delete` of one key for a `d` event and another
for its tombstone. Its embeddings transform (`FieldToEmbedding`) embeds one text per call. A failed
request ends the engine: nothing is retried or dead-lettered, and a restart reads again from the last
flushed offsets. It has no versions, and ignores the second column of a key. This module does the same
in Python, over Kafka instead of inside Debezium, and with sentence-transformers instead of LangChain4j.
It does not store offsets, which favours it.
"""

import tempfile
from contextlib import closing
from pathlib import Path

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from sentence_transformers import SentenceTransformer

from benchmarks.peers.job import (
    COLLECTION,
    Job,
    Outcome,
    Stopwatch,
    check_collection,
    entities,
    open_collection,
)


def run_per_event(job: Job, model: SentenceTransformer) -> Outcome:
    """Run to the end of the topic, and check the collection."""
    watch, seen, embedded = Stopwatch(), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            closing(open_collection(folder)) as client,
            closing(Consumer(job.consumer)) as consumer,
        ):
            consumer.assign([TopicPartition(job.topic, 0, OFFSET_BEGINNING)])
            while seen < job.events:
                message = consumer.poll(1.0)
                if message is None:
                    continue
                watch.record()
                envelope = orjson.loads(message.value() or b"null")
                if envelope is None or envelope["op"] == "d":
                    key = orjson.loads(message.key() or b"")
                    client.delete(COLLECTION, ids=[next(iter(key.values()))])
                else:
                    row = envelope["after"]
                    vector = model.encode(row["doc"], show_progress_bar=False)
                    client.upsert(COLLECTION, entities([row], [vector]))
                    embedded += 1
                watch.written()
                seen += 1
        check_collection("one request per event", folder, job)
    return Outcome(watch.rate(job.events), embedded)
