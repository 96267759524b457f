"""Iteration and batch rows from facts: when each iteration began, how many requests were in it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SchedulerLimits
from batchscope.engines.vllm.facts import Fact
from batchscope.records import BatchLimiter
from batchscope.rows import (
    LIMITER_CODES,
    BatchColumn,
    Floats,
    IterationColumn,
    RowKind,
    Rows,
    empty_rows,
)

C = IterationColumn
_COPIED = {
    C.AT: Fact.AT,
    C.RANK: Fact.RANK,
    C.REQUESTS_COMPLETED: Fact.FINISHED,
    C.WAITING_REQUESTS: Fact.WAITING,
    C.DEFERRED_REQUESTS: Fact.DEFERRED,
    C.PREFILL_REQUESTS: Fact.CONTEXT_REQUESTS,
    C.PREFILL_TOKENS: Fact.CONTEXT_TOKENS,
    C.CACHED_PROMPT_TOKENS: Fact.CACHED_TOKENS,
    C.DRAFT_TOKENS: Fact.DRAFT_TOKENS,
    C.ACCEPTED_TOKENS: Fact.ACCEPTED_TOKENS,
    C.KV_CACHE_USAGE: Fact.KV_CACHE_USAGE,
    C.LIMITED_BY: Fact.REPORTED_LIMITER,
}
_SAME_CLOCK_SECONDS = 5.0
"""The engine core's clock is the front end's where both are on one machine: then its end of a step is a little ago."""
_OF_START = [Fact.RANK, Fact.LONGEST_FIRST, Fact.RUNNING, Fact.WAITING, Fact.DEFERRED]


class IterationRows:
    """Makes rows, in the order of the facts; remembers each rank's last step.

    A step is an iteration where the scheduler's statistics came with it and somebody was in the engine: vLLM also
    steps to tidy up after the last request, and to keep data-parallel ranks together. Tokens and preemptions of
    outputs without statistics (another front end got them) are added to the rank's next iteration. ``alone``: this
    front end gets every step's statistics; where it does not, the time between two of its steps holds others'.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._alone = alone
        self._count = 0
        self._ended: dict[float, float] = {}
        self._worked: dict[float, bool] = {}
        self._owed: dict[float, tuple[float, float]] = {}

    def make(self, facts: Floats, limits: SchedulerLimits) -> list[Rows]:
        """An ITERATION and a BATCH row for each iteration, measured against ``limits``."""
        facts = facts.copy()
        self._settle(facts)
        facts = facts[are_iterations(facts)]
        if not len(facts):
            return []
        rows = empty_rows(RowKind.ITERATION, len(facts))
        for column, fact in _COPIED.items():
            rows[:, column] = facts[:, fact]
        self._compose(rows, facts, limits.max_running_requests)
        self._time(rows, facts)
        own = np.arange(self._count, self._count + len(rows), dtype=np.float64)
        self._count += len(rows)
        rows[:, C.ITERATION_NUMBER] = _known(facts[:, Fact.NUMBER], own)
        rows[facts[:, Fact.SLEEPS] == 1, C.LIMITED_BY] = LIMITER_CODES[BatchLimiter.PAUSED]
        return [Rows(RowKind.ITERATION, rows), _batches(rows, limits.max_running_requests)]

    def _settle(self, facts: Floats) -> None:
        """Fill what is missing, and add what outputs without the scheduler's statistics said to the next row."""
        facts[:, Fact.RANK] = np.nan_to_num(facts[:, Fact.RANK])
        outputs = facts[:, Fact.FIRST_TOKENS] + facts[:, Fact.EMISSIONS]
        facts[:, Fact.GENERATED] = _known(facts[:, Fact.GENERATED], outputs)
        facts[:, Fact.PREEMPTIONS] = np.nan_to_num(facts[:, Fact.PREEMPTIONS])
        if not self._owed and (facts[:, Fact.SCHEDULED] == 1).all():
            return
        for row in facts:
            rank, amounts = float(row[Fact.RANK]), (float(row[Fact.GENERATED]), float(row[Fact.PREEMPTIONS]))
            owed = self._owed.pop(rank, (0.0, 0.0))
            amounts = (amounts[0] + owed[0], amounts[1] + owed[1])
            if row[Fact.SCHEDULED] == 1 and not row[Fact.DUMMY] > 0:
                row[Fact.GENERATED], row[Fact.PREEMPTIONS] = amounts
            elif any(amounts):
                self._owed[rank] = amounts

    def _compose(self, rows: Floats, facts: Floats, places: int | None) -> None:
        """Who was in the batch. The scheduler counts after the step: who finished in it was running."""
        emitted = facts[:, Fact.FIRST_TOKENS] + facts[:, Fact.EMISSIONS]
        running = facts[:, Fact.RUNNING] + facts[:, Fact.FINISHED]
        if self._alone:
            running -= _counted_twice(facts, running - emitted)
        if places:
            running = np.minimum(running, places)
        scheduled = facts[:, Fact.CONTEXT_REQUESTS] + facts[:, Fact.GENERATION_REQUESTS]
        rows[:, C.RUNNING_REQUESTS] = running
        rows[:, C.REQUEST_COUNT] = _known(scheduled, _known(running, emitted))
        rows[:, C.SCHEDULED_TOKENS] = facts[:, Fact.CONTEXT_TOKENS] + facts[:, Fact.GENERATION_TOKENS]
        rows[:, C.TOKENS_GENERATED] = facts[:, Fact.GENERATED]
        rows[:, C.PREEMPTIONS] = facts[:, Fact.PREEMPTIONS]
        rows[:, C.RECOMPUTED_TOKENS] = _recomputed(facts)

    def _time(self, rows: Floats, facts: Floats) -> None:
        """The scheduler's own word where it reports; else from the end of the step before, if there was work left.

        vLLM's elapsed time is how long the engine waited for the result: often nothing, where the next step is
        scheduled meanwhile or the model ran before. After idleness it says how long the step took at least.
        """
        ended, at = facts[:, Fact.ENDED], facts[:, Fact.AT]
        finished = np.where((ended <= at) & (at - ended < _SAME_CLOCK_SECONDS), ended, at)
        waited = facts[:, Fact.ELAPSED_MS] / 1000
        said = np.column_stack([finished, waited, facts[:, _OF_START]]).tolist()
        estimated = np.array([self._start(*row) for row in said])
        if not self._alone:
            estimated = _known(finished - waited, estimated)
        rows[:, C.FINISHED_AT] = finished
        rows[:, C.STARTED_AT] = _known(finished - facts[:, Fact.STEP_SECONDS], estimated)
        rows[:, C.PROCESSING_TIME] = finished - rows[:, C.STARTED_AT]

    def _start(self, finished: float, waited: float, rank: float, longest: float, *held: float) -> float:
        """The end of the step before; after idleness when the first request arrived, as far as that is known."""
        ended = self._ended.get(rank, -math.inf)
        worked = self._worked.get(rank, False)
        self._ended[rank] = finished
        self._worked[rank] = any(count > 0 for count in held)
        if worked:
            return min(ended, finished)
        known = [seconds for seconds in (waited, longest) if not math.isnan(seconds)]
        return min(max(ended, finished - max(known, default=0.0)), finished)


