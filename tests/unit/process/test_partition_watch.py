"""New partitions are told, counted and read; partitions that vanish are told."""

import logging
from collections.abc import Collection, Mapping, Sequence

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flows.process.partition_watch import PartitionWatch
from flows.process.progress import figures
from operators.kafka.log_reader import Bounds
from operators.telemetry import Telemetry


class Watched:
    """A watch over topics that a test changes."""

    def __init__(self, **topics: list[int]) -> None:
        self.topics: dict[str, list[int]] | None = topics
        self.ends: dict[tuple[str, int], Bounds] = {}
        self.renewals = 0
        self.reader = InMemoryMetricReader()
        self.watch = PartitionWatch(
            {(topic, number) for topic, numbers in topics.items() for number in numbers},
            self._look,
            self._bounds,
            Telemetry(meter_provider=MeterProvider(metric_readers=[self.reader])),
            self._added,
            "later",
            3600,
        )

    def _look(self) -> Mapping[str, Collection[int]] | None:
        return self.topics

    def _bounds(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], Bounds]:
        return {each: self.ends[each] for each in partitions if each in self.ends}

    def _added(self) -> None:
        self.renewals += 1


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return found


def test_new_partitions_are_told_once_and_count_as_lag(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(docs=[0], pairs=[0, 1])
    watched.watch.check()
    assert (messages(caplog), watched.renewals, watched.watch.unread) == ([], 0, ())
    watched.topics = {"docs": [0, 1, 2], "pairs": [0, 1]}
    watched.ends = {("docs", 1): Bounds(40, 100), ("docs", 2): Bounds(0, 5)}
    watched.watch.check()
    assert messages(caplog) == ["Kafka topic docs has new partitions: 1, 2. They are read later"]
    assert watched.watch.unread == (("docs", 1), ("docs", 2))
    assert figures(watched.reader).lag == 65
    watched.ends["docs", 2] = Bounds(0, 9)
    watched.watch.check()
    assert figures(watched.reader).lag == 69
    assert (messages(caplog), watched.renewals) == ([], 1)
    watched.topics = {"docs": [0, 1, 2], "pairs": [0, 1, 2]}
    watched.watch.check()
    assert messages(caplog) == ["Kafka topic pairs has new partitions: 2. They are read later"]
    assert watched.renewals == 1


def test_partitions_that_vanish_are_told_once_they_were_missed_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched(docs=[0, 1], pairs=[0])
    watched.topics = {"docs": [0], "pairs": []}
    watched.watch.check()
    assert messages(caplog) == []
    watched.watch.check()
    told = messages(caplog)
    assert [text.partition(".")[0] for text in told] == [
        "Kafka topic docs no longer has partitions: 1",
        "Kafka topic pairs no longer has partitions: 0",
    ]
    watched.watch.check()
    assert messages(caplog) == []
    assert watched.renewals == 0


def test_a_broker_that_is_away_for_a_moment_is_no_reason_to_tell_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched(docs=[0, 1])
    for topics in ({"docs": []}, None, {"docs": [0, 1]}, {"docs": []}, {"docs": [0, 1]}):
        watched.topics = topics
        watched.watch.check()
    assert messages(caplog) == []


def test_a_look_that_fails_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    import threading

    looked = threading.Semaphore(0)

    def look() -> None:
        looked.release()
        raise ValueError

    watch = PartitionWatch((), look, lambda _: {}, Telemetry(), lambda: None, "", 0.001)
    watch.start()
    try:
        assert looked.acquire(timeout=60)
        assert looked.acquire(timeout=60)
    finally:
        watch.close()
    assert "ValueError" in messages(caplog)[0]
