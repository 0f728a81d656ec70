"""The plan of a run, drawn from its seed; the kinds of faults; and the outcome."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple

from operators import crash_points
from operators.stages import epoch_budget, source
from tests.simulation.history import Kinds
from tests.simulation.store import Moods, quieter
from tests.simulation.worker import Knobs

SOURCE_FAULTS = (
    "source: range sent again",
    "source: record sent twice",
    "source: late tombstone",
    "source: no tombstone",
    "source: tombstone alone",
    "source: bad record",
    "source: other table",
    "source: partitions added",
    "source: row goes to another server",
)
STORE_FAULTS = (
    "store: slow",
    "store: refuses",
    "store: refuses a record",
    "store: half done, then an error",
    "store: done, then an error",
    "store: fatal error",
    "store: tried again",
    "store: given up",
    "ledger: slow",
    "ledger: refused",
    "ledger: written, then an error",
    "dead letters: refused",
    "dead letters: sent, then an error",
)
CRASHES = (
    *(f"crash at {point}" for point in crash_points.POINTS),
    "crash between steps",
    "crash in a request, nothing of it done",
    "crash in a request, half of it done",
    "crash in a request, all of it done",
    "crash while others wait for the store",
    "crash of one, the other goes on for a while",
    "crash twice in a row",
    "crash during recovery",
    "crash while gathering",
    "crash while stopping",
    "crash before a write to the ledger",
    "crash after a write to the ledger",
)
OTHERS = (
    "clean stop",
    "rescaled after a stop",
    "rescaled after a crash",
    "partition added after a stop",
    "partition added after a crash",
    "table away for a run",
    "window closes between two polls",
    "window closes right at the snapshot",
    "state lost",
    "state taken back",
    "state refused, and the right one put back",
    "state refused, and accepted",
    "state lost or taken back, and that did no harm",
)
FAULTS = (*CRASHES, *SOURCE_FAULTS, *STORE_FAULTS, *OTHERS)
"""All kinds of faults that a run counts."""


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        failure: The violation; None if there was none.
        digest: Digest of everything that happened.
        faults: Count of each kind of fault.
        steps: Number of steps that were scheduled.
        rewritten: The most rows that were written again after one crash.
    """

    seed: int
    failure: str | None = None
    digest: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    rewritten: int = 0
    trace: list[str] = field(default_factory=list)


class Plan(NamedTuple):
    """The settings of a run.

    Attributes:
        hidden: How many partitions are added only after the first start.
        away: How often the table leaves the contract for a run, between two others.
    """

    kinds: Kinds
    partitions: int
    steps: int
    chunks: bool
    horizon_s: float
    first_cap: int
    min_cap: int
    first_cap_bytes: int
    workers: int
    rescales: bool
    moods: Moods
    points: float
    crash: float
    stop: float
    lose: float
    take_back: float
    twice: float
    hidden: int
    away: float


