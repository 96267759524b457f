"""Delimited ``io.prometheus.client.MetricFamily`` messages, with native histograms.

The only format in which Prometheus takes native histograms. Each histogram carries its classic buckets too: a
server that asked for protobuf for another reason (created timestamps, say) and does not take native histograms
would get none at all otherwise. One that takes them picks the native ones; 2.42 then drops the classic ones
silently, later versions keep both with ``scrape_classic_histograms``.
Schema: https://github.com/prometheus/client_model, ``io/prometheus/client/metrics.proto``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from batchscope.catalog import Metric, MetricKind, Value
from batchscope.exporters.prometheus.edges import Edges, cumulative_counts, edges_of
from batchscope.exporters.prometheus.families import Family
from batchscope.exporters.prometheus.labels import Labels, clean
from batchscope.exporters.prometheus.native import ZERO_THRESHOLD, native_buckets
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.wire import (
    BYTES,
    VARINT,
    delimited,
    double,
    key,
    message,
    packed_sints,
    sint,
    text,
    uint,
    varint,
)

_TYPES = {MetricKind.COUNTER: 0, MetricKind.GAUGE: 1, MetricKind.INFO: 1, MetricKind.HISTOGRAM: 4}
_GAUGE, _COUNTER, _HISTOGRAM = 2, 3, 7  # fields of Metric
_BUCKET, _COUNT = key(3, BYTES), key(1, VARINT)  # of Histogram and of Bucket: written 500 times a scrape
_NANOSECONDS = 1_000_000_000


def encode(families: Sequence[Family], created: float) -> bytes:
    """The exposition; ``created``: when counting began, in Unix time."""
    timestamp = _timestamp(created)
    return b"".join(delimited(_family(family, timestamp)) for family in families)


def _family(family: Family, created: bytes) -> bytes:
    metric = family.metric
    head = text(1, metric.name) + text(2, metric.help) + uint(3, _TYPES[metric.kind])
    if metric.kind is MetricKind.HISTOGRAM:
        contents = _histograms(metric, family.series, created)
    elif metric.kind is MetricKind.COUNTER:
        contents = [message(_COUNTER, double(1, float(value)) + message(3, created)) for _, value in family.series]
    else:
        contents = [message(_GAUGE, double(1, float(value))) for _, value in family.series]
    labels = [_labels(metric.labels, own, family.common) for own, _ in family.series]
    return head + b"".join(message(4, pairs + content) for pairs, content in zip(labels, contents, strict=True))


@lru_cache(maxsize=4096)
def _labels(names: tuple[str, ...], values: tuple[str, ...], common: Labels) -> bytes:
    pairs = (*zip(names, values, strict=True), *common)
    return b"".join(message(1, text(1, name) + text(2, clean(value))) for name, value in pairs)


def _histograms(metric: Metric, series: Sequence[Value], created: bytes) -> list[bytes]:
    edges = [edges_of(metric, value) for _, value in series]
    counts = cumulative_counts([value for _, value in series], edges)
    return [
        message(_HISTOGRAM, _histogram(value, of_series, below, created))
        for (_, value), of_series, below in zip(series, edges, counts, strict=True)
    ]


def _histogram(histogram: ExponentialHistogram, edges: Edges, below: Sequence[int], created: bytes) -> bytes:
    native = native_buckets(histogram)
    tails = _bound_fields(edges.bounds)
    classic = [_BUCKET + delimited(_COUNT + varint(count) + tail) for count, tail in zip(below, tails, strict=True)]
    spans = [message(12, sint(1, offset) + uint(2, length)) for offset, length in native.spans]
    return b"".join(
        (
            uint(1, histogram.count),
            double(2, histogram.sum),
            *classic,  # without +Inf: that is the count
            sint(5, native.schema),
            double(6, ZERO_THRESHOLD),
            uint(7, native.zero_count),
            *spans,
            packed_sints(13, native.deltas),
            message(15, created),
        )
    )


@lru_cache(maxsize=256)
def _bound_fields(bounds: tuple[float, ...]) -> tuple[bytes, ...]:
    return tuple(double(2, bound) for bound in bounds)


def _timestamp(instant: float) -> bytes:
    """A google.protobuf.Timestamp; microseconds are all that the instant has."""
    seconds, nanoseconds = divmod(round(instant * 1_000_000) * 1000, _NANOSECONDS)
    return uint(1, max(seconds, 0)) + uint(2, nanoseconds)
