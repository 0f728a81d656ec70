"""What the store refused, on its way from the lane that was told to the worker that remembers it."""

from collections import deque

from operators.changes.row_key import RowKey
from operators.changes.version import Version


class Refusals:
    """The refused changes of one shard, in a queue.

    Two threads touch it: the shard's lane adds, the worker takes. The version map itself belongs to the
    worker alone, which iterates over it, and which decides by what the map holds whether a refusal
    still counts. A lane that wrote into the map would change it in the middle of either.
    """

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        # Appending to a deque, and taking from its other end, are safe between two threads.
        self._queue: deque[tuple[RowKey, Version]] = deque()

    def add(self, key: RowKey, version: Version) -> None:
        """Tell that this change of the row was refused. For the lane."""
        self._queue.append((key, version))

    def take(self) -> list[tuple[RowKey, Version]]:
        """What was refused since the last call, in order. For the worker."""
        taken = []
        while self._queue:
            taken.append(self._queue.popleft())
        return taken

    def __bool__(self) -> bool:
        return bool(self._queue)
