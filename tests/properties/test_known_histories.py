"""Histories, step by step, each of which fails without one certain guard."""

import pytest

from operators.stages import epoch_budget, source
from tests.changes import Log, gone, put, tombstone
from tests.simulation.script import Script
from tests.simulation.store import vector_of
from tests.simulation.tables import id_of

ROW = id_of(0)


@pytest.fixture(autouse=True)
def _small_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FIRST_CAP", 4)
    monkeypatch.setattr(epoch_budget, "MIN_CAP", 4)


def start(*logs: list[tuple[bytes, bytes | None]]) -> Script:
    return Script([Log(list(log), written=0, per_read=2) for log in logs], cap=4)


def seen(script: Script, number: int = 0, polls: int = 1) -> str:
    """Read a partition and write due windows; returns the row's text that a reader sees then."""
    for _ in range(polls):
        script.poll(number)
    script.tick()
    script.write()
    return script.visible()[ROW].partition("\n")[2]


def versions(count: int) -> list[tuple[bytes, bytes | None]]:
    return [put(0, lsn, f"v{lsn}") for lsn in range(1, count + 1)]


def test_the_whole_range_is_gathered_before_any_of_it_is_written() -> None:
    script = start(versions(5))
    script.append(0, 1)
    assert seen(script) == "v1"
    script.commit()
    script.append(0, 4)
    assert seen(script, polls=2) == "v5"
    script.crash()
    # One read returns two of the four records that may have been written.
    assert seen(script) == "v5"
    assert seen(script) == "v5"


def test_rows_pending_from_before_wait_for_their_own_partition() -> None:
    script = start(versions(2), [put(1, 1)])
    script.poll(1)
    script.append(0, 1)
    script.poll(0)
    script.commit()  # v1 is pending
    script.append(0, 1)
    assert seen(script) == "v2"
    script.crash()
    # Every shard gets the first batch of the other partition first.
    assert seen(script, number=1) == "v2"
    assert seen(script) == "v2"


def test_a_text_that_came_back_gets_its_own_vector_back() -> None:
    script = start([put(0, 1, "a"), put(0, 2, "b"), put(0, 3, "a")])
    script.append(0, 1)
    assert seen(script) == "a"
    script.commit()  # the version map has "a"
    script.append(0, 1)
    assert seen(script) == "b"
    script.crash()
    script.append(0, 1)
    assert seen(script, polls=2) == "a"
    (entity,) = script.store.entities("docs", [ROW]).values()
    assert entity.vector.tobytes() == vector_of(entity.text).tobytes()


def test_what_the_store_holds_is_remembered() -> None:
    script = start(versions(9))
    script.drain()
    script.lose_state()
    # The store has v9, so v1 to v4 are dropped, and so are v5 to v8.
    for _ in range(6):
        assert seen(script, polls=2) == "v9"
        script.commit()


def test_what_was_not_yet_looked_up_is_looked_up_after_a_crash() -> None:
    script = start(versions(9))
    script.drain()
    script.lose_state()
    script.poll(0)
    script.poll(0)
    script.tick()
    script.commit()  # v4 is not looked up yet
    script.crash()
    assert seen(script, polls=2) == "v9"


def test_a_delete_that_the_store_has_overtaken_is_not_sent() -> None:
    script = start([*versions(3), gone(0, 4), *versions(9)[4:]])
    script.drain()
    script.lose_state()
    # The first batch ends with the delete.
    for _ in range(6):
        assert seen(script, polls=2) == "v9"
        script.commit()


def test_a_tombstone_that_the_store_has_overtaken_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "FIRST_CAP", 1)
    script = start([tombstone(0), *versions(3)])
    script.drain()
    script.lose_state()
    # The row is unknown, so the tombstone has no version but its offset.
    for _ in range(4):
        assert seen(script) == "v3"
        script.commit()
