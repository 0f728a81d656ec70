"""Named places on the way of the data where a test may end the process.

Nothing happens at any of them unless somebody listens: a simulation, or `ROWVEC_KILL_AT`.
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
"""Within so many seconds a request has been sent and is mostly not answered yet."""

_listener: Callable[[Point], None] | None = None


def reach(point: Point) -> None:
    """Tell whoever listens that the process is there."""
    if _listener is not None:
        _listener(point)


def listen(listener: Callable[[Point], None] | None) -> None:
    """Have a function called at every point, before the flow goes on; None for nobody."""
    global _listener
    _listener = listener


def kill_at(point: Point, times: int) -> Callable[[Point], None]:
    """A listener that ends the process with SIGKILL when it comes to a point for the n-th time.

    Of a request that is under way (`in_upsert`) it strikes a random moment.
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
