"""Windows are kept in cells of time: which cell an instant belongs to, and grouping instants by it.

Cell k of a window W in n cells holds the instants in (k W/n, (k+1) W/n], aligned to the clock's zero. At time
t the window (t - W, t] is the n cells up to t's own: exact when t is a cell's end, else its old edge is
less than one cell short.
"""

from __future__ import annotations

from math import ceil, isfinite
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.errors import ConfigurationError, InvalidRecordError
from batchscope.histograms.layout import Floats, Ints

FURTHEST = 1e12
"""Seconds: beyond it cells no longer resolve."""
_NEAR = 10_000  # cells: as many edges are looked up one by one


class CellGrid(NamedTuple):
    """``cells`` cells of time make up ``window`` seconds; edges are k * window / cells, in that order."""

    window: float
    cells: int

    def cell_of(self, instant: float) -> int:
        """The cell that holds ``instant``; InvalidRecordError if it is not a number, or beyond 1e12 s."""
        if not -FURTHEST <= instant <= FURTHEST:
            raise InvalidRecordError(f"instant {instant!r}: expected seconds within +-{FURTHEST:g}")
        window, cells = self
        cell = ceil(instant * cells / window) - 1
        if cell * window / cells >= instant:  # the division rounded up beside an edge
            return cell - 1
        return cell + 1 if (cell + 1) * window / cells < instant else cell


class CellGroups(NamedTuple):
    """``size`` instants by cell: group k is ``starts[k]`` up to the next start, in ``order`` (None: as they came)."""

    cells: list[int]
    starts: list[int]
    order: Ints | None
    size: int


def cell_grid(window_seconds: float, cells: int) -> CellGrid:
    """A grid with checked arguments; ConfigurationError names the one that is out of range."""
    if not (isfinite(window_seconds) and window_seconds > 0):
        raise ConfigurationError("window_seconds", window_seconds, "seconds > 0")
    if cells < 1:
        raise ConfigurationError("cells", cells, "an integer >= 1")
    return CellGrid(float(window_seconds), cells)


def group_by_cell(grid: CellGrid, at: Floats, oldest: int, *, ascending: bool = False) -> CellGroups:
    """Group instants, at least one, by cell, oldest first; only groups that are not empty.

    ``ascending``: they are, so nobody need look. Those of cells before ``oldest`` are counted into ``oldest``,
    or into the newest cell if that is older. InvalidRecordError if any is no instant.
    """
    newest = grid.cell_of(float(at[-1] if ascending else at.max()))
    oldest = max(grid.cell_of(float(at[0] if ascending else at.min())), min(oldest, newest))
    if oldest == newest:
        return CellGroups([newest], [0], None, len(at))
    if newest - oldest > _NEAR or not (ascending or (at[1:] >= at[:-1]).all()):
        return _sorted_groups(grid, at, oldest, newest)
    inner = np.arange(oldest + 1, newest + 1) * grid.window / grid.cells
    groups, start = CellGroups([], [], None, len(at)), 0
    for cell, stop in enumerate([*at.searchsorted(inner, side="right").tolist(), len(at)], oldest):
        if stop > start:
            groups.cells.append(cell)
            groups.starts.append(start)
        start = stop
    return groups


def _sorted_groups(grid: CellGrid, at: Floats, oldest: int, newest: int) -> CellGroups:
    window, cells = grid
    found = np.ceil(at * cells / window) - 1  # and then as in cell_of
    found -= found * window / cells >= at
    found += (found + 1) * window / cells < at
    found = np.maximum(found, oldest) - oldest
    if newest - oldest < 2**16:
        found = found.astype(np.uint16)  # those are sorted by radix, five times as fast
    order = found.argsort(kind="stable")
    ascending = found[order]  # numpy.unique would do, but it imports: a drain may run while somebody forks
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1])))
    return CellGroups([int(cell) + oldest for cell in ascending[starts]], starts.tolist(), order, len(at))


def instants(at: npt.ArrayLike, expected: int) -> Floats:
    """Instants as an array, one a value; InvalidRecordError if there are more or fewer."""
    given = np.asarray(at, dtype=np.float64)
    if given.shape != (expected,):
        raise InvalidRecordError(f"instants have shape {given.shape}: expected ({expected},), one a value")
    return given
