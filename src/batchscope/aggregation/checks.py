"""Which rows are fit to count: a bad one is counted by reason and leaves every statistic as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.recording.rows import Floats

Mask = npt.NDArray[np.bool_]

NEGATIVE = "negative"
INFINITE = "infinite"
NOT_A_NUMBER = "not_a_number"
NOT_WHOLE = "not_whole"
OUT_OF_ORDER = "out_of_order"
TOO_LARGE = "too_large"
_LARGEST = 2.0**53
"""Beyond it a float no longer holds every whole number, and sums in int64 would overflow."""


class Rejections:
    """Rejected records by reason, and the last one in words (what ``strict`` raises)."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.last = ""

    def add(self, reason: str, count: int = 1, detail: str = "") -> None:
        """Count ``count`` rejected records."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.last = f"{reason}: {detail}" if detail else reason

    @property
    def total(self) -> int:
        """How many records were rejected."""
        return sum(self.counts.values())


class Verdict:
    """Checks of one block of rows; a row that fails several counts under the first."""

    def __init__(self, rows: Floats, rejections: Rejections) -> None:
        self._rows = rows
        self._rejections = rejections
        self.good: Mask = np.ones(len(rows), dtype=np.bool_)

    def refuse(self, bad: Mask | np.bool_, reason: str, columns: Iterable[IntEnum]) -> None:
        """Reject the rows of ``bad`` that still were good; ``columns`` are what the message shows."""
        bad = np.logical_and(bad, self.good)
        count = int(np.count_nonzero(bad))
        if not count:
            return
        row = self._rows[int(np.flatnonzero(bad)[0])]
        detail = ", ".join(f"{column.name.lower()} = {row[column]:g}" for column in columns)
        self._rejections.add(reason, count, detail)
        self.good &= ~bad

    def amounts(self, columns: tuple[IntEnum, ...], *, due: tuple[IntEnum, ...], whole: tuple[IntEnum, ...]) -> None:
        """Each of ``columns`` is >= 0 and at most 2**53, or ``nan`` unless ``due``; ``whole`` ones are whole."""
        if self._all_fit(columns, due, whole):
            return
        for column in columns:
            values = self._rows[:, column]
            if column in due:
                self.refuse(np.isnan(values), NOT_A_NUMBER, (column,))
            self.refuse(values == -np.inf, INFINITE, (column,))
            self.refuse(values < 0, NEGATIVE, (column,))
            self.refuse(values == np.inf, INFINITE, (column,))
            self.refuse(values > _LARGEST, TOO_LARGE, (column,))
        for column in whole:
            values = self._rows[:, column]
            self.refuse(np.isfinite(values) & (values != np.floor(values)), NOT_WHOLE, (column,))

    def _all_fit(self, columns: tuple[IntEnum, ...], due: tuple[IntEnum, ...], whole: tuple[IntEnum, ...]) -> bool:
        """The common case, in few passes: nothing to refuse."""
        values = self._rows[:, columns]
        counts = self._rows[:, whole]
        out_of_range = (values < 0) | (values > _LARGEST)
        return not (out_of_range.any() or (counts > np.floor(counts)).any() or np.isnan(self._rows[:, due]).any())

    def instants(self, columns: tuple[IntEnum, ...]) -> None:
        """The instants that are given are finite and in this order."""
        values = self._rows[:, columns]
        self.refuse(np.isinf(values).any(axis=1), INFINITE, columns)
        latest = np.fmax.accumulate(values, axis=1)
        self.refuse((values < latest).any(axis=1), OUT_OF_ORDER, columns)

    def keep(self, objects: list[Any] | None) -> tuple[Floats, list[Any] | None]:
        """The good rows with their objects."""
        if self.good.all():
            return self._rows, objects
        if objects is not None:
            objects = [item for item, good in zip(objects, self.good, strict=True) if good]
        return self._rows[self.good], objects


def acceptable(values: Floats, rejections: Rejections) -> Mask:
    """Which latencies are finite and >= 0; the rest are counted, one record each."""
    good = (values >= 0) & (values < np.inf)
    if not good.all():
        for reason, bad in _bad_values(values):
            count = int(np.count_nonzero(bad))
            if count:
                rejections.add(reason, count, f"latency = {values[bad][0]:g}")
    return good


def _bad_values(values: Floats) -> Iterator[tuple[str, Mask]]:
    yield NOT_A_NUMBER, np.isnan(values)
    yield INFINITE, np.isinf(values)
    yield NEGATIVE, (values < 0) & np.isfinite(values)