def are_iterations(facts: Floats) -> npt.NDArray[np.bool_]:
    """Which of the steps are iterations."""
    found: npt.NDArray[np.bool_] = (facts[:, Fact.SCHEDULED] == 1) & ~(facts[:, Fact.DUMMY] > 0) & ~_idle(facts)
    return found


def _batches(rows: Floats, places: int | None) -> Rows:
    batches = empty_rows(RowKind.BATCH, len(rows))
    batches[:, BatchColumn.AT] = rows[:, C.AT]
    batches[:, BatchColumn.BATCH_ID] = rows[:, C.ITERATION_NUMBER]
    batches[:, BatchColumn.REQUEST_COUNT] = rows[:, C.REQUEST_COUNT]
    if places:
        batches[:, BatchColumn.UTILIZATION] = rows[:, C.REQUEST_COUNT] / places
    return Rows(RowKind.BATCH, batches)


def _known(values: Floats, otherwise: Floats) -> Floats:
    return np.where(np.isnan(values), otherwise, values)


def _recomputed(facts: Floats) -> Floats:
    """Tokens that preempted requests had when they came back, without those that a cache still holds.

    The last token of each had not been computed yet. ``nan`` where nobody came back, or the cache is switched off:
    then vLLM counts nothing of it.
    """
    came_back, tokens, hits = (
        facts[:, fact] for fact in (Fact.PREEMPTED_REQUESTS, Fact.PREEMPTED_QUERIES, Fact.PREEMPTED_HITS)
    )
    again = tokens - hits - np.nan_to_num(facts[:, Fact.CONNECTOR_PREEMPTED_HITS]) - came_back
    return np.where(came_back > 0, np.maximum(again, 0.0), np.nan)


def _counted_twice(facts: Floats, silent: Floats) -> Floats:
    """Who is among the finished and still among the running: a stop string is found by the front end, not the engine.

    vLLM does not tell it from a stop token, after which nobody runs on. But whoever is in the batch gets a token,
    unless its prefill goes on: only so many of the ``silent`` ones can have been counted twice.
    """
    return np.minimum(facts[:, Fact.STOPPED], np.maximum(np.nan_to_num(silent), 0.0))


def _idle(facts: Floats) -> npt.NDArray[np.bool_]:
    """Steps with nobody in the engine and nothing to tell."""
    said = facts[:, [Fact.RUNNING, Fact.WAITING, Fact.DEFERRED, Fact.EMISSIONS, Fact.FIRST_TOKENS, Fact.FINISHED]]
    composed = facts[:, Fact.CONTEXT_REQUESTS] + facts[:, Fact.GENERATION_REQUESTS]
    nobody: npt.NDArray[np.bool_] = np.nan_to_num(said).sum(axis=1) == 0
    return nobody & ~(composed > 0)
