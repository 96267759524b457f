"""Which rows are fit to count: a bad one is counted by reason and leaves every statistic as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.reasons import RejectReason, Tally
from batchscope.rows import BatchColumn, Floats, IterationColumn, RequestColumn

Mask = npt.NDArray[np.bool_]

_LARGEST = 2.0**53
"""Beyond it a float no longer holds every whole number, and sums in int64 would overflow."""


_RECORDS: dict[type, str] = {
    RequestColumn: "A finished request",
    IterationColumn: "An iteration",
    BatchColumn: "A batch utilization record",
}


class Rejections:
    """Rejected records by reason, and the last one: reason, kind of record, detail (what ``strict`` raises)."""

    def __init__(self) -> None:
        self.counts = Tally()
        self.first: dict[tuple[RejectReason, str], str] = {}
        self.last: tuple[RejectReason, str, str] | None = None

    def add(self, reason: RejectReason, count: int = 1, detail: str = "", what: str = "A record") -> None:
        """Count ``count`` rejected records; of each reason and kind of record the first detail is kept."""
        self.first.setdefault((reason, what), detail)
        self.counts.add(reason, count)
        self.last = reason, what, detail

    @property
    def total(self) -> int:
        """How many records were rejected."""
        return self.counts.total()


class Ranges(NamedTuple):
    """Of each column the least and the greatest number (``nan`` where none is), and whether all are numbers."""

    low: list[float]
    high: list[float]
    full: list[bool]

    def only(self, column: IntEnum) -> float | None:
        """The value that all rows have in ``column``; None where they differ, or one has none."""
        low = self.low[column]
        return low if low == self.high[column] and self.full[column] else None


def ranges(rows: Floats) -> Ranges:
    """The ranges of all columns of ``rows``, at least one row."""
    columns = rows.T
    low, high = np.fmin.reduce(columns, axis=1), np.fmax.reduce(columns, axis=1)
    least = columns.min(axis=1)
    return Ranges(low.tolist(), high.tolist(), (least == least).tolist())  # noqa: PLR0124  (not nan)


def total_of(amounts: Floats) -> float:
    """The sum of the numbers among ``amounts``, none of them below 0. (numpy.nansum takes three times as long.)"""
    return float(np.fmax(amounts, 0.0).sum())


def fill(column: Floats, estimate: Floats) -> None:
    """Put ``estimate`` where ``column`` has no number."""
    np.copyto(column, estimate, where=np.isnan(column))


class Verdict:
    """Checks of one block of rows; a row that fails several counts under the first."""

    def __init__(self, rows: Floats, rejections: Rejections) -> None:
        self._rows = rows
        self._rejections = rejections
        self.good: Mask = np.ones(len(rows), dtype=np.bool_)
        self.refused = 0

    def refuse(self, bad: Mask | np.bool_, reason: RejectReason, columns: Iterable[IntEnum]) -> None:
        """Reject the rows of ``bad`` that still were good; ``columns`` are what the message shows."""
        bad = np.logical_and(bad, self.good)
        count = int(np.count_nonzero(bad))
        if not count:
            return
        row = self._rows[int(np.flatnonzero(bad)[0])]
        detail = ", ".join(f"{column.name.lower()} = {row[column]:g}" for column in columns)
        self._rejections.add(reason, count, detail, _RECORDS.get(type(next(iter(columns))), "A record"))
        self.refused += count
        self.good &= ~bad

    def amounts(
        self,
        columns: tuple[IntEnum, ...],
        *,
        due: tuple[IntEnum, ...],
        whole: tuple[IntEnum, ...],
        known: Ranges | None = None,
    ) -> None:
        """Each of ``columns`` is >= 0 and at most 2**53, or ``nan`` unless ``due``; ``whole`` ones are whole.

        ``known``: the rows' ranges, where somebody has them.
        """
        if not len(self._rows) or self._all_fit(columns, due, whole, known or ranges(self._rows)):
            return
        for column in columns:
            values = self._rows[:, column]
            if column in due:
                self.refuse(np.isnan(values), RejectReason.NOT_A_NUMBER, (column,))
            self.refuse(values == -np.inf, RejectReason.INFINITE, (column,))
            self.refuse(values < 0, RejectReason.NEGATIVE, (column,))
            self.refuse(values == np.inf, RejectReason.INFINITE, (column,))
            self.refuse(values > _LARGEST, RejectReason.TOO_LARGE, (column,))
        for column in whole:
            values = self._rows[:, column]
            self.refuse(np.isfinite(values) & (values != np.floor(values)), RejectReason.NOT_WHOLE, (column,))

    def _all_fit(
        self, columns: tuple[IntEnum, ...], due: tuple[IntEnum, ...], whole: tuple[IntEnum, ...], known: Ranges
    ) -> bool:
        """The common case, in few passes: nothing to refuse."""
        low, high, full = known
        if any(low[column] < 0 or high[column] > _LARGEST for column in columns):
            return False
        if not all(full[column] for column in due):
            return False
        counts = self._rows.T[[column for column in whole if high[column] > 0]]
        return not (counts > np.floor(counts)).any()

    def instants(self, columns: tuple[IntEnum, ...]) -> None:
        """The instants that are given are finite and in this order."""
        values = self._rows.T[_places(columns)]
        if (values[1:] >= values[:-1]).all() and values[0].min() > -np.inf and values[-1].max() < np.inf:
            return  # all are given, in order
        if np.isnan(values).all():
            return
        self.refuse(np.isinf(values).any(axis=0), RejectReason.INFINITE, columns)
        latest = np.fmax.accumulate(values, axis=0)
        self.refuse((values < latest).any(axis=0), RejectReason.OUT_OF_ORDER, columns)

    def keep(self, objects: list[Any] | None) -> tuple[Floats, list[Any] | None]:
        """The good rows with their objects."""
        if not self.refused:
            return self._rows, objects
        if objects is not None:
            objects = [item for item, good in zip(objects, self.good, strict=True) if good]
        return self._rows.T.compress(self.good, axis=1).T, objects


@lru_cache(maxsize=64)
def _places(columns: tuple[IntEnum, ...]) -> slice | list[int]:
    """``columns`` as an index: a slice, which copies nothing, where they follow each other."""
    first, count = columns[0], len(columns)
    if columns == tuple(range(first, first + count)):
        return slice(first, first + count)
    return [int(column) for column in columns]


def acceptable(values: Floats, rejections: Rejections) -> Mask:
    """Which latencies are finite and >= 0; the rest are counted, one record each."""
    good = (values >= 0) & (values < np.inf)
    if not good.all():
        for reason, bad in _bad_values(values):
            count = int(np.count_nonzero(bad))
            if count:
                rejections.add(reason, count, f"latency = {values[bad][0]:g}", "A latency")
    return good


def _bad_values(values: Floats) -> Iterator[tuple[RejectReason, Mask]]:
    yield RejectReason.NOT_A_NUMBER, np.isnan(values)
    yield RejectReason.INFINITE, np.isinf(values)
    yield RejectReason.NEGATIVE, (values < 0) & np.isfinite(values)
