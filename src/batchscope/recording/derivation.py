"""From a tracker's events to rows: queue times, gaps, phases, counts and finished requests, in bulk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SchedulerLimits
from batchscope.recording.elements import Elements, covering, long_runs, single_runs
from batchscope.recording.events import Arrival, Event, Finish, Iteration, Loss
from batchscope.recording.history import History, emissions, gaps
from batchscope.recording.iteration_batch import IterationBatch, gather
from batchscope.recording.iteration_rows import iteration_rows
from batchscope.recording.occupancy import Departure, Moves
from batchscope.recording.progress import emit, first_times, schedule
from batchscope.recording.request_rows import request_rows
from batchscope.recording.rows import BatchColumn, Floats, Gaps, IterationColumn, Rows
from batchscope.recording.slots import GENERATION, INDEX_MASK, SlotTable

STALE_SLOT = "stale_slot"
DUPLICATE_REQUEST = "duplicate_request"
DUPLICATE_SLOT = "duplicate_slot"
NOT_RUNNING = "not_running"
OUT_OF_ORDER = "out_of_order"
NEGATIVE = "negative"
WRONG_TYPE = "wrong_type"
INFINITE = "infinite"
NOT_A_NUMBER = "not_a_number"
_MAX_DEPARTED = 4096

Mask = npt.NDArray[np.bool_]
Leaving = Mapping[int, tuple[int, Finish | Loss]]
"""Slot index -> (position in the log, event) of the requests that end."""


class Derivation:
    """The state of a tracker between drains: who is in flight, and what was counted since the last reset."""

    def __init__(self, class_codes: Mapping[str | None, float], other_class: float, limits: SchedulerLimits) -> None:
        self.table = SlotTable()
        self.received = 0
        self.lost = 0
        self.rejected: dict[str, int] = {}
        self.freed: list[int] = []
        self._slot_of: dict[Any, int] = {}
        self._class_codes = class_codes
        self._other_class = other_class
        self._limits = limits
        self._iterations = 0
        self._last_finish = np.nan
        self._departed: deque[Departure] = deque(maxlen=_MAX_DEPARTED)

    @property
    def in_flight(self) -> int:
        """Requests that arrived and have not left."""
        return len(self._slot_of)

    def reject(self, reason: str, count: int = 1) -> None:
        """Count rejected records."""
        if count:
            self.rejected[reason] = self.rejected.get(reason, 0) + count

    def reset(self) -> None:
        """Start counting anew; requests in flight stay, and count as received."""
        self.received, self.lost, self.rejected = self.in_flight, 0, {}

    def derive(self, events: Sequence[Event]) -> list[Rows | Gaps]:
        """Rows of everything that these events say, in the order they were reported."""
        self._arrive(events)
        leaving = self._leaving(events)
        moves = Moves(self.table, self._departed)
        out: list[Rows | Gaps] = []
        logged = [(position, event) for position, event in enumerate(events) if type(event) is Iteration]
        if logged:
            batch = gather(logged, self.reject)
            if batch.size:
                out += self._iterate(batch, leaving, moves)
        out += self._leave([event for _, event in leaving.values()])
        return out

    def _arrive(self, events: Sequence[Event]) -> None:
        admitted: dict[int, Arrival] = {}
        for event in events:
            if type(event) is Arrival:
                self._admit(event, admitted)
            elif type(event) is Finish or type(event) is Loss:
                self._forget_id(event.handle, admitted)
        if admitted:
            self._occupy(list(admitted.values()))

    def _admit(self, event: Arrival, admitted: dict[int, Arrival]) -> None:
        reason = self._unfit(event)
        if reason is None:
            self._slot_of[event.request_id] = event.handle & INDEX_MASK
            admitted[event.handle] = event
        else:
            self.reject(reason)
            self.freed.append(event.handle + GENERATION)

    def _forget_id(self, handle: int, admitted: Mapping[int, Arrival]) -> None:
        """A request ends: its id may arrive again, also within this drain."""
        index = handle & INDEX_MASK
        if handle in admitted:
            request_id = admitted[handle].request_id
        elif handle >= 0 and index < self.table.capacity and self.table.handle[index] == handle:
            request_id = self.table.request_ids[index]
        else:
            return
        if self._slot_of.get(request_id) == index:
            del self._slot_of[request_id]

    def _occupy(self, admitted: Sequence[Arrival]) -> None:
        handles = np.array([event.handle for event in admitted], dtype=np.int64)
        self.table.reserve(int((handles & INDEX_MASK).max()))
        classes = [self._class_codes.get(event.request_class, self._other_class) for event in admitted]
        self.table.occupy(
            handles,
            np.array([event.at for event in admitted]),
            np.array([event.prompt_tokens for event in admitted], dtype=np.float64),
            np.array(classes),
        )
        for event in admitted:
            self.table.request_ids[event.handle & INDEX_MASK] = event.request_id
        self.received += len(admitted)

    def _unfit(self, event: Arrival) -> str | None:
        try:
            if event.request_id in self._slot_of:
                return DUPLICATE_REQUEST
            if np.isinf(event.at) or np.isinf(event.prompt_tokens):
                return INFINITE
            if np.isnan(event.at) or np.isnan(event.prompt_tokens):
                return NOT_A_NUMBER
            self._class_codes.get(event.request_class)
        except TypeError:  # an id that cannot be hashed, an instant that is no number
            return WRONG_TYPE
        return NEGATIVE if event.prompt_tokens < 0 else None

    def _leaving(self, events: Sequence[Event]) -> dict[int, tuple[int, Finish | Loss]]:
        """Slot index -> (position in the log, event) of the requests that end; each can end once."""
        leaving: dict[int, tuple[int, Finish | Loss]] = {}
        capacity = self.table.capacity
        for position, event in enumerate(events):
            if type(event) is Finish or type(event) is Loss:
                index = event.handle & INDEX_MASK
                stale = event.handle < 0 or index >= capacity or self.table.handle[index] != event.handle
                if stale or index in leaving:
                    self.reject(STALE_SLOT)
                else:
                    leaving[index] = (position, event)
        return leaving

    def _iterate(self, batch: IterationBatch, leaving: Leaving, moves: Moves) -> list[Rows | Gaps]:
        history = self._consistent(self._known(batch), batch, leaving)
        started = self._starts(batch, history)
        found = emissions(history, self.table, batch.finished)
        decoding = history.decoding(self.table)
        out: list[Rows | Gaps] = [*gaps(found, batch.finished), *first_times(history, found, started, self.table)]
        moves.collect(history, started)
        schedule(history, started, decoding, self.table)
        emit(found, batch.finished, self.table)
        rows, batches = iteration_rows(batch, history, started, decoding, self._limits)
        moves.fill(rows.values, [(index, event.at) for index, (_, event) in leaving.items()])
        self._number(rows.values, batches.values)
        latest = float(started.max())
        self._departed = deque((one for one in self._departed if one.at > latest), _MAX_DEPARTED)
        self._last_finish = float(np.fmax(self._last_finish, batch.finished.max()))
        return [*out, rows, batches]

    def _known(self, batch: IterationBatch) -> Elements:
        """The elements whose handle means a request in flight."""
        index = batch.handles & INDEX_MASK
        elements = Elements(index, batch.iteration, batch.tokens, batch.scheduled, batch.evicted)
        valid = self.table.valid(batch.handles, index)
        if valid.all():
            return elements
        self.reject(STALE_SLOT, int(np.count_nonzero(~valid)))
        return elements.take(valid)

    def _consistent(self, elements: Elements, batch: IterationBatch, leaving: Leaving) -> History:
        """By slot, without what cannot be: a slot twice, time going back, evicting who does not run.

        Long runs are tried first; where anything is wrong with them, it is looked for element by element.
        """
        capacity = self.table.capacity
        if (batch.finished[1:] >= batch.finished[:-1]).all():
            runs = long_runs(elements, capacity, batch.size)
            if runs is not None:
                history = History(runs)
                if not any(bad.any() for _, bad in self._wrong(history, batch, leaving)):
                    return history
        while True:
            runs, order = single_runs(elements, capacity)
            history = History(runs)
            for reason, bad in self._wrong(history, batch, leaving):
                count = int(np.count_nonzero(bad))
                if count:
                    self.reject(reason, count)
                    keep = np.ones(len(bad), dtype=np.bool_)
                    keep[order[bad]] = False
                    elements = elements.take(keep)
                    break
            else:
                return history

    def _wrong(self, history: History, batch: IterationBatch, leaving: Leaving) -> Iterator[tuple[str, Mask]]:
        yield DUPLICATE_SLOT, history.repeated()
        yield STALE_SLOT, self._gone(history, batch.position, leaving)
        yield OUT_OF_ORDER, self._going_back(history, batch.finished)
        yield NOT_RUNNING, history.not_running(self.table)

    @staticmethod
    def _gone(history: History, position: npt.NDArray[np.int64], leaving: Leaving) -> Mask:
        """Runs of requests that had already been reported as gone at their end; only slots that end are looked at."""
        bad = np.zeros(len(history.slot), dtype=np.bool_)
        if not leaving or not len(history.slot):
            return bad
        slots, ends = history.slots, history.ends
        gone = np.array(list(leaving), dtype=np.intp)
        gone_at = np.array([at for at, _ in leaving.values()], dtype=np.int64)
        place = np.minimum(slots.searchsorted(gone), len(slots) - 1)
        late = (slots[place] == gone) & (position[history.end[ends[place]]] > gone_at)
        for where, at in zip(place[late].tolist(), gone_at[late].tolist(), strict=True):
            part = slice(history.starts[where], ends[where] + 1)
            bad[part] = position[history.end[part]] > at
        return bad

    def _going_back(self, history: History, finished: Floats) -> Mask:
        """Runs that begin in iterations that ended before the same request's arrival or last emission."""
        table, slots = self.table, history.slots
        bad = np.zeros(len(history.slot), dtype=np.bool_)
        known = np.fmax(table.arrived_at[slots], table.last_token_at[slots])
        bad[history.starts] = finished[history.begin[history.starts]] < known
        if (finished[1:] < finished[:-1]).any():  # then runs are single elements
            at = finished[history.begin]
            bad[1:] |= (at[1:] < at[:-1]) & ~history.first[1:]
        return bad

    def _starts(self, batch: IterationBatch, history: History) -> Floats:
        """When each iteration started; left out: when the one before ended, or its first request arrived.

        Who was in the one before arrived before it ended, so then nobody need look when the others came.
        """
        unknown = np.isnan(batch.started)
        if not unknown.any():
            return batch.started
        earliest = np.full(batch.size, np.inf)
        np.minimum.at(earliest, history.begin, self.table.arrived_at[history.slot])
        earliest[covering(history.begin + 1, history.end, batch.size) > 0] = -np.inf
        before = np.append(self._last_finish, batch.finished[:-1])
        estimate = np.minimum(np.fmax(before, earliest), batch.finished)
        return np.where(unknown, estimate, batch.started)

    def _number(self, rows: Floats, batches: Floats) -> None:
        """Number the iterations that the engine did not."""
        own = np.arange(self._iterations, self._iterations + len(rows))
        self._iterations += len(rows)
        numbers = rows[:, IterationColumn.ITERATION_NUMBER]
        numbers[:] = np.where(np.isnan(numbers), own, numbers)
        batches[:, BatchColumn.BATCH_ID] = numbers

    def _leave(self, events: Sequence[Finish | Loss]) -> list[Rows | Gaps]:
        """Rows of the finished; the slots of all are free again."""
        finishes = [event for event in events if type(event) is Finish]
        rows, good = request_rows(finishes, self.table, self.reject)
        self.lost += len(events) - good
        for event in events:
            index = event.handle & INDEX_MASK
            if isfinite(event.at):
                held = bool(self.table.holding[index])
                self._departed.append(Departure(float(self.table.arrived_at[index]), event.at, held))
            self.table.release(index)
            self.freed.append(event.handle + GENERATION)
        return [rows] if good else []
