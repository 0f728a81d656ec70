"""The plan of kills: at which crash point, or at which moment, each one happens."""

import random
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from operators.crash_points import POINTS, Point

LEAST = 0.045
"""The share of the kills that each crash point gets; the rest happens at random moments."""

ROUND = 250
"""After this many kills everything is checked and started afresh, the servers too.

The broker keeps its log in memory and takes seconds to find an offset in a long one.
"""

TIMES: dict[Point, int] = {
    "after_fetch": 40,
    "before_window_close": 2_000,
    "after_window_close": 2_000,
    "in_embed": 15,
    "before_upsert": 20,
    "in_upsert": 20,
    "after_upsert": 20,
    "in_snapshot": 1_500,
    "in_recovery": 200,
}
"""Upper limit of `Kill.times` for each crash point."""


class Kill(NamedTuple):
    """One kill -9.

    Attributes:
        point: The crash point; None for a random moment.
        times: The process is killed at its n-th pass of `point`, and this is n.
        writing: For a random moment: `seconds` count from the first write, else from the start.
        seconds: For a random moment: the delay.
    """

    number: int
    point: Point | None
    times: int = 0
    writing: bool = False
    seconds: float = 0.0


def draw_kills(count: int, seed: int) -> list[Kill]:
    """`count` kills in random order; the same seed always gives the same kills."""
    draw = random.Random(seed)
    each = max(1, round(count * LEAST)) if count >= len(POINTS) else 0
    points: list[Point | None] = [point for point in POINTS for _ in range(each)]
    points += [None] * (count - len(points))
    draw.shuffle(points)
    return [_draw_kill(number, point, draw) for number, point in enumerate(points)]


def _draw_kill(number: int, point: Point | None, draw: random.Random) -> Kill:
    if point is not None:
        # Half of them log-uniform, so that many kills come early.
        most, share = TIMES[point], draw.random()
        times = most**share if draw.random() < 0.5 else most * share
        return Kill(number, point, times=max(1, int(times)))
    writing = draw.random() < 0.7
    return Kill(number, None, writing=writing, seconds=draw.uniform(0.0, 1.2 if writing else 1.8))


class Plan:
    """The kills still to be made, shared by several attacks. Safe to share between threads."""

    def __init__(self, kills: Sequence[Kill]) -> None:
        self._kills = deque(kills)
        self._lock = threading.Lock()

    def take(self) -> Kill | None:
        """The next kill; None when all are made."""
        with self._lock:
            return self._kills.popleft() if self._kills else None

    def missed(self, kill: Kill) -> None:
        """Plan a kill again whose crash point was not reached in time, with fewer passes of the point.

        The process was killed at a random moment instead, so one planned random kill is dropped: the
        number of each kind stays the same.
        """
        with self._lock:
            for waiting in self._kills:
                if waiting.point is None:
                    self._kills.remove(waiting)
                    break
            self._kills.append(kill._replace(times=max(1, kill.times // 4)))
