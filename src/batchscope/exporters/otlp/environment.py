"""The standard OTEL_* variables that the SDK does not read for us, below arguments.

Endpoint, headers, timeout, compression and certificates are read by the SDK's exporters themselves.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import NamedTuple

from batchscope.errors import ConfigurationError

logger = logging.getLogger("batchscope")

GRPC, HTTP = "grpc", "http/protobuf"
_PROTOCOLS = (HTTP, GRPC)
_DEFAULT_INTERVAL = 60.0


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


def warn_of_temporality() -> None:
    """Say it where delta is asked for: what a collector counts is cumulative."""
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    said = os.environ.get(name, "cumulative").strip().lower()
    if said not in {"", "cumulative"}:
        logger.warning("%s = %r is not followed: batchscope sends cumulative metrics", name, said)
