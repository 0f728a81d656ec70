"""Any history of every shape, read in any order that keeps each partition's own, crashed at any point."""

import os
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, event, given, settings

from operators.stages import epoch_budget, source
from operators.toast.key_changes import MOVE_WAIT_S
from tests.properties.shapes import (
    SECTION,
    Change,
    Judge,
    Kinds,
    PickyStore,
    histories,
    logs_of,
)
from tests.properties.simulation import Simulation

EXAMPLES = int(os.environ.get("ROWVEC_TEST_EXAMPLES", "150"))

CALM = "aapptwwWcPPWcS"
"""Steps without a crash; S is a clean stop."""

ROUGH = CALM + "!xX"

KINDS = {
    "chunks and TOAST": (Kinds(truncates=True), ROUGH + "L"),
    "filters": (Kinds(hiding=True, truncates=True), ROUGH + "L"),
    "faults": (Kinds(faults=True, hiding=True, truncates=True), ROUGH + "L"),
    "moves": (Kinds(moves=True, truncates=True), CALM),
    "moves and crashes": (Kinds(moves=True, hiding=True, truncates=True), ROUGH + "L"),
    "moves and faults": (Kinds(moves=True, faults=True), ROUGH),
    "changes without a position": (Kinds(unpositioned=True, hiding=True), ROUGH + "L"),
}


@pytest.fixture(autouse=True)
def _small_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    # Caps this small are hit all the time; what holds for them holds for larger ones.
    monkeypatch.setattr(source, "FIRST_CAP", 4)
    monkeypatch.setattr(epoch_budget, "MIN_CAP", 3)


@st.composite
def sendings(draw: st.DrawFn, history: Sequence[Change], *, again: bool) -> list[Change]:
    """The history with ranges that the connector sends again, as after it died."""
    sent: list[Change] = []
    for index, change in enumerate(history):
        sent.append(change)
        whole = index + 1 == len(history) or history[index + 1].lsn != change.lsn
        if again and whole and draw(st.integers(0, 6)) == 0:
            since = change.lsn - draw(st.integers(0, 7))
            sent += [each for each in history[: index + 1] if each.lsn >= since]
    return sent


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(
    max_examples=max(1, EXAMPLES // 6),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_nothing_is_lost_in_silence_and_nothing_wrong_is_shown(
    name: str, data: st.DataObject
) -> None:
    kinds, steps = KINDS[name]
    history = data.draw(histories(kinds))
    partitions = data.draw(st.integers(1, 2))
    # The horizon is longer than Debezium's re-send window, always. At the shorter one most rows are
    # looked up in the store. What has no position of its own must not be sent again.
    horizon_s = data.draw(st.sampled_from([0.3, 3600.0]))
    again = horizon_s > 1 and not kinds.unpositioned
    sent = logs_of(data.draw(sendings(history, again=again)), partitions)
    simulation = Simulation(
        sent.logs,
        batch_size=data.draw(st.integers(1, 5)),
        cap=data.draw(st.sampled_from([4, 1_000])),
        horizon_s=horizon_s,
        section=SECTION,
        store=PickyStore(),
        lanes=data.draw(st.integers(1, 2)),
    )
    judge = Judge(history, sent)
    started = simulation.now
    for step in data.draw(st.lists(st.sampled_from(steps), max_size=80)):
        number = data.draw(st.integers(0, partitions - 1)) if step in "apP" else 0
        match step:
            case "a":
                simulation.append(number, data.draw(st.integers(1, 6)))
            case "p":
                simulation.poll(number)
            case "P":
                simulation.append(number, data.draw(st.integers(1, 3)))
                simulation.poll(number)
            case "t":
                simulation.tick()
            case "w":
                simulation.write(data.draw(st.integers(1, 3)), lane=data.draw(st.integers(0, 1)))
            case "W":
                simulation.tick()
                simulation.write()
            case "c":
                simulation.commit()
            case "S":
                event("clean stop")
                judge.stop(simulation)
                simulation.stop()
            case "!":
                event("crash")
                judge.lost = True
                simulation.crash()
            case "x" | "X":
                event("crash in a request")
                judge.lost = True
                operation = data.draw(st.sampled_from(["upsert", "delete", "delete_older"]))
                simulation.crash_while_writing(operation, applied=step == "X")
            case "L":
                event("recovery state lost")
                judge.lost = True
                judge.forget_deletes(simulation)
                simulation.committed.clear()
                simulation.crash()
        judge.watch(simulation)
    simulation.read_all()
    if (simulation.now - started).total_seconds() >= MOVE_WAIT_S:
        judge.lost = True  # the two halves of a change of the key may have been that far apart
    simulation.drain()
    judge.watch(simulation)
    judge.rest(simulation)
