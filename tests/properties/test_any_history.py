"""Any history, in any order that keeps each row's own, with repeats and with crashes at any point."""

import os

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from operators.changes.shards import shard_of
from operators.changes.version import offset_of
from operators.stages import epoch_budget, source
from tests.properties.drawing import steps, take, topics
from tests.simulation.history import Kinds
from tests.simulation.script import Script
from tests.simulation.tables import PLAIN

EXAMPLES = int(os.environ.get("ROWVEC_TEST_EXAMPLES", "150"))


@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_same_collection_whatever_happens(
    data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Caps so small that they are reached often.
    monkeypatch.setattr(source, "FIRST_CAP", 4)
    monkeypatch.setattr(epoch_budget, "MIN_CAP", 3)
    # The horizon must be longer than the range that Debezium sends again. With the shorter one, most rows
    # are looked up in the store.
    horizon_s = data.draw(st.sampled_from([0.3, 3600.0]))
    kinds = Kinds(rows=5, changes=25, truncates=True, resent=horizon_s > 1)
    script = Script(
        data.draw(topics(PLAIN, kinds)),
        batch_size=data.draw(st.integers(1, 5)),
        cap=data.draw(st.sampled_from([4, 1_000])),
        horizon_s=horizon_s,
    )
    for step in data.draw(steps("aapptwwcPPWc!L")):
        take(script, step)
    script.drain()
    # No change may become a dead letter here: at rest the store equals the database.
    assert script.letters.letters == []


def test_the_shard_of_a_row_never_changes() -> None:
    # Recovery files are keyed by shard, so these values must never change.
    assert [shard_of(k) for k in ("docs:1", "docs:2", "order_items:7,2")] == ["212", "110", "228"]


def test_versions_end_with_the_offset() -> None:
    assert offset_of("0000.00000000000000ff.000000000000002a") == 42  # type: ignore[arg-type]
