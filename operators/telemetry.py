"""Names of spans and metrics, and the few helpers that make them; the OpenTelemetry API only.

Spans carry no row key and no text. One span stands for one batch in one stage; the batch carries the
span's context to the next stage, because no ambient context crosses a Bytewax operator.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

SCOPE = "rowvec"

MAX_LINKS = 128
"""Links of one span; further ones are counted in the attribute `rowvec.links.dropped`."""

TraceContext: TypeAlias = tuple[int, int, int]
"""(trace id, span id, trace flags): a span context that pickles as plain numbers."""

_PROPAGATOR = TraceContextTextMapPropagator()

_FRESHNESS_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 30, 60, 300, 3600)

_SECONDS_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Telemetry:
    """The instruments of one process.

    Args:
        tracer_provider, meter_provider: Where spans and metrics go; the global ones by default, which
            do nothing until an SDK is set up.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self.records_consumed = meter.create_counter(
            "rowvec.records.consumed", "{record}", "Records read from Kafka"
        )
        self.lag = meter.create_gauge("rowvec.kafka.lag", "{record}", "Records not yet read")
        self.rows_dropped = meter.create_counter(
            "rowvec.rows.dropped", "{row}", "Changes not applied, by reason"
        )
        self.rows_unordered = meter.create_counter(
            "rowvec.rows.unordered",
            "{row}",
            "Changes taken for newer though nothing orders them: other partition, no position",
        )
        self.rows_written = meter.create_counter(
            "rowvec.rows.written", "{row}", "Rows acknowledged by Milvus, by operation"
        )
        self.texts = meter.create_counter(
            "rowvec.texts",
            "{text}",
            "Texts of winners, by what was done: embedded, repeated, cached, unchanged",
        )
        self.tokens = meter.create_counter("rowvec.embed.tokens", "{token}", "Tokens embedded")
        self.padding = meter.create_counter(
            "rowvec.embed.padding", "{token}", "Tokens of padding computed beside them"
        )
        self.window_rows = meter.create_histogram(
            "rowvec.window.rows", "{row}", "Winners of the windows that closed together"
        )
        self.embed_seconds = meter.create_histogram(
            "rowvec.embed.duration",
            "s",
            "Embedding of one activation",
            explicit_bucket_boundaries_advisory=_SECONDS_BOUNDS,
        )
        self.store_seconds = meter.create_histogram(
            "db.client.operation.duration",
            "s",
            "Requests to Milvus",
            explicit_bucket_boundaries_advisory=_SECONDS_BOUNDS,
        )
        self.store_retries = meter.create_counter(
            "rowvec.milvus.retries", "{request}", "Requests tried again"
        )
        self.freshness = meter.create_histogram(
            "rowvec.freshness",
            "s",
            "Commit in the database → acknowledged by Milvus",
            explicit_bucket_boundaries_advisory=_FRESHNESS_BOUNDS,
        )
        self.dead_letters = meter.create_counter(
            "rowvec.dead_letters", "{record}", "Records sent to the dead-letter topic, by stage"
        )
        self.epoch_seconds = meter.create_histogram(
            "rowvec.epoch.duration",
            "s",
            "From one checkpoint of a partition to its next",
            explicit_bucket_boundaries_advisory=_SECONDS_BOUNDS,
        )

    @contextmanager
    def span(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Iterable[TraceContext] = (),
        attributes: Mapping[str, str | int | float | bool] | None = None,
    ) -> Iterator[Span]:
        """A span around a block; an exception marks it as failed by its type alone.

        The message of an exception may quote a row, so it is not recorded.
        """
        # Windows of one activation share a context, so the parent may be among the links: drop it.
        distinct = [link for link in dict.fromkeys(links) if link != parent]
        with self._tracer.start_as_current_span(
            name,
            context=None if parent is None else trace.set_span_in_context(_remote(parent)),
            kind=kind,
            links=[Link(_context(link)) for link in distinct[:MAX_LINKS]],
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if len(distinct) > MAX_LINKS:
                span.set_attribute("rowvec.links.dropped", len(distinct) - MAX_LINKS)
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR))
                raise


def partition_labels(topic: str, partition: int) -> dict[str, str]:
    """Attributes of spans and metrics that are about a partition."""
    return {
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
    }


def context_of(span: Span) -> TraceContext | None:
    """The context to carry in a batch, or None if no SDK records spans."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return context.trace_id, context.span_id, int(context.trace_flags)


def context_from_headers(
    headers: Mapping[str, str | bytes | None] | Iterable[tuple[str, str | bytes | None]],
) -> TraceContext | None:
    """The W3C `traceparent` of a Kafka record, as Debezium's tracing transform writes it."""
    value = dict(headers).get("traceparent")
    if value is None:
        return None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    carrier = {"traceparent": text}
    return context_of(trace.get_current_span(_PROPAGATOR.extract(carrier)))


def _context(parts: TraceContext) -> SpanContext:
    return SpanContext(parts[0], parts[1], is_remote=True, trace_flags=TraceFlags(parts[2]))


def _remote(parts: TraceContext) -> NonRecordingSpan:
    return NonRecordingSpan(_context(parts))
