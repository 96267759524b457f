"""Classic buckets: what they say about a percentile is an interval, and this is all that they say.

A value that was counted in the bucket ``le=0.5`` after ``le=0.25`` lies in (0.25, 0.5]. Interpolating in between
invents up to the bucket's width: 48 % of a p99, measured on a fleet with vLLM's buckets.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import msgspec

LARGEST = 2.0**53
"""Up to here every whole number is a float: what counts beyond does not count."""


class BucketError(ValueError):
    """Buckets that contradict themselves."""


class Buckets(msgspec.Struct, frozen=True):
    """Counts up to each edge: ``cumulative[i]`` observations were <= ``edges[i]``; the last edge is infinite.

    ``total`` is the sum of the observations, ``nan`` where it is not given. Durations and counts: nothing is below 0.
    """

    edges: tuple[float, ...]
    cumulative: tuple[float, ...]
    total: float

    @classmethod
    def of(cls, counts: dict[float, float], count: float, total: float) -> Buckets:
        """From counts by upper edge; ``count`` (``nan`` = not given) stands in for a missing ``+Inf``.

        BucketError where an edge is not a number, a count not a whole one up to 2^53, or counts fall as edges rise.
        """
        known = dict(counts)
        if math.inf not in known:
            known[math.inf] = count
        edges = tuple(sorted(known))
        cumulative = tuple(known[edge] for edge in edges)
        if any(math.isnan(edge) for edge in known) or not all(
            value <= LARGEST and value % 1 == 0 for value in cumulative
        ):
            raise BucketError("an edge is not a number, or a count not a whole one")
        if any(left > right for left, right in pairwise((0.0, *cumulative))):
            raise BucketError("counts fall as edges rise")
        return cls(edges, cumulative, total)

    @property
    def count(self) -> float:
        """How many observations."""
        return self.cumulative[-1]

    @property
    def mean(self) -> float:
        """Exact: sum / count; ``nan`` of nothing."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, percent: int) -> tuple[float, float]:
        """The interval [low, high] that holds the nearest-rank percentile; ``nan`` of nothing.

        Nearest rank: the smallest value with at least ``percent`` % of the observations up to it. ``high`` is
        infinite where it lies above the last edge.
        """
        if not self.count:
            return math.nan, math.nan
        rank = max(1, -(-percent * round(self.count) // 100))  # whole numbers: 0.55 * 100 is not 55 in floats
        index = min(bisect_left(self.cumulative, rank), len(self.edges) - 1)
        lower = self.edges[index - 1] if index else min(0.0, self.edges[0])
        return lower, self.edges[index]

    def since(self, before: Buckets) -> Buckets | None:
        """What was observed after ``before``; ``None`` where that cannot be: counts fell, or other edges."""
        if self.edges != before.edges:
            return None
        gained = [new - old for new, old in zip(self.cumulative, before.cumulative, strict=True)]
        if any(left > right for left, right in pairwise((0.0, *gained))):
            return None
        return Buckets(self.edges, tuple(gained), self.total - before.total)


def merged(series: Sequence[Buckets]) -> Buckets:
    """All observations in one: counts add at the edges that all have, so every statement stays true."""
    common = set(series[0].edges).intersection(*(buckets.edges for buckets in series[1:]))
    edges = tuple(sorted(common))
    by_edge = [dict(zip(buckets.edges, buckets.cumulative, strict=True)) for buckets in series]
    cumulative = tuple(sum(counts[edge] for counts in by_edge) for edge in edges)
    return Buckets(edges, cumulative, sum(buckets.total for buckets in series))
