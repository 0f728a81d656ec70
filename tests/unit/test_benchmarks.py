"""That the benchmarks run and tell what they should; never how fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring import Rate, Rounds, take_turns

ROOT = Path(__file__).resolve().parents[2]


def test_path_prints_one_line_of_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.path", "--quick", "--no-broker"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["benchmark"] == "path"
    assert result["quick"] is True
    ratios = {"path_over_ceiling", "path_over_idiomatic"}
    ratios |= {f"{name}_cpu" for name in ratios}
    assert ratios <= result.keys()
    assert result["ranges"].keys() == ratios
    contestants = {"ceiling", "path", "idiomatic"}
    assert result["rates"].keys() == {
        f"{name}_records_per_{second}" for name in contestants for second in ("s", "cpu_s")
    }
    counts = result["counts"]
    assert counts["records"] + counts["warm_up_records"] >= counts["winners"][0] >= counts["rows"]


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def contestant(name: str) -> Rate:
        order.append(name)
        return Rate(1.0, 2.0)

    turns = take_turns(2, {"a": lambda: contestant("a"), "b": lambda: contestant("b")})
    assert order == ["a", "b", "a", "b"]
    assert turns.rates == {"a": [Rate(1.0, 2.0)] * 2, "b": [Rate(1.0, 2.0)] * 2}


def test_ratios_are_taken_inside_each_round() -> None:
    rounds = Rounds({"a": [Rate(6, 8), Rate(1, 9)], "b": [Rate(2, 4), Rate(4, 3)]})
    assert rounds.ratios("a_over_b", "a", "b") == {
        "a_over_b": pytest.approx([3, 0.25]),
        "a_over_b_cpu": pytest.approx([2, 3]),
    }
