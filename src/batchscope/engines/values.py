"""The checks that a number of an engine's has to pass, on the way into rows.

A value that is no number, or cannot be what its name says, is ``nan`` from there on and counted by reason: the rest of
the record counts all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchscope.reasons import RejectReason
from batchscope.rows import Floats, RowKind, Rows, StartColumn, empty_rows

_LARGEST = 2.0**53
Reject: TypeAlias = Callable[[str, int], object]
"""Counts so many rejected values under a reason."""


def numbers(rows: Sequence[tuple[Any, ...]], width: int, reject: Reject) -> Floats:
    """``rows`` as float64 of shape (n, width): None is ``nan``; so is what is no number, counted."""
    if not rows:
        return np.empty((0, width))
    try:
        return np.array(rows, dtype=np.float64).reshape(len(rows), width)
    except (TypeError, ValueError, OverflowError):
        return np.array([[_number(value, reject) for value in row] for row in rows], dtype=np.float64)


def _number(value: object, reject: Reject) -> float:
    if value is None:
        return nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        reject(RejectReason.WRONG_TYPE, 1)
        return nan


def refuse(values: Floats, bad: npt.NDArray[np.bool_], reason: str, reject: Reject) -> None:
    """Make the ``bad`` ones ``nan``, in place, and count them."""
    count = int(np.count_nonzero(bad))
    if count:
        values[bad] = nan
        reject(reason, count)


def fit(values: Floats, reject: Reject) -> None:
    """Refuse, in place, amounts that are negative, infinite or larger than a count can be."""
    refuse(values, values < 0, RejectReason.NEGATIVE, reject)
    refuse(values, np.isinf(values), RejectReason.INFINITE, reject)
    refuse(values, values > _LARGEST, RejectReason.TOO_LARGE, reject)


def start_rows(at: Floats, durations: Floats, column: StartColumn, classes: Floats | float) -> Rows:
    """START rows of the durations that are known, of requests of these classes (codes)."""
    known = ~np.isnan(durations)
    rows = empty_rows(RowKind.START, int(np.count_nonzero(known)))
    rows[:, StartColumn.AT] = at[known]
    rows[:, StartColumn.REQUEST_CLASS] = np.broadcast_to(classes, at.shape)[known]
    rows[:, column] = durations[known]
    return Rows(RowKind.START, rows)
