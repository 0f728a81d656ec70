"""`python -m tests.fuzz`: damaged messages through whole flows."""

import argparse
import json
import time

from tests.fuzz.whole_way import fuzz


def main() -> None:
    """Print what happened to the inputs, as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    started = time.monotonic()
    counts = fuzz(arguments.inputs, arguments.seed)
    print(json.dumps({**counts, "seconds": round(time.monotonic() - started)}))


main()
