"""One measured quantity: its lifetime histogram and its windows, fed from one pass over the values.

What is observed is held as it came and sorted into buckets when somebody reads, or when 16,384 are held: a
drain brings few values of many quantities, and sorting few costs as much as sorting thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from batchscope.errors import ConfigurationError
from batchscope.histograms.bucketed import VALUES_AT_ONCE, BucketedValues, Observations, bucketed_groups, checked
from batchscope.histograms.cells import CellGroups, cell_grid, group_by_cell
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.held_values import CAPACITY, Pending
from batchscope.histograms.layout import Floats, Ints, bucket_layout
from batchscope.histograms.windowed_histogram import WindowedHistogram

_FEW_CELLS = 8
"""Of the shortest window: values of more than these at once come from a simulation, or after a long pause."""


class Instrument:
    """A lifetime histogram with exact ``thresholds``, and one histogram for each of ``windows`` (seconds).

    Each window must be an integer multiple of the shortest. Buckets are computed once for all of them, 5 ns a
    value in large arrays. Not thread-safe.

    Of values that span many cells, as a simulation's do, whose hours pass in seconds, the windows hear when somebody
    reads them: by then most were left behind.

    An exception in the middle (Ctrl-C in a read) can cost the observations that were being sorted, and the windows
    begin anew; the lifetime histogram keeps what it had, and agrees with itself.
    """

    def __init__(
        self,
        scale: int = 6,
        *,
        thresholds: Iterable[float] = (),
        windows: Sequence[float] = (60.0, 300.0),
        cells: int = 60,
        max_buckets: int = 640,
    ) -> None:
        self._layout = bucket_layout(scale)
        self._lifetime = ExponentialHistogram(scale, thresholds=thresholds)
        self._windows = {
            float(window): WindowedHistogram(window, cells=cells, scale=scale, max_buckets=max_buckets)
            for window in windows
        }
        self._grid = cell_grid(min(self._windows, default=60.0), cells)
        self._fed = [(_multiple(window, self._grid.window), held) for window, held in self._windows.items()]
        self._pending = Pending()
        self._sorting = False
        self._widest = max((multiple for multiple, _ in self._fed), default=1)  # cell, in the shortest window's
        self._reach = cells * self._widest
        self._late: list[Observations] = []  # the lifetime histogram has them, the windows not yet

    @property
    def lifetime(self) -> ExponentialHistogram:
        """Every observation since construction or ``clear()``: the live histogram, to read only, at once."""
        self._sort()
        return self._lifetime

    def windowed(self, now: float) -> dict[float, ExponentialHistogram]:
        """A new histogram of (now - window, now] for each window, in the order given."""
        self._sort()
        if self._late:
            self._tell_windows()
        cell = self._grid.cell_of(now)
        found: dict[float, ExponentialHistogram] = {}
        self._sorting = True  # reading moves the windows on
        for window, (cells_each, held) in zip(self._windows, self._fed, strict=True):
            found[window] = held.histogram(cell // cells_each)
        self._sorting = False
        return found

    def clear(self) -> None:
        """Forget every observation."""
        self._pending.clear()
        self._late.clear()
        self._lifetime.clear()
        for held in self._windows.values():
            held.clear()

    def observe(self, values: npt.ArrayLike, at: npt.ArrayLike, counts: npt.ArrayLike | None = None) -> None:
        """Add ``values``, each ``counts`` times, seen at the instant ``at``, or at one each in any order.

        Those older than a window do not enter it; an instant later than all before is the window's present.
        InvalidRecordError, and nothing is added, where a value, count or instant is not one.
        """
        seen = checked(values, counts, at)
        if len(seen.values):
            for instant in (seen.at.min(), seen.at.max()):
                self._grid.cell_of(float(instant))
            self.hold(seen)

    def hold(self, seen: Observations) -> None:
        """Add observations, at least one, that were checked, their instants too; they are copied."""
        if not self._pending.add(seen):
            self._sort()
            if not self._pending.add(seen):
                self._sort_in(seen)

    @staticmethod
    def observe_together(instruments: Sequence[Instrument], quantities: Sequence[Floats], at: Floats) -> None:
        """Add ``quantities[k]``, contiguous, to ``instruments[k]``, each with the instants ``at``; sorted at once.

        They are >= 0 and finite, or ``nan``, which is left out; there may be none. The instruments are alike but for
        their thresholds. It costs less than one after the other: the calls cost, not the values.
        """
        if len(at) and instruments:
            instruments[0]._feed(instruments, quantities, None, at)  # noqa: SLF001  (they are alike)

    def _sort(self) -> None:
        if self._sorting:
            self._mend()
        if self._pending.size:
            self._sort_in(self._pending.take())

    def _mend(self) -> None:
        """What was sorted last did not come to its end."""
        self._lifetime.recount()
        self._late.clear()
        for held in self._windows.values():
            held.clear()
        self._sorting = False

    def _sort_in(self, seen: Observations) -> None:
        self._feed((self,), (seen.values,), seen.counts, seen.at)

    def _feed(
        self, instruments: Sequence[Instrument], quantities: Sequence[Floats], counts: Ints | None, at: Floats
    ) -> None:
        """As many quantities at a time as have temporary arrays that stay in a processor's cache."""
        newest = float(at.max())
        if (newest - float(at.min())) * self._grid.cells > _FEW_CELLS * self._grid.window:
            self._feed_late(instruments, quantities, counts, at, newest)
            return
        for each in instruments:
            each._tell_windows()  # noqa: SLF001  (one of us)
        cells, starts, order, size = self._groups(at, newest, len(quantities[0]))
        if order is not None and counts is not None:
            counts = counts[order]
        at_once = max(VALUES_AT_ONCE // size, 1)
        for first in range(0, len(instruments), at_once):
            some = quantities[first : first + at_once]
            values = some[0][np.newaxis] if len(some) == 1 else np.array(some)
            if order is not None:
                values = values.take(order, axis=1)
            found = bucketed_groups(self._layout, values, counts, starts)
            for each, row, (whole, batches) in zip(instruments[first : first + at_once], values, found, strict=True):
                if whole.total:
                    each.add(whole, each.lifetime.counts_below(Observations(row, counts, at)), cells, batches)

    def _feed_late(
        self,
        instruments: Sequence[Instrument],
        quantities: Sequence[Floats],
        counts: Ints | None,
        at: Floats,
        newest: float,
    ) -> None:
        """Into the lifetime histograms; of the rest what no window has left behind by now is kept."""
        behind = self._grid.cell_of(newest) - self._reach - self._widest
        near = at > (behind - 1) * self._grid.window / self._grid.cells
        for each, values in zip(instruments, quantities, strict=True):
            ((whole, _),) = bucketed_groups(self._layout, values[np.newaxis], counts, (0,))
            if whole.total:
                each.add(whole, each.lifetime.counts_below(Observations(values, counts, at)), [], [])
                late = Observations(values[near], None if counts is None else counts[near], at[near])
                each._keep(late, behind)  # noqa: SLF001  (one of us)

    def _keep(self, late: Observations, behind: int) -> None:
        """For the windows, of which none reaches back to the cell ``behind``; no more than are held."""
        self._late = [each for each in self._late if self._grid.cell_of(float(each.at.max())) > behind]
        if sum([len(each.values) for each in self._late]) > CAPACITY:
            self._tell_windows()
        self._late.append(late)

    def _tell_windows(self) -> None:
        """Add to the windows what they were not told yet."""
        while self._late:
            values, counts, at = self._late[0]
            cells, starts, order, _ = self._groups(at, float(at.max()), len(values))
            if order is not None:
                values, counts = values[order], None if counts is None else counts[order]
            ((_, batches),) = bucketed_groups(self._layout, values[np.newaxis], counts, starts)
            self._sorting = True
            del self._late[0]
            self._add_cells(cells, batches)
            self._sorting = False

    def add(self, whole: BucketedValues, below: Ints, cells: list[int], batches: list[BucketedValues]) -> None:
        """Add what is in buckets: all of it, the counts up to each threshold, and of each of ``cells`` its part."""
        self._sorting = True
        self._lifetime.add_counts(whole, below)
        self._add_cells(cells, batches)
        self._sorting = False

    def _add_cells(self, cells: list[int], batches: list[BucketedValues]) -> None:
        for cell, batch in zip(reversed(cells), reversed(batches), strict=True):  # newest first: no
            if batch.total:  # cell is made that the next one would drop
                for cells_each, held in self._fed:
                    held.add(batch, cell // cells_each)

    def _groups(self, at: Floats, newest: float, size: int) -> CellGroups:
        cell = self._grid.cell_of(newest)
        return group_by_cell(self._grid, at, cell - self._reach) if at.ndim else CellGroups([cell], [0], None, size)


def _multiple(window: float, shortest: float) -> int:
    """How many of the shortest window's cells make up one of this window's."""
    if window % shortest:
        raise ConfigurationError("windows", window, f"an integer multiple of the shortest, {shortest}")
    return int(window // shortest)
