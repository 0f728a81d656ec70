"""The whole thing: change events in a broker, real vectors in Milvus Lite, rows per second.

    python -m benchmarks.end_to_end

One topic holds the inserts of real docstrings, then updates that favour some rows by Zipf's law, half
of which leave the text alone. Rowvec runs as it does in production, checkpoints and all, from when
it is ready to when it has ended. It leaves out PostgreSQL, Debezium, the start, and a Milvus server.
Every collection is read back afterwards: a figure for rows that are wrong would be worth nothing.

By turns, in the same process, against

- `embedder`: the embedder alone on the rows' last texts, each once, in one call. What is missing to
  1 is what stream, store and texts that were soon replaced cost;
- `loop`: what everybody writes: poll, `encode` of sentence-transformers, upsert, again. It keeps no
  versions, and a crash or an event out of order leaves it wrong; batches help it as far as they can.

The rows of the last state per second are counted for each, so the ratios are those of the times.
"""

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from pymilvus import DataType, MilvusClient
from sentence_transformers import SentenceTransformer

from benchmarks import corpus
from benchmarks.envelopes import Change, change, topic_of
from benchmarks.measuring import Rate, clocks, parser, print_result, progress, take_turns
from benchmarks.over_kafka import fill
from flows.embedded.broker import Broker
from flows.runtime import Cluster, run
from operators.contract import Contract, EmbeddingSection
from operators.keys import KeyMaker
from operators.milvus import MilvusStore
from operators.model_files import resolve_model
from operators.store import entity_id
from operators.transformer import TransformerEmbedder

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TABLE = "docs"
TOPIC = topic_of(TABLE)
MAX_CHARACTERS = 120
LOOP_MESSAGES = 128
"""Messages that the loop polls at once, and so texts that it encodes and rows that it writes."""


@dataclass(frozen=True, slots=True)
class History:
    """What happened to the table.

    Attributes:
        final: Primary key → text, as the collection must hold it in the end.
        texts: Distinct texts that any event carries.
    """

    changes: list[Change]
    final: Mapping[int, str]
    texts: int


def build_history(texts: Sequence[str], rows: int, updates: int) -> History:
    """Inserts of `rows` rows, then updates by Zipf's law: row n is drawn 1/n as often as row 1."""
    chance = random.Random(1)
    table = {
        id_: {"id": id_, "name": f"row {id_}", "doc": texts[id_], "kind": "function", "size": 0}
        for id_ in range(rows)
    }
    changes = [change(TABLE, "c", lsn, row) for lsn, row in enumerate(table.values(), 1)]
    seen = {row["doc"] for row in table.values()}
    drawn = chance.choices(range(rows), [1 / (rank + 1) for rank in range(rows)], k=updates)
    for number, id_ in enumerate(drawn):
        row = table[id_]
        row["size"] = number + 1
        if number % 2:
            row["doc"] = chance.choice(texts)
            seen.add(row["doc"])
        changes.append(change(TABLE, "u", rows + number + 1, row))
    return History(changes, {id_: str(row["doc"]) for id_, row in table.items()}, len(seen))


def build_contract(bootstrap_servers: str, folder: Path) -> Contract:
    """Every setting at its default, but for what the embedded broker asks for."""
    return Contract.model_validate(
        {
            "kafka": {
                "bootstrap_servers": bootstrap_servers,
                "librdkafka": {"fetch.wait.max.ms": 50},
            },
            "milvus": {"uri": str(folder / "milvus.db")},
            "embedding": {"model": MODEL, "device": "cpu"},
            "recovery": {"directory": folder / "recovery"},
            "tables": [
                {
                    "topic": TOPIC,
                    "collection": TABLE,
                    "key": ["id"],
                    "text": "{doc}",
                    "columns": {"kind": "varchar", "size": "int64"},
                }
            ],
        }
    )


def run_rowvec(bootstrap_servers: str, history: History, embedded: list[int]) -> Rate:
    """From ready to ended, on an empty collection; notes how many texts went through the model."""
    metrics = InMemoryMetricReader()
    with tempfile.TemporaryDirectory() as name:
        contract = build_contract(bootstrap_servers, Path(name))
        began: list[tuple[float, float]] = []
        run(
            contract,
            cluster=Cluster(),
            exit_at_end=True,
            readers=[metrics],
            on_ready=lambda: began.append(clocks()),
        )
        ended = clocks()
        table = contract.tables[0]
        expected = {
            entity_id(KeyMaker(table)({"id": id_})): text for id_, text in history.final.items()
        }
        with closing(MilvusStore(contract.milvus)) as store:
            found = {row["id"]: row["text"] for row in store.scan(TABLE, ["text"])}
            count = store.count(TABLE)
    _check("Rowvec", expected, found, count)
    embedded.append(_embedded(metrics))
    return Rate.of(len(history.final), began[0], ended)


