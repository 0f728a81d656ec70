"""Histories that one guard each decides, step by step."""

import pytest

from operators.stages import epoch_budget, source
from tests.changes import Log, gone, put, tombstone
from tests.properties.simulation import Simulation, id_of

ROW = id_of(0)


@pytest.fixture(autouse=True)
def _small_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FIRST_CAP", 4)
    monkeypatch.setattr(epoch_budget, "MIN_CAP", 4)


def start(*logs: list[tuple[bytes, bytes | None]]) -> Simulation:
    return Simulation([Log(list(log), written=0, per_read=2) for log in logs], cap=4)


def seen(simulation: Simulation, number: int = 0, polls: int = 1) -> str:
    """Let a partition be read and what is due be written; what a reader of the row sees then."""
    for _ in range(polls):
        simulation.poll(number)
    simulation.tick()
    simulation.write()
    return simulation.visible()[ROW].partition("\n")[2]


def versions(count: int) -> list[tuple[bytes, bytes | None]]:
    return [put(0, lsn, f"v{lsn}") for lsn in range(1, count + 1)]


def test_the_whole_range_is_gathered_before_any_of_it_is_written() -> None:
    simulation = start(versions(5))
    simulation.append(0, 1)
    assert seen(simulation) == "v1"
    simulation.commit()
    simulation.append(0, 4)
    assert seen(simulation, polls=2) == "v5"
    simulation.crash()
    # One read brings no more than two records of the four that may have been written.
    assert seen(simulation) == "v5"
    assert seen(simulation) == "v5"


def test_rows_pending_from_before_wait_for_their_own_partition() -> None:
    simulation = start(versions(2), [put(1, 1)])
    simulation.poll(1)
    simulation.append(0, 1)
    simulation.poll(0)
    simulation.commit()  # with v1 pending
    simulation.append(0, 1)
    assert seen(simulation) == "v2"
    simulation.crash()
    # Every shard hears of the other partition first.
    assert seen(simulation, number=1) == "v2"
    assert seen(simulation) == "v2"


def test_a_text_that_came_back_gets_its_own_vector_back() -> None:
    simulation = start([put(0, 1, "a"), put(0, 2, "b"), put(0, 3, "a")])
    simulation.append(0, 1)
    assert seen(simulation) == "a"
    simulation.commit()  # the map says "a"
    simulation.append(0, 1)
    assert seen(simulation) == "b"
    simulation.crash()
    simulation.append(0, 1)
    assert seen(simulation, polls=2) == "a"
    assert simulation.foreign_vectors() == []


def test_what_the_store_holds_is_remembered() -> None:
    simulation = start(versions(9))
    simulation.drain()
    simulation.committed.clear()
    simulation.crash()
    # v1 to v4 are overtaken by v9, and so are v5 and all between.
    for _ in range(6):
        assert seen(simulation, polls=2) == "v9"
        simulation.commit()


def test_what_was_not_yet_looked_up_is_looked_up_after_a_crash() -> None:
    simulation = start(versions(9))
    simulation.drain()
    simulation.committed.clear()
    simulation.crash()
    simulation.poll(0)
    simulation.poll(0)
    simulation.tick()
    simulation.commit()  # with v4 on its way to the look-up
    simulation.crash()
    assert seen(simulation, polls=2) == "v9"


def test_a_delete_that_the_store_has_overtaken_is_not_sent() -> None:
    simulation = start([*versions(3), gone(0, 4), *versions(9)[4:]])
    simulation.drain()
    simulation.committed.clear()
    simulation.crash()
    # The delete is the last of the first four.
    for _ in range(6):
        assert seen(simulation, polls=2) == "v9"
        simulation.commit()


def test_a_tombstone_that_the_store_has_overtaken_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "FIRST_CAP", 1)
    simulation = start([tombstone(0), *versions(3)])
    simulation.drain()
    simulation.committed.clear()
    simulation.crash()
    # Nobody knows its row, so it has no version but its offset.
    for _ in range(4):
        assert seen(simulation) == "v3"
        simulation.commit()
