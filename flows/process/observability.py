"""Sets up the OpenTelemetry SDK by the standard `OTEL_*` variables.

Nothing is exported unless the variables name an OTLP endpoint or the console. The progress display
reads the same metrics through a reader of its own.
"""

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from flows.settings import Exporters
from operators.telemetry import Telemetry


class Observability:
    """The tracer and meter providers of one process, and Rowvec's instruments.

    Args:
        exporters: Exporters that the environment asks for.
        readers: Further metric readers, such as the progress display's.
    """

    def __init__(self, exporters: Exporters, readers: Sequence[MetricReader] = ()) -> None:
        resource = Resource.create({"service.name": "rowvec"} if exporters.default_name else {})
        self._tracers: TracerProvider | None = None
        if exporters.traces != "none":
            # The sampler comes from OTEL_TRACES_SAMPLER: parent-based, always on by default.
            self._tracers = TracerProvider(resource=resource)
            self._tracers.add_span_processor(
                BatchSpanProcessor(
                    OTLPSpanExporter() if exporters.traces == "otlp" else ConsoleSpanExporter()
                )
            )
        every = list(readers)
        if exporters.metrics != "none":
            every.append(
                PeriodicExportingMetricReader(
                    OTLPMetricExporter() if exporters.metrics == "otlp" else ConsoleMetricExporter()
                )
            )
        self._meters = MeterProvider(metric_readers=every, resource=resource) if every else None
        self.telemetry = Telemetry(self._tracers, self._meters)
        self.traced = self._tracers is not None

    def shutdown(self) -> None:
        """Send the remaining spans and metrics."""
        if self._tracers is not None:
            self._tracers.shutdown()
        if self._meters is not None:
            self._meters.shutdown()
