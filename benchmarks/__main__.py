"""Runs all benchmarks, each in its own process, and then writes the table and the plots.

    python -m benchmarks                    # all: writes results/ and README.md
    python -m benchmarks path state         # these two; README.md uses everything in results/
    python -m benchmarks --quick            # only checks that they run; writes nothing

`make bench` runs the first, with Quix Streams installed in a separate folder. `gpu` is skipped where
there is no GPU. If a benchmark fails, its previous result is kept, the others still run, and the exit
code is 1. Run nothing else on the machine meanwhile.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from benchmarks import report
from benchmarks.measuring import progress


def run_one(name: str, options: Sequence[str]) -> bytes | None:
    """The result line of one benchmark; None if it failed or printed anything else."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != 1:
        progress(f"{name} failed: exit code {done.returncode}, {len(lines)} lines")
        return None
    return lines[0]


def keep(name: str, line: bytes, folder: Path) -> None:
    """Replace the stored result by a new line, atomically.

    Raises:
        SystemExit: The line is of another benchmark, or of a quick run.
    """
    result = orjson.loads(line)
    if result["benchmark"] != name or result["quick"]:
        raise SystemExit(f"{name}: this is no result to keep")
    folder.mkdir(exist_ok=True)
    fresh = folder / f"{name}.json.new"
    fresh.write_bytes(line + b"\n")
    os.replace(fresh, folder / f"{name}.json")


def has_gpu() -> bool:
    """Whether this machine has a GPU for `gpu` to measure."""
    import torch

    return torch.cuda.is_available()


def main() -> None:
    """Run the benchmarks named on the command line."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(report.BENCHMARKS))
    options.add_argument("--quick", action="store_true", help="see that they run; nothing is kept")
    options.add_argument("--rounds", type=int, help="how often each contestant runs")
    options.add_argument("--quix", type=Path, help="the folder where Quix Streams is installed")
    given = options.parse_args()
    names = given.names or [name for name in report.BENCHMARKS if name != "gpu" or has_gpu()]
    if unknown := sorted(set(names) - set(report.BENCHMARKS)):
        options.error(f"there is no {', '.join(unknown)}")
    shared = ["--quick"] if given.quick else []
    shared += ["--rounds", str(given.rounds)] if given.rounds else []
    own = {"end_to_end": ["--quix", str(given.quix)]} if given.quix else {}
    failed = []
    for name in names:
        progress(f"{name} …")
        line = run_one(name, [*shared, *own.get(name, [])])
        if line is None:
            failed.append(name)
            continue
        print(line.decode(), flush=True)
        if not given.quick:
            keep(name, line, report.FOLDER / "results")
    if not given.quick:
        report.write()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
