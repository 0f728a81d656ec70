"""The benchmarks run and print the expected figures; their values are not checked."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import embedding, gpu, report
from benchmarks.__main__ import has_gpu, keep
from benchmarks.contracts import TABLE, idle_contract
from benchmarks.end_to_end import in_fewest_calls
from benchmarks.envelopes import update
from benchmarks.measuring import Rate, Rounds, take_turns
from benchmarks.memory import MemoryReader, Timing, run_to_winners, run_whole
from benchmarks.path import draw_by_zipf, draw_evenly


@pytest.mark.parametrize("run", [run_to_winners, run_whole])
def test_a_flow_that_loses_a_row_gives_no_figure(run: Callable[..., Timing]) -> None:
    changes = [update(TABLE, id_, lsn) for lsn, id_ in enumerate([1, 2, 1], 1)]
    run(idle_contract(), partial(MemoryReader, changes), 0, 0.05).check(records=3, rows=2)
    lost = run(idle_contract(), partial(MemoryReader, changes[::2] + changes[2:]), 0, 0.05)
    with pytest.raises(AssertionError, match="wrote 1 rows of 2"):
        lost.check(records=3, rows=2)


def test_zipf_draws_the_first_rows_most_and_all_draw_the_same_again() -> None:
    for draw in (draw_evenly, draw_by_zipf):
        assert draw(1_000, 50) == draw(1_000, 50)
        assert set(draw(1_000, 50)) <= set(range(50))
    drawn = Counter(draw_by_zipf(20_000, 50))
    assert drawn[0] / drawn[9] == pytest.approx(10, rel=0.25)


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


def _line(benchmark: str, ratios: Mapping[str, float], **more: object) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "quick": False,
        **ratios,
        "ranges": {name: [0.9 * value, 1.1 * value] for name, value in ratios.items()},
        "rates": {},
        "machine": {"machine": "m", "cores": 2, "load": 0.1, "python": "3", "packages": {"p": "1"}},
        **more,
    }


def _rows(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in report.table(results).splitlines()]
    return {row[1]: row for row in rows if len(row) == 7}


@pytest.mark.parametrize(
    ("benchmark", "name", "value", "verdict"),
    [
        ("path", "path_over_idiomatic_uniform", 2.0, "**reached**"),
        ("path", "path_over_idiomatic_uniform", 1.999, "**NOT REACHED**"),
        ("state", "resume_1m_s", 2.0, "**reached**"),
        ("state", "resume_1m_s", 2.001, "**NOT REACHED**"),
        ("path", "path_over_ceiling_uniform", 0.05, "–"),
    ],
)
def test_the_table_holds_a_median_against_its_target(
    benchmark: str, name: str, value: float, verdict: str
) -> None:
    rows = _rows({benchmark: _line(benchmark, {name: value, f"{name}_cpu": 0.5})})
    assert rows[f"`{name}`"][-1] == verdict
    assert rows[f"`{name}`"][4] == "0.5"
    assert f"`{name}_cpu`" not in rows, "it has a column, not a row"


def test_a_target_that_nobody_measured_is_told() -> None:
    rows = _rows({"path": _line("path", {"path_over_idiomatic_uniform": 3.0})})
    assert rows["`end_to_end_over_loop`"][-1] == "**not measured**"
    assert rows["`kafka_path_over_ceiling_uniform`"][-1] == "**not measured**", (
        "its benchmark has run"
    )
    told = {name.strip("`") for name in rows}
    assert told >= {name for targets in report.TARGETS.values() for name in targets}
    first, *_ = report.table(
        {"path": _line("path", {"path_over_idiomatic_uniform": 3.0})}
    ).splitlines()
    assert first == f"1 of {sum(map(len, report.TARGETS.values()))} targets are reached."


def test_what_needs_a_gpu_is_told_as_not_measured_here() -> None:
    first, *_ = report.table({}).split("\n\n")
    of_gpu = {"gpu_over_sentence_transformers_bf16", "gpu_busy_share"}
    (line,) = [line for line in first.splitlines() if "GPU" in line]
    assert {name for name in of_gpu if f"`{name}`" in line} == of_gpu
    assert all(
        _rows({})[f"`{name}`"][-1] == "**not measured here: needs a GPU**" for name in of_gpu
    )


def test_a_report_is_written_checked_and_the_same_again(tmp_path: Path) -> None:
    line = _line("end_to_end", {"end_to_end_over_loop": 4.0})
    line["rates"] = {"end_to_end_events_per_s": [4.0, 5.0], "loop_events_per_s": [1.0, 1.0]}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "end_to_end.json").write_text(json.dumps(line))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert not report.is_current(tmp_path)
    report.write(tmp_path)
    assert report.is_current(tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    plots = {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()}
    assert plots.keys() == {"targets.svg", "end_to_end.svg"}
    report.write(tmp_path)
    assert readme.read_text() == text
    assert {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()} == plots


def test_a_quick_result_is_neither_kept_nor_reported(tmp_path: Path) -> None:
    quick = json.dumps(_line("path", {}) | {"quick": True}).encode()
    with pytest.raises(SystemExit, match="no result to keep"):
        keep("path", quick, tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "path.json").write_bytes(quick)
    with pytest.raises(SystemExit, match="quick"):
        report.read_results(tmp_path)


def test_the_readme_says_what_the_results_say() -> None:
    assert report.is_current(), "run python -m benchmarks.report"


def test_without_a_gpu_its_benchmark_says_so(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "there is no CUDA device" in capfd.readouterr().err
    assert not has_gpu()


def test_time_that_spans_cover_is_counted_once() -> None:
    assert gpu.covered([]) == 0
    assert gpu.covered([(5, 6), (0, 2), (1, 3), (1.5, 2.5), (3, 4)]) == 5


def test_loss_is_of_the_vectors_and_of_the_neighbours() -> None:
    exact = np.eye(24, dtype=np.float32)[:12] + np.linspace(0, 0.5, 12, dtype=np.float32)[:, None]
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    same = {"lowest_cosine": 1.0, "mean_cosine": 1.0, "recall_at_10": 1.0}
    assert embedding.loss(exact, exact) == pytest.approx(same, abs=1e-5)
    # Each text gets the vector of its neighbour, so its own vector is not found.
    lost = embedding.loss(exact, np.roll(exact, 1, axis=0))
    assert lost["lowest_cosine"] <= lost["mean_cosine"] < 1
    assert 0.8 < lost["recall_at_10"] < 1


def test_texts_that_were_embedded_twice_are_embedded_twice() -> None:
    calls = in_fewest_calls(["a", "b", "a", "a"])
    assert calls == [["a", "b"], ["a"], ["a"]]