def _embedded(metrics: InMemoryMetricReader) -> int:
    data = metrics.get_metrics_data()
    points = (
        point
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "rowvec.texts"
        for point in metric.data.data_points
    )
    return sum(
        int(point.value)
        for point in points
        if isinstance(point, NumberDataPoint)
        and (point.attributes or {}).get("rowvec.text") == "embedded"
    )


def run_loop(bootstrap_servers: str, history: History, model: SentenceTransformer) -> Rate:
    """The loop that everybody writes, from its first poll to the answer to its last upsert."""
    with tempfile.TemporaryDirectory() as name:
        client = MilvusClient(str(Path(name) / "milvus.db"))
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=384)
        schema.add_field("text", DataType.VARCHAR, max_length=65_535)
        schema.add_field("kind", DataType.VARCHAR, max_length=4_096)
        schema.add_field("size", DataType.INT64)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        client.create_collection(TABLE, schema=schema, index_params=index)
        settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "loop",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
        }
        with closing(client), closing(Consumer(settings)) as consumer:
            consumer.assign([TopicPartition(TOPIC, 0, OFFSET_BEGINNING)])
            seen, began = 0, clocks()
            while seen < len(history.changes):
                messages = consumer.consume(LOOP_MESSAGES, 0.1)
                rows = [orjson.loads(message.value() or b"")["after"] for message in messages]
                if not rows:
                    continue
                vectors = model.encode([row["doc"] for row in rows], show_progress_bar=False)
                # By id, or a row that comes twice in one request would be written twice.
                entities = {
                    row["id"]: {
                        "id": row["id"],
                        "vector": vector,
                        "text": row["doc"],
                        "kind": row["kind"],
                        "size": row["size"],
                    }
                    for row, vector in zip(rows, vectors, strict=True)
                }
                client.upsert(TABLE, list(entities.values()))
                seen += len(messages)
            ended = clocks()
            read = client.query(TABLE, ids=list(history.final), output_fields=["text"])
            found = {row["id"]: row["text"] for row in read}
            count = client.query(TABLE, output_fields=["count(*)"])[0]["count(*)"]
    _check("the loop", history.final, found, count)
    return Rate.of(len(history.final), began, ended)


def _in_thread(contestant: Callable[[], Rate]) -> Callable[[], Rate]:
    """Off the main thread, where Bytewax runs Rowvec as well.

    A machine that is busy makes it matter: OpenMP's threads wait spinning for the main thread, and
    asleep for others, as it then counts more threads than cores. It made the embedder half as fast.
    """

    def run_it() -> Rate:
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(contestant).result()

    return run_it


def _check(who: str, expected: Mapping[Any, str], found: Mapping[Any, str], count: int) -> None:
    wrong = [id_ for id_, text in expected.items() if found.get(id_) != text]
    assert not wrong, f"{who}: {len(wrong)} rows are missing or wrong, like {wrong[0]}"
    assert len(found) == count == len(expected), f"{who}: {count} entities, not {len(expected)}"


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_500)
    options.add_argument("--updates", type=int, default=2_000)
    given = options.parse_args()
    rows, updates = (60, 120) if given.quick else (given.rows, given.updates)
    rounds = given.rounds or (1 if given.quick else 2)
    texts = [text for text in corpus.docstrings() if len(text) <= MAX_CHARACTERS]
    history = build_history(texts, rows, updates)
    progress(f"{len(history.changes):,} events, {rows:,} rows, {history.texts:,} distinct texts")
    final = list(history.final.values())
    embedder = TransformerEmbedder(EmbeddingSection(model=MODEL, device="cpu"))
    model = SentenceTransformer(str(resolve_model(MODEL)), device="cpu")
    embedder.embed(final[:64])
    model.encode(final[:64], show_progress_bar=False)

    embedded: list[int] = []

    def alone() -> Rate:
        began = clocks()
        embedder.embed(final)
        return Rate.of(rows, began, clocks())

    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        try:
            broker.create_topic(TOPIC, 1)
            servers = broker.bootstrap_servers
            fill(servers, TOPIC, history.changes)
            turns = take_turns(
                rounds,
                {
                    "end_to_end": lambda: run_rowvec(servers, history, embedded),
                    "embedder": _in_thread(alone),
                    "loop": _in_thread(lambda: run_loop(servers, history, model)),
                },
            )
        finally:
            broker.stop()
    print_result(
        "end_to_end",
        quick=given.quick,
        ratios=turns.ratios("end_to_end_over_embedder", "end_to_end", "embedder")
        | turns.ratios("end_to_end_over_loop", "end_to_end", "loop"),
        rates=turns.per_second("rows"),
        counts={
            "events": len(history.changes),
            "rows": rows,
            "distinct_texts": history.texts,
            "final_texts": len(set(final)),
            "embedded_texts": embedded,
            "tokens_of_final_texts": sum(embedder.count_tokens(final)),
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    main()
