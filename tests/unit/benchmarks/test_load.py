"""The benchmarks of several processes run and check their results; speeds are not checked."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.freshness import Call, Follower, Schedule, rank


def test_a_schedule_does_not_wait_for_anything() -> None:
    schedule = Schedule(start=100.0, per_s=4.0, first=10, count=3)
    assert [schedule.due(event) for event in schedule.events()] == [100.0, 100.25, 100.5]


def test_a_newer_version_of_the_row_acknowledges_the_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    follower = Follower(path, rows=3)
    calls = [
        Call("write", 0.0, 1.0, 2, [0, 1]),
        Call("write", 1.0, 2.0, 1, [6]),  # Row 0 again, so its change 3 was superseded.
        Call("write", 2.0, 3.0, 1, [3]),  # Written after 6 although older: does not count.
    ]
    lines = [json.dumps(asdict(call)) for call in calls]
    path.write_text("\n".join(lines) + "\n" + lines[0][:5])
    follower.look()
    assert follower.acknowledged == {0: 1.0, 1: 1.0, 3: 2.0, 6: 2.0}
    with path.open("a") as file:
        file.write(lines[0][5:].replace("[0, 1]", "[4]") + "\n")
    follower.look()
    assert follower.acknowledged[4] == 1.0


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (0.999, 4.0)]
)
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert rank([4.0, 2.0, 1.0, 3.0], share) == value
