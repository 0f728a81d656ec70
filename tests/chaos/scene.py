"""A flow under a load that goes on as long as a test needs it, and a reader who bears an outage."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Producer

from flows.embedded.broker import Broker, DurableBroker
from operators.errors import FatalError, RetriableError
from operators.milvus.store import MilvusStore
from tests.integration.running import (
    History,
    Process,
    Reader,
    collection,
    open_store,
    position_of,
    quiet,
    rowvec,
)

TIMES = {
    "ROWVEC_MILVUS__REQUEST_TIMEOUT_S": "1.5",
    "ROWVEC_MILVUS__LEASE_S": "6",
    "OMP_NUM_THREADS": "1",
}
"""As short as a busy machine allows."""

LOOK_S = 0.1
"""Between two looks of a reader, besides his own pause: he takes half a core otherwise."""

_PIECE = 20


class Feed:
    """Changes of a table that come one after the other, until it is stopped.

    Args:
        broker: Has the topic.
        topic: Empty so far.
        seed: Of the history.
        per_second: How many changes.
        most: How many there are; the test has to stop it before.

    Attributes:
        history: Of which it sends as much as there is time for.
        sent: How many records so far.
    """

    def __init__(
        self,
        broker: Broker | DurableBroker,
        topic: str,
        *,
        seed: int,
        rows: int = 400,
        per_second: int = 250,
        most: int = 40_000,
    ) -> None:
        self.history = History(rows, most, seed)
        self._rows, self._seed, self._per_second = rows, seed, per_second
        self._topic = topic
        self.sent = 0
        self._producer = Producer(
            {"bootstrap.servers": broker.bootstrap_servers, "max.in.flight": 1, "log_level": 0}
        )
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feed-{topic}", daemon=True)
        broker.create_topic(topic, History.PARTITIONS)
        self._send(500)
        assert self._producer.flush(60) == 0

    def stop(self) -> dict[str, tuple[int, str, int]]:
        """End it; what the table holds then, as `History.final`, with all of it in the topic."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        records = self.history.records
        while self.sent < len(records) and records[self.sent][2] is None:
            self._send(1)  # a delete and its tombstone are one change
        assert self._producer.flush(60) == 0
        changes = sum(value is not None for _, _, value in records[: self.sent])
        return History(self._rows, changes, self._seed).final

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Nothing is sent meanwhile."""
        with self._sending:
            assert self._producer.flush(60) == 0
            yield

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_PIECE / self._per_second):
            with self._sending:
                self._send(_PIECE)

    def _send(self, count: int) -> None:
        for partition, key, value in self.history.records[self.sent : self.sent + count]:
            self._producer.produce(self._topic, value, key, partition)
            self.sent += 1
        self._producer.poll(0)


class PatientReader(Reader):
    """A `Reader` for whom a look that fails is none: while Milvus is away nobody sees anything."""

    def _look(self, store: MilvusStore, last: dict[str, str], absent: set[str]) -> None:
        with suppress(RetriableError, FatalError):
            super()._look(store, last, absent)
        self._ended.wait(LOOK_S)


def contents(uri: str, name: str) -> dict[str, tuple[int, str, int]]:
    """As `tests.integration.running.collection`, but of one that may be written to meanwhile."""
    with closing(open_store(uri)) as store:
        rows = list(store.scan(name, ["rv_version", "text", "size"]))
    return {row["id"]: (position_of(row["rv_version"]), row["text"], row["size"]) for row in rows}


def eventually(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Returns when it holds.

    Raises:
        AssertionError: It did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.4)


def start(home: Path, *options: str, env: Mapping[str, str] = {}) -> Process:
    """`rowvec run` with the contract of a directory, and a short lease."""
    return rowvec(home, "run", "-c", home / "rowvec.toml", *options, env={**TIMES, **env})


def goes_on(flow: Process, reader: Reader, versions: int = 100) -> None:
    """Returns when the flow has written so many more."""
    target = reader.seen + versions
    flow.wait_until(lambda: reader.seen >= target)


def catches_up(uri: str, name: str, final: dict[str, tuple[int, str, int]]) -> None:
    """Returns when the collection equals the table."""
    eventually(lambda: contents(uri, name) == final, f"{name} equals its table")
    assert collection(uri, name) == final


def stop_cleanly(flow: Process) -> None:
    """SIGTERM ends it in peace."""
    flow.send(signal.SIGTERM)
    assert flow.wait() == 0, flow.stderr
    quiet(flow)
