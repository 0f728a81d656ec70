"""The usual loop: poll, `encode`, `upsert`.

It works in batches. It keeps no versions, so a crash or an event out of order leaves wrong rows.
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

MESSAGES = 128
"""How many messages it polls at once, and so the most texts it encodes and rows it writes at once."""


def run_loop(job: Job, model: SentenceTransformer) -> Outcome:
    """Run to the end of the topic, and check the collection."""
    watch, seen = Stopwatch(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            closing(open_collection(folder)) as client,
            closing(Consumer(job.consumer)) as consumer,
        ):
            consumer.assign([TopicPartition(job.topic, 0, OFFSET_BEGINNING)])
            while seen < job.events:
                messages = consumer.consume(MESSAGES, 0.1)
                rows = [orjson.loads(message.value() or b"")["after"] for message in messages]
                if not rows:
                    continue
                watch.record()
                vectors = model.encode([row["doc"] for row in rows], show_progress_bar=False)
                # A dict by id, because a row that is twice in one request would be written twice.
                made = {entity["id"]: entity for entity in entities(rows, vectors)}
                client.upsert(COLLECTION, list(made.values()))
                watch.written()
                seen += len(messages)
        check_collection("the loop", folder, job)
    return Outcome(watch.rate(job.events), seen)
