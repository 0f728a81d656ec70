"""Named points in the code where a test may kill the process.

They do nothing unless a test sets a listener. Nothing in the environment of a process can.
"""

import os
import random
import signal
import threading
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

Point: TypeAlias = Literal[
    "after_fetch",
    "before_window_close",
    "after_window_close",
    "in_embed",
    "before_upsert",
    "in_upsert",
    "after_upsert",
    "in_snapshot",
    "in_recovery",
]

POINTS: tuple[Point, ...] = get_args(Point)

_UNDER_WAY_S = 0.008
"""Seconds within which a request has been sent but usually not been answered."""

_listener: Callable[[Point], None] | None = None


def reach(point: Point) -> None:
    """Call the listener, if there is one: the process has reached this point."""
    if _listener is not None:
        _listener(point)


def listen(listener: Callable[[Point], None] | None) -> None:
    """Set the function that is called at every point, before the flow goes on; None removes it."""
    global _listener
    _listener = listener


def kill_at(point: Point, times: int) -> Callable[[Point], None]:
    """A listener that kills the process with SIGKILL when it reaches a point for the n-th time.

    At `in_upsert` it kills after a random few milliseconds, while the request is in flight.
    """
    left = times
    lock = threading.Lock()

    def listener(reached: Point) -> None:
        nonlocal left
        if reached != point:
            return
        with lock:
            left -= 1
            if left != 0:
                return
        if point == "in_upsert":
            threading.Timer(random.random() * _UNDER_WAY_S, _kill).start()  # noqa: S311
        else:
            _kill()

    return listener


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
