"""Classic buckets: which upper edges a histogram shows, and the exact counts up to each of them.

The edges are boundaries of the exponential histogram's own buckets, so nothing is estimated: ``le`` includes its
edge, as a bucket includes its upper one. Targets of an SLO are counted apart, exactly, and are edges too. Which
edges a metric has depends on its name and the configuration alone: none appears or vanishes between scrapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from batchscope.catalog import Metric
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.layout import Ints, bucket_layout

MOST_GRID_EDGES = 24


def _grid(*halves: int | range) -> tuple[int, ...]:
    """Edges 2^(h/2), given as h."""
    return tuple(h for part in halves for h in ((part,) if isinstance(part, int) else part))


# Steps of sqrt 2 where users' targets lie, wide ones outside.
_REQUEST_SECONDS = _grid(-20, -16, -12, range(-8, 9), 12, 16, 20, 24)  # 1 ms .. [62 ms .. 16 s] .. 68 min
_TOKEN_SECONDS = _grid(-30, -26, -22, range(-18, 1), 4, 8)  # 31 us .. [2 ms .. 1 s] .. 16 s
_TOKENS = _grid(range(0, 36, 2))  # 1 .. 131,072
_REQUESTS = _grid(0, 2, range(4, 19), 20, 22, 24)  # 1 .. [4 .. 512] .. 4,096
_BY_UNIT = {"seconds": _REQUEST_SECONDS, "tokens": _TOKENS, "requests": _REQUESTS}
_OF_TOKENS = (
    "inter_token_latency",
    "inter_emission_latency",
    "time_per_output_token",
    "iteration_duration",
)
"""Parts of the sources of what takes milliseconds, not seconds."""


class Edges(NamedTuple):
    """Ascending finite ``bounds``; ``positions`` are the bucket indices that begin at them.

    ``targets`` are (place in bounds, threshold): their counts come from ``cumulative_count_at``.
    """

    bounds: tuple[float, ...]
    positions: Ints
    targets: tuple[tuple[int, float], ...]


def edges_of(metric: Metric, histogram: ExponentialHistogram) -> Edges:
    """The edges of ``metric``; a histogram coarser than scale 1 lacks those that are no boundaries of its own."""
    return _edges(metric.source, metric.unit, histogram.scale, histogram.thresholds)


@lru_cache(maxsize=1024)
def _edges(source: str, unit: str, scale: int, thresholds: tuple[float, ...]) -> Edges:
    grid = _TOKEN_SECONDS if source.rpartition(".")[2] in _OF_TOKENS else _BY_UNIT.get(unit, _REQUESTS)
    layout = bucket_layout(scale)
    by_bound: dict[float, int] = dict.fromkeys(thresholds, 0)
    for half in grid:
        position, remainder = divmod(half << scale, 2) if scale >= 0 else divmod(half, 2 << -scale)
        if not remainder:
            by_bound[float(layout.edges(position, 1)[0])] = position
    bounds = tuple(sorted(by_bound))
    positions = np.array([by_bound[bound] for bound in bounds], dtype=np.int64)
    return Edges(bounds, positions, tuple((bounds.index(threshold), threshold) for threshold in thresholds))


def cumulative_counts(histograms: Sequence[ExponentialHistogram], edges: Sequence[Edges]) -> list[list[int]]:
    """How many observations of each histogram do not exceed each of its edges; few, small numpy calls for all."""
    if not histograms:
        return []
    counts = [histogram.live_counts for histogram in histograms]
    sizes = [len(one) for one in counts]
    starts = [0, *accumulate(sizes)][:-1]
    positions = [one.positions for one in edges]
    widths = list(map(len, positions))
    running = np.concatenate([_ZERO, *counts]).cumsum()
    table = np.array([[one.offset for one in histograms], sizes, starts, [one.zero_count for one in histograms]])
    table[3] -= running.take(table[2])
    offset, size, start, beside = table.repeat(widths, axis=1)
    within = np.concatenate(positions)
    within -= offset
    np.maximum(within, 0, out=within)
    np.minimum(within, size, out=within)
    within += start
    flat = (running.take(within) + beside).tolist()
    found = [flat[stop - width : stop] for stop, width in zip(accumulate(widths), widths, strict=True)]
    for below, histogram, one in zip(found, histograms, edges, strict=True):
        for place, threshold in one.targets:
            below[place] = histogram.cumulative_count_at(threshold)
    return found


_ZERO = np.zeros(1, dtype=np.int64)
