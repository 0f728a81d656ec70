"""The embed step: the texts of all windows that closed together, in one call of the model."""

import time

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream
from opentelemetry.trace import SpanKind

from operators.embedding import Embedder
from operators.events import Row
from operators.shards import Window
from operators.telemetry import Telemetry
from operators.texts import Texts


class EmbedStep:
    """Gives every row its pieces, each with a vector.

    Left out are rows whose text the store holds already, and rows that are not whole yet: the writer
    completes those, and embeds them itself.
    """

    def __init__(self, embedder: Embedder, texts: Texts, telemetry: Telemetry) -> None:
        self._embedder = embedder
        self._texts = texts
        self._telemetry = telemetry
        self._tokens = 0
        self._padded = 0

    def __call__(self, items: list[tuple[str, Window]]) -> list[tuple[str, Window]]:
        """All windows of one activation; each keeps its key."""
        wanted = [
            (window, row)
            for _, window in items
            for key, row in window.rows.items()
            if isinstance(row, Row) and key not in window.unchanged
        ]
        if not wanted:
            return items
        embedder, telemetry = self._embedder, self._telemetry
        started = time.perf_counter()
        with telemetry.span(
            f"embeddings {embedder.model}",
            SpanKind.CLIENT,
            parent=items[0][1].context,
            attributes={
                "gen_ai.operation.name": "embeddings",
                "gen_ai.request.model": embedder.model,
                "gen_ai.embeddings.dimension.count": embedder.dim,
                "rowvec.texts": len(wanted),
            },
        ) as span:
            pieces = self._texts.pieces([row for _, row in wanted])
            tokens = embedder.tokens_total - self._tokens
            padded = embedder.padded_tokens_total - self._padded
            self._tokens += tokens
            self._padded += padded
            span.set_attribute("gen_ai.usage.input_tokens", tokens)
        for (window, row), made in zip(wanted, pieces, strict=True):
            window.vectors[row.row_key] = made
        telemetry.embed_seconds.record(time.perf_counter() - started)
        telemetry.tokens.add(tokens)
        telemetry.padding.add(padded - tokens)
        return items


@operator
def embed(step_id: str, up: KeyedStream[Window], step: EmbedStep) -> KeyedStream[Window]:
    """Windows with vectors, by shard."""
    return op.flat_map_batch("batch", up, step)
