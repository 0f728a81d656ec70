"""The whole thing: change events in a broker, real vectors in Milvus Lite, events per second.

    python -m benchmarks.end_to_end

One topic holds the inserts of real docstrings, then four updates for each row that favour some rows by
Zipf's law, and half of which leave the text alone. Rowvec runs as it does in production, checkpoints
and all, and is timed from its first record to its last checkpoint; its peers from their first record to
the answer to their last write. It leaves out PostgreSQL, Debezium, the start, a Milvus server, and what
Milvus Lite does when it is closed. Every collection is read back afterwards: a figure for rows that are
wrong would be worth nothing.

By turns, in the same run, against

- `embedder`: the embedder alone on exactly the texts that the flow put through the model in that
  round, in as few calls as can be: in texts per second, what stream, store and small windows cost;
- `…_one_core`: the same two with the model on one core, so that the others are left for all else, as
  they are where a GPU calculates. With the model on all of them, whatever else is calculated is taken
  from the model, and 1 is out of reach;
- `embedder_final`: the embedder alone on the rows' last texts, each once, in one call. It adds to
  that what texts cost that were soon replaced;
- `loop`: what everybody writes: poll, `encode`, upsert, again (`benchmarks.peers.loop`);
- `per_event`: one embedding and one request per event, as Debezium Server's sink does;
- `bytewax`: the flow that Bytewax's own operators invite to;
- `quix`: Quix Streams, where `--quix` names a folder that has it (`benchmarks.peers.quix` says why).

Each peer's module says what it is and does not promise. The events of the history per second are
counted for each, so the ratios are those of the times; `per_event`, which would take minutes, gets a
history of a quarter of the rows and of the updates. All begin with the whole history in the topic: it
tells how fast each catches up, which favours large batches, not how fresh it keeps.
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
from flows.runtime import Cluster, Session, run
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


@dataclass(slots=True)
class Embedded:
    """What went through the model in the rounds of Rowvec.

    Attributes:
        texts: Those of the last round; one that was embedded twice is there twice.
        counts: How many, per round.
        rates: Texts per second end to end, per round.
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
    """From the first record to the last commit, on an empty collection; notes what was embedded.

    Args:
        bootstrap_servers: Of the broker that has the history.
        history: What to catch up with.
        embedded: What is noted.
        device: Where the model is.
        at_ready: Called when it is ready, before its first record.
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
                texts.clear()  # what was embedded before is no part of the flow
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
    """The texts that any embedder of this process is given meanwhile, each call's once."""
    texts: list[str] = []
    embed = TransformerEmbedder.embed

    def noting(self: TransformerEmbedder, given: Sequence[str]) -> npt.NDArray[np.float32]:
        texts.extend(dict.fromkeys(given))
        return embed(self, given)

    with patch.object(TransformerEmbedder, "embed", noting):
        yield texts


@contextmanager
def _noting_times(watch: Stopwatch) -> Iterator[None]:
    """When any reader gets its first record, and when a flow has come to its end."""
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
    """Any embedder that is made meanwhile calculates on one core."""
    with patch.object(transformer, "CORES", 1):
        take_one_core()
        yield


def in_fewest_calls(texts: Sequence[str]) -> list[list[str]]:
    """`texts` as calls of distinct ones, or the embedder would embed those that repeat just once."""
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
    """Off the main thread, where Bytewax runs Rowvec as well, with all cores or so many.

    A machine that is busy makes it matter: OpenMP's threads wait spinning for the main thread, and
    asleep for others, as it then counts more threads than cores. It made the embedder half as fast.
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
    """The peers by name; how many texts each embeds is noted."""
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
            # Quix Streams asks a topic for both, and this broker knows but what it was told.
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
