"""Iteration and batch rows of a tracker, counted from the elements."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SchedulerLimits
from batchscope.rows import BatchColumn, Floats, IterationColumn, RowKind, Rows, empty_rows
from batchscope.tracking.history import History
from batchscope.tracking.iteration_batch import FIELDS, UNKNOWN_TOKENS, IterationBatch
from batchscope.tracking.runs import covering

C = IterationColumn


def iteration_rows(
    batch: IterationBatch,
    history: History,
    started: Floats,
    decoding: npt.NDArray[np.bool_],
    limits: SchedulerLimits,
) -> tuple[Rows, Rows]:
    """An ITERATION and a BATCH row for each iteration; running, waiting and completed are left to be filled."""
    rows = empty_rows(RowKind.ITERATION, batch.size)
    rows[:, FIELDS] = batch.fields
    rows[:, C.AT] = rows[:, C.FINISHED_AT] = batch.finished
    rows[:, C.STARTED_AT] = started
    rows[:, C.PROCESSING_TIME] = batch.finished - started
    rows[:, C.RANK] = np.nan_to_num(rows[:, C.RANK])
    _count(rows, history, decoding)

    batches = empty_rows(RowKind.BATCH, batch.size)
    batches[:, BatchColumn.AT] = batch.finished
    batches[:, BatchColumn.REQUEST_COUNT] = rows[:, C.REQUEST_COUNT]
    batches[:, BatchColumn.MEMORY_BYTES_USED] = rows[:, C.MEMORY_BYTES_USED]
    if limits.batch_places:
        batches[:, BatchColumn.UTILIZATION] = rows[:, C.REQUEST_COUNT] / limits.batch_places
    return Rows(RowKind.ITERATION, rows), Rows(RowKind.BATCH, batches)


def _count(rows: Floats, history: History, decoding: npt.NDArray[np.bool_]) -> None:
    """A run's first element is looked at by itself; each further one decodes one token."""
    count = len(rows)
    begin, end, tokens, scheduled = history.begin, history.end, history.tokens, history.scheduled
    rows[:, C.PREEMPTIONS] = 0
    if history.evicted is not None:
        rows[:, C.PREEMPTIONS] = np.bincount(begin[history.evicted], minlength=count)
        stay = ~history.evicted
        begin, end, decoding = begin[stay], end[stay], decoding[stay]
        tokens = None if tokens is None else tokens[stay]
        scheduled = None if scheduled is None else scheduled[stay]
    further = covering(begin + 1, end, count)
    rows[:, C.REQUEST_COUNT] = np.bincount(begin, minlength=count) + further
    if tokens is None:
        rows[:, C.TOKENS_GENERATED] = rows[:, C.REQUEST_COUNT]
    else:
        rows[:, C.TOKENS_GENERATED] = np.bincount(begin, weights=tokens, minlength=count) + further
    prefilling = begin[~decoding]
    rows[:, C.PREFILL_REQUESTS] = np.bincount(prefilling, minlength=count)
    if scheduled is None:
        rows[:, C.DECODE_TOKENS] = rows[:, C.REQUEST_COUNT] - rows[:, C.PREFILL_REQUESTS]
        decode_only = rows[:, C.PREFILL_REQUESTS] == 0
        rows[:, C.SCHEDULED_TOKENS] = np.where(decode_only, rows[:, C.REQUEST_COUNT], np.nan)
        rows[:, C.PREFILL_TOKENS] = np.where(decode_only, 0.0, np.nan)
        return
    weights = np.where(scheduled == UNKNOWN_TOKENS, np.where(decoding, 1.0, np.nan), scheduled)
    rows[:, C.SCHEDULED_TOKENS] = np.bincount(begin, weights=weights, minlength=count) + further
    rows[:, C.PREFILL_TOKENS] = np.bincount(prefilling, weights=weights[~decoding], minlength=count)
    rows[:, C.DECODE_TOKENS] = np.bincount(begin[decoding], weights=weights[decoding], minlength=count) + further
