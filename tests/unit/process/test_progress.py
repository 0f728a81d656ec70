"""The figures of a running flow, from its metrics, and the line that shows them."""

import io
import logging
import threading

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from rich.console import Console

from flows.process import progress
from flows.process.progress import Figures, Progress, figures, line
from operators.telemetry import Telemetry


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def telemetry(reader: InMemoryMetricReader) -> Telemetry:
    return Telemetry(meter_provider=MeterProvider(metric_readers=[reader]))


def record(telemetry: Telemetry) -> None:
    telemetry.records_consumed.add(70, {"messaging.destination.name": "a"})
    telemetry.records_consumed.add(30, {"messaging.destination.name": "b"})
    telemetry.rows_written.add(50, {"rowvec.op": "u", "db.collection.name": "docs"})
    telemetry.rows_written.add(5, {"rowvec.op": "d", "db.collection.name": "docs"})
    telemetry.texts.add(40, {"rowvec.text": "embedded"})
    telemetry.texts.add(10, {"rowvec.text": "unchanged"})
    telemetry.rows_dropped.add(3, {"reason": "stale"})
    telemetry.rows_dropped.add(4, {"reason": "superseded"})
    telemetry.dead_letters.add(2, {"rowvec.stage": "decode"})
    telemetry.lag.set(100, {"messaging.destination.partition.id": "0"})
    telemetry.lag.set(23, {"messaging.destination.partition.id": "1"})
    telemetry.freshness.record(0.25)
    telemetry.freshness.record(0.75, {"db.collection.name": "docs"})


def test_figures_before_anything_happened(reader):
    assert figures(reader) == Figures()
    Telemetry(meter_provider=MeterProvider(metric_readers=[reader]))
    assert figures(reader) == Figures()


def test_figures_are_totals_over_all_labels(reader, telemetry):
    record(telemetry)
    assert figures(reader) == Figures(
        consumed=100,
        written=55,
        embedded=40,
        unchanged=10,
        dropped=7,
        dead_letters=2,
        lag=123,
        freshness_sum_s=1.0,
        freshness_count=2,
    )
    # Totals since the start, not since the last reading.
    record(telemetry)
    assert figures(reader).written == 110
    assert figures(reader).lag == 123


def test_a_lag_that_is_not_known_is_no_zero():
    assert "lag ?" in line(Figures(), Figures(), 1.0)
    assert "lag 0" in line(Figures(lag=0), Figures(), 1.0)


def test_a_line():
    now = Figures(
        written=12_345,
        embedded=6_000,
        unchanged=345,
        dead_letters=2,
        lag=1_000,
        freshness_sum_s=12.0,
        freshness_count=30,
    )
    before = Figures(written=2_345, freshness_sum_s=2.0, freshness_count=10)
    assert line(now, before, 2.0) == (
        "12,345 rows written · 5,000 rows/s · lag 1,000 · freshness 0.50 s · "
        "6,000 texts embedded · 345 unchanged · 2 dead letters"
    )


def test_a_line_of_nothing():
    assert line(Figures(lag=0), Figures(lag=0), 0.5) == (
        "0 rows written · 0 rows/s · lag 0 · 0 texts embedded"
    )
    assert "0 rows/s" in line(Figures(written=5), Figures(lag=0), 0.0)


def test_freshness_is_that_of_the_last_interval():
    old = Figures(freshness_sum_s=100.0, freshness_count=1)
    assert "freshness" not in line(old, old, 1.0)
    assert "freshness 1.00 s" in line(Figures(freshness_sum_s=101.0, freshness_count=2), old, 1.0)


def test_without_a_terminal_lines_go_to_the_log_when_figures_move(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.001)
    looks = threading.Semaphore(0)
    totals = iter([Figures(), Figures(written=5), Figures(written=5), Figures(written=7)])
    last = [Figures()]

    def look(_: object) -> Figures:
        last[0] = next(totals, last[0])
        looks.release()
        return last[0]

    monkeypatch.setattr(progress, "figures", look)
    with (
        caplog.at_level(logging.INFO, "rowvec"),
        Progress(Console(file=io.StringIO(), force_terminal=False)),
    ):
        for _ in range(9):
            assert looks.acquire(timeout=20)
    assert [message.split(" · ")[0] for message in caplog.messages] == [
        "5 rows written",
        "7 rows written",
    ]


def test_on_a_terminal_the_line_is_shown_live(monkeypatch):
    monkeypatch.setattr(progress, "SHOW_EVERY_S", 0.001)
    shown = threading.Event()

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            if "55 rows written" in text:
                shown.set()
            return super().write(text)

    with Progress(Console(file=Screen(), force_terminal=True, width=200)) as running:
        telemetry = Telemetry(meter_provider=MeterProvider(metric_readers=[running.reader]))
        record(telemetry)
        assert shown.wait(20)


def test_a_display_that_fails_says_so_and_ends_nothing_else(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.001)

    def fail(_: object) -> Figures:
        raise MemoryError("no room")

    monkeypatch.setattr(progress, "figures", fail)
    with Progress(Console(file=io.StringIO(), force_terminal=False)) as running:
        running._thread.join(20)
        assert not running._thread.is_alive()
    assert caplog.messages == [
        "The progress display has ended (MemoryError: no room); the flow goes on"
    ]
