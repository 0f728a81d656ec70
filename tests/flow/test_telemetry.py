"""Telemetry of a running flow: spans of all steps, links to the spans that sent the rows, metrics."""

import http.server
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from flows.exporters import Exporters, exporters_from_env
from flows.process.observability import Observability
from operators.errors import FatalError, RecordError
from operators.kafka.log_reader import BEGINNING
from operators.telemetry import MAX_LINKS, Telemetry, TraceContext, context_from_headers
from tests.changes import (
    PAIRS_TOPIC,
    TOPIC,
    LetterBox,
    Log,
    LogReader,
    contract,
    doc,
    envelope,
    gone,
    key,
    put,
    source,
    tombstone,
)
from tests.fakes import HashEmbedder, MemoryStore
from tests.flow.running import run_flow

TRACE = "4bf92f3577b34da6a3ce929d0e0e47"
SECRET = "s3cret"


@dataclass
class TracedLog(Log):
    """A log whose records carry the headers that Debezium's tracing transform writes."""

    traceparents: dict[int, bytes] = field(default_factory=dict)

    def reader(self, offset: int) -> "TracedReader":
        return TracedReader(self, 0 if offset == BEGINNING else offset)


class TracedReader(LogReader):
    def __init__(self, log: TracedLog, offset: int) -> None:
        super().__init__(log, offset)
        self._traceparents = log.traceparents

    def read(self, max_records: int) -> tuple[list[Any], list[TraceContext]]:
        records, _ = super().read(max_records)
        contexts = [
            context_from_headers([("other", None), ("traceparent", self._traceparents.get(r[0]))])
            for r in records
        ]
        return records, [context for context in contexts if context is not None]


def traceparent(number: int) -> bytes:
    return f"00-{TRACE}{number % 256:02x}-{number + 1:016x}-01".encode()


