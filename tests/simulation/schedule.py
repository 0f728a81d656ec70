"""The steps that a flow can take next, and one epoch of it in order."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import NamedTuple, TypeAlias

from tests.simulation.flow import Flow
from tests.simulation.worker import Worker


class Step(NamedTuple):
    """A possible step: its weight, its name, and the call."""

    weight: int
    name: str
    do: Callable[[], object]


NamedStep: TypeAlias = tuple[str, Callable[[], object]]


def enabled(flow: Flow, rng: Random) -> list[Step]:
    """All steps that are possible now."""
    steps: list[Step] = []
    if flow.ended:
        return steps
    for number in range(len(flow.partitions)):
        owner = flow.owner_of(number)
        if number in flow.closed or owner.busy or owner.dead:
            continue
        if not flow.stopping:
            steps.append(Step(8, f"poll {number}", partial(flow.poll, number)))
        weight = 8 if flow.stopping else 6 if flow.closed else 2
        steps.append(Step(weight, f"close {number}", partial(flow.close, number)))
    for worker in flow.workers:
        if worker.dead:
            continue
        if not worker.busy:
            steps += _thread_steps(flow, worker, rng)
        n = worker.number
        if worker.model.calls:
            steps.append(Step(4, f"model {n}", worker.calculate))
        for number, lane in enumerate(worker.lanes):
            if not lane.busy and lane.error is None and lane.ready():
                write = _some(rng, partial(worker.write, lane), 1, 2, 99)
                steps.append(Step(6, f"lane {n}.{number}", write))
    if flow.may_commit():
        steps.append(Step(20, "commit", flow.commit))
    return steps


def _thread_steps(flow: Flow, worker: Worker, rng: Random) -> Iterator[Step]:
    """The steps of the worker's own thread, which takes one at a time."""
    n = worker.number
    for sender, queue in enumerate(worker.arrived):
        if queue:
            deliver = _some(rng, partial(worker.deliver, sender), 1, 3, 99)
            yield Step(10, f"deliver {sender}>{n}", deliver)
    if worker.due():
        yield Step(8, f"notify {n}", worker.notify)
    if worker.closed:
        yield Step(8, f"resolve {n}", _some(rng, worker.resolve, 1, 99))
    if worker.resolved:
        yield Step(8, f"embed {n}", _some(rng, worker.embed, 1, 99))
    if worker.embedded:
        yield Step(8, f"submit {n}", _some(rng, worker.submit, 1, 99))
    if any(lane.error is not None for lane in worker.lanes):
        yield Step(8, f"notice {n}", worker.notice)
    if flow.may_snapshot(worker):
        yield Step(16, f"snapshot {n}", partial(flow.snapshot, worker))


def _some(rng: Random, step: Callable[[int], object], *counts: int) -> Callable[[], object]:
    """The step for a number of items that is drawn when the step is taken."""
    return lambda: step(rng.choice(counts))


def one_epoch(flow: Flow, pass_time: Callable[[], None]) -> Iterator[NamedStep]:
    """The steps of one epoch, in order: all available records are read, written and committed.

    Args:
        flow: The flow. Take each step before asking for the next, which depends on its state.
        pass_time: Lets windows become due.
    """
    for number in range(len(flow.partitions)):
        while not flow.stopping and number not in flow.closed and flow.poll(number):
            pass
    yield from _through(flow)
    pass_time()
    for worker in flow.workers:
        yield f"notify {worker.number}", partial(worker.notify, everywhere=True)
    yield from _through(flow)
    for number in range(len(flow.partitions)):
        if number not in flow.closed:
            yield f"close {number}", partial(flow.close, number)
    yield from _through(flow)
    for worker in flow.workers:
        if worker.epoch == flow.epoch:
            yield f"snapshot {worker.number}", partial(flow.snapshot, worker)
    yield from _through(flow)
    yield "commit", flow.commit


def _through(flow: Flow) -> Iterator[NamedStep]:
    """The steps that bring all items between the stages to the store."""
    for worker in flow.workers:
        for sender, queue in enumerate(worker.arrived):
            if queue:
                yield "deliver", partial(worker.deliver, sender)
    for worker in flow.workers:
        n = worker.number
        yield f"notice {n}", worker.notice
        steps: Sequence[NamedStep] = (
            (f"resolve {n}", worker.resolve),
            (f"embed {n}", worker.embed),
            (f"model {n}", worker.calculate),
            (f"submit {n}", worker.submit),
        )
        for step in steps:
            if worker.closed or worker.resolved or worker.embedded or worker.model.calls:
                yield step
    for _ in range(4):
        for worker in flow.workers:
            for lane in worker.lanes:
                if lane.queue or lane.later:
                    yield f"lane {worker.number}", partial(worker.write, lane)
