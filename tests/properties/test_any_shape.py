"""Any history with every kind of change, in any order that keeps each partition's own, with crashes."""

import os
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from operators.stages import epoch_budget, source
from tests.properties.drawing import steps, take, topics
from tests.simulation.history import Kinds
from tests.simulation.script import Script
from tests.simulation.tables import FILTERED

EXAMPLES = int(os.environ.get("ROWVEC_TEST_EXAMPLES", "150"))

CALM = "aapptwwWcPPWcS"
"""Steps without a crash; S is a clean stop."""

ROUGH = CALM + "!xX"

ANY = Kinds(rows=5, changes=25, mixed=True)

KINDS = {
    "chunks and TOAST": (replace(ANY, truncates=True), ROUGH + "L"),
    "filters": (replace(ANY, hiding=True, truncates=True), ROUGH + "L"),
    "faults": (replace(ANY, faults=True, hiding=True, truncates=True), ROUGH + "L"),
    "moves": (replace(ANY, moves=True, truncates=True), CALM),
    "moves and crashes": (replace(ANY, moves=True, hiding=True, truncates=True), ROUGH + "L"),
    "moves and faults": (replace(ANY, moves=True, faults=True), ROUGH),
    "changes without a position": (replace(ANY, unpositioned=True, hiding=True), ROUGH + "L"),
}


@pytest.fixture(autouse=True)
def _small_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    # Caps so small that they are reached often.
    monkeypatch.setattr(source, "FIRST_CAP", 4)
    monkeypatch.setattr(epoch_budget, "MIN_CAP", 3)


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(
    max_examples=max(1, EXAMPLES // 4),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_nothing_is_lost_in_silence_and_nothing_wrong_is_shown(
    name: str, data: st.DataObject
) -> None:
    kinds, letters = KINDS[name]
    # The horizon must be longer than the range that Debezium sends again. With the shorter one, most rows
    # are looked up in the store. Changes without a position must not be sent again.
    horizon_s = data.draw(st.sampled_from([0.3, 3600.0]))
    kinds = replace(kinds, resent=horizon_s > 1 and not kinds.unpositioned)
    script = Script(
        data.draw(topics(FILTERED, kinds)),
        batch_size=data.draw(st.integers(1, 5)),
        cap=data.draw(st.sampled_from([4, 1_000])),
        horizon_s=horizon_s,
        lanes=data.draw(st.integers(1, 2)),
    )
    for step in data.draw(steps(letters)):
        take(script, step)
    script.drain()
