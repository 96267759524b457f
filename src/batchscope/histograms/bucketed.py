"""Observations checked once and sorted into buckets once, to be added to any number of histograms."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isnan, nan, nextafter
from operator import sub
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.errors import InvalidRecordError
from batchscope.histograms.layout import HIGHEST, LOWEST, BucketLayout, Floats, Ints
from batchscope.histograms.store import downscaled

VALUES_AT_ONCE = 16_000
"""So many have temporary arrays that stay in a processor's cache, below what malloc maps anew each time, 128 KiB."""
_ABOVE = nextafter(HIGHEST, 0.0)  # stands in where no value is in range
MOST_AT_ONCE = 2**53 - 1  # observations a call: np.bincount adds weights as doubles, exact up to here


class Observations(NamedTuple):
    """Values >= 0 and finite, contiguous; ``counts`` says how often each was seen (None: once), ``at`` when.

    ``at`` is one instant each, or one for all (dimension 0).
    """

    values: Floats
    counts: Ints | None
    at: Floats


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
        return Observations(seen, weights, instants)
    low, high = float(seen.min()), float(seen.max())  # nan if any is
    if not (low >= 0.0 and high < inf):
        index = int(np.argmax(~((seen >= 0.0) & (seen < inf))))
        raise InvalidRecordError(f"value {float(seen[index])} at index {index}: expected a finite number >= 0")
    if weights is not None and not weights.all():
        kept = weights > 0
        return checked(seen[kept], weights[kept], instants[kept] if instants.ndim else instants)
    return Observations(seen, weights, instants)


def bucketed(layout: BucketLayout, seen: Observations) -> BucketedValues:
    """Sort observations, at least one, into the buckets of ``layout``."""
    return bucketed_groups(layout, seen.values[np.newaxis], seen.counts, (0,))[0][0]


@np.errstate(over="ignore")  # a sum beyond the largest double is infinite
def bucketed_groups(
    layout: BucketLayout, values: Floats, counts: Ints | None, starts: Sequence[int]
) -> list[tuple[BucketedValues, list[BucketedValues]]]:
    """(all of them, each group) of each quantity, a row of ``values``, contiguous.

    Group k are the columns from ``starts[k]`` to the next, at least one. Values are >= 0 and finite; without ``counts``
    (a column's) they may be ``nan``, too, which counts as nothing.
    """
    rows = _summaries(values, counts, starts)
    positions = _Positions(layout, values, list(map(_whole, rows)))
    return [positions.tallied(row, starts, counts, groups) for row, groups in enumerate(rows)]


def indices(layout: BucketLayout, values: Floats) -> Ints:
    """The bucket of each value; ``layout.first - 1`` below 1e-9, ``layout.last + 1`` from 1e9 on."""
    found = layout.indices(values.clip(LOWEST, _ABOVE))
    found[values < LOWEST] = layout.first - 1
    found[values >= HIGHEST] = layout.last + 1
    return found


class _Summary(NamedTuple):
    """Of a group; ``missing`` are its ``nan``, ``min`` and ``max`` are ``nan`` where all are."""

    total: int
    sum: float
    min: float
    max: float
    missing: int


