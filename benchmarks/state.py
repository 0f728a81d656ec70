"""What it costs to know rows: memory per key, the share of time lost to epochs, and resuming.

    python -m benchmarks.state

The versions of a million, and of five million, rows lie within the horizon. Each size runs in fresh
processes, by turns with a flow that knows but 2,000 (`few`), so that what a stop or a start
costs anyway can be told from what the rows cost.

- `bytes_per_key`: by what the resident memory grew while the maps of all 256 shards were filled with
  keys, versions and text hashes as the stages make them. `recovery_bytes_per_key` is the same of the
  files that Bytewax wrote, each shard once. `resumed_bytes_per_key` and `peak_bytes_per_key` are of
  the whole process that resumed from them: at its first write, and at its worst, which includes
  Bytewax's copies of a shard on its way to the file and whatever the allocator never gave back.
- `share_lost`: of the time on the wall, how much went by between the source's snapshot, when Bytewax
  closes an epoch, and the next read of the log. Nothing is taken in before: the flow is drained, the
  shards that were touched are snapshot, pickled, written and committed. Some of that is work that would
  have been done a moment later anyway, so it is an upper bound, and `few` tells by how much. Of the
  same time, `…_cpu` is what the process calculated; the rest is the disk, or others on the machine.
  The load comes by the clock, evenly over all rows: `busy` is 5,000 updates a second, which touches
  every shard in every epoch; `quiet` is 25, which touches every tenth. `kept_up` is what the flow took
  of what fell due: below 1 it falls behind, as an epoch that is late makes the source take less.
- `resume_s`: from before the flow is built to the first row that the store is handed, after a clean
  stop, which writes all rows that are known (a checkpoint does not: after a crash there is less to
  read, and rows are looked up as they change). It includes the window of 200 ms, and leaves out
  Python's imports, the model, Kafka and Milvus. The files were written a moment ago: they are in the
  page cache.
- `ten_over_two`: memory after ten horizons of rows that never change again, over the memory after
  two; the fifth to the tenth at their worst. 1 is flat.

The whole flow runs, as in `benchmarks.path`, recovery on: the model returns zeros and the store does
nothing. It leaves out what rows have beside keys, versions and hashes: pending windows, refused
changes. All keys are numbers of up to seven digits; a longer key costs its own length more.
"""

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from benchmarks.contracts import idle_contract
from benchmarks.known_rows import Load, Resumed, fill, resume, rotate_through
from benchmarks.measuring import parser, print_result, progress

FEW = 2_000
LOADS = {"busy": 5_000.0, "quiet": 25.0}
HORIZONS = 10

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_a_fresh_process(work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a function where nothing else has been in memory before."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *args, **kwargs).result()


class Sized:
    """One size: its recovery files, and the figures that were taken of it."""

    def __init__(self, name: str, rows: int, recovery: Path) -> None:
        self.name = name
        self._rows = rows
        self._recovery = recovery
        self.figures: dict[str, list[float]] = {}
        self.raw: dict[str, list[float]] = {}

    def fill(self) -> None:
        """Measure the maps, and leave the recovery files behind."""
        self._recovery.mkdir(mode=0o700)
        filled = in_a_fresh_process(fill, self._rows, self._recovery)
        per_key = filled.resident_bytes / self._rows
        if self.name != "few":  # what a process takes anyway is more than so few rows
            self._note("bytes_per_key_{}", per_key)
            self._note("recovery_bytes_per_key_{}", filled.recovery_bytes / self._rows)
        self.raw[f"write_{self.name}_s"] = [filled.write_s]
        progress(f"{self.name}: {per_key:.0f} bytes a key")

    def run(self, load: str, epochs: int, epoch_s: float) -> None:
        """Resume from a copy of the files, and measure the epochs under a load."""
        given = Load(self._rows, LOADS[load], epochs, epochs * epoch_s * 2)
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(self._recovery, Path(folder, "recovery"))
            seen = in_a_fresh_process(resume, copy, given, epoch_s)
        self._note("resume_{}_s", seen.resume_s)
        if self.name != "few":
            self._note("resumed_bytes_per_key_{}", seen.resident_bytes / self._rows)
            self._note("peak_bytes_per_key_{}", seen.peak_bytes / self._rows)
        self._note_epochs(load, seen)

    def _note_epochs(self, load: str, seen: Resumed) -> None:
        took = sum(epoch.took_s for epoch in seen.epochs)
        lost = sum(epoch.lost_s for epoch in seen.epochs) / took
        records = sum(epoch.records for epoch in seen.epochs)
        self._note(f"share_lost_{load}_{{}}", lost)
        self._note(f"share_lost_{load}_{{}}_cpu", sum(e.lost_cpu_s for e in seen.epochs) / took)
        self._note(f"kept_up_{load}_{{}}", records / seen.due)
        raw = self.raw
        raw.setdefault(f"{load}_{self.name}_lost_ms", []).extend(
            e.lost_s * 1_000 for e in seen.epochs
        )
        raw.setdefault(f"{load}_{self.name}_records_per_epoch", []).extend(
            e.records for e in seen.epochs
        )
        progress(
            f"{self.name}, {load}: resumed in {seen.resume_s:.2f} s, {lost:.1%} lost to epochs, "
            f"{records / seen.due:.0%} of what fell due was taken"
        )

    def _note(self, name: str, value: float) -> None:
        self.figures.setdefault(name.format(self.name), []).append(value)


def run_flat(rows: int) -> tuple[float, list[int]]:
    """Memory after many horizons over that after two, and in bytes after each."""
    held = in_a_fresh_process(rotate_through, rows, HORIZONS)
    flat = max(held[HORIZONS // 2 :]) / held[1]
    progress(f"{HORIZONS} horizons of {rows:,} rows: {flat:.2f} of the memory of two")
    return flat, held


def main() -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args()
    sizes = {"20k": 20_000} if given.quick else {"1m": 1_000_000, "5m": 5_000_000}
    horizon_rows = 20_000 if given.quick else 500_000
    # At the least, and for twice the time that so many should take.
    epochs = 2 if given.quick else 4
    epoch_s = 0.2 if given.quick else idle_contract().recovery.epoch_interval_s
    rounds = given.rounds or 1
    flat, held = run_flat(horizon_rows)
    figures = {"ten_over_two": [flat]}
    raw: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        all_sizes = [
            Sized(name, rows, Path(folder, name)) for name, rows in {"few": FEW, **sizes}.items()
        ]
        for size in all_sizes:
            size.fill()
        for _ in range(rounds):
            for load in LOADS:
                for size in all_sizes:
                    size.run(load, epochs, epoch_s)
        for size in all_sizes:
            figures |= size.figures
            raw |= size.raw
    print_result(
        "state",
        quick=given.quick,
        ratios=figures,
        rates=raw,
        counts={
            "keys": {"few": FEW, **sizes},
            "updates_per_s": LOADS,
            "epoch_interval_s": epoch_s,
            "rows_per_horizon": horizon_rows,
            "bytes_after_each_horizon": held,
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    main()
