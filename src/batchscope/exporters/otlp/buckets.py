"""A histogram's buckets as OTLP carries them: our scale, offset and counts are OpenTelemetry's.

OTLP wants every observation in a bucket, while ours has a count apart for 1e9 and above. These go to the bucket
that ends at 1e9 or just above, so that counts and sums are exact; ``max`` says how far they went.
"""

from __future__ import annotations

from typing import NamedTuple

from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.layout import bucket_layout


class OtlpBuckets(NamedTuple):
    """``counts[k]`` observations lie in (b^(offset + k), b^(offset + k + 1)], b = 2^(2^-scale)."""

    scale: int
    offset: int
    counts: list[int]


def otlp_buckets(histogram: ExponentialHistogram, max_buckets: int | None = None) -> OtlpBuckets:
    """The buckets as they are; coarser ones, exactly, only where there are more than ``max_buckets``."""
    batch = histogram.bucketed()
    scale, low, high = batch.scale, batch.offset, batch.offset + len(batch.counts) - 1
    if batch.overflow_count:
        high = bucket_layout(scale).last
        low = low if len(batch.counts) else high
    while max_buckets is not None and high - low >= max_buckets:
        scale, low, high = scale - 1, low >> 1, high >> 1
    counts = batch.coarser(scale).counts.tolist()
    if batch.overflow_count:
        counts += [0] * (high - low + 1 - len(counts))
        counts[-1] += batch.overflow_count
    return OtlpBuckets(scale, low, counts)
