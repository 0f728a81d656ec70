"""No record stops a flow, whatever its bytes and whatever the contract says."""

from collections.abc import Sequence

import pytest

from operators.store.protocol import Entity
from tests.fakes import HashEmbedder, MemoryStore
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
    # Most texts of the samples are shorter than a chunk, so this cuts each one into two.
    monkeypatch.setattr(
        HashEmbedder,
        "chunks",
        lambda _self, text, *_: [(0, len(text) // 2), (len(text) // 2, len(text))],
    )
    upsert = MemoryStore.upsert

    def lossy(store: MemoryStore, collection: str, entities: Sequence[Entity]) -> None:
        first = [entity for entity in entities if entity.chunk == 0]
        upsert(store, collection, first)

    monkeypatch.setattr(MemoryStore, "upsert", lossy)
    found = 0
    with quiet():
        for seed in range(40):
            try:
                Run(seed).go()
            except Exception:
                found += 1
    assert found
