"""`python -m tests.chaos --kills 1000`: runs the attack, prints its figures, writes its report."""

import argparse
import random
import sys
from pathlib import Path

from tests.chaos.report import Outcome, figures, write_report
from tests.chaos.run import attack

REPORT = Path(__file__).with_name("REPORT.md")
REPORTED = 200
"""The report is written only for runs of at least this many kills; fewer give no useful figures."""


def main() -> int:
    """Run the attack, print the outcome, and write the report; returns 1 on any violation."""
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
