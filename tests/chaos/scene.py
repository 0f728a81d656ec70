"""For tests of faults: a load that lasts as long as a test needs, a reader that survives outages."""

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
    PATIENCE_S,
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
"""Lease and timeouts of the flows: as short as a busy machine allows."""

LOOK_S = 0.1
"""Extra pause of a reader between two reads; without it a reader uses half a core."""

_PIECE = 20


class Feed:
    """Sends changes of a table to a topic at a steady rate until it is stopped.

    Args:
        broker: Gets the topic.
        topic: Name of the topic, which is created.
        seed: Seed of the history.
        per_second: Changes per second.
        most: Length of the history; the test has to stop before its end.

    Attributes:
        history: The changes, of which it sends as many as there is time for.
        sent: How many records were sent so far.
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
        assert self._producer.flush(PATIENCE_S) == 0

    def stop(self) -> dict[str, tuple[int, str, int]]:
        """Stop, flush, and return what the table then holds, in the form of `History.final`."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        records = self.history.records
        while self.sent < len(records) and records[self.sent][2] is None:
            self._send(1)  # A delete and its tombstone are one change.
        assert self._producer.flush(PATIENCE_S) == 0
        changes = sum(value is not None for _, _, value in records[: self.sent])
        return History(self._rows, changes, self._seed).final

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Send nothing during the `with`."""
        with self._sending:
            assert self._producer.flush(PATIENCE_S) == 0
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
    """A `Reader` that ignores failed reads, so that it survives an outage of Milvus."""

    def _look(self, store: MilvusStore, last: dict[str, str], absent: set[str]) -> None:
        with suppress(RetriableError, FatalError):
            super()._look(store, last, absent)
        self._ended.wait(LOOK_S)


def contents(uri: str, name: str) -> dict[str, tuple[int, str, int]]:
    """Like `tests.integration.running.collection`, for a collection that is still written to."""
    with closing(open_store(uri)) as store:
        rows = list(store.scan(name, ["rv_version", "text", "size"]))
    return {row["id"]: (position_of(row["rv_version"]), row["text"], row["size"]) for row in rows}


def eventually(holds: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait until `holds` returns true.

    Raises:
        AssertionError: It did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.4)


def start(home: Path, *options: str, env: Mapping[str, str] = {}) -> Process:
    """Start `rowvec run` with the contract in `home`, and a short lease."""
    return rowvec(home, "run", "-c", home / "rowvec.toml", *options, env={**TIMES, **env})


def goes_on(flow: Process, reader: Reader, versions: int = 100) -> None:
    """Wait until the reader has seen `versions` more versions."""
    target = reader.seen + versions
    flow.wait_until(lambda: reader.seen >= target)


def catches_up(uri: str, name: str, final: dict[str, tuple[int, str, int]]) -> None:
    """Wait until the collection equals the table."""
    eventually(lambda: contents(uri, name) == final, f"{name} equals its table")
    assert collection(uri, name) == final


def stop_cleanly(flow: Process) -> None:
    """Send SIGTERM, and check that the flow ends with 0 and without a complaint."""
    flow.send(signal.SIGTERM)
    assert flow.wait() == 0, flow.stderr
    quiet(flow)
