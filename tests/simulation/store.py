"""The external systems with random faults: store, ledger, model and dead-letter topic.

Nothing waits in real time: a wait is a `pause` of the world, in which other threads take steps.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from operators import crash_points
from operators.changes.events import DeadLetter
from operators.changes.shards import SHARDS
from operators.changes.vector import Vector
from operators.changes.version import Version
from operators.errors import FatalError, RecordError, RetriableError
from operators.retry import RetryPolicy
from operators.store.protocol import Entity, Fence, Stored
from tests.fakes import HashEmbedder, MemoryLedger, MemoryStore
from tests.simulation.history import POISON

T = TypeVar("T")

FIRST_WAIT_S = 0.1


class PowerCut(BaseException):
    """A process dies at this point. Code under test must not swallow this exception.

    Attributes:
        victim: Number of the process, once it is known.
    """

    victim: int | None = None


class Surroundings(Protocol):
    """What happens while a thread waits."""

    def pause(self, seconds: float) -> None:
        """Let virtual time pass, and other threads take steps.

        Raises:
            PowerCut: The process died meanwhile.
        """
        ...

    def happened(self, fault: str) -> None:
        """Count a fault."""
        ...

    def seconds(self) -> float:
        """Virtual time."""
        ...


class Written(NamedTuple):
    """One entity as it was written or removed, or the TRUNCATE of some shards.

    Attributes:
        id: Id of the entity; "" for a TRUNCATE.
        entity: None if it was removed.
    """

    id: str
    entity: Entity | None = None
    emptied: Version | None = None
    shards: tuple[int, ...] = ()


@dataclass(frozen=True)
class Moods:
    """The rate of each kind of fault, of all requests to the store."""

    slow: float = 0.0
    down: float = 0.0
    half: float = 0.0
    unheard: float = 0.0
    fatal: float = 0.0
    cut: float = 0.0
    letters: float = 0.0
    ledger: float = 0.0


CALM = Moods()


class FaultyStore(MemoryStore):
    """A `MemoryStore` with random faults.

    An interrupted request has applied a prefix of its entities, because a collection has one shard,
    which takes them in order. All entities of one row are in one message.

    Attributes:
        written: Everything that was written or removed, in order.
        cut_at: (operation, whether it is applied): the process dies in the next such request.
    """

    def __init__(self, rng: Random, around: Surroundings, moods: Moods) -> None:
        super().__init__(new_identity=lambda: "the only one")
        self.written: list[Written] = []
        self.cut_at: tuple[str, bool] | None = None
        self.moods = moods
        self._rng = rng
        self._around = around
        self._down_until = 0.0

    def calm_down(self) -> None:
        """Turn all faults off."""
        self.moods = CALM
        self._down_until = 0.0

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        self._before(0, _nothing)
        return super().stored(collection, ids)

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        self._before(0, _nothing)
        return super().vectors(collection, ids)

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        self._before(0, _nothing)
        return super().entities(collection, ids)

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        if any(POISON in entity.text for entity in entities):
            self._before(0, _nothing)
            self._around.happened("store: refuses a record")
            raise RecordError(subject="entity", cause="refused")

        starts = [i for i, each in enumerate(entities) if each.chunk == 0] + [len(entities)]

        def apply(rows: int) -> None:
            taken = entities[: starts[rows]]
            super(FaultyStore, self).upsert(collection, taken)
            self.written += [Written(each.id, each) for each in taken]

        self._write("upsert", len(starts) - 1, apply)

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        def apply(count: int) -> None:
            super(FaultyStore, self).delete(collection, ids[:count])
            self.written += [Written(each) for each in ids[:count]]

        self._write("delete", len(ids), apply)

    def delete_older(
        self,
        collection: str,
        table: str,
        version: Version,
        shards: Collection[int] | None = None,
    ) -> None:
        ordered = sorted(range(SHARDS) if shards is None else shards)

        def apply(count: int) -> None:
            if not count:
                return
            before = len(self.history)
            super(FaultyStore, self).delete_older(collection, table, version, ordered[:count])
            self.written += [Written(each.id) for each in self.history[before:]]
            self.written.append(Written("", None, version, tuple(ordered[:count])))

        self._write("delete_older", len(ordered), apply)

    def _write(self, operation: str, size: int, apply: Callable[[int], None]) -> None:
        """Apply all or the first parts of a request, and answer or fail."""
        if self.cut_at is not None and self.cut_at[0] == operation:
            self._cut(size, size if self.cut_at[1] else 0, apply)
        self._before(size, apply)
        dice, moods, around = self._rng.random(), self.moods, self._around
        count = self._rng.randint(0, size)
        if size > 1 and self._rng.random() < 0.7:
            count = self._rng.randint(1, size - 1)
        if dice < moods.half:
            apply(count)
            around.happened(
                "store: half done, then an error" if 0 < count < size else "store: refuses"
            )
            raise self._error()
        dice -= moods.half
        if dice < moods.unheard:
            apply(size)
            around.happened("store: done, then an error")
            raise self._error()
        dice -= moods.unheard
        if dice < moods.cut:
            self._cut(size, count, apply)
        apply(size)

    def _before(self, size: int, apply: Callable[[int], None]) -> None:
        """Let faults happen before or during a request."""
        dice, moods, around = self._rng.random(), self.moods, self._around
        if around.seconds() < self._down_until:
            raise RetriableError(subject="store", cause="is still down")
        if dice < moods.slow:
            around.happened("store: slow")
            try:
                around.pause(self._rng.choice([0.1, 1.0, 5.0]))
            except PowerCut:
                # The store may have applied the request, or half of it.
                apply(self._rng.choice([0, size // 2, size]))
                raise
            return
        dice -= moods.slow
        if dice < moods.down:
            around.happened("store: refuses")
            self._down_until = around.seconds() + self._rng.choice([0.1, 1.0, 40.0])
            raise RetriableError(subject="store", cause="is down")
        dice -= moods.down
        if dice < moods.fatal:
            around.happened("store: fatal error")
            raise FatalError(subject="store", cause="is broken")

    def _error(self) -> Exception:
        if self._rng.random() < 0.5:
            return RetriableError(subject="store", cause="did not answer")
        self._around.happened("store: fatal error")
        return FatalError(subject="store", cause="did not answer")

    def _cut(self, size: int, count: int, apply: Callable[[int], None]) -> None:
        apply(count)
        what = "nothing" if not count else "all" if count == size else "half"
        self._around.happened(f"crash in a request, {what} of it done")
        raise PowerCut("in a request")


class FaultyLedger(MemoryLedger):
    """A `MemoryLedger` that fails as the store does.

    Attributes:
        rate: How often it fails.
    """

    def __init__(self, rng: Random, around: Surroundings, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._rng = rng
        self._around = around

    def write(self, entries: Mapping[str, str], fence: Fence = nullcontext) -> None:
        if self._rng.random() >= self.rate:
            super().write(entries, fence)
            return
        match self._rng.choice(["refused", "unheard", "slow", "cut", "cut after"]):
            case "refused":
                self._around.happened("ledger: refused")
                raise RetriableError(subject="ledger", cause="is down")
            case "unheard":
                super().write(entries, fence)
                self._around.happened("ledger: written, then an error")
                raise RetriableError(subject="ledger", cause="did not answer")
            case "slow":
                self._around.happened("ledger: slow")
                self._around.pause(1.0)
                super().write(entries, fence)
            case "cut":
                self._around.happened("crash before a write to the ledger")
                raise PowerCut("in the ledger")
            case _:
                super().write(entries, fence)
                self._around.happened("crash after a write to the ledger")
                raise PowerCut("in the ledger")


def _nothing(_count: int) -> None:
    """A read applies nothing."""


@dataclass(frozen=True, slots=True)
class VirtualRetry(RetryPolicy):
    """The real policy's time limit, in virtual time."""

    around: Surroundings | None = None

    def call(self, function: Callable[[], T]) -> T:
        """`function()`, again while it raises RetriableError, with pauses of virtual time."""
        assert self.around is not None
        waited, wait = 0.0, FIRST_WAIT_S
        while True:
            try:
                return function()
            except RetriableError as error:
                if waited >= self.for_s:
                    self.around.happened("store: given up")
                    raise FatalError(subject=error.subject, cause="gave up") from error
                self.around.happened("store: tried again")
                self.around.pause(wait)
                waited += wait
                wait *= 2