class Told:
    """OpenTelemetry providers that keep spans and metrics in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._reader = InMemoryMetricReader()
        self.telemetry = Telemetry(tracers, MeterProvider(metric_readers=[self._reader]))

    def spans(self, prefix: str = "") -> list[ReadableSpan]:
        return [s for s in self.exporter.get_finished_spans() if s.name.startswith(prefix)]

    def metric(self, name: str, label: str | None = None) -> dict[str, float]:
        """Sum of a counter, or number of recordings of a histogram, by the values of `label`."""
        found: dict[str, float] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name != name:
                        continue
                    for point in metric.data.data_points:
                        by = "" if label is None else str((point.attributes or {})[label])
                        amount = (
                            point.count if isinstance(point, HistogramDataPoint) else point.value  # type: ignore[union-attr]
                        )
                        found[by] = found.get(by, 0) + amount
        return found


@pytest.fixture
def told() -> Told:
    return Told()


def run(
    told: Told, tmp_path: Path, log: Log, store: MemoryStore | None = None, **more: Any
) -> MemoryStore:
    store = store or MemoryStore()
    logs = {(TOPIC, 0): log, (PAIRS_TOPIC, 0): Log()}
    # The window is so long that only the end of the logs closes it: all rows are in one window.
    whole = contract(flow={"window_ms": 60_000})
    tmp_path.mkdir(exist_ok=True)
    run_flow(whole, logs, store, tmp_path / "r", telemetry=told.telemetry, **more)
    return store


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def links(spans: Sequence[ReadableSpan]) -> set[tuple[int, int]]:
    return {(one.context.trace_id, one.context.span_id) for span in spans for one in span.links}


# Spans.


def test_a_poll(told, tmp_path):
    run(told, tmp_path, Log([put(i, i + 1) for i in range(5)]))
    polls = told.spans(f"poll {TOPIC}")
    assert sum(dict(span.attributes or {})["messaging.batch.message_count"] for span in polls) == 5  # type: ignore[misc]
    for span in polls:
        assert span.kind is SpanKind.CLIENT
        assert span.parent is None
        attributes = dict(span.attributes or {})
        assert attributes.pop("messaging.batch.message_count") in range(6)
        assert attributes == {
            "messaging.system": "kafka",
            "messaging.operation.name": "poll",
            "messaging.operation.type": "receive",
            "messaging.destination.name": TOPIC,
            "messaging.destination.partition.id": "0",
        }


def test_the_way_of_a_row(told, tmp_path):
    log = Log([put(1, 1), put(2, 2), gone(3, 3)])
    run(told, tmp_path, log)
    (resolved,) = told.spans("resolve")
    (embedded,) = told.spans("embeddings")
    written = told.spans("upsert") + told.spans("delete")
    assert {span.name for span in written} == {"upsert docs", "delete docs"}

    assert (resolved.kind, resolved.parent) == (SpanKind.INTERNAL, None)
    assert dict(resolved.attributes or {}) == {"rowvec.window.rows": 3, "rowvec.lookups": 0}
    # The span links to the polls that had rows of the window, and to no others.
    assert links([resolved]) == {
        ids(span)
        for span in told.spans("poll")
        if dict(span.attributes or {})["messaging.batch.message_count"]
    }
    assert links([resolved])

    assert (embedded.name, embedded.kind) == ("embeddings hash@1", SpanKind.CLIENT)
    assert dict(embedded.attributes or {}) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "hash@1",
        "gen_ai.embeddings.dimension.count": 8,
        "gen_ai.usage.input_tokens": 6,
        "rowvec.texts": 2,
    }
    assert {span.name: span.kind for span in written} == {
        "upsert docs": SpanKind.CLIENT,
        "delete docs": SpanKind.CLIENT,
    }
    assert sum(dict(s.attributes or {})["db.operation.batch.size"] for s in written) == 3  # type: ignore[misc]
    for span in written:
        attributes = dict(span.attributes or {})
        operation = span.name.split(" ")[0]
        assert attributes.pop("db.operation.batch.size") in (1, 2)
        assert attributes == {
            "db.system.name": "milvus",
            "db.collection.name": "docs",
            "db.operation.name": operation,
        }

    # All spans from the window to the store are one trace.
    for span in [embedded, *written]:
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == ids(resolved)
        assert ids(span)[0] == ids(resolved)[0]
        # A span does not link to its parent.
        assert span.links == ()


def test_windows_that_are_written_together_are_linked(told):
    contexts = [(1, 2, 1), (1, 2, 1), (3, 4, 1), (3, 4, 1)]
    with told.telemetry.span("upsert docs", parent=contexts[0], links=contexts[1:]):
        pass
    (span,) = told.spans("upsert")
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (1, 2)
    assert links([span]) == {(3, 4)}
    assert len(span.links) == 1


def test_a_poll_links_to_the_transactions_of_its_records(told, tmp_path):
    # One transaction wrote the first three rows, another the fourth; two headers are invalid.
    parents = {0: traceparent(0), 1: traceparent(0), 2: traceparent(0), 3: traceparent(1)}
    parents |= {4: b"00-broken", 5: b"\xff"}
    run(told, tmp_path, TracedLog([put(i, i + 1) for i in range(7)], traceparents=parents))
    found = [one for span in told.spans("poll") for one in span.links]
    assert sorted((link.context.trace_id, link.context.span_id) for link in found) == [
        (int(f"{TRACE}00", 16), 1),
        (int(f"{TRACE}01", 16), 2),
    ]
    assert all(link.context.is_remote for link in found)
    (resolved,) = told.spans("resolve")
    assert links([resolved]) <= {ids(span) for span in told.spans("poll")}


@pytest.mark.parametrize("count", [MAX_LINKS, MAX_LINKS + 1, 300])
def test_links_are_capped_and_the_rest_is_counted(count, told, tmp_path):
    log = TracedLog(
        [put(i, i + 1) for i in range(count)],
        traceparents={i: traceparent(i) for i in range(count)},
    )
    run(told, tmp_path, log)
    (first, *rest) = [s for s in told.spans(f"poll {TOPIC}") if s.links]
    assert rest == []
    assert len(first.links) == min(count, MAX_LINKS)
    dropped = dict(first.attributes or {}).get("rowvec.links.dropped")
    assert dropped == (count - MAX_LINKS if count > MAX_LINKS else None)


def everything(span: ReadableSpan) -> str:
    """A span with all its attributes, events and links, as text."""
    return "\n".join(
        [
            span.to_json(),
            repr(dict(span.attributes or {})),
            repr([(event.name, dict(event.attributes or {})) for event in span.events]),
            repr([dict(link.attributes or {}) for link in span.links]),
            str(span.status.description),
        ]
    )


def secret_log() -> Log:
    """A log with the secret in every place from which telemetry could leak it."""
    return Log(
        [
            (key(id=SECRET), envelope("c", 1, doc(1, f"text {SECRET}", kind=SECRET, more=SECRET))),
            (key(id=SECRET + "2"), envelope("d", 2, None)),
            (key(id=SECRET + "2"), None),
            (key(id=SECRET + "3"), SECRET.encode()),
            (key(id=SECRET + "4"), envelope("c", 3, doc(4, SECRET, size=SECRET))),
        ]
    )


def test_no_key_and_no_text_in_any_span(told, tmp_path):
    store = run(told, tmp_path, secret_log())
    assert SECRET in str(list(store.scan("docs")))
    assert len({span.name.split(" ")[0] for span in told.spans()}) == 5
    assert [span.name for span in told.spans() if SECRET in everything(span)] == []


@pytest.mark.parametrize("operation", ["upsert", "delete", "stored", "embed"])
def test_a_failed_span_tells_the_type_and_not_the_message(operation, told, tmp_path):
    error = FatalError(subject=f"row {SECRET}", cause=SECRET)
    store, embedder = MemoryStore(), HashEmbedder()
    if operation == "embed":

        def fail(texts: Any) -> Any:
            raise error

        embedder.embed = fail  # type: ignore[method-assign]
    else:
        if operation == "stored":
            run(Told(), tmp_path / "before", Log([put(1, 1)]), store)
        store.fail_next(error, operation)
    with pytest.raises(Exception, match=r"."):
        run(told, tmp_path, secret_log(), store, embedder=embedder)
    failed = [s for s in told.spans() if s.status.status_code is StatusCode.ERROR]
    prefix = {"embed": "embeddings", "stored": "resolve"}.get(operation, operation)
    assert {span.name.split(" ")[0] for span in failed} == {prefix}
    for span in failed:
        assert dict(span.attributes or {})["error.type"] == "FatalError"
        assert span.events == ()
        assert span.status.description is None
    assert [span.name for span in told.spans() if SECRET in everything(span)] == []


def test_a_look_up_is_counted(told, tmp_path):
    store = run(Told(), tmp_path / "before", Log([put(1, 1), put(2, 2)]))
    run(told, tmp_path, Log([put(1, 5), put(3, 6)]), store)
    assert sum(dict(s.attributes or {})["rowvec.lookups"] for s in told.spans("resolve")) == 2  # type: ignore[misc]


def test_without_a_provider_nothing_is_recorded_and_all_is_written(tmp_path):
    store = MemoryStore()
    logs = {(TOPIC, 0): TracedLog([put(1, 1)], traceparents={0: traceparent(1)})}
    run_flow(contract(), {**logs, (PAIRS_TOPIC, 0): Log()}, store, tmp_path / "r")
    assert store.count("docs") == 1


# Metrics.


def test_what_was_read_and_written(told, tmp_path):
    log = Log(
        [
            (key(id=1), envelope("c", 1, doc(1))),
            (key(id=2), envelope("r", 2, doc(2))),
            put(3, 3),
            put(4, 4, "first"),
            put(4, 5, "second"),
            put(5, 7),
            put(5, 6),
            gone(6, 8),
            tombstone(6),
            (key(id=7), b"no json"),
            (key(id=8), envelope("u", 9, {"id": 8})),
        ]
    )
    letters = LetterBox()
    run(told, tmp_path, log, letters=letters)
    assert told.metric("rowvec.records.consumed", "messaging.destination.name") == {TOPIC: 11}
    assert told.metric("rowvec.rows.written", "rowvec.op") == {"c": 1, "r": 1, "u": 3, "d": 1}
    assert told.metric("rowvec.rows.written", "db.collection.name") == {"docs": 6}
    assert told.metric("rowvec.rows.dropped", "reason") == {"superseded": 1, "stale": 1}
    assert told.metric("rowvec.dead_letters", "rowvec.stage") == {"decode": 1, "render": 1}
    assert len(letters.letters) == 2
    assert told.metric("rowvec.freshness") == {"": 6}
    assert told.metric("rowvec.texts", "rowvec.text") == {"embedded": 5}
    # Three words in each text, "doc 1\ntext".
    assert told.metric("rowvec.embed.tokens") == {"": 15}
    assert told.metric("rowvec.embed.padding") == {"": 0}
    assert told.metric("db.client.operation.duration", "db.operation.name") == {
        "upsert": len(told.spans("upsert")),
        "delete": len(told.spans("delete")),
    }
    assert set(told.metric("rowvec.window.rows")) == {""}
    assert set(told.metric("rowvec.epoch.duration")) == {""}


def test_a_text_that_did_not_change(told, tmp_path):
    log = Log([put(i, i + 1) for i in range(4)])
    store = run(Told(), tmp_path, log)
    for i in range(3):
        log.records.append((key(id=i), envelope("u", 10 + i, doc(i, size=9))))
    log.records.append(put(3, 20, "changed"))
    run(told, tmp_path, log, store)
    assert told.metric("rowvec.texts", "rowvec.text") == {"unchanged": 3, "embedded": 1}
    assert told.metric("rowvec.rows.written", "rowvec.op") == {"u": 4}


def test_a_row_that_the_store_has_overtaken(told, tmp_path):
    store = run(Told(), tmp_path / "before", Log([put(1, 50), put(2, 50)]))
    run(told, tmp_path, Log([put(1, 7), put(2, 60)]), store)
    assert told.metric("rowvec.rows.dropped", "reason") == {"overtaken": 1}
    assert told.metric("rowvec.rows.written", "rowvec.op") == {"u": 1}


def test_a_row_that_the_store_refuses(told, tmp_path):
    class Picky(MemoryStore):
        def upsert(self, collection: str, entities: Any) -> None:
            if any(entity.id == "docs:2#0" for entity in entities):
                raise RecordError(subject="entity", cause="refused")
            super().upsert(collection, entities)

    run(told, tmp_path, Log([put(i, i + 1) for i in range(4)]), Picky())
    assert told.metric("rowvec.dead_letters", "rowvec.stage") == {"upsert": 1}
    assert told.metric("rowvec.rows.written", "rowvec.op") == {"u": 3}


def test_freshness_is_from_the_commit_on(told, tmp_path):
    # A commit in the year 2100, as if clocks differed: freshness must not be negative.
    blocks = source(1, ts_ms=4_102_444_800_000), {**source(2), "ts_ms": None}
    ahead = orjson.dumps({"after": doc(1), "op": "c", "source": blocks[0]})
    unknown = orjson.dumps({"after": doc(2), "op": "c", "source": blocks[1]})
    run(told, tmp_path, Log([(key(id=1), ahead), (key(id=2), unknown)]))
    data = told._reader.get_metrics_data()
    assert data is not None
    points = [
        point
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "rowvec.freshness"
        for point in metric.data.data_points
    ]
    assert [(point.count, point.sum) for point in points] == [(1, 0.0)]  # type: ignore[union-attr]


# To a collector.


@dataclass
class Collector:
    """An OTLP/HTTP receiver on this machine."""

    endpoint: str
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                received.traces.append(ExportTraceServiceRequest.FromString(body))
            else:
                assert self.path == "/v1/metrics"
                received.metrics.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield received
        server.shutdown()
        thread.join()


def test_spans_and_metrics_arrive_at_a_collector(collector, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    exporters = exporters_from_env()
    assert exporters == Exporters("otlp", "otlp", default_name=True)
    observability = Observability(exporters)
    assert observability.traced
    logs = {(TOPIC, 0): Log([put(1, 1), gone(2, 2)]), (PAIRS_TOPIC, 0): Log()}
    run_flow(contract(), logs, MemoryStore(), tmp_path / "r", telemetry=observability.telemetry)
    # The shutdown exports at once, without waiting for the export interval.
    observability.shutdown()

    traced = [resource for request in collector.traces for resource in request.resource_spans]
    spans = [span for one in traced for scope in one.scope_spans for span in scope.spans]
    assert {"resolve", "embeddings hash@1", "upsert docs", "delete docs"} <= {
        span.name for span in spans
    }
    metered = [resource for request in collector.metrics for resource in request.resource_metrics]
    names = {
        metric.name for one in metered for scope in one.scope_metrics for metric in scope.metrics
    }
    assert {"rowvec.rows.written", "rowvec.freshness", "rowvec.records.consumed"} <= names
    for one in [*traced, *metered]:
        attributes = {a.key: a.value.string_value for a in one.resource.attributes}
        assert attributes["service.name"] == "rowvec"
        assert attributes["deployment.environment.name"] == "test"


def test_without_a_collector_nothing_is_traced():
    observability = Observability(Exporters("none", "none"))
    assert not observability.traced
    with observability.telemetry.span("x") as span:
        assert not span.is_recording()
    observability.shutdown()


def test_metrics_are_read_by_the_readers_of_the_process():
    reader = InMemoryMetricReader()
    observability = Observability(Exporters("none", "none"), [reader])
    observability.telemetry.tokens.add(5)
    data = reader.get_metrics_data()
    assert data is not None
    assert data.resource_metrics[0].resource.attributes["service.name"] == "rowvec"
    observability.shutdown()
