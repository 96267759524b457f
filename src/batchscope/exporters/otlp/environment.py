"""The standard OTEL_* variables that the SDK does not read for us, below arguments.

Endpoint, headers and certificates are read by the SDK's exporters themselves; so are timeout and compression, but
with wrong values these raise or make every attempt fail, differently with each protocol: they are checked here.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import NamedTuple

from batchscope.errors import ConfigurationError

logger = logging.getLogger("batchscope")

GRPC, HTTP = "grpc", "http/protobuf"
_PROTOCOLS = (HTTP, GRPC)
_DEFAULT_INTERVAL = 60.0
_DEFAULT_TIMEOUT = 10.0
_GRPC_COMPRESSIONS = ("none", "gzip")


class Transport(NamedTuple):
    """How to send; None: as OTEL_EXPORTER_OTLP_* say."""

    protocol: str
    endpoint: str | None = None
    headers: Mapping[str, str] | None = None
    timeout: float | None = None
    compression: str | None = None


def disabled() -> bool:
    """Whether OTEL_SDK_DISABLED says that nothing shall be sent."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def chosen_interval(interval: float | None) -> float:
    """Seconds: the argument, else OTEL_METRIC_EXPORT_INTERVAL (milliseconds), else a minute.

    A variable that is no number > 0 is ignored with a warning, as the specification asks.
    """
    if interval is not None:
        return interval
    said = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    try:
        milliseconds = float(said) if said else _DEFAULT_INTERVAL * 1000
    except ValueError:
        milliseconds = 0.0
    if not 0 < milliseconds < float("inf"):
        logger.warning("OTEL_METRIC_EXPORT_INTERVAL = %r: expected milliseconds > 0; taking 60000", said)
        return _DEFAULT_INTERVAL
    return milliseconds / 1000


def chosen_protocol(protocol: str | None) -> str:
    """The argument, else OTEL_EXPORTER_OTLP_METRICS_PROTOCOL, else OTEL_EXPORTER_OTLP_PROTOCOL, else HTTP."""
    variables = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    said = [("protocol", protocol or "")] + [(name, os.environ.get(name, "").strip()) for name in variables]
    name, found = next(((name, value) for name, value in said if value), ("", HTTP))
    if found not in _PROTOCOLS:
        raise ConfigurationError(name, found, " or ".join(_PROTOCOLS))
    return found


def chosen_timeout(timeout: float | None) -> float | None:
    """Seconds: the argument, else OTEL_EXPORTER_OTLP_(METRICS_)TIMEOUT, in seconds as the SDK takes it, else None.

    A variable that is no number > 0 is ignored with a warning.
    """
    name, said = _said("TIMEOUT")
    if timeout is not None or not said:
        return timeout
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        logger.warning("%s = %r: expected seconds > 0; taking %g", name, said, _DEFAULT_TIMEOUT)
        return _DEFAULT_TIMEOUT
    return seconds


def chosen_compression(protocol: str, compression: str | None) -> str | None:
    """The argument, else None: the SDK reads OTEL_EXPORTER_OTLP_(METRICS_)COMPRESSION. Over gRPC one that is not
    known makes it raise: that one is ignored with a warning, as it is over HTTP.
    """
    name, said = _said("COMPRESSION")
    if compression is not None or protocol != GRPC or not said or said.lower() in _GRPC_COMPRESSIONS:
        return compression
    logger.warning("%s = %r: expected one of %s; taking none", name, said, _GRPC_COMPRESSIONS)
    return "none"


def _said(what: str) -> tuple[str, str]:
    """The variable that says it, that of metrics first, and its value."""
    names = (f"OTEL_EXPORTER_OTLP_METRICS_{what}", f"OTEL_EXPORTER_OTLP_{what}")
    return next(((name, value) for name in names if (value := os.environ.get(name, "").strip())), ("", ""))


def warn_of_temporality() -> None:
    """Say it where delta is asked for: what a collector counts is cumulative."""
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    said = os.environ.get(name, "cumulative").strip().lower()
    if said not in {"", "cumulative"}:
        logger.warning("%s = %r is not followed: batchscope sends cumulative metrics", name, said)
