"""No record stops a flow, whatever its bytes and whatever the contract says."""

import pytest

from operators.store.protocol import entity_id
from tests.fuzz.whole_way import Run, fuzz, quiet


def test_no_record_stops_a_flow_or_its_next_start() -> None:
    counts = fuzz(1_000, seed=7)
    assert counts["inputs"] == 1_000


def test_enough_of_the_records_reach_the_store() -> None:
    """A fuzzer whose records are all refused would prove nothing."""
    counts = fuzz(2_000, seed=100)
    assert counts["stored"] > 60
    assert counts["crashed"] > 5
    assert counts["dead letters"] > 100


def test_an_exception_of_python_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise KeyError("after")

    monkeypatch.setattr("operators.rendering.renderer.as_text", broken)
    with pytest.raises(AssertionError, match=r"KeyError.*\n.*tests\.fuzz --inputs 100 --seed"):
        fuzz(2_000, seed=100)


def test_a_chunk_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "operators.stages.lane_writer.entity_id", lambda key, chunk=0: entity_id(key, chunk // 2)
    )
    found = 0
    with quiet():
        for seed in range(40):
            try:
                Run(seed).go()
            except Exception:
                found += 1
    assert found
