"""Strategies that draw histories and steps, so that Hypothesis shrinks a failing one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import hypothesis.strategies as st
from hypothesis import event

from tests.simulation.history import Kinds, history_of
from tests.simulation.script import Script
from tests.simulation.tables import Table
from tests.simulation.topic import Topic, drawn_topic

T = TypeVar("T")

REQUESTS = ("upsert", "delete", "delete_older")


class Drawn:
    """`Dice` whose values Hypothesis draws."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def random(self) -> float:
        return self.randrange(100) / 100

    def randrange(self, stop: int) -> int:
        return self._draw(st.integers(0, stop - 1))

    def randint(self, a: int, b: int) -> int:
        return self._draw(st.integers(a, b))

    def choice(self, seq: Sequence[T]) -> T:
        return seq[self.randrange(len(seq))]


@st.composite
def topics(draw: st.DrawFn, table: Table, kinds: Kinds) -> Topic:
    """A topic with up to `kinds.changes` changes, on one partition or two."""
    drawn = replace(kinds, changes=draw(st.integers(1, kinds.changes)))
    dice = Drawn(draw)
    return drawn_topic(dice, table, history_of(dice, drawn), drawn, draw(st.integers(1, 2)))


class Letter(NamedTuple):
    """One step of a script: its kind, the partition or lane, and a count."""

    what: str
    number: int
    count: int


def steps(letters: str) -> st.SearchStrategy[list[Letter]]:
    """Up to 80 steps, each of one of these kinds."""
    each = st.builds(Letter, st.sampled_from(letters), st.integers(0, 1), st.integers(1, 6))
    return st.lists(each, max_size=80)


def take(script: Script, step: Letter) -> None:
    """Take a step."""
    partition, lane = step.number % len(script.logs), step.number % len(script.worker.lanes)
    match step.what:
        case "a":
            script.append(partition, step.count)
        case "p":
            script.poll(partition)
        case "P":
            script.append(partition, step.count)
            script.poll(partition)
        case "t":
            script.tick()
        case "w":
            script.write(step.count, lane=lane)
        case "W":
            script.tick()
            script.write()
        case "c":
            script.commit()
        case "S":
            event("clean stop")
            script.stop()
        case "!":
            event("crash")
            script.crash()
        case "x" | "X":
            event("crash in a request")
            script.cut_off(REQUESTS[step.count % 3], applied=step.what == "X")
        case "L":
            event("recovery state lost")
            script.lose_state()
