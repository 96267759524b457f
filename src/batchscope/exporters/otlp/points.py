"""A collector's state as the OpenTelemetry SDK's metric data. Imports the SDK: only for use by the exporter."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from batchscope import catalog
from batchscope.catalog import CATALOG, MetricKind
from batchscope.exporters.otlp.buckets import otlp_buckets
from batchscope.exporters.otlp.names import GEN_AI_METRICS, GenAiAttributes, otlp_name, otlp_unit
from batchscope.histograms import exponential_histogram
from batchscope.statistics.cumulative import CumulativeState
from batchscope.statistics.distributions import merged
from batchscope.text import readable
from batchscope.version import __version__

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NO_BUCKETS = Buckets(offset=0, bucket_counts=[])
_SCOPE = InstrumentationScope("batchscope", __version__)


class Translation:
    """One state in OpenTelemetry's terms, as of ``time_unix_nano``.

    Everything cumulative starts at the state's ``started_at``: a reset or a restart is a new start, as OTLP wants.
    """

    def __init__(self, state: CumulativeState, time_unix_nano: int, max_buckets: int | None = None) -> None:
        self._state = state
        self._start = (state.started_at - _EPOCH) // dt.timedelta(microseconds=1) * 1000
        self._now = max(time_unix_nano, self._start)  # a system's clock may be set back
        self._max_buckets = max_buckets

    def metrics_data(self, resource: Resource, gen_ai: GenAiAttributes | None) -> MetricsData:
        """Every metric of the catalogue that has a value and, unless None, those of the ``gen_ai`` conventions."""
        metrics = [self._metric(metric) for metric in CATALOG]
        if gen_ai is not None:
            metrics += self._gen_ai(_readable(gen_ai.of(self._state)))
        scope = ScopeMetrics(_SCOPE, [metric for metric in metrics if metric.data.data_points], "")
        return MetricsData([ResourceMetrics(resource, [scope], "")])

    def _metric(self, metric: catalog.Metric) -> Metric:
        common = self._state.labels
        points: list[Any] = [
            self._point(metric.kind, _readable({**common, **dict(zip(metric.labels, labels, strict=True))}), value)
            for labels, value in catalog.values(metric, self._state)
        ]
        data: Sum | Gauge | ExponentialHistogram
        if metric.kind is MetricKind.COUNTER:
            data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        elif metric.kind is MetricKind.HISTOGRAM:
            data = ExponentialHistogram(points, AggregationTemporality.CUMULATIVE)
        else:
            data = Gauge(points)
        return Metric(otlp_name(metric), metric.help, otlp_unit(metric), data)

    def _gen_ai(self, attributes: Mapping[str, str]) -> Iterable[Metric]:
        for metric in GEN_AI_METRICS:
            by_class = self._state.histograms.get(metric.histogram)
            if by_class:
                points = [self._histogram_point(attributes, merged(by_class.values()))]
                data = ExponentialHistogram(points, AggregationTemporality.CUMULATIVE)
                yield Metric(metric.name, metric.description, "s", data)

    def _point(self, kind: MetricKind, attributes: Mapping[str, str], value: Any) -> Any:
        if kind is MetricKind.HISTOGRAM:
            return self._histogram_point(attributes, value)
        start = self._start if kind is MetricKind.COUNTER else None  # a gauge has no start
        return NumberDataPoint(attributes, start, self._now, value)  # type: ignore[arg-type]

    def _histogram_point(
        self, attributes: Mapping[str, str], histogram: exponential_histogram.ExponentialHistogram
    ) -> ExponentialHistogramDataPoint:
        """As it is; values below 1e-9 are the zero bucket, whose threshold the SDK does not send (it says 0)."""
        scale, offset, counts = otlp_buckets(histogram, self._max_buckets)
        return ExponentialHistogramDataPoint(
            attributes=attributes,
            start_time_unix_nano=self._start,
            time_unix_nano=self._now,
            count=histogram.count,
            sum=histogram.sum,
            scale=scale,
            zero_count=histogram.zero_count,
            positive=Buckets(offset, counts),
            negative=_NO_BUCKETS,
            flags=0,
            min=histogram.min if histogram.count else None,  # type: ignore[arg-type]  # left out: there is none
            max=histogram.max if histogram.count else None,  # type: ignore[arg-type]
        )


def _readable(attributes: Mapping[str, str]) -> dict[str, str]:
    """What protobuf takes: the SDK leaves out an attribute that it does not, and two series become one."""
    return {name: readable(value) for name, value in attributes.items()}
