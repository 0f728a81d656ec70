"""Many runs on all cores, and their totals."""

import argparse
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.plan import FAULTS, Outcome
from tests.simulation.world import World

ENOUGH = 500
"""This many runs must have met every kind of fault."""

CHUNK = 20


@dataclass
class Totals:
    """The totals of many runs.

    Attributes:
        failed: Runs with a violation.
        missing: Kinds of faults that no run met.
    """

    runs: int = 0
    steps: int = 0
    rewritten: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of one run."""
        self.runs += 1
        self.steps += outcome.steps
        self.rewritten = max(self.rewritten, outcome.rewritten)
        self.faults.update(outcome.faults)
        if outcome.failure is not None:
            self.failed.append(outcome)

    @property
    def missing(self) -> list[str]:
        """Kinds of faults that no run met."""
        return [fault for fault in FAULTS if not self.faults[fault]]


def run_seed(seed: int) -> Outcome:
    """One run."""
    return World(seed).run()


def be_quiet() -> None:
    """Silence the warnings about accepted findings and retries."""
    logging.getLogger("operators").setLevel(logging.ERROR)


def run_many(seeds: Sequence[int], processes: int) -> Totals:
    """Run these seeds on several processes."""
    totals = Totals()
    if processes == 1:
        for seed in seeds:
            totals.add(run_seed(seed))
        return totals
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=be_quiet) as pool:
        for outcome in pool.imap(run_seed, seeds, chunksize=CHUNK):
            totals.add(outcome)
    return totals


def replay_of(outcome: Outcome) -> str:
    """How to repeat a failed run."""
    return (
        f"seed {outcome.seed}: {outcome.failure}\n"
        f"  again: python -m tests.simulation --seed {outcome.seed} --trace"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if there was a violation, or no run met some kind of fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(arguments)
    be_quiet()
    if asked.seed is not None:
        return _one(asked.seed, trace=asked.trace)
    started = time.monotonic()
    totals = run_many(range(asked.first, asked.first + asked.seeds), asked.processes)
    took = time.monotonic() - started
    for fault in FAULTS:
        print(f"{totals.faults[fault]:10,}  {fault}")
    for outcome in totals.failed[:20]:
        print(replay_of(outcome))
    print(
        f"{totals.runs:,} seeds, {totals.steps:,} steps, {sum(totals.faults.values()):,} faults in "
        f"{took:.0f} s ({totals.runs / took:.1f} seeds/s); {len(totals.failed)} failed; "
        f"at the most {totals.rewritten} rows written again after one crash"
    )
    if asked.seeds >= ENOUGH and totals.missing:
        print(f"never met: {', '.join(totals.missing)}")
        return 1
    return 1 if totals.failed else 0


def _one(seed: int, *, trace: bool) -> int:
    outcome = World(seed, keep_trace=trace).run()
    for line in outcome.trace:
        print(line)
    print(f"seed {seed}: {outcome.failure or 'everything holds'} (digest {outcome.digest})")
    return 1 if outcome.failure is not None else 0
