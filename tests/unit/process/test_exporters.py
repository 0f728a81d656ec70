"""OpenTelemetry's variables: which exporters they ask for, and what is refused before the start."""

import os

import pytest

from flows.exporters import Exporters, exporters_from_env
from operators.errors import ContractError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({}, "none", "none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "otlp", "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, "otlp", "none"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, "none", "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console", "none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "none"}, "otlp", "none"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
            "none",
            "otlp",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": " True "},
            "none",
            "none",
        ),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "none", "none"),
    ],
)
def test_exporters(variables, traces, metrics, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert exporters_from_env() == Exporters(traces, metrics, default_name=True)


def test_an_exporter_that_is_not_there(monkeypatch):
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    with pytest.raises(ContractError, match="OTEL_METRICS_EXPORTER: 'prometheus' is unknown"):
        exporters_from_env()


def test_a_protocol_that_is_not_there(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ContractError, match="'grpc' is not supported") as caught:
        exporters_from_env()
    assert "4318" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_SERVICE_NAME", "mine"), ("OTEL_RESOURCE_ATTRIBUTES", "a=b,service.name=mine")],
)
def test_a_service_that_has_a_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not exporters_from_env().default_name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://u:S3CRET@c:port"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://[S3CRET"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer S3CRET"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b,S3CRET"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "-1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "/nowhere.pem"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1s"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "inf"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "-1"),
    ],
)
def test_a_value_that_would_be_passed_over(monkeypatch, name, value):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv(name, value)
    with pytest.raises(ContractError) as caught:
        exporters_from_env()
    assert caught.value.subject == name
    assert caught.value.hint
    assert "S3CRET" not in str(caught.value)


def test_the_variable_of_a_signal_counts_before_that_of_all(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    assert exporters_from_env().traces == "otlp"


@pytest.mark.parametrize(
    "headers", ["a=b", "Authorization=Basic%20eDp5", "a=b, c=d ,", "x-key=a=b", "a=", "a=b c"]
)
def test_headers_as_opentelemetry_takes_them(monkeypatch, headers):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    assert exporters_from_env().traces == "otlp"


def test_what_no_exporter_reads_is_not_looked_at(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "nothing")
    assert exporters_from_env() == Exporters("none", "none")
