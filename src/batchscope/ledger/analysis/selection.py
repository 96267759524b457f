"""Exact percentiles of a column in bounded memory: a histogram of the values' leading bits, then a selection.

A sort, and every engine's own exact quantile, holds the whole column. Here the first pass counts how many values
round to each number of ``LEADING_BITS`` significant bits. Rounding keeps the order, so the counts say in which bucket
each wanted value lies, and how far in; the second pass fetches those buckets alone. A bucket that is still too large
(many values nearly equal) is counted once more with more bits, at last by the values themselves: three scans at most.

Values are rounded by ``c - (c - x)`` with ``c = x (2**s + 1)``, which leaves 53 - s bits of x (Veltkamp 1968; Dekker
1971, Numer. Math. 18:224): plain IEEE arithmetic, so any engine that Ibis speaks to can do it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.statistics.distributions import PERCENTILES
from batchscope.statistics.distributions import summarize as summarize_array
from batchscope.statistics.summaries import EMPTY, DistributionSummary

LEADING_BITS = (13, 33)
"""Significant bits of the first count and of the second; after it values count one by one."""
_ALL_BITS = 53
MOST_FETCHED = 1 << 17
"""Values of a bucket that are fetched; of a larger one the bits are counted further."""

Counts = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def rounded(value: Any, bits: int) -> Any:
    """The expression ``value`` to ``bits`` significant bits: within 2**-bits of it, and never out of order."""
    if bits >= _ALL_BITS:
        return value
    scaled = value * float(2 ** (_ALL_BITS - bits) + 1)
    return scaled - (scaled - value)


def summarize_columns(table: Any, names: Sequence[str], span_seconds: float) -> dict[str, DistributionSummary]:
    """``summarize`` of several columns; what is small is fetched together."""
    chosen = table.select(*(table[name].cast("float64") for name in names))
    counts = chosen.agg(**{name: chosen[name].count() for name in names}).to_pyarrow().to_pylist()[0]
    if max(counts.values()) > MOST_FETCHED:
        return {name: summarize(Column(table, name), span_seconds) for name in names}
    values = chosen.to_pyarrow()
    return {name: summarize_array(_floats(values[name]), span_seconds) for name in names}


class Bucket(NamedTuple):
    """The values that round to ``value`` with ``bits`` bits: ``size`` of them, ``below`` smaller ones."""

    value: float
    bits: int
    below: int
    size: int


class Column:
    """The numbers of a column: null is left out. ``weight``: a column that says how often each counts."""

    def __init__(self, table: Any, name: str, weight: str | None = None) -> None:
        chosen = {"value": table[name].cast("float64")}
        if weight is not None:
            chosen["weight"] = table[weight].cast("int64")
        self._table = table.select(**chosen).filter(lambda t: t.value.notnull())
        self._weighted = weight is not None

    def moments(self) -> tuple[int, float, float]:
        """Count, mean (``nan`` of nothing) and the largest value."""
        t = self._table
        total = (t.value * t.weight).sum() if self._weighted else t.value.sum()
        row = t.agg(count=self._count(t), total=total, largest=t.value.max()).to_pyarrow().to_pylist()[0]
        count = int(row["count"] or 0)
        return (count, row["total"] / count, row["largest"]) if count else (0, math.nan, math.nan)

    def histogram(self, bits: int, within: Sequence[Bucket] = ()) -> Any:
        """The expression that counts: ``value``, of ``bits`` bits, and ``n``; of what lies in some buckets."""
        t = self._table.filter(_in(self._table.value, within)) if within else self._table
        return t.group_by(value=rounded(t.value, bits)).agg(n=self._count(t))

    def counts(self, bits: int, within: Sequence[Bucket] = ()) -> Counts:
        """What it finds as arrays, ascending: to sort would cost an engine memory that it need not have."""
        found = self.histogram(bits, within).to_pyarrow()
        values = found["value"].to_numpy().astype(np.float64)
        order = np.argsort(values, kind="stable")
        return values[order], found["n"].to_numpy().astype(np.int64)[order]

    def _count(self, table: Any) -> Any:
        return table.weight.sum() if self._weighted else table.count()


def summarize(column: Column, span_seconds: float = math.nan) -> DistributionSummary:
    """The distribution in exact numbers, percentiles linearly interpolated."""
    count, mean, largest = column.moments()
    if not count:
        return EMPTY
    p50, p90, p95, p99 = percentiles(column, count, PERCENTILES)
    return DistributionSummary(count, mean, p50, p90, p95, p99, largest, span_seconds)


def percentiles(column: Column, count: int, wanted: Iterable[int]) -> list[float]:
    """Hyndman & Fan type 7 of ``count`` values, as ``statistics.distributions.linear_percentile``."""
    places = [divmod((count - 1) * percentile, 100) for percentile in wanted]
    ranks = sorted({place for whole, rest in places for place in ((whole, whole + 1) if rest else (whole,))})
    at = _selected(column, count, ranks)
    return [at[whole] + (at[whole + 1] - at[whole]) * (rest / 100) if rest else at[whole] for whole, rest in places]


def _selected(column: Column, count: int, ranks: Sequence[int]) -> dict[int, float]:
    """The values at these places of the ascending order, from 0 on."""
    if count <= MOST_FETCHED:
        return _fetched(column, _buckets(column.counts(_ALL_BITS), _ALL_BITS, ranks, below=0))
    buckets = _buckets(column.counts(LEADING_BITS[0]), LEADING_BITS[0], ranks, below=0)
    for bits in (*LEADING_BITS[1:], _ALL_BITS):
        small = {bucket for bucket in buckets.values() if bucket.size <= MOST_FETCHED}
        for bucket in set(buckets.values()) - small:
            inside = [rank for rank, of in buckets.items() if of == bucket]
            buckets |= _buckets(column.counts(bits, [bucket]), bits, inside, bucket.below)
    return _fetched(column, buckets)


def _fetched(column: Column, buckets: dict[int, Bucket]) -> dict[int, float]:
    found = {rank: bucket.value for rank, bucket in buckets.items() if bucket.bits >= _ALL_BITS}
    for bits in LEADING_BITS:
        these = {rank: bucket for rank, bucket in buckets.items() if bucket.bits == bits}
        if not these:
            continue
        values, counts = column.counts(_ALL_BITS, sorted(set(these.values())))
        first = rounded(values, bits)
        for rank, bucket in these.items():
            inside = first == bucket.value
            place = np.searchsorted(np.cumsum(counts[inside]), rank - bucket.below, side="right")
            found[rank] = float(values[inside][place])
    return found


def _buckets(counts: Counts, bits: int, ranks: Sequence[int], below: int) -> dict[int, Bucket]:
    """In which bucket each rank lies."""
    values, sizes = counts
    until = below + np.cumsum(sizes)
    places = np.searchsorted(until, ranks, side="right")
    return {
        rank: Bucket(float(values[place]), bits, int(until[place] - sizes[place]), int(sizes[place]))
        for rank, place in zip(ranks, places.tolist(), strict=True)
    }


def _in(value: Any, buckets: Sequence[Bucket]) -> Any:
    """Whether a value lies in one of ``buckets``, which all are of as many bits."""
    return rounded(value, buckets[0].bits).isin([bucket.value for bucket in buckets])


def _floats(column: Any) -> npt.NDArray[np.float64]:
    """An Arrow column of numbers; ``nan`` where it has none."""
    found: npt.NDArray[np.float64] = column.to_numpy().astype(np.float64)
    return found
