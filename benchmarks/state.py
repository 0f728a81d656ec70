"""The cost of known rows: memory per key, time lost to checkpoints, and time to resume.

    python -m benchmarks.state

The version maps hold one million and five million rows. Each size runs in new processes, taking turns
with a flow that knows only 2,000 rows (`few`), which shows what a start or a checkpoint costs without
the rows.

- `bytes_per_key`: the growth of resident memory while the maps of all 256 shards were filled with keys,
  versions and text hashes as the stages make them. `recovery_bytes_per_key` is the size of the recovery
  files with each shard written once. `resumed_bytes_per_key` and `peak_bytes_per_key` are the memory of
  the whole process that resumed from them, at its first write and at its peak. The peak includes
  Bytewax's copies of a shard being written, and memory that the allocator did not return.
- `share_lost`: the share of wall time between the snapshot of the source, when Bytewax closes an epoch,
  and the next read of the log. Meanwhile the flow is drained, and the touched shards are snapshot,
  pickled, written and committed. Some of that work would have been done anyway a moment later, so this
  is an upper bound; `few` shows by how much. `…_cpu` is the CPU time of the process within that time;
  the rest is waiting for the disk or for other processes. The load has a fixed rate, uniformly over all
  rows: `busy` is 5,000 updates a second, which touches every shard in every epoch; `quiet` is 25, which
  touches every tenth. `kept_up` is the share of due updates that the flow read. Below 1 it falls
  behind, because the source reads less after a late epoch.
- `resume_s`: from before the flow is built to the first row passed to the store, after a clean stop,
  which writes all known rows. (A checkpoint does not: after a crash there is less to read, and rows are
  looked up as they change.) It includes the window of 200 ms, and not Python's imports, the model,
  Kafka and Milvus. The files were just written, so they are in the page cache.
- `ten_over_two`: peak memory in the fifth to the tenth horizon over the memory after two horizons, with
  rows that never change again. 1 means no growth.

The whole flow runs with recovery on, as in `benchmarks.path`: the model returns zeros and the store
does nothing. Pending windows and refused changes are left out. All keys are numbers of up to seven
digits; a longer key costs its additional length.
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
    """Call a function in a new process, whose memory nothing else has used."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *args, **kwargs).result()


class Sized:
    """One number of rows, with its recovery files and its figures."""

    def __init__(self, name: str, rows: int, recovery: Path) -> None:
        self.name = name
        self._rows = rows
        self._recovery = recovery
        self.figures: dict[str, list[float]] = {}
        self.raw: dict[str, list[float]] = {}

    def fill(self) -> None:
        """Measure the maps, and keep the recovery files."""
        self._recovery.mkdir(mode=0o700)
        filled = in_a_fresh_process(fill, self._rows, self._recovery)
        per_key = filled.resident_bytes / self._rows
        if self.name != "few":  # The process itself takes more memory than so few rows.
            self._note("bytes_per_key_{}", per_key)
            self._note("recovery_bytes_per_key_{}", filled.recovery_bytes / self._rows)
        self.raw[f"write_{self.name}_s"] = [filled.write_s]
        progress(f"{self.name}: {per_key:.0f} bytes a key")

    def run(self, load: str, epochs: int, epoch_s: float, catch_up_s: float) -> None:
        """Resume from a copy of the files, and measure the epochs under a load."""
        given = Load(self._rows, LOADS[load], epochs, epochs * epoch_s * 2, catch_up_s)
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
    """The ratio `ten_over_two`, and the memory in bytes after each horizon."""
    held = in_a_fresh_process(rotate_through, rows, HORIZONS)
    flat = max(held[HORIZONS // 2 :]) / held[1]
    progress(f"{HORIZONS} horizons of {rows:,} rows: {flat:.2f} of the memory of two")
    return flat, held


def main() -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args()
    sizes = {"20k": 20_000} if given.quick else {"1m": 1_000_000, "5m": 5_000_000}
    horizon_rows = 10_000 if given.quick else 500_000
    # Measures at least this many epochs, and at least twice the time that they should take.
    epochs = 2 if given.quick else 4
    epoch_s, catch_up_s = (
        (0.1, 1.0) if given.quick else (idle_contract().recovery.epoch_interval_s, 12.0)
    )
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
                    size.run(load, epochs, epoch_s, catch_up_s)
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
