"""Prometheus: text, OpenMetrics and protobuf with native histograms, all from the catalogue.

``PrometheusCollector`` is imported when it is asked for: it alone needs prometheus_client.
"""

from typing import TYPE_CHECKING, Any

from batchscope.exporters.prometheus.exposition import (
    Exposition,
    Format,
    render_openmetrics,
    render_protobuf,
    render_text,
)

if TYPE_CHECKING:
    from batchscope.exporters.prometheus.registry import PrometheusCollector

__all__ = ["Exposition", "Format", "PrometheusCollector", "render_openmetrics", "render_protobuf", "render_text"]


def __getattr__(name: str) -> Any:
    if name == "PrometheusCollector":
        from batchscope.exporters.prometheus.registry import PrometheusCollector  # noqa: PLC0415  (see above)

        return PrometheusCollector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
