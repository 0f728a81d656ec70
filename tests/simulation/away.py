"""A table that leaves the contract for one run: what is left of the recovery state after it."""

import pickle
from collections.abc import Mapping
from random import Random

from operators.stages.dedup import DedupLogic
from operators.stages.partitions import ParkedPartition
from operators.stages.settle import DedupContext
from operators.stages.window_clock import WindowClock
from tests.changes import table
from tests.simulation.clock import Clock
from tests.simulation.tables import table_of
from tests.simulation.worker import telemetry

_OTHER = table_of(table(topic="app.public.other", name="other"))


def after_a_run_without(
    committed: Mapping[str, bytes], rng: Random, clock: Clock, horizon_s: float
) -> dict[str, bytes]:
    """The committed state after a run under a contract that names another table only.

    Its partitions are parked. A shard is touched by the other table's records, or by the end, or not.
    """
    shared = DedupContext(
        rules=_OTHER.rules,
        clock=WindowClock(0.2, 1000, clock.now),
        telemetry=telemetry(),
        horizon_s=horizon_s,
        whole=False,
        partitions=frozenset({(_OTHER.section.topic, 0)}),
    )
    kept: dict[str, bytes] = {}
    for name, state in committed.items():
        loaded = pickle.loads(state)
        if name.startswith("p"):
            loaded = ParkedPartition(name, loaded).snapshot()
        elif rng.random() < 0.7:
            logic = DedupLogic(shared, loaded)
            if rng.random() < 0.5:
                windows, _ = logic.on_eof()
                # Dead letters need no table; here none may be lost, so such a shard stays as it is.
                if windows:
                    kept[name] = state
                    continue
            loaded = logic.snapshot()
        kept[name] = pickle.dumps(loaded)
    return kept
