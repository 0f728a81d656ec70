"""Shows the progress of a running flow (rate, lag, freshness), read from its metrics."""

import logging
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from rich.console import Console
from rich.live import Live
from rich.text import Text

logger = logging.getLogger("rowvec")

LOG_EVERY_S = 10.0

SHOW_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """Totals since the start.

    Attributes:
        lag: Records not yet read, over all partitions of this process; None until that is known.
        freshness_sum_s, freshness_count: Seconds from commit to acknowledged write, over all rows
            written.
    """

    consumed: int = 0
    written: int = 0
    embedded: int = 0
    unchanged: int = 0
    dropped: int = 0
    dead_letters: int = 0
    lag: int | None = None
    freshness_sum_s: float = 0.0
    freshness_count: int = 0


def figures(reader: InMemoryMetricReader) -> Figures:
    """Read the current totals from the metrics."""
    totals: defaultdict[str, float] = defaultdict(float)
    counts: defaultdict[str, int] = defaultdict(int)
    lag: int | None = None
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    name = metric.name
                    if name == "rowvec.texts":
                        name += "." + str((point.attributes or {})["rowvec.text"])
                    if isinstance(point, HistogramDataPoint):
                        totals[name] += point.sum
                        counts[name] += point.count
                    elif isinstance(point, NumberDataPoint):
                        totals[name] += point.value
                        if name == "rowvec.kafka.lag":
                            lag = int(totals[name])
    return Figures(
        consumed=int(totals["rowvec.records.consumed"]),
        written=int(totals["rowvec.rows.written"]),
        embedded=int(totals["rowvec.texts.embedded"]),
        unchanged=int(totals["rowvec.texts.unchanged"]),
        dropped=int(totals["rowvec.rows.dropped"]),
        dead_letters=int(totals["rowvec.dead_letters"]),
        lag=lag,
        freshness_sum_s=totals["rowvec.freshness"],
        freshness_count=counts["rowvec.freshness"],
    )


def line(now: Figures, before: Figures, seconds: float) -> str:
    """One line of progress.

    Args:
        now: The totals.
        before: The totals `seconds` ago.
        seconds: Time between the two.
    """
    rate = (now.written - before.written) / seconds if seconds > 0 else 0.0
    fresh = now.freshness_count - before.freshness_count
    lag = "?" if now.lag is None else f"{now.lag:,}"
    parts = [f"{now.written:,} rows written", f"{rate:,.0f} rows/s", f"lag {lag}"]
    if fresh:
        mean = (now.freshness_sum_s - before.freshness_sum_s) / fresh
        parts.append(f"freshness {mean:,.2f} s")
    parts.append(f"{now.embedded:,} texts embedded")
    if now.unchanged:
        parts.append(f"{now.unchanged:,} unchanged")
    if now.dead_letters:
        parts.append(f"{now.dead_letters:,} dead letters")
    return " · ".join(parts)


class Progress:
    """Shows the figures while the flow runs: live on a terminal, else as log lines when they change.

    Its thread alone reads the metrics and owns `_shown` and `_shown_at`; the main thread starts it
    and ends it through `_ended`. The metric reader does its own locking.
    """

    def __init__(self, console: Console) -> None:
        self.reader = InMemoryMetricReader()
        self._console = console
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rowvec-progress", daemon=True)
        self._shown = Figures()
        self._shown_at = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._show()
        except Exception as error:  # noqa: BLE001 - the flow is right without its display
            logger.warning(
                "The progress display has ended (%s: %s); the flow goes on",
                *(type(error).__name__, error),
            )

    def _show(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while not self._ended.wait(SHOW_EVERY_S):
                    live.update(Text(self._next()), refresh=True)
        else:
            while not self._ended.wait(LOG_EVERY_S):
                before = self._shown
                text = self._next()
                if before != self._shown:
                    logger.info("%s", text)

    def _next(self) -> str:
        now, at = figures(self.reader), time.monotonic()
        text = line(now, self._shown, at - self._shown_at)
        self._shown, self._shown_at = now, at
        return text
