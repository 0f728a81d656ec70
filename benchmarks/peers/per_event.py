"""One embedding and one request per event, as Debezium Server writes to Milvus.

Its sink (`debezium-server-milvus`, `MilvusChangeConsumer.handleBatch`) takes the engine's batch apart
and sends for each record one `upsert` of one row, or one `delete` of one key for a `d` event and
again for its tombstone; its embeddings transform (`FieldToEmbedding`) asks the model for one text.
A failed request ends the engine: nothing is retried or set aside, and a restart reads again from the
offsets that were flushed last. It has no versions and ignores the key's second column. This is the
same in Python, over Kafka instead of inside Debezium, with sentence-transformers instead of
LangChain4j; what it does with offsets is left out, which favours it.
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
    """To the end of the topic; its collection is checked."""
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
