"""What a run may meet: the kinds of faults, the character that its seed gives it, and what came of it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    "window closes between two polls",
    "window closes right at the snapshot",
    "state lost",
    "state taken back",
    "state refused, and the right one put back",
    "state refused, and accepted",
    "state lost or taken back, and that did no harm",
)
FAULTS = (*CRASHES, *SOURCE_FAULTS, *STORE_FAULTS, *OTHERS)
"""Every kind of fault that a run counts."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        failure: What does not hold; None if everything does.
        digest: Of all that happened.
        faults: How often each kind of fault was there.
        steps: Of the scheduler.
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
    """The character of a run."""

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


def plan_of(rng: Random) -> Plan:
    """Draw the character of a run: some of the faults, so that each is also met alone."""
    horizon_s = rng.choice([0.3, 3600.0, 3600.0])
    first_cap = rng.choice([2, 4, 500])
    kinds = Kinds(
        rows=rng.randint(2, 8),
        changes=rng.randint(5, 30),
        faults=rng.random() < 0.35,
        moves=rng.random() < 0.4,
        truncates=rng.random() < 0.5,
        # The horizon is longer than Debezium's re-send window, always.
        resent=horizon_s > 1 and rng.random() < 0.6,
        compacted=rng.random() < 0.3,
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
        partitions=rng.randint(1, 3),
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
    )


def knobs_of(rng: Random, workers: int) -> Knobs:
    """Draw what may be another at every start."""
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
    """Caps this small are hit all the time; what holds for them holds for larger ones."""
    before = source.FIRST_CAP, epoch_budget.MIN_CAP, source.FIRST_CAP_BYTES
    source.FIRST_CAP, epoch_budget.MIN_CAP = plan.first_cap, plan.min_cap
    source.FIRST_CAP_BYTES = plan.first_cap_bytes
    try:
        yield
    finally:
        source.FIRST_CAP, epoch_budget.MIN_CAP, source.FIRST_CAP_BYTES = before
