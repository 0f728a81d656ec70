"""`python -m tests.live --changes 200000 --seed 7`: prints one line of JSON; exits with 1 on a fault."""

import argparse
import sys
from pathlib import Path

from tests.live.run import Settings, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=__doc__)
    usual = Settings()
    parser.add_argument("--changes", type=int, default=usual.changes)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--rows", type=int, default=usual.rows, help="of each table, about")
    parser.add_argument("--rate", type=float, default=usual.rate, help="changes/s; 0: no limit")
    parser.add_argument("--dsn", action=argparse.BooleanOptionalAction, default=usual.dsn)
    parser.add_argument("--without", action="append", default=[], help="a kind of change")
    parser.add_argument("--model", type=Path, help="one of no size is made otherwise")
    parser.add_argument("--directory", type=Path, help="keeps data and logs")
    given = parser.parse_args()
    settings = Settings(
        **{**vars(given), "without": tuple(given.without)},
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    outcome = run(settings)
    print(outcome.line())
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
