"""Writing to the store: ordered lanes, receipts, and the snapshot barrier."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators.shards import ALL_SHARDS, Window
from operators.writer import Receipt, Writer

LATER_S = 0.01
"""How soon a lane looks again for what another one is about to tell."""

MAX_QUEUED_ROWS = 4_096
"""Rows that wait in one lane before the worker has to wait for it: the back-pressure."""


class Lane:
    """One thread that applies windows in the order in which they were submitted.

    Windows that pile up behind a slow request are written together, as soon as they have their
    vectors. One request is under way at a time, so operations on a row never change places.
    """

    def __init__(self, name: str, write: Callable[[Sequence[Window]], Receipt]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._queue: deque[Window] = deque()
        self._queued_rows = 0
        self._submitted = 0
        self._finished = 0
        self._receipts: list[Receipt] = []
        self._error: BaseException | None = None
        self._closed = False
        # A daemon: a flow that fails must be able to exit while a request hangs.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, window: Window) -> int:
        """Queue a window, waiting while the lane is full.

        Returns:
            A ticket for `wait`.

        Raises:
            Exception: Whatever stopped the lane.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._queued_rows < MAX_QUEUED_ROWS or self._error)
            self._check()
            self._queue.append(window)
            self._queued_rows += _size(window)
            self._submitted += 1
            self._changed.notify_all()
            return self._submitted

    def wait(self, ticket: int) -> None:
        """Return once everything up to `ticket` is acknowledged by the store.

        Raises:
            Exception: Whatever stopped the lane.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._finished >= ticket or self._error)
            self._check()

    def receipts(self) -> list[Receipt]:
        """What was acknowledged since the last call."""
        with self._changed:
            self._check()
            receipts, self._receipts = self._receipts, []
            return receipts

    def close(self) -> None:
        """End the thread after what it is writing now; what is queued is not written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _take_embedded(self) -> list[Window]:
        """The next windows, as far as the model is through with them."""
        windows: list[Window] = []
        with self._changed:
            while self._queue and self._queue[0].is_embedded():
                windows.append(self._queue.popleft())
        return windows

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        later: tuple[Window, ...] = ()
        unfinished = 0
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._queue or self._closed, LATER_S if later else None
                )
                if self._closed:
                    return
                first = self._queue[0] if self._queue else None
            if first is not None:
                first.wait_embedded()
            windows = self._take_embedded()
            try:
                receipt = self._write([*later, *windows])
            except BaseException as error:  # noqa: BLE001 - handed over to the worker, by _check
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            later = receipt.later
            unfinished += len(windows)
            with self._changed:
                self._queued_rows -= sum(map(_size, windows))
                if not later:
                    self._finished += unfinished
                    unfinished = 0
                receipt = replace(receipt, later=())
                if windows or receipt != Receipt(0, 0, 0):
                    self._receipts.append(receipt)
                self._changed.notify_all()


class Lanes:
    """The lanes of a process; a shard always uses the same one."""

    def __init__(self, writer: Writer, count: int) -> None:
        self._lanes = [Lane(f"rowvec-lane-{i}", writer.write) for i in range(count)]
        self._by_shard = {s: self._lanes[i % count] for i, s in enumerate(ALL_SHARDS)}

    def of(self, shard: str) -> Lane:
        """The lane of a shard."""
        return self._by_shard[shard]

    def close(self) -> None:
        """End all threads. Call it when the flow has ended, not before."""
        for lane in self._lanes:
            lane.close()


@dataclass(slots=True)
class _Ticket:
    lane: Lane
    number: int


class UpsertLogic(StatefulBatchLogic[Window, Receipt, tuple[()]]):
    """Hands the windows of one shard to its lane; a checkpoint waits until they are written.

    Bytewax commits an epoch after every `snapshot()` of it has returned, so no source offset is ever
    committed before the rows behind it are acknowledged.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._ticket: _Ticket | None = None

    def on_batch(self, values: list[Window]) -> tuple[list[Receipt], bool]:
        """Queue the windows; emits what the lane has finished since the last time."""
        lane = self._lanes.of(values[0].shard)
        for window in values:
            self._ticket = _Ticket(lane, lane.submit(window))
        return lane.receipts(), False

    def on_notify(self) -> tuple[list[Receipt], bool]:
        """Never asked for."""
        return [], False

    def on_eof(self) -> tuple[list[Receipt], bool]:
        """The stream ends: wait, and emit the last receipts."""
        if self._ticket is None:
            return [], False
        self._ticket.lane.wait(self._ticket.number)
        return self._ticket.lane.receipts(), False

    def snapshot(self) -> tuple[()]:
        """The barrier: returns when everything that was queued for the shard is acknowledged."""
        if self._ticket is not None:
            self._ticket.lane.wait(self._ticket.number)
        return ()


@operator
def upsert(step_id: str, up: KeyedStream[Window], lanes: Lanes) -> KeyedStream[Receipt]:
    """Writes the windows; must have the same key as `dedup`, so that nothing leaves the worker.

    Args:
        step_id: Constant for ever: recovery files are keyed by it.
        up: Windows by shard, with vectors.
        lanes: The lanes of this process.
    """
    return op.stateful_batch("logic", up, lambda _state: UpsertLogic(lanes))


def _size(window: Window) -> int:
    return len(window.rows) + len(window.deletes) + len(window.dead) + len(window.truncates)
