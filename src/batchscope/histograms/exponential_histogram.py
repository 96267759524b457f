"""A histogram whose quantiles are right to a fixed relative error, and that adds up exactly.

Guarantee: with b = 2^(2^-scale) the estimate of a quantile lies within (b - 1) / (b + 1) of the nearest-rank
value, for values in [1e-9, 1e9): 1.08 % at scale 5, 0.54 % at 6, 0.068 % at 9. Buckets are OpenTelemetry's (a
scale here is a schema in Prometheus, whose bucket i + 1 is our i); see ``bucket_layout``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from math import isfinite, nan
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.errors import ConfigurationError, InvalidRecordError, MergeError
from batchscope.histograms import bucketed as bucketed_values
from batchscope.histograms import codec as histogram_codec
from batchscope.histograms.bucketed import MOST_AT_ONCE, BucketedValues, Observations
from batchscope.histograms.layout import HIGHEST, LOWEST, MIN_SCALE, Floats, Ints, bucket_layout
from batchscope.histograms.store import BucketStore

_NO_COUNTS: Ints = np.zeros(0, dtype=np.int64)


class ExponentialHistogram:
    """Counts of observations >= 0 in base-2 exponential buckets, with exact count, sum, min and max.

    ``scale``: -4 (coarsest) .. 12. ``thresholds``: values of which ``cumulative_count_at`` knows exactly how
    many observations do not exceed them. ``max_buckets``: where the data need more, the scale is lowered
    (None: all that [1e-9, 1e9) has, 60 * 2^scale). Smaller values are counted in ``zero_count``, larger
    ones in ``overflow_count``. Not thread-safe. ConfigurationError on a wrong argument.
    """

    __slots__ = (
        "_below",  # never changed in place
        "_shared",  # whether a copy has the same store: then it is not changed in place either
        "_store",
        "_thresholds",
        "count",
        "max",
        "min",
        "overflow_count",
        "sum",
        "zero_count",
    )

    def __init__(self, scale: int = 6, *, thresholds: Iterable[float] = (), max_buckets: int | None = None) -> None:
        self._thresholds = _checked_thresholds(thresholds)
        self._begin(BucketStore(bucket_layout(scale).scale, max_buckets))

    def _begin(self, store: BucketStore) -> None:
        self._store, self._shared = store, False
        self._below: Ints = np.zeros(len(self._thresholds), dtype=np.int64)
        self.count = 0
        self.zero_count = 0
        self.overflow_count = 0
        self.sum = 0.0
        self.min = nan
        self.max = nan

    def clear(self) -> None:
        """Forget every observation; scale and thresholds stay."""
        self._begin(BucketStore(self._store.scale, self._store.max_buckets))

    @property
    def scale(self) -> int:
        """The scale of the counts: as constructed, or lower after a merge or for ``max_buckets``."""
        return self._store.scale

    @property
    def relative_error(self) -> float:
        """The largest relative error of a quantile, (b - 1) / (b + 1)."""
        return bucket_layout(self._store.scale).relative_error

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The values that ``cumulative_count_at`` answers for, ascending."""
        return self._thresholds

    @property
    def offset(self) -> int:
        """OpenTelemetry's index of the bucket of ``counts[0]``; 0 when there is none."""
        return self._store.offset

    @property
    def counts(self) -> Ints:
        """The buckets' counts from the first to the last that is not empty: a copy."""
        return self._store.counts.copy()

    @property
    def live_counts(self) -> Ints:
        """``counts`` without a copy: to read only, at once."""
        return self._store.counts

    @property
    def mean(self) -> float:
        """The exact mean, sum / count; ``nan`` when empty."""
        return self.sum / self.count if self.count else nan

    def record(self, value: float, count: int = 1) -> None:
        """Add ``count`` observations of ``value``; InvalidRecordError if either is negative or no number."""
        if not isinstance(count, int | np.integer) or not 0 <= count <= MOST_AT_ONCE:
            raise InvalidRecordError(f"count {count!r}: expected an integer from 0 to {MOST_AT_ONCE}")
        value = bucketed_values.one_number(value)
        count = int(count)
        bucket = bucketed_values.bucket_of(bucket_layout(self.scale), value)
        if not count:
            return
        if value < LOWEST:
            self.zero_count += count
        elif value >= HIGHEST:
            self.overflow_count += count
        else:
            self._own_store().increment(bucket, count)
        self._extend(count, value * count, value, value)
        if self._thresholds:
            within = [count * (value <= threshold) for threshold in self._thresholds]
            self._below = self._below + np.array(within, dtype=np.int64)

    def record_many(self, values: npt.ArrayLike, counts: npt.ArrayLike | None = None) -> None:
        """Add each of ``values``, ``counts`` times where given; all, or none and InvalidRecordError."""
        seen = bucketed_values.checked(values, counts)
        if len(seen.values):
            batch = bucketed_values.bucketed(bucket_layout(self.scale), seen)
            self.add_counts(batch, self.counts_below(seen))

    def bucket_indices(self, values: npt.ArrayLike) -> Ints:
        """OpenTelemetry's bucket of each value, at this scale; one beyond the range where outside."""
        seen = bucketed_values.checked(values)
        if not len(seen.values):
            return np.zeros(0, dtype=np.int64)
        return bucketed_values.indices(bucket_layout(self.scale), seen.values)

    def counts_below(self, seen: Observations) -> Ints:
        """How many of ``seen`` do not exceed each threshold."""
        values, counts = seen.values, seen.counts
        below = np.zeros(len(self._thresholds), dtype=np.int64)
        for place, threshold in enumerate(self._thresholds):
            within = values <= threshold
            below[place] = np.count_nonzero(within) if counts is None else counts[within].sum()
        return below

    def add_counts(self, batch: BucketedValues, below: Ints | None = None) -> None:
        """Add observations bucketed before, at any scale; with thresholds ``below`` is due (MergeError)."""
        if self._thresholds:
            if below is None or len(below) != len(self._thresholds):
                raise MergeError(f"counts below {self._thresholds} are due: got {below!r}")
            self._below = self._below + below
        if not batch.total:
            return
        store = self._store.copy()  # whatever comes between, the buckets are those of before or of after
        store.add(batch.scale, batch.offset, batch.counts)
        self._store, self._shared = store, False
        self.zero_count += batch.zero_count
        self.overflow_count += batch.overflow_count
        self._extend(batch.total, batch.sum, batch.min, batch.max)

    def recount(self) -> None:
        """Make the count that of the buckets: after an exception in the middle of an addition."""
        self.count = int(self._store.counts.sum()) + self.zero_count + self.overflow_count

    def _extend(self, count: int, total: float, low: float, high: float) -> None:
        self.count += count
        self.sum += total
        if not self.min <= low:  # also when nan: the first
            self.min = low
        if not self.max >= high:
            self.max = high

    def merge(self, other: ExponentialHistogram) -> None:
        """Add all of ``other``'s observations, as if they had been recorded here; the coarser scale remains.

        MergeError if ``other`` is no histogram or has other thresholds; then nothing has changed.
        """
        if not isinstance(other, ExponentialHistogram):
            raise MergeError(f"cannot merge {other!r} into {self!r}: expected an ExponentialHistogram")
        if other._thresholds != self._thresholds:
            raise MergeError(
                f"cannot merge thresholds {other._thresholds} into {self._thresholds}: expected equal ones"
            )
        if self.count + other.count >= 2**63:
            raise MergeError(f"cannot merge {other.count} observations into {self.count}: expected < 2^63 in all")
        self._own_store().downscale(min(self._store.scale, other._store.scale))
        self.add_counts(other._bucketed(other._store.counts), other._below)

    def bucketed(self) -> BucketedValues:
        """All observations as one batch, for ``add_counts`` of another histogram."""
        return self._bucketed(self.counts)

    def _bucketed(self, counts: Ints) -> BucketedValues:
        return BucketedValues(
            self._store.scale, self._store.offset, counts, self.zero_count, self.overflow_count,
            self.count, self.sum, self.min, self.max,
        )  # fmt: skip

    def copy(self) -> ExponentialHistogram:
        """An independent histogram with the same observations."""
        twin = object.__new__(ExponentialHistogram)
        twin._store, twin._shared = self._store, True
        self._shared = True
        twin._thresholds, twin._below = self._thresholds, self._below
        twin.count, twin.zero_count, twin.overflow_count = self.count, self.zero_count, self.overflow_count
        twin.sum, twin.min, twin.max = self.sum, self.min, self.max
        return twin

    def without_thresholds(self) -> ExponentialHistogram:
        """An independent histogram with the same observations, but no exact counts at thresholds."""
        return ExponentialHistogram.of(self._bucketed(self._store.counts))

    @staticmethod
    def of(batch: BucketedValues) -> ExponentialHistogram:
        """A histogram of observations that are in buckets, at their scale."""
        histogram = object.__new__(ExponentialHistogram)
        histogram._store, histogram._shared = BucketStore.of(batch.scale, batch.offset, batch.counts), False
        histogram._thresholds, histogram._below = (), _NO_COUNTS
        histogram.count, histogram.zero_count, histogram.overflow_count = (
            batch.total,
            batch.zero_count,
            batch.overflow_count,
        )
        histogram.sum, histogram.min, histogram.max = batch.sum, batch.min, batch.max
        return histogram

    def _own_store(self) -> BucketStore:
        if self._shared:
            self._store, self._shared = self._store.copy(), False
        return self._store

    def downscaled(self, scale: int) -> ExponentialHistogram:
        """The same observations in coarser buckets, exactly; ConfigurationError if ``scale`` is finer."""
        if type(scale) is not int or not MIN_SCALE <= scale <= self.scale:
            raise ConfigurationError("scale", scale, f"an integer from {MIN_SCALE} to {self.scale} (the own scale)")
        coarse, store = self.copy(), self._store.copy()
        store.downscale(scale)
        coarse._store, coarse._shared = store, False  # noqa: SLF001  (one of us)
        return coarse

    def quantile(self, q: float) -> float:
        """The nearest-rank quantile, 0 <= q <= 1, within ``relative_error``; the extreme ranks are exact.

        ``nan`` when empty; ``min`` where the rank falls below 1e-9, ``max`` from 1e9 on.
        """
        return self.quantiles((q,))[0]

    def quantiles(self, qs: Iterable[float]) -> list[float]:
        """``quantile`` of each of ``qs``, for little more than the price of one."""
        fractions = list(map(_fraction, map(float, qs)))
        if not self.count:
            return [nan] * len(fractions)
        ranks = [-(-part * self.count // of) for part, of in fractions]
        reached = self._store.counts.cumsum()  # observations up to each bucket's end
        reached += self.zero_count
        places = reached.searchsorted(ranks)
        buckets = places + self._store.offset
        low, high = bucket_layout(self._store.scale).lower_edges(np.concatenate((buckets, buckets + 1))).reshape(2, -1)
        estimates: Floats = (2.0 * low * high / (low + high)).clip(self.min, self.max)
        ranked = np.array(ranks)
        estimates[(places == len(reached)) | (ranked == self.count)] = self.max
        estimates[ranked <= max(1, self.zero_count)] = self.min
        return list(map(float, estimates))

    def buckets(self) -> Iterator[tuple[float, float, int]]:
        """(lower, upper, count) of each bucket that is not empty, ascending; upper is inclusive and exact."""
        edges = bucket_layout(self.scale).edges(self.offset, len(self._store.counts) + 1).tolist()
        for place, count in enumerate(self._store.counts.tolist()):
            if count:
                yield edges[place], edges[place + 1], count

    def cumulative_count_at(self, threshold: float) -> int:
        """How many observations are <= ``threshold``, exactly; ConfigurationError if it was not declared."""
        if threshold not in self._thresholds:
            raise ConfigurationError("threshold", threshold, f"one of {self._thresholds}, declared at construction")
        return int(self._below[self._thresholds.index(threshold)])

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able document of everything; ``None`` stands for what is not a number."""
        below = self._below.tolist()
        return histogram_codec.encode(self.bucketed(), list(zip(self._thresholds, below, strict=True)))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ExponentialHistogram:
        """What ``to_dict`` wrote; DecodeError on anything that it cannot have written."""
        batch, below = histogram_codec.decode(document)
        histogram = cls(batch.scale, thresholds=below)
        histogram.add_counts(batch, np.array(list(below.values()), dtype=np.int64))
        return histogram

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExponentialHistogram):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"ExponentialHistogram(scale={self.scale}, count={self.count}, min={self.min}, max={self.max})"


def _checked_thresholds(thresholds: Iterable[float]) -> tuple[float, ...]:
    distinct = tuple(sorted({float(threshold) for threshold in thresholds}))
    for threshold in distinct:
        if not (isfinite(threshold) and threshold >= 0):
            raise ConfigurationError("thresholds", threshold, "finite numbers >= 0")
    return distinct


@lru_cache(maxsize=256)
def _fraction(q: float) -> tuple[int, int]:
    """The quantile as the decimal fraction that was written: 0.55 of 100 is rank 55, not 56."""
    if not 0.0 <= q <= 1.0:
        raise ConfigurationError("q", q, "a number from 0 to 1")
    return Fraction(str(q)).as_integer_ratio()
