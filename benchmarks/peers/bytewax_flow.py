"""A flow of Bytewax's own operators, from its own Kafka source to Milvus.

Each item is one message, each row has its own state by `key_on` and `stateful_map`, and `collect` makes
batches of up to 500 rows or 200 ms, which are Rowvec's defaults; a row is embedded once in a batch.
Recovery is on, with epochs of a second. It also embeds texts that have not changed, retries nothing,
does not notice if its checkpoint is older than what it has written, and may show older versions again
when an epoch is replayed. `benchmarks.path` shows what one state per row costs with many rows.
"""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from pymilvus import MilvusClient
from sentence_transformers import SentenceTransformer

from benchmarks.contracts import idle_contract
from benchmarks.idiomatic import last_of_each, newest_in_batches
from benchmarks.memory import run_worker
from benchmarks.peers.job import (
    COLLECTION,
    Job,
    Outcome,
    Stopwatch,
    check_collection,
    entities,
    open_collection,
)


def run_bytewax(job: Job, model: SentenceTransformer) -> Outcome:
    """Run to the end of the topic, and check the collection."""
    watch, embedded = Stopwatch(), [0]

    def parse(message: Any) -> Any:
        watch.record()
        return orjson.loads(message.value)

    def embed(envelopes: list[Any]) -> list[dict[str, Any]]:
        rows = last_of_each(envelopes)
        embedded[0] += len(rows)
        vectors = model.encode([row["doc"] for row in rows], show_progress_bar=False)
        return entities(rows, vectors)

    contract = idle_contract(job.bootstrap_servers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(open_collection(folder)) as client:
            flow = Dataflow("idiomatic")
            source = KafkaSource(
                [job.bootstrap_servers],
                [job.topic],
                tail=False,
                add_config={"fetch.wait.max.ms": "50"},
            )
            envelopes = op.map("parse", op.input("kafka", flow, source), parse)
            written = op.map("embed", newest_in_batches(envelopes, contract), embed)
            op.output("milvus", written, _MilvusSink(client, watch))
            run_worker(flow, contract.recovery.epoch_interval_s, contract.recovery.partitions)
        check_collection("Bytewax", folder, job)
    return Outcome(watch.rate(job.events), embedded[0])


class _MilvusSink(DynamicSink[list[dict[str, Any]]]):
    def __init__(self, client: MilvusClient, watch: Stopwatch) -> None:
        self._client = client
        self._watch = watch

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_MilvusPartition":
        return _MilvusPartition(self._client, self._watch)


class _MilvusPartition(StatelessSinkPartition[list[dict[str, Any]]]):
    def __init__(self, client: MilvusClient, watch: Stopwatch) -> None:
        self._client = client
        self._watch = watch

    def write_batch(self, items: list[list[dict[str, Any]]]) -> None:
        for made in items:
            self._client.upsert(COLLECTION, made)
            self._watch.written()
