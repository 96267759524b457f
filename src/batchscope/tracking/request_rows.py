"""Rows of finished requests, from the slot table's instants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from batchscope.recording.mistakes import instants
from batchscope.records import Outcome
from batchscope.rows import REASONS, Floats, RequestColumn, RowKind, Rows, empty_rows
from batchscope.tracking.events import Finish
from batchscope.tracking.slots import Indices, SlotTable

C = RequestColumn
OUT_OF_ORDER = "out_of_order"
NEGATIVE = "negative"
NOT_RUNNING = "not_running"
Reject = Callable[[str, int, str, str], None]
COMPLETES = np.array([reason.outcome is Outcome.COMPLETED for reason in REASONS])


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
    rows[:, C.AT] = rows[:, C.FINISHED_AT] = at
    rows[:, (C.REASON, C.CACHED_TOKENS, C.RECOMPUTED_TOKENS)] = said[:, 1:]
    for column, known in (
        (C.TOKENS_GENERATED, table.tokens),
        (C.PROMPT_TOKENS, table.prompt_tokens),
        (C.PREEMPTIONS, table.preemptions),
        (C.REQUEST_CLASS, table.request_class),
        (C.ARRIVED_AT, table.arrived_at),
        (C.FIRST_SCHEDULED_AT, table.first_scheduled_at),
        (C.FIRST_TOKEN_AT, table.first_token_at),
        (C.LAST_TOKEN_AT, table.last_token_at),
        (C.MAX_EMISSION_GAP, table.max_gap),
        (C.NUMBER, table.number),
    ):
        rows[:, column] = known[index]
    still_out = np.nan_to_num(at - table.preempted_at[index])
    rows[:, C.PREEMPTED_TIME] = table.preempted_time[index] + still_out
    rows[:, C.OBSERVED] = 1
    return Rows(RowKind.REQUEST, rows, ids)


def _fit(said: Floats, index: Indices, table: SlotTable, reject: Reject) -> np.ndarray[Any, Any]:
    """Which finishes can be."""
    at = said[:, 0]
    latest = np.fmax(table.arrived_at[index], table.last_token_at[index])
    latest = np.fmax(latest, np.fmax(table.first_scheduled_at[index], table.preempted_at[index]))
    completed = COMPLETES[said[:, 1].astype(np.int64)]
    good = np.ones(len(said), dtype=np.bool_)
    for reason, bad in (
        (OUT_OF_ORDER, ~((at >= latest) & np.isfinite(at))),
        (NEGATIVE, (said[:, 2:] < 0).any(axis=1)),
        (NOT_RUNNING, completed & np.isnan(table.first_scheduled_at[index])),
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
