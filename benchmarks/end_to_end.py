"""The whole thing: change events in a broker, real vectors in Milvus Lite, rows per second.

    python -m benchmarks.end_to_end

One topic holds the inserts of real docstrings, then four updates for each row that favour some rows by
Zipf's law, and half of which leave the text alone. Rowvec runs as it does in production, checkpoints
and all, from when it is ready to when it has ended. It leaves out PostgreSQL, Debezium, the start,
and a Milvus server. Every collection is read back afterwards: a figure for rows that are wrong would be
worth nothing.

By turns, in the same run, against

- `embedder`: the embedder alone on exactly the texts that the flow put through the model in that
  round, in as few calls as can be: in texts per second, what stream, store and small windows cost;
- `embedder_final`: the embedder alone on the rows' last texts, each once, in one call. It adds to
  that what texts cost that were soon replaced; in rows per second;
- `loop`: what everybody writes: poll, `encode`, upsert, again (`benchmarks.peers.loop`);
- `per_event`: one embedding and one request per event, as Debezium Server's sink does;
- `bytewax`: the flow that Bytewax's own operators invite to;
- `quix`: Quix Streams, where `--quix` names a folder that has it (`benchmarks.peers.quix` says why).

Each peer's module says what it is and does not promise. The rows of the last state per second are
counted for each, so the ratios to the peers are those of the times. All begin with the whole history
in the topic: it tells how fast each catches up, which favours large batches, not how fresh it keeps.
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
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
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
from benchmarks.peers.job import Job, Outcome, check
from benchmarks.peers.loop import run_loop
from benchmarks.peers.per_event import run_per_event
from benchmarks.peers.quix import run_quix
from flows.embedded.broker import Broker
from flows.runtime import Cluster, run
from operators.contract import EmbeddingSection
from operators.keys import KeyMaker
from operators.milvus import MilvusStore
from operators.model_files import resolve_model
from operators.store import entity_id
from operators.transformer import TransformerEmbedder


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


def run_rowvec(bootstrap_servers: str, history: History, embedded: Embedded) -> Rate:
    """From ready to ended, on an empty collection; notes what went through the model."""
    metrics = InMemoryMetricReader()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contract = real_contract(
            bootstrap_servers, str(folder / "milvus.db"), folder / "recovery", 50
        )
        began: list[tuple[float, float]] = []

        with _noting_texts() as texts:

            def on_ready() -> None:
                texts.clear()  # what was embedded before is no part of the flow
                began.append(clocks())

            run(
                contract,
                cluster=Cluster(),
                exit_at_end=True,
                readers=[metrics],
                on_ready=on_ready,
            )
        ended = clocks()
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
    embedded.rates.append(Rate.of(told, began[0], ended))
    return Rate.of(len(history.final), began[0], ended)


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


def _in_thread(contestant: Callable[[], Rate]) -> Callable[[], Rate]:
    """Off the main thread, where Bytewax runs Rowvec as well.

    A machine that is busy makes it matter: OpenMP's threads wait spinning for the main thread, and
    asleep for others, as it then counts more threads than cores. It made the embedder half as fast.
    """

    def run_it() -> Rate:
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(contestant).result()

    return run_it


def _peers(
    job: Job, model: SentenceTransformer, installed: Path | None, embedded: dict[str, list[int]]
) -> dict[str, Callable[[], Rate]]:
    """The peers by name; how many texts each embeds is noted."""
    groups = count(1)
    runs: dict[str, Callable[[], Outcome]] = {
        "loop": lambda: run_loop(job, model),
        "per_event": lambda: run_per_event(job, model),
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
    options.add_argument("--rows", type=int, default=1_500)
    options.add_argument("--updates", type=int, default=6_000)
    options.add_argument("--quix", type=Path, help="the folder where Quix Streams is installed")
    given = options.parse_args()
    rows, updates = (60, 120) if given.quick else (given.rows, given.updates)
    rounds = given.rounds or (1 if given.quick else 2)
    history = build_history(corpus.of_rows(), rows, updates)
    progress(f"{len(history.changes):,} events, {rows:,} rows, {history.texts:,} distinct texts")
    final = list(history.final.values())
    embedder = TransformerEmbedder(EmbeddingSection(model=MODEL, device="cpu"))
    model = SentenceTransformer(str(resolve_model(MODEL)), device="cpu")
    embedder.embed(final[:64])
    model.encode(final[:64], show_progress_bar=False)
    embedded, embedded_by_peers = Embedded(), dict[str, list[int]]()

    def alone() -> Rate:
        calls, began = in_fewest_calls(embedded.texts), clocks()
        for call in calls:
            embedder.embed(call)
        return Rate.of(len(embedded.texts), began, clocks())

    def alone_on_final() -> Rate:
        began = clocks()
        embedder.embed(final)
        return Rate.of(rows, began, clocks())

    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        try:
            # Quix Streams asks a topic for both, and this broker knows but what it was told.
            broker.create_topic(TOPIC, 1, {"cleanup.policy": "delete", "retention.ms": "604800000"})
            servers = broker.bootstrap_servers
            fill(servers, history.changes)
            job = Job(servers, TOPIC, len(history.changes), history.final)
            peers = _peers(job, model, given.quix, embedded_by_peers)
            turns = take_turns(
                rounds,
                {
                    "end_to_end": lambda: run_rowvec(servers, history, embedded),
                    "embedder": _in_thread(alone),
                    "embedder_final": _in_thread(alone_on_final),
                    **peers,
                },
            )
        finally:
            broker.stop()
    in_texts = Rounds({"end_to_end": embedded.rates, "embedder": turns.rates["embedder"]})
    in_rows = Rounds({name: rate for name, rate in turns.rates.items() if name != "embedder"})
    ratios = in_texts.ratios("end_to_end_over_embedder", "end_to_end", "embedder")
    for other in in_rows.rates.keys() - {"end_to_end"}:
        ratios |= in_rows.ratios(f"end_to_end_over_{other}", "end_to_end", other)
    print_result(
        "end_to_end",
        quick=given.quick,
        ratios=dict(sorted(ratios.items())),
        rates=in_rows.per_second("rows") | in_texts.per_second("texts"),
        counts={
            "events": len(history.changes),
            "rows": rows,
            "distinct_texts": history.texts,
            "final_texts": len(set(final)),
            "embedded_texts": embedded.counts,
            "embedded_texts_of_peers": embedded_by_peers,
            "quix": "measured" if given.quix else "left out: --quix names no folder",
            "tokens_of_final_texts": sum(embedder.count_tokens(final)),
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    main()