def plan_of(rng: Random) -> Plan:
    """Draw the settings of a run, with some kinds of faults only, so that each also occurs alone."""
    horizon_s = rng.choice([0.3, 3600.0, 3600.0])
    first_cap = rng.choice([2, 4, 500])
    kinds = Kinds(
        rows=rng.randint(2, 8),
        changes=rng.randint(5, 30),
        faults=rng.random() < 0.35,
        moves=rng.random() < 0.4,
        truncates=rng.random() < 0.5,
        # The horizon must be longer than the range that Debezium sends again.
        resent=horizon_s > 1 and rng.random() < 0.6,
        compacted=rng.random() < 0.3,
    )
    kinds = replace(
        kinds,
        unpositioned=not (kinds.resent or kinds.moves or kinds.truncates) and rng.random() < 0.5,
        hiding=rng.random() < 0.3,
    )
    wild = Moods(
        slow=0.06,
        down=0.02,
        half=0.15,
        unheard=0.03,
        fatal=0.01,
        cut=0.1,
        letters=0.3,
        ledger=0.05,
    )
    moods = {mood for mood in Moods.__dataclass_fields__ if rng.random() < 0.45}
    return Plan(
        kinds,
        partitions=(partitions := rng.randint(1, 3)),
        steps=rng.randint(60, 260),
        chunks=rng.random() < 0.5,
        horizon_s=horizon_s,
        first_cap=first_cap,
        min_cap=min(first_cap, rng.choice([2, 3])),
        first_cap_bytes=rng.choice([600, 1 << 20]),
        workers=rng.choice([1, 1, 2]),
        rescales=rng.random() < 0.4,
        moods=quieter(wild, moods),
        points=rng.choice([0.0, 0.01, 0.04]),
        crash=rng.choice([0.0, 0.01, 0.03]),
        stop=rng.choice([0.0, 0.01]),
        lose=rng.choice([0.0] * 5 + [0.01]),
        take_back=rng.choice([0.0] * 5 + [0.01]),
        twice=rng.choice([0.0, 0.3]),
        hidden=rng.choice([0, 0, rng.randrange(partitions)]),
        away=rng.choice([0.0, 0.0, 0.3]),
    )


def with_origins(plan: Plan, seed: int) -> Plan:
    """Draw where the records come from: several physical tables, and partitions that are added.

    It has dice of its own, so that a seed still means the same run otherwise.
    """
    dice, kinds = Random(f"origins {seed}"), plan.kinds
    parts = dice.random() < 0.4
    # A tombstone that log compaction has left does not say which table's row it deletes; and the delete
    # before it is remembered for a horizon.
    others = not kinds.compacted and plan.horizon_s > 1 and dice.random() < 0.3
    # What has no position is not ordered over partitions.
    grows = not (kinds.faults or kinds.moves or kinds.unpositioned or kinds.compacted)
    # A row's old partition may be read later than its new one, but not by a horizon: nothing in the store
    # tells of a row that was deleted or hidden.
    grows = grows and plan.horizon_s > 1
    kinds = replace(
        kinds,
        tables=2 if parts else 1,
        others=others,
        grown=dice.randint(1, 2) if grows and dice.random() < 0.6 else 0,
    )
    # What has no position is refused in a topic of several servers.
    servers = parts and not kinds.unpositioned and dice.random() < 0.6
    # Two logs order nothing: a row that went to another server may not be sent again by the first, nor
    # lie in two partitions.
    stays = kinds.resent or kinds.grown > 0
    wandering = servers and not stays and dice.random() < 0.7
    kinds = replace(kinds, servers=servers, wandering=wandering)
    return plan._replace(kinds=kinds)


def knobs_of(rng: Random, workers: int) -> Knobs:
    """Draw the settings that may differ at every start."""
    return Knobs(
        workers,
        batch_size=rng.choice([1, 2, 5]),
        epoch_records=rng.choice([2, 4, 1000]),
        epoch_bytes=rng.choice([600, 1 << 20]),
        window_s=rng.choice([0.1, 0.2]),
        window_rows=rng.choice([2, 1000]),
        lanes=rng.choice([1, 1, 2, 3]),
        batch_rows=rng.choice([1, 100, 100]),
        retry_s=rng.choice([0.2, 5.0]),
        cache_texts=rng.choice([0, 2]),
    )


@contextmanager
def small_caps(plan: Plan) -> Iterator[None]:
    """Use caps so small that every run reaches them often."""
    before = source.FIRST_CAP, epoch_budget.MIN_CAP, source.FIRST_CAP_BYTES
    source.FIRST_CAP, epoch_budget.MIN_CAP = plan.first_cap, plan.min_cap
    source.FIRST_CAP_BYTES = plan.first_cap_bytes
    try:
        yield
    finally:
        source.FIRST_CAP, epoch_budget.MIN_CAP, source.FIRST_CAP_BYTES = before
