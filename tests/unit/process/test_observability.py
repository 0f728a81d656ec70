"""The end of a flow whose collector is down, and a set-up that fails."""

import socket
import threading
from collections.abc import Iterator

import pytest

from flows.exporters import Exporters
from flows.process import observability as module
from flows.process.observability import Observability
from operators.errors import ContractError


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A collector that takes connections, and answers nothing."""
    taken: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                taken.append(listening.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}"
        )
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for each in taken:
        each.close()


def test_a_collector_that_is_down_does_not_hold_up_the_end(
    silent: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SHUTDOWN_S", 0.05)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    observability = Observability(Exporters("otlp", "otlp"))
    with observability.telemetry.span("x"):
        observability.telemetry.tokens.add(5)
    observability.shutdown()
    assert "The last spans and metrics were not sent" in caplog.text
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in caplog.text
    observability._closer.join()


def test_a_collector_that_cannot_be_reached_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:S3CRET@127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20S3CRET")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    observability = Observability(Exporters("otlp", "otlp"))
    with observability.telemetry.span("x"):
        observability.telemetry.tokens.add(5)
    observability.shutdown()
    told = " ".join(f"{each.getMessage()} {each.exc_text}" for each in caplog.records)
    assert "export" in told
    assert "S3CRET" not in told


def test_a_set_up_that_fails_is_told_without_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "S3CRET")
    with pytest.raises(ContractError, match="cannot be set up") as caught:
        Observability(Exporters("otlp", "none"))
    assert "S3CRET" not in str(caught.value)
    assert caught.value.__suppress_context__
