"""Lanes: threads that write the windows of their shards in order."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from operators.changes.shards import ALL_SHARDS
from operators.stages.lane_writer import Receipt, Writer
from operators.stages.window import Window

LATER_S = 0.01
"""How often a lane checks whether its waiting rows have got their values from another lane."""

MAX_QUEUED_ROWS = 4_096
"""Back-pressure: with this many rows queued in a lane, the worker waits before it adds a window."""


class Lane:
    """One thread that writes the windows of some shards, each shard's in the order of submission.

    Windows that queue up behind a slow request, or behind the model, are written together. There is one
    write at a time, so the operations on a row keep their order. A shard that has its vectors does not
    wait for another shard's.

    Threads: the worker submits and waits, the lane's own thread writes, the model's threads call
    `look`. They share all attributes under `_changed`.
    """

    def __init__(self, name: str, write: Callable[[Sequence[Window]], Receipt]) -> None:
        self._write = write
        self._changed = threading.Condition()
        # (window, size at submit): rows may be removed while queued, so the size is not recomputed.
        self._queue: deque[tuple[Window, int]] = deque()
        self._queued_rows = 0
        self._submitted: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        # Shards whose first queued window waits for the model.
        self._blocked: set[str] = set()
        # Whether some queued window may have become writable since the lane last checked.
        self._ready = False
        self._receipts: list[Receipt] = []
        self._error: BaseException | None = None
        self._closed = False
        # A daemon thread, so that a failing flow can exit while a request hangs.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()  # guard: lane-one-request

    def submit(self, window: Window) -> int:
        """Queue a window, waiting while the lane is full.

        Returns:
            The number of the window in its shard, for `wait`.

        Raises:
            Exception: The error that stopped the lane.
        """
        with self._changed:
            # guard: back-pressure
            self._changed.wait_for(lambda: self._queued_rows < MAX_QUEUED_ROWS or self._error)
            self._check()
            shard, size = window.shard, _size(window)
            self._queue.append((window, size))
            self._queued_rows += size
            self._submitted[shard] += 1
            if shard not in self._blocked:
                if window.is_embedded():
                    self._ready = True
                    self._changed.notify_all()
                else:
                    self._blocked.add(shard)
            return self._submitted[shard]

    def wait(self, shard: str, number: int) -> None:
        """Return once the store has acknowledged a shard's windows up to this number.

        Raises:
            Exception: The error that stopped the lane.
        """
        with self._changed:
            # guard: acknowledged
            self._changed.wait_for(lambda: self._finished[shard] >= number or self._error)
            self._check()

    def look(self) -> None:
        """Wake the lane: the model has finished with some windows, perhaps with this lane's."""
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def receipts(self) -> list[Receipt]:
        """Receipts of the writes that were acknowledged since the last call."""
        with self._changed:
            self._check()
            receipts, self._receipts = self._receipts, []
            return receipts

    def close(self) -> None:
        """End the thread after its current write; queued windows are not written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _take_embedded(self) -> tuple[list[Window], int]:
        """Take each shard's first windows, up to one that waits for the model; and their size."""
        taken: list[Window] = []
        total = 0
        left: deque[tuple[Window, int]] = deque()
        blocked: set[str] = set()
        for window, size in self._queue:
            # guard: lane-waits-for-vectors, lane-shard-in-order
            if window.shard in blocked or not window.is_embedded():
                blocked.add(window.shard)
                left.append((window, size))
            else:
                taken.append(window)  # guard: lane-order
                total += size
        self._queue, self._blocked, self._ready = left, blocked, False
        return taken, total

    def _check(self) -> None:
        if self._error is not None:  # guard: lane-error
            raise self._error

    def _run(self) -> None:
        """The body of the thread. Whatever it fails by comes up in the worker, by `_check`."""
        try:
            self._write_until_closed()
        except BaseException as error:  # noqa: BLE001 - handed over to the worker
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _write_until_closed(self) -> None:
        later: tuple[Window, ...] = ()
        unfinished: Counter[str] = Counter()
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ready or self._closed, LATER_S if later else None
                )
                if self._closed:
                    return
                windows, size = self._take_embedded()
            if not windows and not later:
                continue
            receipt = self._write([*later, *windows])  # guard: lane-later-first
            later = receipt.later
            unfinished.update(window.shard for window in windows)
            with self._changed:
                self._queued_rows -= size
                if not later:  # guard: lane-later-counts
                    self._finished.update(unfinished)
                    unfinished.clear()
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
        return self._by_shard[shard]  # guard: lane-of-shard

    def look(self) -> None:
        """Wake all lanes: the model has finished with some windows."""
        for lane in self._lanes:
            lane.look()

    def close(self) -> None:
        """End all threads. Call it only when the flow has ended."""
        for lane in self._lanes:
            lane.close()


def _size(window: Window) -> int:
    return len(window.rows) + len(window.deletes) + len(window.dead) + len(window.truncates)
