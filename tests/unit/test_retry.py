"""Retries: how often, for how long, and when there are none."""

import logging
import threading
from collections.abc import Callable

import pytest
import tenacity
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from operators.errors import FatalError, RecordError, RetriableError
from operators.retry import STOPPING_S, RetryPolicy
from operators.telemetry import Telemetry

DOWN = RetriableError(subject="milvus", cause="is down", hint="Bring it up")


class Abort(threading.Event):
    """Instead of waiting, moves the clock forward."""

    def __init__(self, time: "Time") -> None:
        super().__init__()
        self._time = time
        self.waits: list[float] = []
        self.set_after: int | None = None

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self._time.now += timeout
        if self.set_after == len(self.waits):
            self.set()
        return self.is_set()


class Time:
    """A monotonic clock that only moves when something waits."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(tenacity, "time", time)
    return time


@pytest.fixture
def abort(time: Time) -> Abort:
    return Abort(time)


def failing(times: int, error: Exception = DOWN) -> Callable[[], int]:
    """A function that fails `times` times, then returns how often it was called."""
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise error
        return calls

    return call


def policy(abort: Abort, for_s: float = 300.0, telemetry: Telemetry | None = None) -> RetryPolicy:
    return RetryPolicy(for_s, telemetry or Telemetry(), abort)


def test_what_works_is_called_once(abort):
    assert policy(abort).call(failing(0)) == 1
    assert abort.waits == []


def test_it_is_tried_until_it_works(abort):
    assert policy(abort).call(failing(7)) == 8
    assert len(abort.waits) == 7


def test_the_waits_grow_and_are_bounded(abort):
    policy(abort, for_s=10_000.0).call(failing(200))
    assert max(abort.waits) <= 3.0
    assert max(abort.waits[:2]) <= 0.2
    assert sum(abort.waits[100:]) / 100 > 1.0


def test_it_gives_up_after_the_time(abort, time):
    with pytest.raises(FatalError) as caught:
        policy(abort, for_s=60.0).call(failing(10_000))
    assert 60.0 <= time.now - 1_000.0 <= 70.0
    waited = round(time.now - 1_000.0)
    assert str(caught.value) == (
        f"milvus: is down; gave up after {waited} s. Bring it up. "
        "Then start again: nothing is lost."
    )
    assert caught.value.__cause__ is DOWN


def test_a_flow_that_stops_waits_for_a_moment_only(abort, time):
    stopping = RetryPolicy(300.0, Telemetry(), abort, stopping=lambda: True)
    with pytest.raises(FatalError, match="gave up"):
        stopping.call(failing(10_000))
    assert STOPPING_S <= time.now - 1_000.0 <= 2 * STOPPING_S
    assert stopping.call(failing(3)) == 4


def test_a_time_of_zero_is_one_try(abort):
    with pytest.raises(FatalError, match="gave up after 0 s"):
        policy(abort, for_s=0.0).call(failing(1))
    assert abort.waits == []


def test_without_a_hint_there_is_one(abort):
    bare = RetriableError(subject="milvus", cause="is down")
    with pytest.raises(FatalError, match=r"Bring it back\. Then start again"):
        policy(abort, for_s=0.0).call(failing(1, bare))


@pytest.mark.parametrize(
    "error",
    [
        FatalError(subject="s", cause="c"),
        RecordError(subject="s", cause="c"),
        ValueError("no"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass_at_once(abort, error):
    with pytest.raises(type(error)) as caught:
        policy(abort).call(failing(1, error))
    assert caught.value is error
    assert abort.waits == []


def test_another_error_after_some_tries_passes(abort):
    errors = [DOWN, DOWN, RecordError(subject="row", cause="refused")]

    def call() -> None:
        raise errors.pop(0)

    with pytest.raises(RecordError, match="row: refused"):
        policy(abort).call(call)


def test_a_flow_that_stops_waits_no_longer(abort):
    abort.set_after = 3
    with pytest.raises(FatalError, match="milvus: is down"):
        policy(abort).call(failing(10_000))
    assert len(abort.waits) == 3


def test_a_flow_that_has_stopped_still_tries_once(abort):
    abort.set()
    assert policy(abort).call(failing(0)) == 1
    with pytest.raises(FatalError):
        policy(abort).call(failing(1))
    assert abort.waits == []


def test_every_retry_is_told_and_counted(abort, caplog):
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader])
    with caplog.at_level(logging.WARNING):
        policy(abort, telemetry=Telemetry(meter_provider=meters)).call(failing(3))
    assert len(caplog.messages) == 3
    assert all(
        message.startswith("milvus: is down. Bring it up. Trying again in ")
        for message in caplog.messages
    )
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert (metric.name, metric.data.data_points[0].value) == ("rowvec.milvus.retries", 3)  # type: ignore[union-attr]
