"""Captures the corpus again: `python -m tests.capture --out tests/data/debezium`.

It needs Linux and Rowvec's extra `dev`, and takes less than a minute per variant. With `--compare DIR`
it also prints what Debezium sends differently from the corpus in DIR.
"""

import argparse
import sys
from pathlib import Path

from tests.capture.capture import VARIANTS, capture
from tests.capture.compare import differences
from tests.captured import load, save


def main() -> int:
    """Capture the variants named on the command line.

    Returns:
        1 if `--compare` found a difference, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.capture", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the files go")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="all by default")
    parser.add_argument("--compare", type=Path, help="a corpus to compare with")
    arguments = parser.parse_args()
    different = False
    for name in arguments.variant or VARIANTS:
        before = load(name, arguments.compare) if arguments.compare else None
        variant = capture(name)
        save(variant, arguments.out)
        messages = sum(len(case.messages) for case in variant.cases)
        print(f"{name}: {len(variant.cases)} cases, {messages} messages", flush=True)
        for difference in differences(before, variant) if before else ():
            different = True
            print(f"  {difference}", flush=True)
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
