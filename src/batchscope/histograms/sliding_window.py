"""Counts over the last seconds, in memory that does not depend on how much happened."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite, nan
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.errors import ConfigurationError
from batchscope.histograms.cells import CellGroups, cell_grid, group_by_cell, instants


class SlidingWindowCounter:
    """How many in the window (now - W, now], and how many a second. Time is an argument.

    Counts are held in ``cells`` cells of W / cells seconds (see ``cells``): exact where ``now`` is a cell's
    end, else the old edge is less than one cell short. The present never goes back: an earlier ``now`` is
    read as the latest one given. A count whose instant lies after the present is kept apart and shows when
    its time has come. Not thread-safe.

    ``start``: the instant from which time counts, for rates.
    """

    def __init__(self, window_seconds: float = 60, *, cells: int = 60, start: float = 0.0) -> None:
        self._grid = cell_grid(window_seconds, cells)
        self.reset(start)

    @property
    def window_seconds(self) -> float:
        """The length of the window, W."""
        return self._grid.window

    def reset(self, now: float) -> None:
        """Forget every count; time counts from ``now`` on."""
        if not isfinite(now):
            raise ConfigurationError("now", now, "seconds of the clock")
        self._start = self._now = now
        self._present = self._grid.cell_of(now)
        self._counts: dict[int, int] = {}  # by cell

    def add(self, count: int, now: float) -> None:
        """Add ``count`` at the instant ``now``, which is the present."""
        self._advance(now)
        self._count(self._grid.cell_of(now), count)

    def add_many(self, counts: npt.NDArray[np.int64], at: npt.NDArray[np.float64], *, now: float | None = None) -> None:
        """Add ``counts[k]`` at the instant ``at[k]``, in any order; those older than the window are ignored.

        ``now``, where given, is the present.
        """
        if now is not None:
            self._advance(now)
        if len(counts):
            self.add_groups(self.groups(instants(at, len(counts))), counts)

    def groups(self, at: npt.NDArray[np.float64], *, ascending: bool = False, now: float | None = None) -> CellGroups:
        """Instants, at least one, by cell: for ``add_groups`` of this counter and of others like it.

        ``now``, where given, is the present: what the window has left behind by then need not be told apart.
        """
        if now is not None:
            self._advance(now)
        return group_by_cell(self._grid, at, self._present - self._grid.cells, ascending=ascending)

    def add_groups(
        self, groups: CellGroups, counts: npt.NDArray[Any] | None = None, *, now: float | None = None
    ) -> None:
        """Add ``counts[k]`` (None: one each), whole numbers, at the instant that was given k-th to ``groups``.

        ``now``, where given, is the present.
        """
        if now is not None:
            self._advance(now)
        if counts is None:
            sums = [stop - start for start, stop in pairwise([*groups.starts, groups.size])]
        elif len(groups.starts) == 1:
            sums = [int(counts.sum())]
        else:
            in_order = counts if groups.order is None else counts[groups.order]
            sums = [int(total) for total in np.add.reduceat(in_order, groups.starts).tolist()]
        for cell, total in zip(groups.cells, sums, strict=True):
            self._count(cell, total)

    def total(self, now: float) -> int:
        """The sum of the counts in (now - W, now]."""
        self._advance(now)
        oldest = self._present - self._grid.cells
        return sum(count for cell, count in self._counts.items() if oldest < cell <= self._present)

    def rate(self, now: float) -> float:
        """Counts a second: ``total(now) / min(W, now - start)``; ``nan`` when no time has passed."""
        total = self.total(now)
        elapsed = min(self._grid.window, self._now - self._start)
        return total / elapsed if elapsed > 0 else nan

    def _advance(self, now: float) -> None:
        if now > self._now:
            self._now = now
            self._present = max(self._present, self._grid.cell_of(now))

    def _count(self, cell: int, count: int) -> None:
        if cell <= self._present - self._grid.cells:
            return
        if cell in self._counts:
            self._counts[cell] += count
            return
        self._counts[cell] = count
        if len(self._counts) > 2 * self._grid.cells:
            self._prune()

    def _prune(self) -> None:
        """Drop the cells that have left the window; beside as many of the future, the oldest."""
        oldest = self._present - self._grid.cells
        kept = sorted(cell for cell in self._counts if cell > oldest)[-2 * self._grid.cells :]
        self._counts = {cell: self._counts[cell] for cell in kept}
