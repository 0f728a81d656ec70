"""Any history of rows, in any order that keeps each row's own, re-sent, crashed at any point."""

import os
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, event, given, settings

from operators.changes.shards import shard_of
from operators.changes.version import offset_of
from operators.contract.table import UNAVAILABLE
from operators.stages import epoch_budget, source
from tests.changes import Log, doc, envelope, gone, key, tombstone
from tests.properties.simulation import Simulation, id_of

EXAMPLES = int(os.environ.get("ROWVEC_TEST_EXAMPLES", "150"))


@dataclass(frozen=True)
class Change:
    """What one row is from an LSN on; its text is None where it is not there.

    Attributes:
        partial: Debezium leaves the text out, which the change left alone.
        emptied: It is gone with the whole table.
    """

    row: int
    lsn: int
    text: str | None
    name: str = ""
    partial: bool = False
    emptied: bool = False


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Changes of a few rows, with LSNs that rise over all of them."""
    changes: list[Change] = []
    alive: dict[int, str] = {}
    for lsn, row in enumerate(draw(st.lists(st.integers(0, 4), min_size=1, max_size=25)), 1):
        kind = draw(st.integers(0, 15))
        if kind == 0:
            changes += [Change(each, lsn, None, emptied=True) for each in range(5)]
            alive.clear()
        elif row in alive and kind <= 4:
            del alive[row]
            changes.append(Change(row, lsn, None))
        elif row in alive and kind <= 8:
            changes.append(Change(row, lsn, alive[row], f"name {lsn}", partial=True))
        else:
            # Few texts, so that updates that leave the text alone are among them.
            alive[row] = draw(st.sampled_from("ab"))
            changes.append(Change(row, lsn, alive[row], f"doc {row}"))
    return changes


@st.composite
def logs(draw: st.DrawFn, history: list[Change], partitions: int, *, resend: bool) -> list[Log]:
    """The history as Debezium sends it: by key to partitions, with ranges sent again."""
    # A TRUNCATE is one message.
    once = [c for c in history if not c.emptied or c.row == 0]
    sent: list[Change] = []
    for index, change in enumerate(once):
        sent.append(change)
        if resend and draw(st.integers(0, 6)) == 0:
            back = draw(st.integers(1, 8))
            sent += once[max(0, index + 1 - back) : index + 1]
    result = [Log(written=0, per_read=2) for _ in range(partitions)]
    for change in sent:
        log = result[change.row % partitions]
        if change.emptied:
            anywhere = draw(st.integers(0, partitions - 1))
            result[anywhere].records.append((None, envelope("t", change.lsn, None)))
        elif change.text is None:
            log.records.append(gone(change.row, change.lsn))
            if draw(st.integers(0, 4)):
                log.records.append(tombstone(change.row))
        else:
            text = UNAVAILABLE if change.partial else change.text
            row = doc(change.row, text, name=change.name)
            log.records.append((key(id=change.row), envelope("u", change.lsn, row)))
    return result


class Oracle:
    """Holds what a reader of the store sees against the rows' true histories."""

    def __init__(self, history: list[Change]) -> None:
        self._history = {
            id_of(row): [c for c in history if c.row == row] for row in {c.row for c in history}
        }
        self._at = dict.fromkeys(self._history, -1)
        self._seen = 0

    def check(self, simulation: Simulation) -> None:
        """Every write since the last call moved its row forward, or left it where it was."""
        for applied in simulation.store.history[self._seen :]:
            changes, at = self._history[applied.id], self._at[applied.id]
            if applied.op == "upsert":
                lsn = int(applied.version.split(".")[2], 16)
                now = next(i for i, c in enumerate(changes) if c.lsn == lsn)
                assert changes[now].text is not None
            else:
                now = next((i for i, c in enumerate(changes) if c.text is None and i >= at), -1)
                assert now >= 0, f"{applied.id} was deleted and should not have been"
            assert now >= at, f"{applied.id} went back from {changes[at]} to {changes[now]}"
            self._at[applied.id] = now
        self._seen = len(simulation.store.history)

    def forget_deletes(self, simulation: Simulation) -> None:
        """Without recovery state, only the rows that are there are fenced against their past."""
        self._at.update(dict.fromkeys(self._at.keys() - simulation.visible().keys(), -1))

    def final(self) -> dict[str, str]:
        last = {id_: changes[-1] for id_, changes in self._history.items()}
        return {id_: f"{c.name}\n{c.text}" for id_, c in last.items() if c.text is not None}


@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_same_collection_whatever_happens(
    data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Caps this small are hit all the time; what holds for them holds for larger ones.
    monkeypatch.setattr(source, "FIRST_CAP", 4)
    monkeypatch.setattr(epoch_budget, "MIN_CAP", 3)
    history = data.draw(histories())
    partitions = data.draw(st.integers(1, 2))
    # The horizon is longer than Debezium's re-send window, always. At the shorter one most rows are
    # looked up in the store.
    horizon_s = data.draw(st.sampled_from([0.3, 3600.0]))
    simulation = Simulation(
        data.draw(logs(history, partitions, resend=horizon_s > 1)),
        batch_size=data.draw(st.integers(1, 5)),
        cap=data.draw(st.sampled_from([4, 1_000])),
        horizon_s=horizon_s,
    )
    oracle = Oracle(history)
    for step in data.draw(st.lists(st.sampled_from("aapptwwcPPWc!L"), max_size=80)):
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
                simulation.write(1)
            case "W":
                simulation.tick()
                simulation.write()
            case "c":
                simulation.commit()
            case "!":
                event("crash")
                simulation.crash()
            case "L":
                event("recovery state lost")
                oracle.forget_deletes(simulation)
                simulation.committed.clear()
                simulation.crash()
        oracle.check(simulation)
    simulation.drain()
    oracle.check(simulation)
    assert simulation.visible() == oracle.final()
    assert simulation.foreign_vectors() == []
    assert simulation.letters.letters == []


def test_the_shard_of_a_row_never_changes() -> None:
    # Recovery files are keyed by shard: these values are a promise to them.
    assert [shard_of(k) for k in ("docs:1", "docs:2", "order_items:7,2")] == ["212", "110", "228"]


def test_versions_end_with_the_offset() -> None:
    assert offset_of("0000.00000000000000ff.000000000000002a") == 42  # type: ignore[arg-type]
