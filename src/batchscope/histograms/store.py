"""Counts of buckets in one dense array that covers the buckets seen, and grows or coarsens as needed."""

from __future__ import annotations

import sys

import numpy as np

from batchscope.errors import ConfigurationError
from batchscope.histograms.layout import Ints

_MARGIN = 8  # buckets allocated beyond a new one on either side, so that growth is rare
UNLIMITED = sys.maxsize
MIN_BUCKETS = 8  # enough for the whole range at the coarsest scale


class BucketStore:
    """int64 counts of the buckets of one scale, in at most ``max_buckets`` of them.

    What does not fit is made to fit: the scale is lowered, exactly (a coarser bucket is 2^k finer ones). ``offset`` and
    ``last`` are the lowest and the highest bucket that ever held a count: 0 and -1 where none did.
    """

    __slots__ = ("_array", "_first", "last", "max_buckets", "offset", "scale")

    def __init__(self, scale: int, max_buckets: int | None = None) -> None:
        if max_buckets is not None and max_buckets < MIN_BUCKETS:
            raise ConfigurationError("max_buckets", max_buckets, f"None or an integer >= {MIN_BUCKETS}")
        self.scale = scale
        self.max_buckets = UNLIMITED if max_buckets is None else max_buckets
        self.clear()

    def clear(self) -> None:
        """Forget every count; the scale stays."""
        self._array: Ints = np.zeros(0, dtype=np.int64)
        self._first = 0  # the bucket of _array[0]
        self.offset, self.last = 0, -1

    @staticmethod
    def of(scale: int, offset: int, counts: Ints) -> BucketStore:
        """A store with a copy of these counts, of the buckets from ``offset`` on."""
        store = object.__new__(BucketStore)
        store.scale, store.max_buckets = scale, UNLIMITED
        store._array, store._first = counts.copy(), offset
        store.offset, store.last = (offset, offset + len(counts) - 1) if len(counts) else (0, -1)
        return store

    def copy(self) -> BucketStore:
        """An independent store with the same counts and limits."""
        twin = object.__new__(BucketStore)
        twin.scale, twin.max_buckets = self.scale, self.max_buckets
        twin._array, twin._first, twin.offset, twin.last = self._array.copy(), self._first, self.offset, self.last
        return twin

    @property
    def used(self) -> bool:
        """Whether any bucket is in use."""
        return self.last >= self.offset

    @property
    def counts(self) -> Ints:
        """The counts of the buckets in use, as a view."""
        return self._array[self.offset - self._first : self.last - self._first + 1]

    def increment(self, bucket: int, count: int) -> None:
        """Add ``count`` to one bucket of the store's own scale."""
        place = bucket - self._first
        if self.offset <= bucket <= self.last:
            self._array[place] += count
        else:
            self.add(self.scale, bucket, np.array([count], dtype=np.int64))

    def add(self, scale: int, offset: int, counts: Ints) -> None:
        """Add the counts of buckets ``offset`` ... of ``scale``; their first and last must not be 0."""
        if not len(counts):
            return
        if scale < self.scale:
            self.downscale(scale)
        high = offset + len(counts) - 1
        by = scale - self.scale
        if offset >> by < self.offset or high >> by > self.last:
            self._make_room(scale, offset, high)
            by = scale - self.scale
        if by:
            offset, counts = downscaled(offset, counts, by)
        place = offset - self._first
        self._array[place : place + len(counts)] += counts

    def subtract(self, other: BucketStore) -> None:
        """Take back what was added before; ``other`` must not be coarser than this store."""
        offset, counts = downscaled(other.offset, other.counts, other.scale - self.scale)
        place = offset - self._first
        self._array[place : place + len(counts)] -= counts

    def tighten(self) -> None:
        """Drop empty buckets at both ends, which ``subtract`` leaves behind."""
        (held,) = self.counts.nonzero()
        if not len(held):
            self.clear()
            return
        low = self.offset
        self.offset, self.last = low + int(held[0]), low + int(held[-1])

    def downscale(self, scale: int) -> None:
        """Join buckets until the store has ``scale``, which must not be finer than its own."""
        by = self.scale - scale
        if not by:
            return
        self.scale = scale
        if self.used:
            self._first, self._array = downscaled(self.offset, self.counts, by)
            self.offset, self.last = self.offset >> by, self.last >> by

    def _make_room(self, scale: int, low: int, high: int) -> None:
        """Cover the buckets low..high of ``scale``, not coarser than the own, which falls as need be."""
        by = scale - self.scale
        low, high = low >> by, high >> by
        if self.used:
            if max(high, self.last) - min(low, self.offset) >= self.max_buckets:
                self.tighten()
            if self.used:
                low, high = min(low, self.offset), max(high, self.last)
        by = joins_needed(low, high, self.max_buckets)
        self.downscale(self.scale - by)
        self._reserve(low >> by, high >> by)

    def _reserve(self, low: int, high: int) -> None:
        end = self._first + len(self._array)
        if not len(self._array):
            self._array, self._first = np.zeros(high - low + 1 + 2 * _MARGIN, dtype=np.int64), low - _MARGIN
        elif low < self._first or high >= end:
            first = low - _MARGIN if low < self._first else self._first
            stop = high + 1 + _MARGIN if high >= end else end
            grown = np.zeros(stop - first, dtype=np.int64)
            grown[self._first - first : end - first] = self._array
            self._array, self._first = grown, first
        self.offset, self.last = low, high


def joins_needed(low: int, high: int, max_buckets: int) -> int:
    """By how much the scale has to fall until the buckets low..high are at most ``max_buckets``."""
    by = 0
    while (high >> by) - (low >> by) >= max_buckets:
        by += 1
    return by


def downscaled(offset: int, counts: Ints, by: int) -> tuple[int, Ints]:
    """(offset, counts) of the same observations at a scale coarser by ``by``: bucket i becomes i >> by."""
    if not by or not len(counts):
        return offset >> by, counts
    starts = np.arange(-(offset & ((1 << by) - 1)), len(counts), 1 << by)
    starts[0] = 0
    return offset >> by, np.add.reduceat(counts, starts)
