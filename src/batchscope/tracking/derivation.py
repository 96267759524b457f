"""From a tracker's events to rows: queue times, gaps, phases, counts and finished requests, in bulk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SchedulerLimits
from batchscope.reasons import RejectReason, Tally
from batchscope.recording.mistakes import Mistakes, instants
from batchscope.recording.rings import Numbering
from batchscope.rows import BatchColumn, Floats, Gaps, IterationColumn, Rows, distinct
from batchscope.tracking.admission import Admission, Leaving
from batchscope.tracking.changes import NOBODY, Moves, changed
from batchscope.tracking.events import Arrival, Event, Finish, Iteration
from batchscope.tracking.history import History, emissions, gaps
from batchscope.tracking.iteration_batch import IterationBatch, gather
from batchscope.tracking.results import COMPLETES, iteration_rows, request_rows, start_rows
from batchscope.tracking.runs import Elements, Mask, covering, long_runs, single_runs
from batchscope.tracking.slots import FREE, SlotTable
from batchscope.tracking.spans import ordinals, span_rows


class Derivation:
    """The state of a tracker between drains: who is in flight, and what was counted since the last reset."""

    def __init__(
        self,
        class_codes: Mapping[str | None, float],
        other_class: float,
        limits: SchedulerLimits,
        mistakes: Mistakes | None = None,
        numbering: Numbering | None = None,
    ) -> None:
        self._numbering = numbering or Numbering()
        self.table = SlotTable(numbering=self._numbering)
        self.received = 0
        self.lost = 0
        self.rejected = Tally()
        self._admission = Admission(self.table, class_codes, other_class, self.reject)
        self.limits = limits
        self._mistakes = mistakes or Mistakes()
        self._iterations = 0
        self._last_finish = np.nan
        self._departed = NOBODY
        self._completed: Counter[float] = Counter()  # by rank: not counted for an iteration yet
        self._before = (0, 0, 0, self.rejected)

    @property
    def in_flight(self) -> int:
        """Requests that arrived and have not left."""
        return self._admission.in_flight

    def reject(self, reason: str, count: int = 1, method: str = "iteration", detail: str = "") -> None:
        """Count rejected records of a ``method``; ``detail``: values of the first."""
        if count:
            self.rejected.add(reason, count)
            self._mistakes.note_refused(reason, f"RequestTracker.{method}()", detail)

    def reset(self) -> None:
        """Start counting anew; requests in flight stay, and count as received."""
        self.received, self.lost, self.rejected = self.in_flight, 0, Tally()
        self._completed.clear()

    def remember(self) -> None:
        """Keep what ``abandon`` goes back to: called before any event is taken."""
        self._before = (self.in_flight, self.received, self.lost, self.rejected.copy())

    def derive(self, events: Sequence[Event]) -> list[Rows | Gaps]:
        """Rows of everything that these events say, in the order they were reported; after ``remember``."""
        log = self._admission.advance(events)
        self.received += log.admitted
        out: list[Rows | Gaps] = []
        if log.iterations:
            moves = Moves(self.table, self._departed)
            batch = gather(log.positions, log.iterations, self.reject)
            if batch.size:
                out += self._iterate(batch, log.leaving, moves)
        if not log.leaving.events:
            return out
        if not out:
            self._completed.update(rank for _, rank in self._completions(log.leaving))
        return out + self._leave(log.leaving)

    def abandon(self, events: Sequence[Event]) -> None:
        """What began with ``remember`` was ended by an exception: as if none of it had happened, but for who left.

        Arrivals and iterations are rejected as ``interrupted``; requests whose end was among the events are lost.
        """
        in_flight, self.received, lost, rejected = self._before
        arrived = {event.handle for event in events if isinstance(event, Arrival)}
        for event in events:
            if not isinstance(event, Iteration):
                self._admission.forget(event.handle)
        refused = len(arrived) + sum(event.repeats for event in events if isinstance(event, Iteration))
        self.lost = lost + in_flight - self.in_flight
        self.rejected = rejected.copy()
        self.rejected.add(RejectReason.INTERRUPTED, refused)

    def _iterate(self, batch: IterationBatch, leaving: Leaving, moves: Moves) -> list[Rows | Gaps]:
        history = self._consistent(self._known(batch), batch, leaving)
        started = self._starts(batch, history)
        found = emissions(history, batch.finished)
        decoding = history.decoding()
        after = changed(history, found, started, decoding, batch)
        out: list[Rows | Gaps] = [*gaps(found, batch.finished), *start_rows(history.before, after)]
        rows, batches = iteration_rows(batch, history, started, decoding, self.limits)
        moves.collect(history, started, batch.ranks)
        self.table.write(after)
        moves.fill(rows.values, leaving.slot, leaving.at, self.limits)
        if batch.heads.max() != FREE:
            self.reject(RejectReason.STALE_SLOT, moves.tell_heads(rows.values, batch.heads))
        self._count_completed(rows.values, batch.position, leaving)
        self._number(rows.values, batches.values)
        if self._numbering.spans_wanted:
            own = ordinals(batch.ranks, self._numbering, id(self))
            rows.values[:, IterationColumn.ORDINAL] = own
            out.append(span_rows(history, own, decoding, batch.finished, self.table))
        self._departed = self._departed.after(float(started.max()))
        self._last_finish = float(np.fmax(self._last_finish, batch.finished.max()))
        return [*out, rows, batches]

    def _completions(self, leaving: Leaving) -> list[tuple[int, float]]:
        """Of each request that completes: where the log says so, and the rank it ran on."""
        ran = ~np.isnan(self.table.first_scheduled_at[leaving.slot])
        told = zip(leaving.events, ran, leaving.position.tolist(), self.table.rank[leaving.slot].tolist(), strict=True)
        return [
            (position, rank)
            for event, scheduled, position, rank in told
            if scheduled and type(event) is Finish and COMPLETES[int(event.reason)]
        ]

    def _count_completed(self, rows: Floats, positions: npt.NDArray[np.int64], leaving: Leaving) -> None:
        """Completed requests count for the iteration of their rank that was reported last before they were.

        Where that was drained before, or there is none, they count for the next one.
        """
        completions = self._completions(leaving)
        counted = np.zeros(len(rows))
        for rank in distinct(rows[:, IterationColumn.RANK]):
            mine = np.flatnonzero(rows[:, IterationColumn.RANK] == rank)
            told = [position for position, of in completions if of == rank]
            last = np.maximum(positions[mine].searchsorted(told) - 1, 0)
            counted[mine] = np.bincount(last, minlength=len(mine))
            counted[mine[0]] += self._completed.pop(rank, 0)
            completions = [each for each in completions if each[1] != rank]
        self._completed.update(rank for _, rank in completions)
        completed = rows[:, IterationColumn.REQUESTS_COMPLETED]
        completed[:] = np.where(np.isnan(completed), counted, completed)

    def _known(self, batch: IterationBatch) -> Elements:
        """The elements whose handle means a request in flight."""
        index = self.table.rows(batch.handles)
        elements = Elements(index, batch.iteration, batch.tokens, batch.scheduled, batch.evicted, batch.last)
        if index.min(initial=0) != FREE:
            return elements
        if batch.last is not None:
            return self._known(batch.spread())
        valid = index != FREE
        stale = ~valid & ~(batch.formed[batch.iteration] & self.table.issued(batch.handles))
        if stale.any():
            self.reject(RejectReason.STALE_SLOT, int(np.count_nonzero(stale)), detail=f"slot {batch.handles[stale][0]}")
        return elements.take(valid)

    def _consistent(self, elements: Elements, batch: IterationBatch, leaving: Leaving) -> History:
        """By slot, without what cannot be: a slot twice, time going back, evicting who does not run.

        Long runs are tried first; where anything is wrong with them, it is looked for element by element. With
        several ranks there are none: what follows an iteration is another rank's.
        """
        capacity = self.table.capacity
        one_rank = len(distinct(batch.ranks)) == 1
        if one_rank and (batch.finished[1:] >= batch.finished[:-1]).all():
            told = elements.last is not None  # as runs
            runs = single_runs(elements, capacity)[0] if told else long_runs(elements, capacity, batch.size)
            if runs is not None:
                history = History(runs, self.table)
                if not any(bad.any() for _, bad in self._wrong(history, batch, leaving)):
                    return history
        elements = elements.spread()
        while True:
            runs, order = single_runs(elements, capacity)
            history = History(runs, self.table)
            for reason, bad in self._wrong(history, batch, leaving):
                if bad.any():
                    excused = bad & batch.formed[history.begin] & (reason == RejectReason.STALE_SLOT)
                    blamed = np.flatnonzero(bad & ~excused)
                    if len(blamed):
                        self.reject(reason, len(blamed), detail=self._detail(reason, history, int(blamed[0]), batch))
                    keep = np.ones(len(bad), dtype=np.bool_)
                    keep[order[bad]] = False
                    elements = elements.take(keep)
                    break
            else:
                return history

    def _wrong(self, history: History, batch: IterationBatch, leaving: Leaving) -> Iterator[tuple[str, Mask]]:
        yield RejectReason.DUPLICATE_SLOT, history.repeated()
        yield RejectReason.STALE_SLOT, self._gone(history, batch.position, leaving)
        yield RejectReason.OUT_OF_ORDER, self._going_back(history, batch.finished)
        yield RejectReason.NOT_RUNNING, history.not_running()

    def _detail(self, reason: str, history: History, place: int, batch: IterationBatch) -> str:
        """What is known of a run that cannot be: its slot, its request's instants, its iteration's end."""
        slot, at = history.slot[place], float(batch.finished[history.begin[place]])
        arrived = float(self.table.arrived_at[slot])
        known = f"in an iteration with finished_at = {at:.3f}, arrived at {arrived:.3f}"
        evicted = history.evicted
        both = (
            reason == RejectReason.DUPLICATE_SLOT and evicted is not None and evicted[place - 1] and not evicted[place]
        )
        where = " both in slots and in preempted," if both else ""
        return instants(f"slot {self.table.handle[slot]}{where} {known}", at, arrived)

    @staticmethod
    def _gone(history: History, position: npt.NDArray[np.int64], leaving: Leaving) -> Mask:
        """Runs of requests that had already been reported as gone at their end; only slots that end are looked at."""
        bad = np.zeros(len(history.slot), dtype=np.bool_)
        if not leaving.events or not len(history.slot):
            return bad
        slots, ends = history.slots, history.ends
        place = np.minimum(slots.searchsorted(leaving.slot), len(slots) - 1)
        late = (slots[place] == leaving.slot) & (position[history.end[ends[place]]] > leaving.position)
        for where, at in zip(place[late].tolist(), leaving.position[late].tolist(), strict=True):
            part = slice(history.starts[where], ends[where] + 1)
            bad[part] = position[history.end[part]] > at
        return bad

    @staticmethod
    def _going_back(history: History, finished: Floats) -> Mask:
        """Runs that begin in iterations that ended before the same request's arrival or last emission."""
        bad = np.zeros(len(history.slot), dtype=np.bool_)
        known = np.fmax(history.before.arrived_at, history.before.last_token_at)
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

    def _leave(self, leaving: Leaving) -> list[Rows | Gaps]:
        """Rows of the finished; the slots of all are free again."""
        finished = [place for place, event in enumerate(leaving.events) if type(event) is Finish]
        rows = request_rows(
            [event for event in leaving.events if type(event) is Finish],
            leaving.slot[finished],
            [leaving.request_ids[place] for place in finished],
            self.table,
            self.reject,
        )
        self.lost += len(leaving.events) - len(rows.values)
        self._departed = self._departed.joined(leaving.slot, leaving.at, self.table)
        self.table.release(leaving.slot)
        return [rows] if len(rows.values) else []
