"""Refused changes: a lane reports them while the worker, another thread, owns the version map."""

import threading
from collections.abc import Callable, Sequence

import pytest

from operators.changes.row_key import RowKey
from operators.changes.shards import shard_of
from operators.changes.version import Version
from operators.contract.table import UNAVAILABLE
from operators.retry import RetryPolicy
from operators.stages.look_up import LookUp
from operators.stages.window import Window
from operators.store.protocol import Entity
from operators.telemetry import Telemetry
from tests.changes import TOPIC, put, table
from tests.unit.stages.test_dedup import Shard
from tests.unit.stages.test_lane_writer import Bench, Refusing, key, version


def in_a_thread(work: Callable[[], object]) -> None:
    """Do the work on another thread, and wait for it."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Key(str):
    """A row key that calls back when its table is asked for."""

    asked: Callable[[], object]

    def startswith(self, *args: object) -> bool:  # type: ignore[override]
        self.asked()
        return str.startswith(self, *args)  # type: ignore[arg-type]


class Moment(str):
    """A version that calls back when a lane's thread compares it with another one."""

    lane: threading.Thread | None = None
    compared: Callable[[], object]

    def __lt__(self, other: str) -> bool:
        if threading.current_thread() is self.lane:
            self.compared()
        return str.__lt__(self, other)


def test_a_lane_refuses_a_row_while_the_worker_goes_over_those_that_were_refused() -> None:
    bench = Bench()
    first, second = Key(key(1)), key(2)
    bench.write(bench.row(1, 1, "poison")._replace(row_key=RowKey(first)))
    bench.versions.apply_refusals()
    first.asked = lambda: in_a_thread(lambda: bench.write(bench.row(2, 2, "poison")))
    # A TRUNCATE makes older refusals irrelevant.
    bench.versions.truncate("docs:", version(1))
    assert not bench.versions.is_tainted(key(1), version(9))
    bench.versions.apply_refusals()
    assert bench.versions.is_tainted(second, version(9))


def test_a_whole_row_that_is_sent_while_the_lane_refuses_an_older_one_ends_the_doubt() -> None:
    bench = Bench()
    bench.versions.put(key(1), version(2), "older")
    refused, sent = Moment(version(2)), list[bool]()

    def send() -> None:
        if not sent:
            sent.append(True)
            bench.versions.put(key(1), version(5), "whole")

    def write() -> None:
        refused.lane = threading.current_thread()
        bench.write(bench.row(1, 2, "poison")._replace(version=Version(refused)))

    refused.compared = lambda: in_a_thread(send)
    in_a_thread(write)
    send()
    bench.versions.apply_refusals()
    # A refusal that is kept too long would make a dead letter of the next partial row.
    assert not bench.versions.is_tainted(key(1), version(9))


def test_a_row_that_follows_a_refused_one_takes_nothing_from_before_it() -> None:
    play = Play("one", "poison", None)
    for _ in range(3):
        play.send()
        play.write()
    assert play.refused() == [2, 3]
    assert play.text() == "one"


def test_nor_does_one_that_follows_it_after_a_crash() -> None:
    play = Play("one", "poison", None)
    for _ in range(2):
        play.send()
        play.write()
    # The next checkpoint does not keep the rows that were sent in the epoch before it.
    play.pack()
    play.shard.restart()
    play.send()
    play.write()
    assert play.refused() == [2, 3]
    assert play.text() == "one"


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_row_that_follows_a_whole_one_is_no_dead_letter(checkpoint: bool) -> None:
    play = Play("one", "poison", "three", None, None)
    play.send()
    play.write()

    def meanwhile() -> None:
        play.send(2)
        if checkpoint:
            play.pack()

    # The lane is slow: the third and fourth change are sent before the second is refused.
    play.send()
    play.store.under_way = meanwhile
    play.write()
    play.write()
    play.send()
    play.write()
    assert play.refused() == [2]
    assert play.text() == "three"


class SlowStore(Refusing):
    """Calls `under_way` before it refuses an entity."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: Callable[[], object] = lambda: None

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        if any("poison" in entity.text for entity in entities):
            under_way, self.under_way = self.under_way, lambda: None
            under_way()
        super().upsert(collection, entities)


class Play:
    """The changes of one row, in order; None stands for one without the column `doc`."""

    def __init__(self, *docs: str | None) -> None:
        self.shard = Shard(whole=True)
        self.store = SlowStore()
        self._bench = Bench(self.store)
        self._look_up = LookUp(
            {TOPIC: table()},
            self.store,
            RetryPolicy(0.0, Telemetry()),
            Telemetry(),
            self.shard.shared.places,
        )
        self._records = iter(
            [put(1, lsn, UNAVAILABLE if doc is None else doc) for lsn, doc in enumerate(docs, 1)]
        )
        self._sent: list[Window] = []

    def send(self, windows: int = 1) -> None:
        """Let the worker send this many windows to the lane, each with one change."""
        for _ in range(windows):
            self.shard.take(next(self._records))
            resolved = self._look_up([(shard_of(key(1)), self.shard.closed())])
            self._sent += [window for _, window in self._bench.embed(resolved)]

    def write(self) -> None:
        """Let the lane write all windows that were sent."""
        sent, self._sent = self._sent, []
        for window in sent:
            self._bench.writer.write([window])

    def pack(self) -> None:
        """Let the worker take the shard's state for a checkpoint."""
        self.shard.logic.snapshot()

    def refused(self) -> list[int]:
        """Positions of the dead letters."""
        return [letter.position.offset + 1 for letter in self._bench.letters.letters]

    def text(self) -> str:
        """The stored value of `doc`."""
        return self._bench.texts()["docs:1#0"].partition("\n")[2]
