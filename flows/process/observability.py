"""Sets up the OpenTelemetry SDK by the standard `OTEL_*` variables.

Nothing is exported unless the variables name an OTLP endpoint or the console. The progress display
reads the same metrics through a reader of its own.
"""

import logging
import threading
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

from flows.exporters import Exporters
from operators.errors import ContractError
from operators.telemetry import Telemetry

logger = logging.getLogger(__name__)

SHUTDOWN_S = 5.0
"""A collector that is down may delay the end of the flow by so many seconds."""


class Observability:
    """The tracer and meter providers of one process, and Rowvec's instruments.

    Args:
        exporters: Exporters that the environment asks for.
        readers: Further metric readers, such as the progress display's.
    """

    def __init__(self, exporters: Exporters, readers: Sequence[MetricReader] = ()) -> None:
        self._tracers: TracerProvider | None = None
        self._meters: MeterProvider | None = None
        self._sends = "otlp" in (exporters.traces, exporters.metrics)
        try:
            self._set_up(exporters, readers)
        except (ValueError, RuntimeError, ImportError, OSError) as error:
            self._shut_down()
            # The error may quote a value, which may hold a credential.
            raise ContractError(
                subject="the OTEL_… variables",
                cause=f"OpenTelemetry cannot be set up with them ({type(error).__name__})",
                hint="unset those that are not needed; OTEL_SDK_DISABLED=true does without all",
            ) from None
        self.telemetry = Telemetry(self._tracers, self._meters)
        self.traced = self._tracers is not None
        self._ending = threading.Event()
        # Started now: at the end of the interpreter no thread can be started.
        self._closer = threading.Thread(target=self._close, name="rowvec-telemetry", daemon=True)
        if self._sends:
            self._closer.start()

    def _set_up(self, exporters: Exporters, readers: Sequence[MetricReader]) -> None:
        resource = Resource.create({"service.name": "rowvec"} if exporters.default_name else {})
        # Shut down by `shutdown` alone: at exit the providers would wait for a collector that is down.
        if exporters.traces != "none":
            # The sampler comes from OTEL_TRACES_SAMPLER: parent-based, always on by default.
            self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
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
        if every:
            self._meters = MeterProvider(
                metric_readers=every, resource=resource, shutdown_on_exit=False
            )

    def shutdown(self) -> None:
        """Send the remaining spans and metrics; a collector that is down gets `SHUTDOWN_S`."""
        if not self._sends:
            self._shut_down()
            return
        self._ending.set()
        self._closer.join(SHUTDOWN_S)  # guard: telemetry-bounded
        if self._closer.is_alive():
            logger.warning(
                "The last spans and metrics were not sent: the collector of "
                "OTEL_EXPORTER_OTLP_ENDPOINT does not take them within %g s",
                SHUTDOWN_S,
            )

    def _close(self) -> None:
        self._ending.wait()
        self._shut_down()

    def _shut_down(self) -> None:
        if self._tracers is not None:
            self._tracers.shutdown()
        if self._meters is not None:
            self._meters.shutdown()
