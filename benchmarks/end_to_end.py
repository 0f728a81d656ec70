"""End to end: from change events in a broker to real vectors in Milvus Lite, in events per second.

    python -m benchmarks.end_to_end

One topic holds inserts with real docstrings, then four updates per row: rows are drawn by Zipf's law,
and half of the updates leave the text unchanged. Rowvec runs as in production, with checkpoints, and is
timed from its first record to its last checkpoint; the peers are timed from their first record to the
answer to their last write. PostgreSQL, Debezium, the start, a Milvus server, and the closing of Milvus
Lite are left out. Every collection is read back and checked: there is no figure for wrong rows.

In the same run, taking turns, Rowvec is compared with

- `embedder`: the embedder alone on exactly the texts that the flow embedded in that round, in as few
  calls as possible. In texts per second, the difference is the cost of stream, store and small windows;
- `…_one_core`: the same two with the model on one core, which leaves the other cores to everything
  else, as with a GPU. With the model on all cores, all other work takes time from the model, so the
  ratio cannot reach 1;
- `embedder_final`: the embedder alone on the last text of each row, in one call. The ratio also counts
  the cost of embedding texts that were soon replaced;
- `loop`: the usual loop of poll, `encode`, upsert (`benchmarks.peers.loop`);
- `per_event`: one embedding and one request per event, as Debezium Server's sink does;
- `bytewax`: a flow of Bytewax's own operators;
- `quix`: Quix Streams, if `--quix` names a folder that has it (`benchmarks.peers.quix` says why).

The module of each peer says what it does and what it does not promise. Every rate is the events of the
history per second, so the ratios are ratios of times. `per_event` would take minutes, so its history
has a quarter of the rows and updates. The whole history is in the topic from the start: this measures
how fast each catches up, which favours large batches, and not freshness.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from sentence_transformers import SentenceTransformer

from benchmarks import corpus
from benchmarks.contracts import MODEL, TABLE, TOPIC, real_contract
from benchmarks.envelopes import Change, change
from benchmarks.measuring import (
    Rate,
    Rounds,
    clocks,
    parser,
    print_result,
    progress,
    take_turns,
)
from benchmarks.over_kafka import fill
from benchmarks.peers.bytewax_flow import run_bytewax
from benchmarks.peers.job import Job, Outcome, Stopwatch, check
from benchmarks.peers.loop import run_loop
from benchmarks.peers.per_event import run_per_event
from benchmarks.peers.quix import run_quix
from flows.embedded.broker import Broker
from flows.process.session import Cluster, Session
from flows.runtime import run
from operators.codec.row_keys import KeyMaker
from operators.contract.sections import EmbeddingSection
from operators.kafka.reader import KafkaReader
from operators.milvus.store import MilvusStore
from operators.model import transformer
from operators.model.encoder import CORES, take_one_core
from operators.model.files import resolve_model
from operators.model.transformer import TransformerEmbedder
from operators.store.protocol import entity_id

SHORT_TOPIC = f"{TOPIC}_short"


@dataclass(frozen=True, slots=True)
class History:
    """The changes of the table.

    Attributes:
        final: Primary key → text that the collection must hold at the end.
        texts: How many distinct texts the events have.
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


@dataclass(slots=True)
class Embedded:
    """The texts that Rowvec embedded.

    Attributes:
        texts: The texts of the last round; a text that was embedded twice is in it twice.
        counts: How many texts in each round.
        rates: Texts per second end to end in each round.
    """

    texts: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)


