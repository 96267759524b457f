"""Native histograms: an exponential histogram in Prometheus' terms.

Prometheus' bucket i covers (b^(i-1), b^i]: OpenTelemetry's i, and ours, is its i + 1. Its schemas end at 8; finer
counts are joined, exactly. Buckets are given as spans of neighbours and the difference of each count to the one
before. Source: https://prometheus.io/docs/specs/native_histograms/.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.layout import LOWEST, Ints

FINEST_SCHEMA = 8
ZERO_THRESHOLD = math.nextafter(LOWEST, 0.0)
"""The largest value that counts as zero. It never changes: to Prometheus that would look like a restart."""
_BRIDGED = 2
"""Empty buckets between two that are written out, because a span of its own costs more."""
_OCTAVES = 1024  # doubles end below 2^1024


class NativeBuckets(NamedTuple):
    """``spans``: (gap to the span before, or the first bucket's index; length); ``deltas``: one a bucket."""

    schema: int
    zero_count: int
    spans: list[tuple[int, int]]
    deltas: Ints


def native_buckets(histogram: ExponentialHistogram) -> NativeBuckets:
    """All of ``histogram``. What it counted as overflow, 1e9 or more, goes to the last bucket, that of +Inf."""
    schema = min(histogram.scale, FINEST_SCHEMA)
    if schema < histogram.scale:
        histogram = histogram.downscaled(schema)
    counts = histogram.counts
    held = np.flatnonzero(counts)
    cuts = np.flatnonzero(held[1:] - held[:-1] > _BRIDGED + 1)
    firsts = held[np.concatenate([_FIRST[: len(held)], cuts + 1])].tolist()
    stops = (held[np.concatenate([cuts, _LAST[: len(held)]])] + 1).tolist()
    runs = [counts[first:stop] for first, stop in zip(firsts, stops, strict=True)]
    places = [(histogram.offset + first + 1, stop - first) for first, stop in zip(firsts, stops, strict=True)]
    if histogram.overflow_count:
        runs.append(np.array([histogram.overflow_count], dtype=np.int64))
        places.append((infinite_bucket(schema), 1))
    return NativeBuckets(schema, histogram.zero_count, _spans(places), np.diff(np.concatenate([_FIRST, *runs])))


def infinite_bucket(schema: int) -> int:
    """The index of the bucket behind the one that holds the largest double."""
    return (_OCTAVES << schema if schema >= 0 else _OCTAVES >> -schema) + 1


def _spans(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    spans, end = [], 0
    for first, length in places:
        spans.append((first - end, length))
        end = first + length
    return spans


_FIRST = np.zeros(1, dtype=np.int64)
_LAST = np.full(1, -1, dtype=np.int64)
