"""Observations checked once and sorted into buckets once, to be added to any number of histograms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf, nan, nextafter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.errors import InvalidRecordError
from batchscope.histograms.layout import HIGHEST, LOWEST, BucketFinder, BucketLayout, Floats, Ints
from batchscope.histograms.store import downscaled

_CHUNK = 16_384  # values whose temporary arrays stay in a processor's cache
_ABOVE = nextafter(HIGHEST, 0.0)  # stands in where no value is in range
_NO_INSTANT = np.array(nan)
MOST_AT_ONCE = 2**53 - 1  # observations a call: np.bincount adds weights as doubles, exact up to here


class Observations(NamedTuple):
    """Values >= 0 and finite, contiguous; ``counts`` says how often each was seen (None: once), ``at`` when.

    ``at`` is one instant each, or one for all (dimension 0).
    """

    values: Floats
    counts: Ints | None
    at: Floats
    low: float
    high: float

    def take(self, chosen: npt.NDArray[np.bool_]) -> Observations:
        """A copy of some of them, at least one."""
        values = self.values[chosen]
        counts = None if self.counts is None else self.counts[chosen]
        return Observations(values, counts, self.at[chosen], float(values.min()) + 0.0, float(values.max()) + 0.0)

    def reordered(self, order: Ints) -> Observations:
        """The same observations in another order, without their instants."""
        counts = None if self.counts is None else self.counts[order]
        return self._replace(values=self.values[order], counts=counts, at=_NO_INSTANT)


class BucketedValues(NamedTuple):
    """A group of observations by bucket: ``counts[k]`` of them lie in bucket ``offset + k`` of ``scale``.

    The first and the last count are not 0. ``zero_count`` lie below 1e-9, ``overflow_count`` at 1e9 or
    above; ``total`` is all of them.
    """

    scale: int
    offset: int
    counts: Ints
    zero_count: int
    overflow_count: int
    total: int
    sum: float
    min: float
    max: float

    def coarser(self, scale: int) -> BucketedValues:
        """The same at ``scale``, which must not be finer."""
        if scale == self.scale:
            return self
        offset, counts = downscaled(self.offset, self.counts, self.scale - scale)
        return self._replace(scale=scale, offset=offset, counts=counts)


def checked(values: npt.ArrayLike, counts: npt.ArrayLike | None = None, at: npt.ArrayLike = nan) -> Observations:
    """Values, counts and instants as arrays of one dimension; those with count 0 are left out.

    InvalidRecordError names the first value that is negative, infinite or not a number, and its index;
    the same for counts that are negative, not integers, not one a value, or 2^53 and more in all, and
    for instants that are not one a value. Whether an instant is a number is not looked at.
    """
    seen = _as_floats("values", values)
    if seen.ndim != 1:
        raise InvalidRecordError(f"values have shape {seen.shape}: expected one dimension")
    weights = None if counts is None else _as_counts(counts, len(seen))
    instants = _as_floats("instants", at)
    if instants.ndim and instants.shape != seen.shape:
        raise InvalidRecordError(f"instants have shape {instants.shape}: expected {seen.shape}, one a value")
    if not len(seen):
        return Observations(seen, weights, instants, nan, nan)
    low, high = float(seen.min()), float(seen.max())  # nan if any is
    if not (low >= 0.0 and high < inf):
        index = int(np.argmax(~((seen >= 0.0) & (seen < inf))))
        raise InvalidRecordError(f"value {float(seen[index])} at index {index}: expected a finite number >= 0")
    if weights is not None and not weights.all():
        kept = weights > 0
        return checked(seen[kept], weights[kept], instants[kept] if instants.ndim else instants)
    return Observations(seen, weights, instants, low + 0.0, high + 0.0)  # + 0.0: no negative zero


def bucketed(layout: BucketLayout, seen: Observations) -> BucketedValues:
    """Sort observations, at least one, into the buckets of ``layout``."""
    return bucketed_groups(layout, seen, (0,))[0]


def bucketed_groups(
    layout: BucketLayout, seen: Observations, starts: Sequence[int]
) -> tuple[BucketedValues, list[BucketedValues]]:
    """(all of them, each group): group k is ``seen[starts[k]:starts[k + 1]]`` and must not be empty."""
    tally = _Tally(layout, seen)
    if len(starts) == 1:
        whole = tally.of(0, len(seen.values), _summary(seen))
        return whole, [whole]
    summaries = _summaries(seen, starts)
    stops = [*starts[1:], len(seen.values)]
    groups = list(map(tally.of, starts, stops, summaries))
    return tally.collected(tally.total, _summary(seen)), groups


def indices(layout: BucketLayout, seen: Observations) -> Ints:
    """The bucket of each value; ``layout.first - 1`` below 1e-9, ``layout.last + 1`` from 1e9 on."""
    tally = _Tally(layout, seen)
    found = tally.positions + tally.origin
    if seen.low < LOWEST:
        found[tally.positions == 0] = layout.first - 1
    if seen.high >= HIGHEST:
        found[tally.positions == tally.width - 1] = layout.last + 1
    return found


class _Summary(NamedTuple):
    total: int
    sum: float
    min: float
    max: float


class _Tally:
    """Counts of observations by position: 0 is zero, k is bucket origin + k, width - 1 is overflow."""

    def __init__(self, layout: BucketLayout, seen: Observations) -> None:
        self._layout = layout
        self._seen = seen
        low, high = seen.low, seen.high
        outside = low < LOWEST or high >= HIGHEST
        if outside:
            inside = (seen.values >= LOWEST) & (seen.values < HIGHEST)
            low = float(seen.values.min(where=inside, initial=_ABOVE))
            high = float(seen.values.max(where=inside, initial=low))
        finder = layout.between(low, high)
        self.origin = finder.origin
        self.width = layout.index(high) - self.origin + 2
        self.total = np.zeros(self.width, dtype=np.int64)
        self.positions = _in_chunks(finder, seen.values.clip(low, high) if outside else seen.values)
        if outside:
            self.positions[seen.values < LOWEST] = 0
            self.positions[seen.values >= HIGHEST] = self.width - 1

    def of(self, start: int, stop: int, summary: _Summary) -> BucketedValues:
        """The observations start..stop; they are added to ``total``."""
        positions, counts = self.positions[start:stop], self._seen.counts
        if counts is None:
            tally: Ints = np.bincount(positions, minlength=self.width)
        else:
            tally = np.bincount(positions, counts[start:stop], self.width).astype(np.int64)
        self.total += tally
        return self.collected(tally, summary)

    def collected(self, tally: Ints, summary: _Summary) -> BucketedValues:
        """A tally in its zero, bucket and overflow parts, the buckets without empty ends."""
        counts = tally[1:-1]
        if summary.min >= LOWEST and summary.max < HIGHEST:  # the ends are known without looking
            first = self._layout.index(summary.min) - self.origin - 1
            stop = self._layout.index(summary.max) - self.origin
        else:
            held = np.flatnonzero(counts)
            first, stop = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, 0)
        return BucketedValues(
            self._layout.scale,
            self.origin + 1 + first,
            counts[first:stop],
            int(tally[0]),
            int(tally[-1]),
            *summary,
        )


def _in_chunks(finder: BucketFinder, values: Floats) -> Ints:
    if len(values) <= _CHUNK:
        return finder.positions(values)
    positions = np.empty(len(values), dtype=np.int64)
    for start in range(0, len(values), _CHUNK):
        positions[start : start + _CHUNK] = finder.positions(values[start : start + _CHUNK])
    return positions


@np.errstate(over="ignore")  # a sum beyond the largest double is infinite
def _summary(seen: Observations) -> _Summary:
    values, counts = seen.values, seen.counts
    total = len(values) if counts is None else int(counts.sum())
    return _Summary(total, float(_weighted(seen).sum()), seen.low, seen.high)


@np.errstate(over="ignore")
def _summaries(seen: Observations, starts: Sequence[int]) -> list[_Summary]:
    if seen.counts is None:
        totals = [stop - start for start, stop in pairwise([*starts, len(seen.values)])]
    else:
        totals = np.add.reduceat(seen.counts, starts).tolist()
    sums = np.add.reduceat(_weighted(seen), starts)
    low = np.minimum.reduceat(seen.values, starts) + 0.0
    high = np.maximum.reduceat(seen.values, starts) + 0.0
    return list(map(_Summary, totals, sums.tolist(), low.tolist(), high.tolist()))


def _weighted(seen: Observations) -> Floats:
    """Value times count of each. Not ``@``: that wakes the threads of BLAS, which can take milliseconds."""
    return seen.values if seen.counts is None else seen.values * seen.counts


def _as_floats(name: str, given: npt.ArrayLike) -> Floats:
    try:
        return np.asarray(given, dtype=np.float64, order="C")
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRecordError(f"{name} are not numbers: {error}") from error


def _as_counts(counts: npt.ArrayLike, expected: int) -> Ints:
    weights = np.asarray(counts)
    if weights.shape != (expected,):
        raise InvalidRecordError(f"counts have shape {weights.shape}: expected ({expected},), one a value")
    if not expected:
        return np.zeros(0, dtype=np.int64)
    if weights.dtype.kind not in "iu":
        raise InvalidRecordError(f"counts are of type {weights.dtype}: expected integers")
    if weights.min() < 0:
        index = int(np.argmax(weights < 0))
        raise InvalidRecordError(f"count {weights[index]} at index {index}: expected an integer >= 0")
    if weights.sum(dtype=np.float64) > MOST_AT_ONCE:
        raise InvalidRecordError(f"counts add up to more than {MOST_AT_ONCE}: expected fewer observations a call")
    return weights.astype(np.int64, copy=False)


def one_number(value: float) -> float:
    """``value`` as a float; InvalidRecordError if it is negative, infinite or not a number."""
    try:
        number = float(value) + 0.0  # no negative zero
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRecordError(f"value {value!r}: {error}") from error
    if not 0.0 <= number < inf:
        raise InvalidRecordError(f"value {value!r}: expected a finite number >= 0")
    return number


def bucket_of(layout: BucketLayout, value: float) -> int:
    """The bucket of one number >= 0, as ``indices`` gives it."""
    if value < LOWEST:
        return layout.first - 1
    return layout.last + 1 if value >= HIGHEST else layout.index(value)
