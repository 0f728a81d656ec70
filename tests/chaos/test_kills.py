"""Sixty kills as in `make chaos`: the flow is killed at every crash point, and nothing is lost."""

import pytest

from operators.crash_points import POINTS
from tests.chaos.report import figures
from tests.chaos.run import attack

pytestmark = pytest.mark.integration

KILLS = 60


def test_sixty_kills_lose_nothing_and_turn_nothing_back() -> None:
    outcome = attack(KILLS, seed=1)
    print(figures(outcome))
    assert outcome.error is None, figures(outcome)
    assert outcome.clean, figures(outcome)
    assert len(outcome.lives) >= KILLS
    assert {life.point for life in outcome.lives} == {*POINTS, None}
    # Enough kills hit a writing process, and the readers were reading.
    assert sum(life.reached == "writing" for life in outcome.lives) > KILLS / 4
    for flow in outcome.flows:
        assert flow.toll.looks > flow.toll.scans > KILLS
        assert flow.checker.versions > 1_000
        assert flow.checker.absences > 100
