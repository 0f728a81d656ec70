"""The oracle detects missing guards: without a guard, some of a few runs fail."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from operators.changes.events import Delete
from operators.ownership.start_checks import StartChecks
from operators.stages import look_up, source
from operators.stages.dedup import DedupLogic
from operators.stages.epoch_budget import EpochBudget
from operators.stages.parked import ParkedChanges
from operators.stages.source import PartitionLogic
from operators.state.version_map import VersionMap
from operators.toast import resolver
from tests.simulation.flow import Flow
from tests.simulation.worker import Worker
from tests.simulation.world import World

PATIENCE = 400
"""Seeds of which at least one must fail without the guard."""

Guard = Callable[[pytest.MonkeyPatch], None]


def _no_version_compare(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VersionMap, "newest", lambda self, key: None)


def _no_gathering(patch: pytest.MonkeyPatch) -> None:
    batch = PartitionLogic.next_batch

    def at_once(self: Any) -> list[source.SourceBatch]:
        if self._gathered is None:
            return batch(self)
        # Sends the records of one read as the first batch, instead of gathering.
        if not self._reader.lag():
            return batch(self)
        self._gathered = None
        return [replace(each, resumed=True) for each in batch(self)]

    patch.setattr(PartitionLogic, "next_batch", at_once)


def _no_barrier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flow, "_through", lambda self, worker: worker.epoch > self.epoch)


def _no_cap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EpochBudget, "room", lambda self: 1_000)


def _known_deletes_not_sent(patch: pytest.MonkeyPatch) -> None:
    send = DedupLogic._send

    def sparing(self: Any, window: Any, winner: Any) -> None:
        known = self._versions.get(winner.row_key)
        if isinstance(winner, Delete) and (known is None or known[1] is None):
            self._versions.put(winner.row_key, winner.version, None)
            return
        send(self, window, winner)

    patch.setattr(DedupLogic, "_send", sparing)


def _nothing_looked_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(look_up.LookUp, "_unknown", lambda self, windows: {})


def _nothing_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DedupLogic, "_held_topics", lambda self: set())
    patch.setattr(
        DedupLogic, "_flushable", lambda self: bool(self._pending.rows or self._pending.truncates)
    )


def _any_state_admitted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StartChecks, "resume", lambda self, *given: None)


def _tombstones_of_the_past(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VersionMap, "ends_delete", lambda self, key, place: False)


def _no_truncate_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VersionMap, "truncate", lambda self, prefix, version: None)


def _lanes_out_of_order(patch: pytest.MonkeyPatch) -> None:
    dice = Random(0)
    patch.setattr(Worker, "lane_of", lambda self, shard: dice.choice(self.lanes))


def _nothing_parked(patch: pytest.MonkeyPatch) -> None:
    def dropped(self: Any, change: Any) -> bool:
        return change.position.topic not in self._topics

    patch.setattr(ParkedChanges, "keeps_row", dropped)


def _left_out_from_elsewhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resolver, "other_place", lambda one, other: False)


GUARDS: dict[str, Guard] = {
    "versions are compared": _no_version_compare,
    "what may have been written is gathered": _no_gathering,
    "a commit waits for the lanes": _no_barrier,
    "an epoch is capped": _no_cap,
    "deletes are always sent": _known_deletes_not_sent,
    "what is not known is looked up": _nothing_looked_up,
    "rows are held until all is gathered": _nothing_held,
    "state is held against the ledger": _any_state_admitted,
    "the tombstone of a stale delete is stale": _tombstones_of_the_past,
    "a TRUNCATE is a fence": _no_truncate_fence,
    "a shard has one lane": _lanes_out_of_order,
    "changes of a table that is away are kept": _nothing_parked,
    "left-out values come from their own partition": _left_out_from_elsewhere,
}


@pytest.mark.parametrize("name", GUARDS)
def test_a_missing_guard_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    GUARDS[name](monkeypatch)
    assert any(World(seed).run().failure is not None for seed in range(PATIENCE))
