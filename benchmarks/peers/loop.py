"""The loop that everybody writes: poll, `encode`, `upsert`, again.

It keeps no versions, and a crash or an event out of order leaves it wrong; batches help it as far as
they can.
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
"""That it polls at once, and so texts that it encodes and rows that it writes."""


def run_loop(job: Job, model: SentenceTransformer) -> Outcome:
    """To the end of the topic; its collection is checked."""
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
                # By id, or a row that comes twice in one request would be written twice.
                made = {entity["id"]: entity for entity in entities(rows, vectors)}
                client.upsert(COLLECTION, list(made.values()))
                watch.written()
                seen += len(messages)
        check_collection("the loop", folder, job)
    return Outcome(watch.rate(job.events), seen)
