"""The SDK's parts that sending needs: its OTLP exporters, the resource, its loggers. Imports the SDK."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource

from batchscope.errors import ConfigurationError
from batchscope.exporters.otlp.environment import GRPC, Transport
from batchscope.statistics.cumulative import CumulativeState
from batchscope.text import readable, shown
from batchscope.version import __version__

_HTTP_PATH = "/v1/metrics"
_CREDENTIAL_PROVIDERS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_METRICS_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
)
_LARGEST_GRPC: Any = (("grpc.max_receive_message_length", 65_536), ("grpc.max_metadata_size", 16_384))


def metric_exporter(transport: Transport) -> MetricExporter:
    """The SDK's exporter for the protocol; what ``transport`` does not say it takes from the environment."""
    return _grpc_exporter(transport) if transport.protocol == GRPC else _http_exporter(transport)


def _http_exporter(transport: Transport) -> MetricExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415

    from batchscope.exporters.otlp.session import bounded_session  # noqa: PLC0415  (requests: of HTTP only)

    provided = any(os.environ.get(name) for name in _CREDENTIAL_PROVIDERS)  # then the SDK has a session of its own
    return OTLPMetricExporter(
        endpoint=_with_path(transport.endpoint) if transport.endpoint else None,
        headers=dict(transport.headers) if transport.headers else None,
        timeout=transport.timeout,
        compression=_compression({each.value: each for each in Compression}, transport.compression),
        session=None if provided else bounded_session(),
    )


def _grpc_exporter(transport: Transport) -> MetricExporter:
    from grpc import Compression  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: PLC0415

    return OTLPMetricExporter(
        endpoint=transport.endpoint,
        headers=dict(transport.headers) if transport.headers else None,
        timeout=transport.timeout,
        compression=_compression({"none": Compression.NoCompression, "gzip": Compression.Gzip}, transport.compression),
        channel_options=_LARGEST_GRPC,
    )


def _with_path(endpoint: str) -> str:
    """A base URL gets the path of metrics; one with a path is taken as it is. ConfigurationError if it is no URL."""
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (ValueError, TypeError, AttributeError):
        usable = False
    if not usable:
        allowed = "http://HOST[:PORT] or https://HOST[:PORT], with a path where it is not /v1/metrics"
        raise ConfigurationError("endpoint", endpoint, allowed)
    return endpoint if parts.path.strip("/") else urlunsplit(parts._replace(path=_HTTP_PATH))


def _compression(known: Mapping[str, Any], name: str | None) -> Any:
    if name is not None and name not in known:
        raise ConfigurationError(
            "compression", name, f"one of {sorted(known)} or None (OTEL_EXPORTER_OTLP_COMPRESSION)"
        )
    return None if name is None else known[name]


class Resources:
    """Who sends: the collector, its labels and engine, and what the environment says of the process.

    ``attributes`` and labels win over OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, those over what is ours.
    The environment is read once: the SDK's detectors need threads, which a process that ends cannot start.
    """

    def __init__(self, service_name: str | None = None, attributes: Mapping[str, str] | None = None) -> None:
        self._detected = Resource.create()
        self._environment = dict(OTELResourceDetector().detect().attributes)
        self._attributes = {**(attributes or {}), **({SERVICE_NAME: service_name} if service_name else {})}

    def of(self, state: CumulativeState) -> Resource:
        """The resource of a state."""
        ours = {SERVICE_NAME: "batchscope", SERVICE_INSTANCE_ID: state.instance_id, "batchscope.version": __version__}
        if state.instance_id:  # of a merge these are the living processes': a resource must not change with them
            ours["batchscope.role"] = state.role
            ours["batchscope.engine.kind"] = state.engine.kind
            ours["batchscope.engine.version"] = state.engine.version
        known = {name: readable(value) for name, value in ours.items() if value}
        labels = {name: readable(value) for name, value in state.labels.items()}
        return self._detected.merge(Resource({**known, **self._environment, **labels, **self._attributes}))


class Quiet(logging.Filter):
    """Keeps what the SDK logs while we send out of the log: we say it once a minute, with ``reason`` in it.

    What others send through the same SDK is logged as ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first = self._last = ""
        self._sending: set[int] = set()  # the threads that send for us
        known = [name for name in logging.root.manager.loggerDict if name.startswith("opentelemetry.")]
        self._loggers = [logging.getLogger(name) for name in known]
        for logger in self._loggers:
            logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is someone else's."""
        if record.thread not in self._sending:
            return True
        self._last = shown(record.getMessage())  # the other side chose some of it
        self._first = self._first or self._last
        return False

    @property
    def reason(self) -> str:
        """What the SDK said of the present or last send: how it ended, and what the trouble was at first."""
        return self._last if self._first == self._last else f"{self._last} (at first: {self._first})"

    @contextmanager
    def sending(self) -> Iterator[None]:
        """While this thread sends: its log lines are kept back, and instrumented libraries trace nothing."""
        thread = threading.get_ident()
        self._sending.add(thread)
        self._first = self._last = ""
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, value=True))
        try:
            yield
        finally:
            detach(token)
            self._sending.discard(thread)

    def close(self) -> None:
        """Leave the SDK's loggers as they were."""
        for logger in self._loggers:
            logger.removeFilter(self)
