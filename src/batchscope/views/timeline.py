"""Quantities over time in bounded memory: a fixed number of cells that double in width as time goes on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from batchscope.rows import Gaps, IterationColumn, RowKind, Rows, empty_rows

Floats = npt.NDArray[np.float64]

CELLS = 512
QUANTITIES = (IterationColumn.REQUEST_COUNT, IterationColumn.KV_CACHE_USAGE, IterationColumn.WAITING_REQUESTS)


class Timeline:
    """Integrals over time of what iterations report: subscribe it to a collector.

    An iteration's values hold for its busy time; between iterations they are 0. ``means(quantity, n)`` are
    time-weighted over n equal parts of the run, ``peak(quantity)`` is the largest value of all iterations; ``nan``
    where the scheduler did not report the quantity.
    """

    def __init__(self, cell_seconds: float = 1 / 16) -> None:
        self._width = cell_seconds
        self._integrals = np.zeros((len(QUANTITIES), CELLS))
        self._peaks = np.full(len(QUANTITIES), np.nan)
        self.end = 0.0

    def __call__(self, block: Rows | Gaps) -> None:
        """Count a drained block."""
        if isinstance(block, Rows) and block.kind is RowKind.ITERATION and len(block.values):
            self._add(block.values)

    def _add(self, rows: Floats) -> None:
        finished, busy = rows[:, IterationColumn.FINISHED_AT], rows[:, IterationColumn.BUSY_TIME]
        rows = rows[np.isfinite(finished) & (busy > 0)]
        if not len(rows):
            return
        finished, busy = rows[:, IterationColumn.FINISHED_AT], rows[:, IterationColumn.BUSY_TIME]
        self.end = max(self.end, float(finished.max()))
        while self.end > CELLS * self._width:
            self._double()
        instants = np.column_stack([finished - busy, finished]).ravel()
        edges = np.arange(CELLS + 1) * self._width
        for row, quantity in enumerate(QUANTITIES):
            self._peaks[row] = np.fmax(self._peaks[row], np.fmax.reduce(rows[:, quantity]))
            parts = np.column_stack([np.zeros(len(rows)), rows[:, quantity] * busy]).ravel()
            self._integrals[row] += np.diff(np.interp(edges, instants, np.cumsum(parts)))

    def _double(self) -> None:
        pairs = self._integrals.reshape(len(QUANTITIES), CELLS // 2, 2).sum(axis=2)
        self._integrals = np.concatenate([pairs, np.zeros_like(pairs)], axis=1)
        self._width *= 2

    def means(self, quantity: IterationColumn, parts: int) -> Floats:
        """The quantity's time-weighted mean in each of ``parts`` equal parts of the run so far."""
        if not self.end:
            return np.full(parts, np.nan)
        cells = math.ceil(self.end / self._width)
        integrals = self._integrals[QUANTITIES.index(quantity), :cells]
        bounds = np.minimum(np.arange(cells + 1) * self._width, self.end)
        edges = np.linspace(0.0, self.end, parts + 1)
        at_edges: Floats = np.interp(edges, bounds, np.concatenate([[0.0], np.cumsum(integrals)]))
        means: Floats = np.diff(at_edges) / (self.end / parts)
        return means

    def peak(self, quantity: IterationColumn) -> float:
        """The quantity's largest value, whatever the parts of the run that are looked at."""
        return float(self._peaks[QUANTITIES.index(quantity)])


def timeline_of(iterations: Iterable[Mapping[str, Floats]], began: float) -> Timeline:
    """That of a run that is over: of its iterations' columns in parts, with instants of a clock that said ``began``."""
    timeline = Timeline()
    names = {
        column: column.name.lower() for column in (*QUANTITIES, IterationColumn.FINISHED_AT, IterationColumn.BUSY_TIME)
    }
    for part in iterations:
        rows = empty_rows(RowKind.ITERATION, len(part["finished_at"]))
        for column, name in names.items():
            rows[:, column] = part[name]
        rows[:, IterationColumn.FINISHED_AT] -= began
        timeline(Rows(RowKind.ITERATION, rows))
    return timeline
