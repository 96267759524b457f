"""What follows to the bit from other columns: left out when rows are written, filled in when they are read."""

from __future__ import annotations

import numpy as np

from batchscope.aggregation.requests import derive_durations
from batchscope.configuration import SchedulerLimits
from batchscope.rows import Floats, IterationColumn, RequestColumn

R, C = RequestColumn, IterationColumn
_DURATIONS = (
    R.QUEUE_TIME, R.TIME_TO_FIRST_TOKEN, R.PREFILL_TIME, R.DECODE_TIME, R.PROCESSING_TIME, R.TOTAL_TIME,
    R.TIME_PER_OUTPUT_TOKEN,
)  # fmt: skip


def fill_requests(rows: Floats) -> None:
    """Fill in what ``bare_requests`` left out, in place; shape (n, columns of a request)."""
    if not len(rows):
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        np.copyto(rows[:, R.AT], rows[:, R.FINISHED_AT], where=np.isnan(rows[:, R.AT]))
        given = rows[:, R.TIME_PER_OUTPUT_TOKEN].copy()
        derive_durations(rows)
        np.copyto(rows[:, R.TIME_PER_OUTPUT_TOKEN], given, where=~np.isnan(given))


def bare_requests(rows: Floats) -> Floats:
    """Rows without what ``fill_requests`` gives back to the bit."""
    bare = np.array(rows, order="F")
    for column in (R.AT, *_DURATIONS):
        bare[:, column] = np.nan
    for stored in ((R.QUEUE_TIME, R.PROCESSING_TIME, R.DECODE_TIME), (*_DURATIONS, R.AT)):
        # First what others are summed of; then those, with it in place.
        filled = np.array(bare, order="F")
        fill_requests(filled)
        for column in stored:
            np.copyto(bare[:, column], rows[:, column], where=filled[:, column] != rows[:, column])
    return bare


def fill_iterations(rows: Floats, limits: SchedulerLimits) -> None:
    """Likewise what ``bare_iterations`` left out of iterations that had these ``limits``."""
    for column, value in _follow(rows, limits):
        np.copyto(rows[:, column], value, where=np.isnan(rows[:, column]))


def bare_iterations(rows: Floats, limits: SchedulerLimits) -> Floats:
    """Rows without what ``fill_iterations`` gives back to the bit."""
    bare = np.array(rows, order="F")
    for column, value in _follow(rows, limits):
        np.copyto(bare[:, column], np.nan, where=value == rows[:, column])
    return bare


def _follow(rows: Floats, limits: SchedulerLimits) -> list[tuple[IterationColumn, Floats]]:
    """In an order in which each needs only those before it, as they are in ``rows`` by then."""
    places, budget = limits.batch_places, limits.max_scheduled_tokens
    duration = rows[:, C.FINISHED_AT] - rows[:, C.STARTED_AT]
    taken = np.where(np.isnan(rows[:, C.PROCESSING_TIME]), duration, rows[:, C.PROCESSING_TIME])
    return [
        (C.AT, rows[:, C.FINISHED_AT]),
        (C.PROCESSING_TIME, duration),
        (C.BUSY_TIME, taken),
        (C.UTILIZATION, rows[:, C.REQUEST_COUNT] / (np.nan if places is None else places)),
        (C.TOKEN_UTILIZATION, rows[:, C.SCHEDULED_TOKENS] / (np.nan if budget is None else budget)),
    ]