def run_rowvec(
    bootstrap_servers: str,
    history: History,
    embedded: Embedded,
    device: str = "cpu",
    at_ready: Callable[[], None] = lambda: None,
) -> Rate:
    """Run Rowvec on an empty collection, timed from its first record to its last commit.

    Args:
        bootstrap_servers: Addresses of the broker that has the history.
        history: The history in the topic.
        embedded: Gets the texts that were embedded.
        device: Device of the model.
        at_ready: Called when the flow is ready, before its first record.
    """
    metrics = InMemoryMetricReader()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contract = real_contract(
            bootstrap_servers, str(folder / "milvus.db"), folder / "recovery", 50, device
        )
        watch = Stopwatch()

        with _noting_texts() as texts, _noting_times(watch):

            def on_ready() -> None:
                texts.clear()  # Texts embedded before, for warming up, do not count.
                at_ready()

            run(
                contract,
                cluster=Cluster(),
                exit_at_end=True,
                readers=[metrics],
                on_ready=on_ready,
            )
        table = contract.tables[0]
        expected = {
            entity_id(KeyMaker(table)({"id": id_})): text for id_, text in history.final.items()
        }
        with closing(MilvusStore(contract.milvus)) as store:
            found = {row["id"]: row["text"] for row in store.scan(TABLE, ["text"])}
            entities = store.count(TABLE)
    check("Rowvec", expected, found, entities)
    told = _embedded(metrics)
    assert told == len(texts), f"Rowvec counts {told} texts, {len(texts)} went through the model"
    embedded.texts = texts
    embedded.counts.append(told)
    embedded.rates.append(watch.rate(told))
    return watch.rate(len(history.changes))


@contextmanager
def _noting_texts() -> Iterator[list[str]]:
    """Inside the `with`, note the texts given to every embedder, without repetitions in a call."""
    texts: list[str] = []
    embed = TransformerEmbedder.embed

    def noting(self: TransformerEmbedder, given: Sequence[str]) -> npt.NDArray[np.float32]:
        texts.extend(dict.fromkeys(given))
        return embed(self, given)

    with patch.object(TransformerEmbedder, "embed", noting):
        yield texts


@contextmanager
def _noting_times(watch: Stopwatch) -> Iterator[None]:
    """Inside the `with`, note when a reader gets its first record and when the flow ends."""
    read, ended = KafkaReader.read, Session.ended

    def noting_read(self: KafkaReader, most: int) -> tuple[Sequence[Any], Sequence[Any]]:
        records, links = read(self, most)
        if records:
            watch.record()
        return records, links

    def noting_end(self: Session) -> None:
        watch.written()
        ended(self)

    with (
        patch.object(KafkaReader, "read", noting_read),
        patch.object(Session, "ended", noting_end),
    ):
        yield


@contextmanager
def _one_core() -> Iterator[None]:
    """Inside the `with`, every new embedder uses one core."""
    with patch.object(transformer, "CORES", 1):
        take_one_core()
        yield


def in_fewest_calls(texts: Sequence[str]) -> list[list[str]]:
    """Split `texts` into calls without repetitions, since a call embeds a repeated text only once."""
    left, calls = Counter(texts), []
    while left:
        calls.append(list(left))
        left -= Counter(list(left))
    return calls


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


def _in_thread(contestant: Callable[[], Rate], cores: int = CORES) -> Callable[[], Rate]:
    """Run a contestant on another thread than the main one, as Bytewax runs Rowvec, with `cores` cores.

    On a busy machine this matters. OpenMP's threads spin while they wait for the main thread, but sleep
    while they wait for another one, because OpenMP then counts more threads than cores. That made the
    embedder half as fast.
    """

    def run_it() -> Rate:
        with ThreadPoolExecutor(1, "contestant", torch.set_num_threads, (cores,)) as pool:
            return pool.submit(contestant).result()

    return run_it


