"""A histogram of the last seconds: it forgets cell by cell, and its memory is bounded whatever comes."""

from __future__ import annotations

from functools import cache
from math import inf
from operator import attrgetter

from batchscope.histograms.bucketed import BucketedValues
from batchscope.histograms.cells import cell_grid
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.layout import bucket_layout
from batchscope.histograms.store import BucketStore, joins_needed


class WindowedHistogram:
    """The observations of (now - W, now] as an ``ExponentialHistogram``, in cells as ``cells`` defines them.

    Each cell and the window's total hold at most ``max_buckets`` buckets: data that spread wider lower the
    scale, exactly; when the cells that needed it have left the window, the finer scale comes back. The newest
    instant seen, in an observation or a reading, is the present; it never goes back. Not thread-safe.
    """

    def __init__(self, window_seconds: float, *, cells: int = 60, scale: int = 6, max_buckets: int = 640) -> None:
        self.grid = cell_grid(window_seconds, cells)
        self._scale = bucket_layout(scale).scale
        self._total = BucketStore(scale, max_buckets)
        self._cells: dict[int, _Cell] = {}  # those that hold observations
        self._newest: int | None = None

    @property
    def scale(self) -> int:
        """The scale at this moment."""
        return self._total.scale

    def clear(self) -> None:
        """Forget every observation and the present."""
        self._newest = None
        self._forget()

    def add(self, batch: BucketedValues, cell: int) -> None:
        """Add observations of one cell; ignored when the cell has left the window."""
        if self._newest is None or cell > self._newest:
            self._advance(cell)
        elif cell <= self._newest - self.grid.cells:
            return
        held = self._cells.get(cell)
        if held is None:
            held = self._cells[cell] = _Cell(self._scale, self._total.max_buckets)
        fit = batch.coarser(self._total.scale) if batch.scale > self._total.scale else batch
        held.add(fit if held.store.scale <= fit.scale else batch)
        if held.store.scale < self._total.scale:  # a cell has to be as fine, to be taken back one day
            self._total.downscale(held.store.scale)
        self._total.add(fit.scale, fit.offset, fit.counts)

    def histogram(self, cell: int) -> ExponentialHistogram:
        """The window that ends with ``cell``, as a new histogram; its ``relative_error`` tells the present scale."""
        if self._newest is None or cell > self._newest:
            self._advance(cell)
        return ExponentialHistogram.of(self._collected()) if self._cells else _empty(self._scale).copy()

    def _collected(self) -> BucketedValues:
        total = self._total
        total.tighten()
        zeros, overflows, counts, sums, lows, highs = zip(*map(_NUMBERS, self._cells.values()), strict=True)
        return BucketedValues(
            total.scale,
            total.offset,
            total.counts,
            sum(zeros),
            sum(overflows),
            sum(counts),
            sum(sums),
            min(lows),
            max(highs),
        )

    def _advance(self, newest: int) -> None:
        self._newest = newest
        oldest = newest - self.grid.cells
        expired = [cell for cell in self._cells if cell <= oldest]
        if not expired:
            return
        if len(expired) == len(self._cells):
            self._forget()
            return
        for cell in expired:
            self._total.subtract(self._cells.pop(cell).store)
        if self._total.scale < self._scale:
            self._refine()

    def _forget(self) -> None:
        self._cells.clear()
        self._total = BucketStore(self._scale, self._total.max_buckets)

    def _refine(self) -> None:
        """Add the total up again where the cells that remain fit at a finer scale."""
        stores = [cell.store for cell in self._cells.values() if cell.store.used]
        scale = min((store.scale for store in stores), default=self._scale)
        low = min((store.offset >> (store.scale - scale) for store in stores), default=0)
        high = max((store.last >> (store.scale - scale) for store in stores), default=0)
        scale -= joins_needed(low, high, self._total.max_buckets)
        if scale == self._total.scale:
            return
        self._total = BucketStore(scale, self._total.max_buckets)
        for store in stores:
            self._total.add(store.scale, store.offset, store.counts)


@cache
def _empty(scale: int) -> ExponentialHistogram:
    """To be copied."""
    return ExponentialHistogram(scale)


_NUMBERS = attrgetter("zero_count", "overflow_count", "count", "sum", "min", "max")


class _Cell:
    """What one cell of time holds."""

    __slots__ = ("count", "max", "min", "overflow_count", "store", "sum", "zero_count")

    def __init__(self, scale: int, max_buckets: int) -> None:
        self.store = BucketStore(scale, max_buckets)
        self.count = 0
        self.zero_count = 0
        self.overflow_count = 0
        self.sum = 0.0
        self.min = inf
        self.max = 0.0

    def add(self, batch: BucketedValues) -> None:
        self.store.add(batch.scale, batch.offset, batch.counts)
        self.count += batch.total
        self.zero_count += batch.zero_count
        self.overflow_count += batch.overflow_count
        self.sum += batch.sum
        self.min = min(self.min, batch.min)
        self.max = max(self.max, batch.max)
