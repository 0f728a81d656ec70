"""The queues between the stages of a process: closed windows, lanes, and the model."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from operators.stages.window import Window


class Item(NamedTuple):
    """A closed window between two stages, with its epoch."""

    epoch: int
    shard: str
    window: Window


@dataclass(eq=False)
class Lane:
    """A lane: the windows that one thread has to write.

    Attributes:
        later: Rows that wait for a value from another lane.
        busy: Whether it is in a request.
        error: The error that ended it; its worker notices later.
    """

    queue: deque[Item] = field(default_factory=deque)
    later: tuple[Window, ...] = ()
    busy: bool = False
    error: BaseException | None = None

    def take(self, count: int) -> list[Item]:
        """Take the first items that have their vectors, in order within each shard."""
        items, left = self._split(count)
        self.queue = left
        return items

    def ready(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.later or self._split(1)[0])

    def _split(self, count: int) -> tuple[list[Item], deque[Item]]:
        items: list[Item] = []
        left: deque[Item] = deque()
        blocked: set[str] = set()
        for item in self.queue:
            if len(items) == count or item.shard in blocked or not item.window.is_embedded():
                blocked.add(item.shard)
                left.append(item)
            else:
                items.append(item)
        return items, left


class Model(Executor):
    """The model's thread: it runs the submitted calls when the schedule gives it a turn."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Keep a call."""
        self.calls.append(partial(fn, *args, **kwargs))
        return Future()
