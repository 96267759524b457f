"""Summaries of distributions: exact ones from samples, estimates from histograms."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.rows import Floats
from batchscope.statistics.summaries import EMPTY, DistributionSummary
from batchscope.statistics.totals import Mean

PERCENTILES = (50, 90, 95, 99)
_QUANTILES = (0.5, 0.9, 0.95, 0.99)


def linear_percentile(ordered: Floats, percentile: int) -> float:
    """Hyndman & Fan type 7 (numpy's default) of ascending values, the position in whole arithmetic."""
    whole, rest = divmod((len(ordered) - 1) * percentile, 100)
    low = float(ordered[whole])
    return low if rest == 0 else low + (float(ordered[whole + 1]) - low) * (rest / 100)


def summarize(values: Floats, span_seconds: float = math.nan) -> DistributionSummary:
    """Exact, of those ``values`` that are not ``nan``."""
    values = values[~np.isnan(values)]
    if not len(values):
        return EMPTY
    ordered = np.sort(values)
    p50, p90, p95, p99 = [linear_percentile(ordered, percentile) for percentile in PERCENTILES]
    return DistributionSummary(
        len(ordered), float(ordered.mean()), p50, p90, p95, p99, float(ordered[-1]), span_seconds
    )


def summarize_histogram(histogram: ExponentialHistogram, span_seconds: float = math.nan) -> DistributionSummary:
    """Nearest-rank estimates within the histogram's relative error; count, mean and max are exact."""
    error = histogram.relative_error
    if not histogram.count:
        return DistributionSummary(source="histogram", relative_error=error, span_seconds=span_seconds)
    p50, p90, p95, p99 = histogram.quantiles(_QUANTILES)
    return DistributionSummary(
        histogram.count, histogram.mean, p50, p90, p95, p99, histogram.max, span_seconds, "histogram", error
    )


def merged(histograms: Collection[ExponentialHistogram]) -> ExponentialHistogram:
    """One histogram of all, to read only; thresholds, which differ by class, are left out.

    An empty one costs the others nothing, however coarse it is.
    """
    given = list(histograms) or [ExponentialHistogram()]
    first, *others = [histogram for histogram in given if histogram.count] or given
    whole = first if not others and not first.thresholds else first.without_thresholds()
    for histogram in others:
        whole.merge(histogram.without_thresholds() if histogram.thresholds else histogram)
    return whole


def mean_of(values: Floats) -> Mean:
    """The mean of those ``values`` that are not ``nan``, with its parts."""
    known = values[~np.isnan(values)]
    return Mean(float(np.add.reduce(known)), len(known))


def span_of(instants: Floats) -> float:
    """From the oldest to the newest."""
    return float(instants.max() - instants.min()) if len(instants) else math.nan
