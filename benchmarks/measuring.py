"""Contestants that take turns, ratios inside one run, and one line of JSON.

A machine that others use as well gives no figure twice, but what slows one contestant slows the one
beside it: so each round runs every contestant once, a ratio is taken inside each round, and the
median over the rounds is what counts. The range over the rounds is told with it: it is the noise.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import orjson

_PACKAGES = ("bytewax", "orjson", "torch", "transformers", "sentence-transformers", "milvus-lite")


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rates of each contestant, one per round."""

    rates: Mapping[str, list[float]]

    def ratios(self, one: str, other: str) -> list[float]:
        """`one` as a multiple of `other`, round by round."""
        return [a / b for a, b in zip(self.rates[one], self.rates[other], strict=True)]


def take_turns(rounds: int, contestants: Mapping[str, Callable[[], float]]) -> Rounds:
    """Run every contestant once per round.

    Args:
        rounds: How often.
        contestants: Each does its whole work and returns a rate, of any unit.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, contestant in contestants.items():
            rates[name].append(contestant())
            progress(f"round {number}/{rounds}  {name}: {rates[name][-1]:,.4g}/s")
    return Rounds(rates)


def progress(line: str) -> None:
    """Tell what goes on; stdout is for the result."""
    print(line, file=sys.stderr, flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--quick", action="store_true", help="seconds, to see that it runs; the figures mean nothing"
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
    """Print the one line: each ratio as its median, its range, and what it was made of.

    Args:
        benchmark: Its name.
        quick: Whether the figures mean nothing.
        ratios: One value per round.
        rates: One value per round, per second.
        counts: How much was done.
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