class _Positions:
    """Where values lie: 0 is zero, k is bucket origin + k, width - 1 is overflow; a row each, a quantity a row."""

    def __init__(self, layout: BucketLayout, values: Floats, wholes: list[_Summary]) -> None:
        self._layout = layout
        self._values = values
        self._wholes = wholes
        low, high = [each.min for each in wholes], [each.max for each in wholes]
        outside = [row for row, each in enumerate(wholes) if each.missing or each.min < LOWEST or each.max >= HIGHEST]
        for row in outside:
            inside = values[row][(values[row] >= LOWEST) & (values[row] < HIGHEST)]
            low[row], high[row] = (float(inside.min()), float(inside.max())) if len(inside) else (LOWEST, LOWEST)
        self._outside = bool(outside)
        self._origins = [layout.index(least) - 1 for least in low]
        self._widths = [layout.index(most) - origin + 2 for most, origin in zip(high, self._origins, strict=True)]
        self._column_of_origins = np.array(self._origins)[:, np.newaxis]
        self._found = self._located(slice(None), slice(None)) if values.size <= VALUES_AT_ONCE else None

    def _located(self, rows: slice, part: slice) -> Ints:
        values = self._values[rows, part]
        if self._outside:
            below, above = ~(values >= LOWEST), values >= HIGHEST
            values = np.where(below | above, LOWEST, values)
        positions = self._layout.indices(values)
        positions -= self._column_of_origins[rows]
        if self._outside:
            positions[below] = 0
            np.copyto(positions, np.array(self._widths[rows])[:, np.newaxis] - 1, where=above)
        return positions

    def tallied(
        self, row: int, starts: Sequence[int], counts: Ints | None, groups: list[_Summary]
    ) -> tuple[BucketedValues, list[BucketedValues]]:
        """(all, each group) of one quantity."""
        stops = [*starts[1:], self._values.shape[1]]
        tallies = [self._tally(row, start, stop, counts) for start, stop in zip(starts, stops, strict=True)]
        found = [self._collected(row, *each) for each in zip(tallies, groups, strict=True)]
        return found[0] if len(found) == 1 else self._collected(row, _sum_of(tallies), self._wholes[row]), found

    def _tally(self, row: int, start: int, stop: int, counts: Ints | None) -> Ints:
        pieces = range(start, stop, VALUES_AT_ONCE)
        tallies = [self._piece(row, slice(at, min(at + VALUES_AT_ONCE, stop)), counts) for at in pieces]
        return tallies[0] if len(tallies) == 1 else _sum_of(tallies)

    def _piece(self, row: int, part: slice, counts: Ints | None) -> Ints:
        positions = self._located(slice(row, row + 1), part)[0] if self._found is None else self._found[row, part]
        if counts is None:
            tally: Ints = np.bincount(positions, minlength=self._widths[row])
            return tally
        return np.bincount(positions, counts[part], self._widths[row]).astype(np.int64)

    def _collected(self, row: int, tally: Ints, summary: _Summary) -> BucketedValues:
        """A tally in its zero, bucket and overflow parts, the buckets without empty ends."""
        counts, origin = tally[1:-1], self._origins[row]
        total, seconds, low, high, missing = summary
        if low >= LOWEST and high < HIGHEST:  # the ends are known without looking
            whole = self._wholes[row]
            first = 0 if low == whole.min else self._layout.index(low) - origin - 1
            stop = len(counts) if high == whole.max else self._layout.index(high) - origin
        else:
            held = np.flatnonzero(counts)
            first, stop = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, 0)
        return BucketedValues(
            self._layout.scale, origin + 1 + first, counts[first:stop], int(tally[0]) - missing, int(tally[-1]),
            total, seconds, low, high,
        )  # fmt: skip


def _sum_of(tallies: list[Ints]) -> Ints:
    added: Ints = np.add.reduce(tallies)
    return added


def _summaries(values: Floats, counts: Ints | None, starts: Sequence[int]) -> list[list[_Summary]]:
    """Of each quantity each group. The sums are no ``@``: that wakes BLAS's threads, which can take milliseconds."""
    low, high = np.fmin.reduceat(values, starts, axis=1), np.fmax.reduceat(values, starts, axis=1)
    sums = np.add.reduceat(values if counts is None else values * counts, starts, axis=1)
    stops = [*starts[1:], values.shape[1]]
    totals = list(map(sub, stops, starts)) if counts is None else np.add.reduceat(counts, starts).tolist()
    facts = zip(sums.tolist(), (low + 0.0).tolist(), (high + 0.0).tolist(), strict=True)  # no negative zero
    rows = [[_Summary(*group, 0) for group in zip(totals, *row, strict=True)] for row in facts]
    for row, groups in zip(values, rows, strict=True):
        for k, group in enumerate(groups):
            if isnan(group.sum):
                groups[k] = _of_numbers(row[starts[k] : stops[k]], group)
    return rows


def _of_numbers(values: Floats, summary: _Summary) -> _Summary:
    """Of a group with ``nan``."""
    numbers = values[~np.isnan(values)]
    missing = summary.total - len(numbers)
    return summary._replace(total=len(numbers), sum=float(numbers.sum()), missing=missing)


def _whole(groups: list[_Summary]) -> _Summary:
    if len(groups) == 1:
        return groups[0]
    seen = [group for group in groups if group.total] or groups[:1]
    return _Summary(
        sum(group.total for group in groups), sum(group.sum for group in groups),
        min(group.min for group in seen), max(group.max for group in seen), sum(group.missing for group in groups),
    )  # fmt: skip


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
