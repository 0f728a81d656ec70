"""The embed step: texts go to the model's own thread; windows go on at once, and their lanes wait.

While the model works on one group of texts, rows are read and windows close, and what was embedded
before is written. What waits for the model is bounded: then the worker waits too.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream
from opentelemetry.trace import SpanKind

from operators.embedding import Embedder
from operators.events import Row
from operators.shards import Window
from operators.telemetry import Telemetry
from operators.texts import Texts

GROUP_TEXTS = 512
"""Texts of one call: enough that they sort into full batches, few enough that lanes have work soon."""

MAX_GROUPS = 1
"""Groups that are under way before the worker has to wait: the back-pressure. No more, because windows
grow while it waits, and one call with the texts of four costs far less than four calls."""


class ModelThread:
    """Runs the embed step's work beside the worker.

    One thread: OpenMP keeps a team of its own for each that calls, and teams of more threads than there
    are cores put each other to sleep.
    """

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "rowvec-embed")
        self.room = threading.BoundedSemaphore(MAX_GROUPS)

    def close(self) -> None:
        """Begin nothing more. Call it when the flow has ended, before its lanes are closed."""
        self.pool.shutdown(wait=True, cancel_futures=True)


@dataclass(slots=True)
class _Group:
    windows: list[Window]
    wanted: list[tuple[Window, Row]]


class EmbedStep:
    """Gives every row its pieces, each with a vector.

    Left out are rows whose text the store holds already, and rows that are not whole yet: the writer
    completes those, and embeds them itself.

    Args:
        thread: Where the model works; None: here, and the windows are done when the call returns.
    """

    def __init__(
        self,
        embedder: Embedder,
        texts: Texts,
        telemetry: Telemetry,
        thread: ModelThread | None = None,
    ) -> None:
        self._embedder = embedder
        self._texts = texts
        self._telemetry = telemetry
        self._thread = thread
        self._tokens = 0
        self._padded = 0

    def __call__(self, items: list[tuple[str, Window]]) -> list[tuple[str, Window]]:
        """All windows of one activation; each keeps its key."""
        for group in _groups(window for _, window in items):
            if self._thread is None:
                self._embed(group)
            else:
                self._hand_over(group, self._thread)
        return items

    def _hand_over(self, group: _Group, thread: ModelThread) -> None:
        thread.room.acquire()
        future = thread.pool.submit(self._embed, group)
        future.add_done_callback(lambda _: thread.room.release())
        for window in group.windows:
            window.embedding = future

    def _embed(self, group: _Group) -> None:
        embedder, telemetry = self._embedder, self._telemetry
        started = time.perf_counter()
        with telemetry.span(
            f"embeddings {embedder.model}",
            SpanKind.CLIENT,
            parent=group.windows[0].context,
            attributes={
                "gen_ai.operation.name": "embeddings",
                "gen_ai.request.model": embedder.model,
                "gen_ai.embeddings.dimension.count": embedder.dim,
                "rowvec.texts": len(group.wanted),
            },
        ) as span:
            pieces = self._texts.pieces([row for _, row in group.wanted])
            tokens, padded = self._counted()
            span.set_attribute("gen_ai.usage.input_tokens", tokens)
        for (window, row), made in zip(group.wanted, pieces, strict=True):
            window.vectors[row.row_key] = made
        telemetry.embed_seconds.record(time.perf_counter() - started)
        telemetry.tokens.add(tokens)
        telemetry.padding.add(padded - tokens)

    def _counted(self) -> tuple[int, int]:
        """Tokens, and padded ones, since the last call."""
        tokens, padded = self._embedder.tokens_total, self._embedder.padded_tokens_total
        new = tokens - self._tokens, padded - self._padded
        self._tokens, self._padded = tokens, padded
        return new


def _groups(windows: Iterator[Window]) -> Iterator[_Group]:
    """Windows with texts to embed, so many together that a call of the model pays."""
    group = _Group([], [])
    for window in windows:
        wanted = [
            (window, row)
            for key, row in window.rows.items()
            if isinstance(row, Row) and key not in window.unchanged
        ]
        if wanted:
            group.windows.append(window)
            group.wanted += wanted
            if len(group.wanted) >= GROUP_TEXTS:
                yield group
                group = _Group([], [])
    if group.wanted:
        yield group


@operator
def embed(step_id: str, up: KeyedStream[Window], step: EmbedStep) -> KeyedStream[Window]:
    """Windows with vectors, or with what brings them (`Window.embedding`), by shard."""
    return op.flat_map_batch("batch", up, step)