class PunctualEmbedder(HashEmbedder):
    """A model that may crash while it embeds."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        crash_points.reach("in_embed")
        return np.array([vector_of(text) for text in texts], np.float32)


@lru_cache(maxsize=4096)
def vector_of(text: str) -> npt.NDArray[np.float32]:
    """The model's vector of a text; the same in every run."""
    vector = HashEmbedder()._vector(text)
    vector.setflags(write=False)
    return vector


class Letters:
    """A dead-letter topic that sometimes stores letters and fails to answer in time."""

    def __init__(self, rng: Random, around: Surroundings, rate: float) -> None:
        self.letters: list[DeadLetter] = []
        self.rate = rate
        self._rng = rng
        self._around = around

    def send(self, letters: Sequence[DeadLetter]) -> None:
        dice = self._rng.random()
        if dice < self.rate / 2:
            self._around.happened("dead letters: refused")
            raise RetriableError(subject="dead letters", cause="did not take them")
        self.letters += letters
        if dice < self.rate:
            self._around.happened("dead letters: sent, then an error")
            raise RetriableError(subject="dead letters", cause="did not answer")


def quieter(moods: Moods, kinds: set[str]) -> Moods:
    """The rates with only these kinds of faults."""
    return replace(CALM, **{kind: getattr(moods, kind) for kind in sorted(kinds)})
