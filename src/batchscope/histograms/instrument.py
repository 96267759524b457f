"""One measured quantity: its lifetime histogram and its windows, fed from one pass over the values.

What is observed is held as it came and sorted into buckets when somebody reads, or when 16,384 are held: a
drain brings few values of many quantities, and sorting few costs as much as sorting thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan

import numpy as np
import numpy.typing as npt

from batchscope.errors import ConfigurationError
from batchscope.histograms.bucketed import BucketedValues, Observations, bucketed, bucketed_groups, checked
from batchscope.histograms.cells import CellGroups, cell_grid, group_by_cell
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.held_values import CAPACITY, Pending
from batchscope.histograms.layout import Floats, bucket_layout
from batchscope.histograms.windowed_histogram import WindowedHistogram

_FEW_CELLS = 8


class Instrument:
    """A lifetime histogram with exact ``thresholds``, and one histogram for each of ``windows`` (seconds).

    Each window must be an integer multiple of the shortest. Buckets are computed once for all of them, 5 ns a
    value in large arrays. Not thread-safe.

    Where the held values span many cells, as in a simulation, whose hours pass in seconds, the windows are not told of
    them before it is clear that a reader would find them: the next values may leave them behind.

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
        self._late: list[Observations] = []  # not told the windows yet
        self._sorting = False
        self._widest = max((multiple for multiple, _ in self._fed), default=1)  # cell, in the shortest window's
        self._reach = cells * self._widest

    @property
    def lifetime(self) -> ExponentialHistogram:
        """Every observation since construction or ``clear()``: the live histogram, to read only, at once."""
        self._sort()
        return self._lifetime

    @property
    def windows(self) -> tuple[float, ...]:
        """The windows, in seconds, as given."""
        return tuple(self._windows)

    def windowed(self, window: float, now: float) -> ExponentialHistogram:
        """A new histogram of (now - window, now]; ConfigurationError if it is not one of ``windows``."""
        held = self._windows.get(window)
        if held is None:
            raise ConfigurationError("window", window, f"one of {self.windows} seconds")
        self._sort()
        self._tell_windows()
        self._sorting = True  # reading moves the window on
        found = held.histogram(now)
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

    def add_numbers(self, values: Floats, at: Floats) -> None:
        """Likewise ``values`` with an instant each, any number of them, sorted at once; ``nan`` is left out."""
        if not len(values):
            return
        low = float(values.min())
        if isnan(low):
            numbers = ~np.isnan(values)
            self.add_numbers(values[numbers], at[numbers])
            return
        self._sort()
        self._sort_in(Observations(values, None, at, low + 0.0, float(values.max()) + 0.0))  # no negative zero

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
        if seen.at.ndim and float(seen.at.max() - seen.at.min()) > _FEW_CELLS * self._grid.window / self._grid.cells:
            self._sort_late(seen)
            return
        self._tell_windows()
        groups = self._groups(seen)
        if groups.order is not None:
            seen = seen.reordered(groups.order)
        whole, batches = bucketed_groups(self._layout, seen, groups.starts)
        self._sorting = True
        self._lifetime.add_counts(whole, self._lifetime.counts_below(seen))
        self._add_cells(groups, batches)
        self._sorting = False

    def _sort_late(self, seen: Observations) -> None:
        """Into the lifetime histogram; what a window may hold at its end is kept until somebody reads it."""
        whole = bucketed(self._layout, seen)
        newest = self._grid.cell_of(float(seen.at.max()))
        left_behind = newest - self._reach - self._widest
        self._late = [late for late in self._late if self._grid.cell_of(float(late.at.max())) > left_behind]
        if sum([len(late.values) for late in self._late]) > CAPACITY:
            self._tell_windows()
        self._sorting = True
        self._lifetime.add_counts(whole, self._lifetime.counts_below(seen))
        self._late.append(seen.take(seen.at > (left_behind - 1) * self._grid.window / self._grid.cells))
        self._sorting = False

    def _tell_windows(self) -> None:
        """Add to the windows what they were not told yet."""
        while self._late:
            late = self._late[0]
            groups = self._groups(late)
            seen = late if groups.order is None else late.reordered(groups.order)
            _, batches = bucketed_groups(self._layout, seen, groups.starts)
            self._sorting = True
            del self._late[0]
            self._add_cells(groups, batches)
            self._sorting = False

    def _add_cells(self, groups: CellGroups, batches: list[BucketedValues]) -> None:
        for cell, batch in zip(reversed(groups.cells), reversed(batches), strict=True):  # newest first: no
            for cells_each, held in self._fed:  # cell is made that the next one would drop
                held.add(batch, cell // cells_each)

    def _groups(self, seen: Observations) -> CellGroups:
        if seen.at.ndim == 0:
            return CellGroups([self._grid.cell_of(float(seen.at))], [0], None, len(seen.values))
        newest = self._grid.cell_of(float(seen.at.max()))
        return group_by_cell(self._grid, seen.at, newest - self._reach)


def _multiple(window: float, shortest: float) -> int:
    """How many of the shortest window's cells make up one of this window's."""
    if window % shortest:
        raise ConfigurationError("windows", window, f"an integer multiple of the shortest, {shortest}")
    return int(window // shortest)
