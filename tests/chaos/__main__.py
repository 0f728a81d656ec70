"""`python -m tests.chaos --kills 1000`: the attack, its figures, and its report."""

import argparse
import random
import sys
from pathlib import Path

from tests.chaos.report import Outcome, figures, write_report
from tests.chaos.run import attack

REPORT = Path(__file__).with_name("REPORT.md")
REPORTED = 200
"""From so many kills on the figures are worth keeping."""


def main() -> int:
    """Attack, print what came of it, and write the report; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--flows", type=int, default=2, help="attacked side by side")
    parser.add_argument("--report", type=Path, help="where to write the report")
    arguments = parser.parse_args()
    print(f"{arguments.kills} kills, seed {arguments.seed}", flush=True)
    outcome: Outcome = attack(arguments.kills, arguments.seed, arguments.flows)
    print(figures(outcome))
    report = arguments.report or (REPORT if arguments.kills >= REPORTED else None)
    if report is not None:
        write_report(report, outcome, sys.argv[1:])
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    sys.exit(main())
