"""Rows of finished requests, from the slot table's instants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from batchscope.recording.events import Finish
from batchscope.recording.rows import REASON_CODES, Floats, Kind, RequestColumn, Rows, empty_rows
from batchscope.recording.slots import INDEX_MASK, SlotTable
from batchscope.records import Outcome

C = RequestColumn
OUT_OF_ORDER = "out_of_order"
NEGATIVE = "negative"
NOT_RUNNING = "not_running"


def request_rows(finishes: Sequence[Finish], table: SlotTable, reject: Callable[[str, int], None]) -> tuple[Rows, int]:
    """A REQUEST row for each finish that can be, and their number; the others are rejected by reason.

    A finish comes after all else that is known of its request, and only who was scheduled can complete.
    """
    index = np.array([event.handle & INDEX_MASK for event in finishes], dtype=np.intp)
    at = np.array([event.at for event in finishes], dtype=np.float64)
    latest = np.fmax(table.arrived_at[index], table.last_token_at[index])
    latest = np.fmax(latest, np.fmax(table.first_scheduled_at[index], table.preempted_at[index]))
    completed = np.array([event.reason.outcome is Outcome.COMPLETED for event in finishes], dtype=np.bool_)
    good = np.ones(len(finishes), dtype=np.bool_)
    for reason, bad in (
        (OUT_OF_ORDER, ~((at >= latest) & np.isfinite(at))),
        (NEGATIVE, np.array([_negative(event) for event in finishes], dtype=np.bool_)),
        (NOT_RUNNING, completed & np.isnan(table.first_scheduled_at[index])),
    ):
        reject(reason, int(np.count_nonzero(bad & good)))
        good &= ~bad
    if not good.all():
        finishes = [event for event, fit in zip(finishes, good, strict=True) if fit]
        index, at = index[good], at[good]
    rows = empty_rows(Kind.REQUEST, len(finishes))
    rows[:, C.AT] = rows[:, C.FINISHED_AT] = at
    rows[:, C.REASON] = [REASON_CODES[event.reason] for event in finishes]
    rows[:, C.CACHED_TOKENS] = _given([event.cached_tokens for event in finishes])
    rows[:, C.RECOMPUTED_TOKENS] = _given([event.recomputed_tokens for event in finishes])
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
    ):
        rows[:, column] = known[index]
    still_out = np.nan_to_num(at - table.preempted_at[index])
    rows[:, C.PREEMPTED_TIME] = table.preempted_time[index] + still_out
    rows[:, C.OBSERVED] = 1
    ids = [table.request_ids[slot] for slot in index.tolist()]
    return Rows(Kind.REQUEST, rows, ids), len(finishes)


def _negative(event: Finish) -> bool:
    return (event.cached_tokens or 0) < 0 or (event.recomputed_tokens or 0) < 0


def _given(values: list[float | None]) -> Floats:
    return np.array(values, dtype=np.float64)
