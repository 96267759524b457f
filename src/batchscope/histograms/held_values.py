"""Observations as they came, until they are worth sorting into buckets: the calls cost, not the values."""

from __future__ import annotations

import numpy as np

from batchscope.histograms.bucketed import MOST_AT_ONCE, Observations
from batchscope.histograms.layout import Floats, Ints

CAPACITY = 16_384
"""Observations held at most: sorting that many costs 2 ns each, and their arrays stay in the cache."""
_FIRST_ALLOCATION = 64


class Pending:
    """Up to ``CAPACITY`` observations, copied; memory grows by doubling and is kept. Not thread-safe."""

    __slots__ = ("_at", "_counts", "_total", "_values", "size")

    def __init__(self) -> None:
        self._values: Floats = np.empty(0)
        self._at: Floats = np.empty(0)
        self._counts: Ints | None = None
        self.clear()

    def clear(self) -> None:
        """Forget them."""
        self.size = 0
        self._total = 0

    def add(self, seen: Observations) -> bool:
        """Hold these, too; False, and nothing is held, where they do not fit."""
        stop = self.size + len(seen.values)
        total = self._total + (len(seen.values) if seen.counts is None else int(seen.counts.sum()))
        if stop > CAPACITY or total > MOST_AT_ONCE:
            return False
        if stop > len(self._values):
            self._grow(stop)
        part = slice(self.size, stop)
        self._values[part] = seen.values
        self._at[part] = seen.at
        self._count(part, seen.counts)
        self.size, self._total = stop, total
        return True

    def take(self) -> Observations:
        """All of them, at least one; valid until the next ``add``, which starts anew."""
        counts = None if self._counts is None or self._total == self.size else self._counts[: self.size]
        seen = Observations(self._values[: self.size], counts, self._at[: self.size])
        self.clear()
        return seen

    def _count(self, part: slice, counts: Ints | None) -> None:
        if self._counts is None or len(self._counts) < len(self._values):
            if self._counts is None and counts is None:
                return
            ones = np.ones(len(self._values), dtype=np.int64)
            if self._counts is not None:
                ones[: len(self._counts)] = self._counts
            self._counts = ones
        self._counts[part] = 1 if counts is None else counts

    def _grow(self, needed: int) -> None:
        """Each array by itself: wherever an exception comes between them, the next ``add`` goes on from there."""
        size = min(max(2 * len(self._values), needed, _FIRST_ALLOCATION), CAPACITY)
        self._at = np.concatenate((self._at, np.zeros(size - len(self._at))))
        self._values = np.concatenate((self._values, np.zeros(size - len(self._values))))
