"""Which kills there are to be: where, or when, each of them strikes."""

import random
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from operators.crash_points import POINTS, Point

LEAST = 0.045
"""The share of the kills that each named point gets; the rest strikes at random moments."""

ROUND = 250
"""Kills after which everything is judged and begins anew, the servers too: the broker, which keeps its log
in memory, takes seconds to find an offset once there are many, and that is not what is measured."""

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
"""How many times a point may be reached at the most before the process is killed there."""


class Kill(NamedTuple):
    """One kill -9.

    Attributes:
        point: Where; None for a moment from outside.
        times: At which time of being there.
        writing: Of a moment: counted from the first write, else from the start.
        seconds: Of a moment: how long after that.
    """

    number: int
    point: Point | None
    times: int = 0
    writing: bool = False
    seconds: float = 0.0


def draw_kills(count: int, seed: int) -> list[Kill]:
    """So many kills, in the order of striking; always the same ones for a seed."""
    draw = random.Random(seed)
    each = max(1, round(count * LEAST)) if count >= len(POINTS) else 0
    points: list[Point | None] = [point for point in POINTS for _ in range(each)]
    points += [None] * (count - len(points))
    draw.shuffle(points)
    return [_draw_kill(number, point, draw) for number, point in enumerate(points)]


def _draw_kill(number: int, point: Point | None, draw: random.Random) -> Kill:
    if point is not None:
        # Half of them early: the logarithm is even.
        most, share = TIMES[point], draw.random()
        times = most**share if draw.random() < 0.5 else most * share
        return Kill(number, point, times=max(1, int(times)))
    writing = draw.random() < 0.7
    return Kill(number, None, writing=writing, seconds=draw.uniform(0.0, 1.2 if writing else 1.8))


class Plan:
    """The kills that are still to be made, for several attackers. Safe to share between threads."""

    def __init__(self, kills: Sequence[Kill]) -> None:
        self._kills = deque(kills)
        self._lock = threading.Lock()

    def take(self) -> Kill | None:
        """The next one; None when all are made."""
        with self._lock:
            return self._kills.popleft() if self._kills else None

    def missed(self, kill: Kill) -> None:
        """The point was not reached in time, so the kill was one from outside: another is its due.

        One of the random kills is given up for it, so that their number stays; and the point is to be
        reached fewer times.
        """
        with self._lock:
            for waiting in self._kills:
                if waiting.point is None:
                    self._kills.remove(waiting)
                    break
            self._kills.append(kill._replace(times=max(1, kill.times // 4)))
