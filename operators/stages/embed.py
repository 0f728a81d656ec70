"""The embed step: texts go to the model's threads; windows go on at once, and their lanes wait.

While the model embeds one group of texts, the worker reads on and closes windows, and the lanes write
the groups before. Windows that close meanwhile form the next group, and their rows replace older
versions that still wait: the busier the model, the larger its groups, and the fewer outdated texts it
embeds. The lanes bound how many rows wait (`operators.stages.lanes.MAX_QUEUED_ROWS`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream
from opentelemetry.trace import SpanKind

from operators.changes.row_key import RowKey
from operators.changes.rows import PartialRow, Row
from operators.model.protocol import Embedder
from operators.model.text_vectors import Texts
from operators.stages.unchanged_text import expect_nothing, to_embed
from operators.stages.window import Window
from operators.telemetry import Telemetry

GROUP_BATCHES = 4
"""Full batches of the model in one group. More would group texts of equal length better; fewer give the
lanes work sooner, and leave less to write after the last group of an epoch."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A window that waits for the model, and its rows with a text to embed."""

    window: Window
    done: Future[None]
    rows: dict[RowKey, Row]
    tokens: int


class EmbedStep:
    """Gives every row its pieces, each with a vector.

    It skips rows whose text the store should hold already, and partial rows: the lane completes and
    embeds those.

    Threads: the worker calls the step and owns the queued windows. A thread of `pool` takes a group of
    windows from the queue and owns it. The queue, the index of its rows, and the counts are shared
    under `_lock`.

    Args:
        pool: The model's threads; None: a call embeds its windows before it returns.
        on_done: Called by the model's threads after each group of windows.
    """

    def __init__(
        self,
        embedder: Embedder,
        texts: Texts,
        telemetry: Telemetry,
        pool: Executor | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self._embedder = embedder
        self._texts = texts
        self._telemetry = telemetry
        self._tokens = 0
        self._padding = 0
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()
        # The queued window of each row that a newer version may still replace.
        self._waiting_rows: dict[RowKey, _Waiting] = {}
        self._on_done = on_done
        self._pool = pool

    def __call__(self, items: list[tuple[str, Window]]) -> list[tuple[str, Window]]:
        """Queue all windows of one activation; each keeps its key, and may be split in two."""
        parts: list[tuple[str, Window]] = []
        with self._lock:
            waited = len(self._queue)
            for shard, window in items:
                if self._waiting_rows:
                    self._replace_waiting(window)
                texts = to_embed(window)
                if texts:
                    parts += ((shard, ready) for ready in _ready_part(window, texts))
                    self._wait(window, texts)
                parts.append((shard, window))
            more = len(self._queue) > waited
        if more and self._pool is None:
            self._work()
        elif more and self._pool is not None:
            self._pool.submit(self._work)
        return parts

    def close(self) -> None:
        """Start no more groups. Call it when the flow has ended, before its lanes are closed."""
        for each in self._take_all():
            each.done.cancel()
        if self._pool is not None:
            self._pool.shutdown()

    def _wait(self, window: Window, texts: dict[RowKey, Row]) -> None:
        window.embedding = done = Future[None]()
        tokens = sum(map(self._texts.estimate, texts.values()))
        waiting = _Waiting(window, done, texts, tokens)
        self._queue.append(waiting)
        self._waiting_rows.update(dict.fromkeys(texts, waiting))

    def _replace_waiting(self, window: Window) -> None:
        """Remove rows that this window overwrites from the windows that wait for the model.

        The lane would write only the newer version anyway. A row stays if another one may need it: a
        partial row needs the version before it, and a row with a new key needs the last version of its
        old key.
        """
        if window.truncates:
            self._waiting_rows.clear()
        for move in window.moves:
            self._waiting_rows.pop(move.delete.row_key, None)  # guard: replaced-moved
        for key in (*window.rows, *window.deletes):
            older = self._waiting_rows.pop(key, None)
            # guard: replaced-partial
            if older is None or isinstance(window.rows.get(key), PartialRow):
                continue
            del older.rows[key]
            del older.window.rows[key]
            # The removed version would have stored the vector, so this one has to be embedded.
            expect_nothing(window, key)

    def _work(self) -> None:
        """Embed until the queue is empty; several threads may do so, each with its own group."""
        group: list[_Waiting] = []
        while True:
            group.clear()
            try:
                self._take_group(group)
                if not group:
                    return
                self._embed(group)
            except BaseException as error:
                # Nobody waits for this thread, but a lane waits for each window: it raises the error.
                for each in group or self._take_all():  # guard: embed-thread
                    each.done.set_exception(error)
                if self._pool is None:
                    raise
            else:
                for each in group:
                    each.done.set_result(None)
            self._on_done()
            if not group:
                return

    def _take_all(self) -> list[_Waiting]:
        with self._lock:
            left, self._queue = list(self._queue), deque()
            self._waiting_rows.clear()
        return left

    def _take_group(self, group: list[_Waiting]) -> None:
        """Take the first windows of the queue, until their texts fill a group."""
        left = GROUP_BATCHES * self._embedder.max_batch_tokens
        with self._lock:
            while self._queue and left > 0:  # guard: model-groups
                waiting = self._queue.popleft()
                for key in waiting.rows:
                    if self._waiting_rows.get(key) is waiting:
                        del self._waiting_rows[key]
                group.append(waiting)
                left -= waiting.tokens

    def _embed(self, group: Sequence[_Waiting]) -> None:
        embedder, telemetry = self._embedder, self._telemetry
        rows = [row for each in group for row in each.rows.values()]
        started = time.perf_counter()
        with telemetry.span(
            f"embeddings {embedder.model}",
            SpanKind.CLIENT,
            parent=group[0].window.context,
            attributes={
                "gen_ai.operation.name": "embeddings",
                "gen_ai.request.model": embedder.model,
                "gen_ai.embeddings.dimension.count": embedder.dim,
                "rowvec.texts": len(rows),
            },
        ) as span:
            pieces = iter(self._texts.pieces(rows))
            tokens, padding = self._counted()
            span.set_attribute("gen_ai.usage.input_tokens", tokens)
        for each in group:
            each.window.vectors.update((key, next(pieces)) for key in each.rows)
        telemetry.embed_seconds.record(time.perf_counter() - started)
        telemetry.tokens.add(tokens)
        telemetry.padding.add(padding)

    def _counted(self) -> tuple[int, int]:
        """Tokens, and padding tokens, since the last call."""
        with self._lock:
            tokens, padded = self._embedder.tokens_total, self._embedder.padded_tokens_total
            # Another thread may have raised only one of the two totals; a later call corrects that.
            padding = max(padded - tokens, self._padding)
            new = tokens - self._tokens, padding - self._padding
            self._tokens, self._padding = tokens, padding
        return new


def _ready_part(window: Window, texts: dict[RowKey, Row]) -> Iterator[Window]:
    """Split off the rows that need no embedding.

    No split if a partial row, a move or a TRUNCATE makes the order matter.
    """
    others = len(window.rows) - len(texts)
    # guard: ready-part
    if not (others or window.deletes or window.dead) or window.moves or window.truncates:
        return
    rest = {key: row for key, row in window.rows.items() if key not in texts}
    if any(isinstance(row, PartialRow) for row in rest.values()):  # guard: ready-part-partial
        return
    yield replace(window, rows=rest, vectors={})
    window.rows, window.deletes, window.dead = dict(texts), {}, []


@operator
def embed(step_id: str, up: KeyedStream[Window], step: EmbedStep) -> KeyedStream[Window]:
    """Windows by shard, with their vectors or with a future for them (`Window.embedding`)."""
    return op.flat_map_batch("batch", up, step)
