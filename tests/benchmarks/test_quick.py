"""Each benchmark as its user tries it: `--quick`, and the one line that it prints; never how fast it is.

They start processes, a broker and a real model, which is why they are not among the unit tests.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.state import HORIZONS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


def quick_result(name: str, *options: str) -> Any:
    """What `python -m benchmarks.NAME --quick` printed; it must succeed, and print nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", *options],
        cwd=ROOT,
        # Threads of a model that wait for one another are slow where other tests use the cores as well.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_path_prints_one_line_of_json() -> None:
    result = quick_result("path", "--no-broker")
    assert result["benchmark"] == "path"
    assert result["quick"] is True
    ratios = {
        f"{flow}_over_{other}_{workload}"
        for flow in ("path", "whole")
        for other in ("ceiling", "idiomatic")
        for workload in ("uniform", "zipf")
    } | {"path_over_idiomatic_uniform_few_rows"}
    assert result["ranges"].keys() == ratios | {f"{name}_cpu" for name in ratios}
    contestants = {"path_uniform_few_rows", "idiomatic_uniform_few_rows"}
    for name in ("ceiling", "path", "whole", "idiomatic"):
        contestants |= {f"{name}_uniform", f"{name}_zipf"}
    assert result["rates"].keys() == {
        f"{name}_records_per_{second}" for name in contestants for second in ("s", "cpu_s")
    }
    counts = result["counts"]
    records = counts["records"] + counts["warm_up_records"]
    for workload in ("uniform", "zipf"):
        told = counts[workload]
        for name in ("path_winners", "whole_winners"):
            assert records >= told[name][0] >= told["rows"], (workload, name)
    assert counts["zipf"]["rows"] < counts["uniform"]["rows"] <= counts["uniform"]["rows_of_table"]


def test_scaling_prints_one_line_of_json() -> None:
    result = quick_result("scaling", "--no-broker")
    assert result["benchmark"] == "scaling"
    ratios = {"memory_two_over_one", "memory_apart_over_one", "memory_two_over_apart"}
    assert result["ranges"].keys() == ratios | {f"{name}_cpu" for name in ratios}
    assert result["rates"].keys() == {
        f"memory_{name}_records_per_{second}"
        for name in ("one", "apart", "two")
        for second in ("s", "cpu_s")
    }


def test_state_prints_one_line_of_json() -> None:
    result = quick_result("state")
    assert (result["benchmark"], result["quick"]) == ("state", True)
    figures = {"ten_over_two", "resume_few_s", "resume_20k_s"}
    figures |= {f"{part}bytes_per_key_20k" for part in ("", "recovery_", "resumed_", "peak_")}
    for load in ("busy", "quiet"):
        for size in ("few", "20k"):
            figures |= {f"kept_up_{load}_{size}", f"share_lost_{load}_{size}"}
            figures.add(f"share_lost_{load}_{size}_cpu")
    assert result["ranges"].keys() == figures
    assert all(result[name] > 0 for name in figures)
    assert len(result["counts"]["bytes_after_each_horizon"]) == HORIZONS


def test_gpu_prints_one_line_of_json() -> None:
    result = quick_result("gpu", "--device", "cpu")
    own = {"short_over_sentence_transformers_bf16", "long_over_sentence_transformers_bf16"}
    named = {"gpu_over_sentence_transformers_bf16", "gpu_busy_share"}
    assert named == report.TARGETS["gpu"].keys()
    assert result["ranges"].keys() == named | own | {f"{name}_cpu" for name in own}
    assert result["gpu_over_sentence_transformers_bf16"] == min(result[name] for name in own)
    assert 0 < result["gpu_busy_share"] <= 1
    assert result["counts"]["device"] == "cpu"
    rates = ("minilm_rows_per_s", "base_rows_per_s", "end_to_end_events_per_s")
    assert all(result["rates"][name] for name in rates)
