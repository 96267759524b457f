"""What a tracker tells: a row for each iteration, batch and finished request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from batchscope.configuration import SchedulerLimits
from batchscope.reasons import RejectReason
from batchscope.recording.mistakes import instants
from batchscope.records import Outcome
from batchscope.rows import (
    REASONS,
    BatchColumn,
    Floats,
    IterationColumn,
    RequestColumn,
    RowKind,
    Rows,
    StartColumn,
    empty_rows,
)
from batchscope.tracking.events import Finish
from batchscope.tracking.history import History
from batchscope.tracking.iteration_batch import FIELDS, UNKNOWN_TOKENS, IterationBatch
from batchscope.tracking.runs import Mask, covering
from batchscope.tracking.slots import Indices, SlotTable, Touched

C = IterationColumn
R = RequestColumn
Reject = Callable[[str, int, str, str], None]
COMPLETES = np.array([reason.outcome is Outcome.COMPLETED for reason in REASONS])


def start_rows(before: Touched, after: Touched) -> list[Rows]:
    """Queue times of requests that are scheduled, and TTFTs of requests that emit, for the first time."""
    scheduled = _first(before.first_scheduled_at, after.first_scheduled_at, StartColumn.QUEUE_TIME, after)
    emitting = _first(before.first_token_at, after.first_token_at, StartColumn.TIME_TO_FIRST_TOKEN, after)
    return [rows for rows in (scheduled, emitting) if len(rows.values)]


def _first(before: Floats, after: Floats, column: StartColumn, touched: Touched) -> Rows:
    new = np.isnan(before) & ~np.isnan(after)
    rows = empty_rows(RowKind.START, int(np.count_nonzero(new)))
    rows[:, StartColumn.AT] = after[new]
    rows[:, StartColumn.REQUEST_CLASS] = touched.request_class[new]
    rows[:, column] = after[new] - touched.arrived_at[new]
    return Rows(RowKind.START, rows)


def iteration_rows(
    batch: IterationBatch,
    history: History,
    started: Floats,
    decoding: Mask,
    limits: SchedulerLimits,
) -> tuple[Rows, Rows]:
    """An ITERATION and a BATCH row for each iteration; running, waiting and completed are left to be filled."""
    rows = empty_rows(RowKind.ITERATION, batch.size)
    rows[:, FIELDS] = batch.fields
    rows[:, C.AT] = rows[:, C.FINISHED_AT] = batch.finished
    rows[:, C.STARTED_AT] = started
    rows[:, C.PROCESSING_TIME] = batch.finished - started
    rows[:, C.RANK] = batch.ranks
    _count(rows, history, decoding)

    batches = empty_rows(RowKind.BATCH, batch.size)
    batches[:, BatchColumn.AT] = batch.finished
    batches[:, BatchColumn.REQUEST_COUNT] = rows[:, C.REQUEST_COUNT]
    batches[:, BatchColumn.MEMORY_BYTES_USED] = rows[:, C.MEMORY_BYTES_USED]
    if limits.batch_places:
        batches[:, BatchColumn.UTILIZATION] = rows[:, C.REQUEST_COUNT] / limits.batch_places
    return Rows(RowKind.ITERATION, rows), Rows(RowKind.BATCH, batches)


def _count(rows: Floats, history: History, decoding: Mask) -> None:
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


def request_rows(
    finishes: Sequence[Finish],
    index: Indices,
    request_ids: Sequence[Any],
    table: SlotTable,
    reject: Reject,
) -> Rows:
    """A REQUEST row for each finish that can be; the others are rejected by reason.

    ``index`` and ``request_ids``: slot and id of each. A finish comes after all else that is known of its
    request, and only who was scheduled can complete.
    """
    said = np.array(
        [(event.at, event.reason, event.cached_tokens, event.recomputed_tokens) for event in finishes],
        dtype=np.float64,
    ).reshape(len(finishes), 4)
    good = _fit(said, index, table, reject)
    ids = list(request_ids)
    if not good.all():
        ids = [request_id for request_id, fit in zip(ids, good.tolist(), strict=True) if fit]
        index, said = index[good], said[good]
    at = said[:, 0]
    rows = empty_rows(RowKind.REQUEST, len(ids))
    rows[:, R.AT] = rows[:, R.FINISHED_AT] = at
    rows[:, (R.REASON, R.CACHED_TOKENS, R.RECOMPUTED_TOKENS)] = said[:, 1:]
    for column, known in (
        (R.TOKENS_GENERATED, table.tokens),
        (R.PROMPT_TOKENS, table.prompt_tokens),
        (R.PREEMPTIONS, table.preemptions),
        (R.REQUEST_CLASS, table.request_class),
        (R.ARRIVED_AT, table.arrived_at),
        (R.FIRST_SCHEDULED_AT, table.first_scheduled_at),
        (R.FIRST_TOKEN_AT, table.first_token_at),
        (R.LAST_TOKEN_AT, table.last_token_at),
        (R.MAX_EMISSION_GAP, table.max_gap),
        (R.NUMBER, table.number),
    ):
        rows[:, column] = known[index]
    still_out = np.nan_to_num(at - table.preempted_at[index])
    rows[:, R.PREEMPTED_TIME] = table.preempted_time[index] + still_out
    rows[:, R.OBSERVED] = 1
    return Rows(RowKind.REQUEST, rows, ids)


def _fit(said: Floats, index: Indices, table: SlotTable, reject: Reject) -> Mask:
    """Which finishes can be."""
    at = said[:, 0]
    latest = np.fmax(table.arrived_at[index], table.last_token_at[index])
    latest = np.fmax(latest, np.fmax(table.first_scheduled_at[index], table.preempted_at[index]))
    completed = COMPLETES[said[:, 1].astype(np.int64)]
    good = np.ones(len(said), dtype=np.bool_)
    for reason, bad in (
        (RejectReason.OUT_OF_ORDER, ~((at >= latest) & np.isfinite(at))),
        (RejectReason.NEGATIVE, (said[:, 2:] < 0).any(axis=1)),
        (RejectReason.NOT_RUNNING, completed & np.isnan(table.first_scheduled_at[index])),
    ):
        refused = np.flatnonzero(bad & good)
        if len(refused):
            first = int(refused[0])
            reject(reason, len(refused), "finished", _told(said[first], table, int(index[first])))
        good &= ~bad
    return good


def _told(said: Floats, table: SlotTable, index: int) -> str:
    """What is known of a finish that cannot be; the request is lost."""
    at, arrived = float(said[0]), float(table.arrived_at[index])
    known = f"at = {at:.3f}, arrived at {arrived:.3f}, first scheduled at {table.first_scheduled_at[index]:.3f}"
    return instants(known, at, arrived) + ", so it is counted as lost"
