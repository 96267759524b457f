"""A fixed number of cells of a fixed width, each of which holds what was counted in its time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.dashboard.counts import BUCKETS, COLUMNS, GPU_COLUMNS, LATENCIES, MOST_CLASSES, Read

_NONE = -1
_WIDE = {"inter_token_latency"}
"""Latencies of tokens: there are many in a second."""


class Ring:
    """The last ``cells`` cells of ``seconds`` seconds. A cell is named by its number: whole cells since 1970.

    ``narrow``: where a bucket never holds more than 65,535 requests; more are cut off, and counted in ``cut_off``.
    ``precision``: of its counts; seven digits of a float32 are enough where nobody adds up many cells.
    """

    def __init__(
        self, cells: int, seconds: int, *, narrow: bool = False, precision: npt.DTypeLike = np.float64
    ) -> None:
        self.seconds = seconds
        self.cut_off = 0
        self._numbers = np.full(cells, _NONE, dtype=np.int64)
        self._counts = np.zeros((cells, len(COLUMNS)), dtype=precision)
        self._slo = np.zeros((cells, MOST_CLASSES, 2), dtype=np.uint32)
        self._gpus = np.full((cells, len(GPU_COLUMNS)), np.nan, dtype=np.float32)
        self._latencies = [
            np.zeros((cells, BUCKETS), dtype=np.uint16 if narrow and name not in _WIDE else np.uint32)
            for name in LATENCIES
        ]

    @property
    def nbytes(self) -> int:
        """What it takes, however much it holds."""
        arrays: list[npt.NDArray[Any]] = [self._numbers, self._counts, self._slo, self._gpus, *self._latencies]
        return sum(array.nbytes for array in arrays)

    def add(self, number: int, added: Read) -> None:
        """Add to the cell ``number``; present values replace those that it has."""
        at = number % len(self._numbers)
        if self._numbers[at] != number:
            self._clear(at, number)
        self._counts[at] += added.counts.astype(self._counts.dtype, copy=False)
        self._slo[at] += added.slo.astype(np.uint32)
        known = np.isfinite(added.gpus)
        self._gpus[at][known] = added.gpus[known]
        for kept, new in zip(self._latencies, added.latencies, strict=True):
            total = kept[at] + new
            fits = np.minimum(total, np.iinfo(kept.dtype).max)
            self.cut_off += int((total - fits).sum())
            kept[at] = fits

    def _clear(self, at: int, number: int) -> None:
        self._numbers[at] = number
        cleared: list[npt.NDArray[Any]] = [self._counts, self._slo, *self._latencies]
        for array in cleared:
            array[at] = 0
        self._gpus[at] = np.nan

    def since(self, number: int) -> Cells:
        """The cells from ``number`` on that hold something, oldest first."""
        newest = int(self._numbers.max())
        least = max(number, newest - len(self._numbers) + 1)
        at = np.flatnonzero(self._numbers >= max(least, 0))
        at = at[np.argsort(self._numbers[at])]
        return Cells(
            self._numbers[at], self._counts[at], self._slo[at], self._gpus[at], [kept[at] for kept in self._latencies]
        )


class Cells:
    """Copies of some cells: ``numbers``, and a row of each table for each of them."""

    def __init__(
        self,
        numbers: npt.NDArray[np.int64],
        counts: npt.NDArray[Any],
        slo: npt.NDArray[np.uint32],
        gpus: npt.NDArray[np.float32],
        latencies: list[npt.NDArray[Any]],
    ) -> None:
        self.numbers = numbers
        self.counts = counts
        self.slo = slo
        self.gpus = gpus
        self.latencies = latencies

    def __len__(self) -> int:
        return len(self.numbers)