def _peers(
    job: Job,
    short_job: Job,
    model: SentenceTransformer,
    installed: Path | None,
    embedded: dict[str, list[int]],
) -> dict[str, Callable[[], Rate]]:
    """The peers by name; `embedded` gets how many texts each of them embeds."""
    groups = count(1)
    runs: dict[str, Callable[[], Outcome]] = {
        "loop": lambda: run_loop(job, model),
        "per_event": lambda: run_per_event(short_job, model),
        "bytewax": lambda: run_bytewax(job, model),
    }
    if installed is not None:
        folder = resolve_model(MODEL)
        runs["quix"] = lambda: run_quix(job, folder, installed, f"quix-{next(groups)}")

    def run_peer(name: str) -> Rate:
        outcome = runs[name]()
        embedded.setdefault(name, []).append(outcome.embedded)
        return outcome.rate

    return {name: _in_thread(partial(run_peer, name)) for name in runs}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=3_000)
    options.add_argument("--updates", type=int, default=12_000)
    options.add_argument("--quix", type=Path, help="the folder where Quix Streams is installed")
    given = options.parse_args()
    rows, updates = (60, 120) if given.quick else (given.rows, given.updates)
    rounds = given.rounds or (1 if given.quick else 2)
    history = build_history(corpus.of_rows(), rows, updates)
    short = build_history(corpus.of_rows(), rows // 4, updates // 4)
    progress(f"{len(history.changes):,} events, {rows:,} rows, {history.texts:,} distinct texts")
    final = list(history.final.values())
    embedder = TransformerEmbedder(EmbeddingSection(model=MODEL, device="cpu"))
    model = SentenceTransformer(str(resolve_model(MODEL)), device="cpu")
    embedder.embed(final[:64])
    model.encode(final[:64], show_progress_bar=False)
    embedded, embedded_on_one, embedded_by_peers = Embedded(), Embedded(), dict[str, list[int]]()

    def alone(embedder: TransformerEmbedder, embedded: Embedded) -> Rate:
        calls, began = in_fewest_calls(embedded.texts), clocks()
        for call in calls:
            embedder.embed(call)
        return Rate.of(len(embedded.texts), began, clocks())

    def alone_on_final() -> Rate:
        began = clocks()
        embedder.embed(final)
        return Rate.of(len(history.changes), began, clocks())

    with _one_core():
        embedder_on_one = TransformerEmbedder(EmbeddingSection(model=MODEL, device="cpu"))

    def on_one_core(contestant: Callable[[], Rate]) -> Rate:
        with _one_core():
            return contestant()

    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        try:
            # Quix Streams reads both settings of a topic, and this broker returns only what was set.
            broker.create_topic(TOPIC, 1, {"cleanup.policy": "delete", "retention.ms": "604800000"})
            servers = broker.bootstrap_servers
            fill(servers, history.changes)
            broker.create_topic(SHORT_TOPIC, 1)
            fill(servers, short.changes, topic=SHORT_TOPIC)
            job = Job(servers, TOPIC, len(history.changes), history.final)
            short_job = Job(servers, SHORT_TOPIC, len(short.changes), short.final)
            peers = _peers(job, short_job, model, given.quix, embedded_by_peers)
            turns = take_turns(
                rounds,
                {
                    "end_to_end": lambda: run_rowvec(servers, history, embedded),
                    "embedder": _in_thread(lambda: alone(embedder, embedded)),
                    "end_to_end_one_core": lambda: on_one_core(
                        lambda: run_rowvec(servers, history, embedded_on_one)
                    ),
                    "embedder_one_core": _in_thread(
                        lambda: alone(embedder_on_one, embedded_on_one), cores=1
                    ),
                    "embedder_final": _in_thread(alone_on_final),
                    **peers,
                },
            )
        finally:
            broker.stop()
    in_texts = Rounds(
        {
            "end_to_end": embedded.rates,
            "embedder": turns.rates["embedder"],
            "end_to_end_one_core": embedded_on_one.rates,
            "embedder_one_core": turns.rates["embedder_one_core"],
        }
    )
    ratios = in_texts.ratios("end_to_end_over_embedder", "end_to_end", "embedder")
    ratios |= in_texts.ratios(
        "end_to_end_over_embedder_one_core", "end_to_end_one_core", "embedder_one_core"
    )
    counted_in_texts = ("embedder", "embedder_one_core")
    of_events = Rounds({n: r for n, r in turns.rates.items() if n not in counted_in_texts})
    for other in ("embedder_final", *peers):
        ratios |= of_events.ratios(f"end_to_end_over_{other}", "end_to_end", other)
    print_result(
        "end_to_end",
        quick=given.quick,
        ratios=dict(sorted(ratios.items())),
        rates=of_events.per_second("events") | in_texts.per_second("texts"),
        counts={
            "events": len(history.changes),
            "rows": rows,
            "distinct_texts": history.texts,
            "final_texts": len(set(final)),
            "embedded_texts": embedded.counts,
            "embedded_texts_one_core": embedded_on_one.counts,
            "embedded_texts_of_peers": embedded_by_peers,
            "quix": "measured" if given.quix else "left out: --quix names no folder",
            "tokens_of_final_texts": sum(embedder.count_tokens(final)),
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    main()
