"""Runs contestants in turns, takes ratios inside a run, and prints one line of JSON.

On a shared machine no figure can be repeated, but what slows one contestant also slows the others of
its round. So each round runs every contestant once, ratios are taken inside a round, and the result is
their median. Their range is printed with it and shows the noise.

Every contestant is measured by wall time and by the CPU time of its process. On an idle machine, wall
time is what a user sees. On an overcommitted machine it depends on the scheduler, and only CPU time
says what the work costs.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import orjson

_PACKAGES = ("bytewax", "orjson", "torch", "transformers", "sentence-transformers", "milvus-lite")


Clocks = tuple[float, float]
"""Seconds of wall time, and CPU seconds of this process."""


def clocks() -> Clocks:
    """Both clocks, now."""
    return time.perf_counter(), time.process_time()


@dataclass(frozen=True, slots=True)
class Rate:
    """How much was done per second of wall time and of CPU time."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, count: float, started: Clocks, ended: Clocks) -> "Rate":
        """The rate of `count` things between two readings of the clocks."""
        return cls(count / (ended[0] - started[0]), count / (ended[1] - started[1]))


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rates of each contestant, one per round."""

    rates: Mapping[str, list[Rate]]

    def ratios(self, name: str, one: str, other: str) -> dict[str, list[float]]:
        """`one` as a multiple of `other`, round by round: as `name`, and `name_cpu` by CPU time."""
        pairs = list(zip(self.rates[one], self.rates[other], strict=True))
        return {
            name: [a.wall / b.wall for a, b in pairs],
            f"{name}_cpu": [a.cpu / b.cpu for a, b in pairs],
        }

    def per_second(self, unit: str) -> dict[str, list[float]]:
        """The rates by wall time and by CPU time, under names with `unit` in them."""
        named: dict[str, list[float]] = {}
        for name, rates in self.rates.items():
            named[f"{name}_{unit}_per_s"] = [rate.wall for rate in rates]
            named[f"{name}_{unit}_per_cpu_s"] = [rate.cpu for rate in rates]
        return named


def take_turns(rounds: int, contestants: Mapping[str, Callable[[], Rate]]) -> Rounds:
    """Run every contestant once per round.

    Args:
        rounds: Number of rounds.
        contestants: Each does its whole work and returns a rate, in any unit.
    """
    rates: dict[str, list[Rate]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, contestant in contestants.items():
            rate = contestant()
            rates[name].append(rate)
            progress(
                f"round {number}/{rounds}  {name}: {rate.wall:,.0f}/s, {rate.cpu:,.0f} per CPU second"
            )
    return Rounds(rates)


def progress(line: str) -> None:
    """Print progress to stderr, since stdout is for the result."""
    print(line, file=sys.stderr, flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--quick",
        action="store_true",
        help="seconds, to see that it runs; the figures mean nothing",
    )
    made.add_argument("--rounds", type=int, default=None, help="how often each contestant runs")
    return made


def print_result(
    benchmark: str,
    *,
    quick: bool,
    ratios: Mapping[str, list[float]],
    rates: Mapping[str, list[float]],
    counts: Mapping[str, Any],
) -> None:
    """Print the result line: each ratio's median and range, the rates, the counts and the machine.

    Args:
        benchmark: Name of the benchmark.
        quick: Whether it was a quick run, whose figures mean nothing.
        ratios: One value per round.
        rates: One value per round, per second.
        counts: How much work was done.
    """
    result = {
        "benchmark": benchmark,
        "quick": quick,
        **{name: _rounded(median(values)) for name, values in ratios.items()},
        "ranges": {n: [_rounded(min(v)), _rounded(max(v))] for n, v in ratios.items()},
        "rates": {name: [_rounded(value) for value in values] for name, values in rates.items()},
        "counts": counts,
        "machine": _machine(),
    }
    print(orjson.dumps(result).decode(), flush=True)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _machine() -> dict[str, Any]:
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": packages,
    }
