"""What iterations change in the slot table, and the times that become known with a first schedule or token."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchscope.rows import Floats, RowKind, Rows, StartColumn, empty_rows
from batchscope.tracking.history import Emissions, History
from batchscope.tracking.runs import longest_within
from batchscope.tracking.slots import Indices, SlotTable

Mask = npt.NDArray[np.bool_]


def first_times(history: History, found: Emissions, started: Floats, table: SlotTable) -> list[Rows]:
    """Queue times of requests scheduled, and TTFTs of requests that emit, for the first time; fills the table.

    A request that arrived while its first iteration was being formed did not wait: its queue time is 0.
    """
    new = np.isnan(table.first_scheduled_at[history.slots])
    slot = history.slots[new]
    at = np.maximum(started[history.begin[history.starts[new]]], table.arrived_at[slot])
    table.first_scheduled_at[slot] = at
    queue = _start_rows(slot, at, StartColumn.QUEUE_TIME, table)

    emitting = found.slot[found.starts]
    fresh = np.isnan(table.first_token_at[emitting])
    slot, at = emitting[fresh], found.at[found.starts[fresh]]
    table.first_token_at[slot] = at
    first_token = _start_rows(slot, at, StartColumn.TIME_TO_FIRST_TOKEN, table)
    return [rows for rows in (queue, first_token) if len(rows.values)]


def _start_rows(slot: Indices, at: Floats, column: StartColumn, table: SlotTable) -> Rows:
    rows = empty_rows(RowKind.START, len(slot))
    rows[:, StartColumn.AT] = at
    rows[:, StartColumn.REQUEST_CLASS] = table.request_class[slot]
    rows[:, column] = at - table.arrived_at[slot]
    return Rows(RowKind.START, rows)


def schedule(history: History, started: Floats, ranks: Floats, decoding: Mask, table: SlotTable) -> None:
    """Places held and where, phases, evictions and the waits they cause."""
    slots, ends = history.slots, history.ends
    table.rank[slots] = ranks[history.begin[ends]]
    emits = history.emitting()
    _resume_waiting(history, started, table)
    if history.evicted is None:
        table.holding[slots] = True
        table.decoding[slots] = True if emits is None else decoding[ends] | emits[ends]
        return
    gone = history.evicted[ends]
    table.holding[slots] = ~gone
    table.decoding[slots] = ~gone & (True if emits is None else decoding[ends] | emits[ends])
    _resume_evicted(history, started, table)
    evicted_slots = history.slot[history.evicted]
    np.add.at(table.preemptions, evicted_slots, 1)
    table.preempted_at[slots[gone]] = started[history.begin[ends[gone]]]


def _resume_waiting(history: History, started: Floats, table: SlotTable) -> None:
    """Slots evicted in an earlier drain are scheduled again: their wait ends."""
    slots = history.slots
    since = table.preempted_at[slots]
    waited = ~np.isnan(since)
    if waited.any():
        slot = slots[waited]
        table.preempted_time[slot] += started[history.begin[history.starts[waited]]] - since[waited]
        table.preempted_at[slot] = np.nan


def _resume_evicted(history: History, started: Floats, table: SlotTable) -> None:
    """Slots evicted and scheduled again within this drain."""
    assert history.evicted is not None  # noqa: S101  (the caller looked)
    again = np.flatnonzero(history.evicted[:-1] & ~history.first[1:]) + 1
    waits = started[history.begin[again]] - started[history.begin[again - 1]]
    np.add.at(table.preempted_time, history.slot[again], waits)


def emit(found: Emissions, finished: Floats, table: SlotTable) -> None:
    """Tokens, last emission and longest gap of each slot that emitted."""
    if not len(found.slot):
        return
    slots = found.slot[found.starts]
    ends = np.append(found.starts[1:], len(found.slot)) - 1
    table.last_token_at[slots] = found.last_at[ends]
    tokens = found.end - found.begin + 1
    if found.tokens is not None:
        tokens *= found.tokens  # one each where a run is longer than one
    table.tokens[slots] += np.add.reduceat(tokens, found.starts)
    within = longest_within(finished, found.begin, found.end)
    longest = np.fmax.reduceat(np.fmax(found.gap, within), found.starts)
    table.max_gap[slots] = np.fmax(table.max_gap[slots], longest)
