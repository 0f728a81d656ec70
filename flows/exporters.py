"""Reads the standard `OTEL_…` variables, and refuses before the start what the SDK would not obey.

The SDK takes a value that it does not understand for its default, and says so in a line of the log at
most, which may quote a header with a credential.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from urllib.parse import urlsplit

from operators.errors import ContractError

PROTOCOL = "http/protobuf"

_SIGNALS = ("traces", "metrics")

_HEADER = re.compile(r"[!#-'*+\-.0-9A-Z^-z|~]+[ \t]*=[ -!#-+\--:<-\[\]-~]*")
"""`name=value`, as OpenTelemetry's own parser accepts it."""

_SAMPLERS = (
    "always_on",
    "always_off",
    "parentbased_always_on",
    "parentbased_always_off",
    "traceidratio",
    "parentbased_traceidratio",
)

_FILTERS = ("always_on", "always_off", "trace_based")

_AT_LEAST_ONE = (
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
)

_LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
)


@dataclass(frozen=True, slots=True)
class Exporters:
    """Exporters of spans and metrics, each `otlp`, `console` or `none`.

    Attributes:
        default_name: Whether the environment leaves the service without a name.
    """

    traces: str
    metrics: str
    default_name: bool = True


def exporters_from_env() -> Exporters:
    """Which exporters the standard OpenTelemetry variables ask for.

    Raises:
        ContractError: They name an exporter or protocol that is not there, or have a value that is
            none. The message shows no value that may hold a credential.
    """
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    common = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    chosen: dict[str, str] = {}
    for signal in _SIGNALS:
        name = f"OTEL_{signal.upper()}_EXPORTER"
        endpoint = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT") or common
        exporter = os.environ.get(name) or ("otlp" if endpoint else "none")
        if exporter not in ("otlp", "console", "none"):
            raise ContractError(
                subject=name, cause=f"'{exporter}' is unknown", hint="use otlp, console or none"
            )
        chosen[signal] = "none" if off else exporter
        if chosen[signal] == "otlp":
            _check_exporter(signal)
    _check_sdk()
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    return Exporters(chosen["traces"], chosen["metrics"], default_name=not named)


def _check_exporter(signal: str) -> None:
    """Check the variables of the OTLP exporter of a signal, each of which has one for all signals."""
    for name, protocol in _set(signal, "PROTOCOL"):
        if protocol != PROTOCOL:  # guard: otel-protocol
            raise ContractError(
                subject=name,
                cause=f"'{protocol}' is not supported",
                hint=f"use {PROTOCOL}, and the collector's HTTP port (4318)",
            )
    for name, endpoint in _set(signal, "ENDPOINT"):
        _require(name, endpoint, _is_url, "a URL like http://collector:4318")
    for name, timeout in _set(signal, "TIMEOUT"):
        _require(name, timeout, _is_number, "a number of seconds")
    for name, compression in _set(signal, "COMPRESSION"):
        known = ("none", "gzip", "deflate")
        _require(name, compression.strip().lower(), known.__contains__, "none, gzip or deflate")
    for name, headers in _set(signal, "HEADERS"):
        _require(name, headers, _are_headers, "name=value, with commas between them")
    for what in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
        for name, path in _set(signal, what):
            _require(name, path, lambda each: Path(each).is_file(), "the path of a file")


def _check_sdk() -> None:
    """Check the variables of the SDK itself, which it reads whatever the exporters are."""
    known = _SAMPLERS.__contains__
    for name, accepts, wanted in (
        ("OTEL_TRACES_SAMPLER", known, f"one of {', '.join(_SAMPLERS)}"),
        ("OTEL_TRACES_SAMPLER_ARG", _is_ratio, "a number from 0 to 1"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", _FILTERS.__contains__, f"one of {', '.join(_FILTERS)}"),
        *((each, _is_positive, "a whole number from 1 on") for each in _AT_LEAST_ONE),
        *((each, str.isdecimal, "a whole number") for each in _LIMITS),
    ):
        value = os.environ.get(name, "").strip()
        if value:
            _require(name, value, accepts, wanted)


def _set(signal: str, what: str) -> Iterator[tuple[str, str]]:
    """The variable that counts for a signal, its own or else that for all; none if neither is set."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"):
        value = os.environ.get(name)
        if value:
            yield name, value
            return


def _require(name: str, value: str, accepts: Callable[[str], bool], wanted: str) -> None:
    if not accepts(value):  # guard: otel-values
        raise ContractError(subject=name, cause="its value is none", hint=f"make it {wanted}")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text)) and float(text) > 0
    except ValueError:
        return False


def _is_ratio(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _is_positive(text: str) -> bool:
    return text.isdecimal() and int(text) > 0


def _are_headers(text: str) -> bool:
    return all(_HEADER.fullmatch(each.strip()) for each in text.split(",") if each.strip())
