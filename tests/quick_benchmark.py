"""Runs a benchmark with `--quick`, and reads the one line that it prints."""

import json
import subprocess
import sys
from typing import Any

from tests.zygote import ROOT


def quick_result(name: str, *options: str, seconds: float = 120.0) -> Any:
    """The result that `python -m benchmarks.NAME --quick` printed; it must exit with 0."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)
