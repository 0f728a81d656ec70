"""A queue of refused changes, from a lane to the worker, which owns the version map."""

from collections import deque

from operators.changes.row_key import RowKey
from operators.changes.version import Version


class Refusals:
    """The refused changes of one shard, in a queue.

    Threads: the shard's lane adds, the worker takes. Only the worker may write to the version map: it
    iterates over the map, and compares each refusal with it. A lane that wrote to the map could change
    it in the middle of that.
    """

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        # A deque is thread-safe for appends at one end and pops at the other.
        self._queue: deque[tuple[RowKey, Version]] = deque()

    def add(self, key: RowKey, version: Version) -> None:
        """Report that this change of the row was refused. Called by the lane."""
        self._queue.append((key, version))

    def take(self) -> list[tuple[RowKey, Version]]:
        """The changes refused since the last call, in order. Called by the worker."""
        taken = []
        while self._queue:
            taken.append(self._queue.popleft())
        return taken
