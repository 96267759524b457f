"""Only the instants of requests: a simulation without tracker, clock and statistics, for fits and predictions.

The scheduler is the one that ``Simulator`` drives, and so are the batches; nobody is told of them. Iterations that
repeat each other are gone through as one sum, so that a simulation takes tens of milliseconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from batchscope.simulator.batch import Batch
from batchscope.simulator.cost import LinearCostModel, token_pairs
from batchscope.simulator.options import SchedulerOptions
from batchscope.simulator.scheduler import Scheduler
from batchscope.simulator.workload import RequestSpec

Floats = npt.NDArray[np.float64]


class Instants:
    """Of each request of the workload, in its order: seconds since the start; ``nan`` where it did not happen.

    ``busy_seconds``: how long the engine was busy, by what limited the batch (``BatchLimiter``'s value).
    ``iterations`` of them there were; ``preemptions`` of each request. ``max_emission_gap``: the longest time between
    two of a request's tokens, ``nan`` below two of them; ``None`` where gaps were not followed.
    """

    def __init__(self, requests: int) -> None:
        self.first_scheduled: Floats = np.full(requests, math.nan)
        self.first_token: Floats = np.full(requests, math.nan)
        self.last_token: Floats = np.full(requests, math.nan)
        self.preemptions = np.zeros(requests, np.int64)
        self.max_emission_gap: Floats | None = None
        self.iterations = 0
        self.busy_seconds: dict[str, float] = {}
        self.work = [0.0, 0.0, 0.0, 0.0, 0.0]
        """What the constants of the cost were multiplied with, all iterations together."""
        self.decode_work: Floats = np.full((requests, 5), math.nan)
        """The part of ``work`` that fell between the first and the last token of each request."""
        self.largest_batch = 0
        self.largest_context = 0
        self.largest_chunk = 0


def simulate_instants(
    workload: Sequence[RequestSpec],
    options: SchedulerOptions,
    cost: LinearCostModel,
    *,
    until: float = math.inf,
    pace: Pace | None = None,
    follow_gaps: bool = False,
) -> Instants:
    """Serve ``workload``, in order of arrival, until every request has ended or ``until``, seconds since the start.

    ``pace``: how many times as long as ``cost`` says an iteration takes, by the instant at which it starts.
    ``follow_gaps`` between tokens, too: a tenth slower.
    """
    run = _Run(workload, options, cost, until, pace, _Gaps(len(workload)) if follow_gaps else None)
    while run.now < until and run.step():
        pass
    if run.gaps is not None:
        run.instants.max_emission_gap = run.gaps.longest
    return run.instants


class Pace:
    """A factor that holds from one instant to the next; the last one for ever."""

    def __init__(self, since: Floats, factors: Floats) -> None:
        self._since, self._factors = since.tolist(), factors.tolist()

    def __call__(self, instant: float) -> float:
        return float(self._factors[max(0, bisect_right(self._since, instant) - 1)])


class _Gaps:
    """Of each request, when it last emitted a token, and the longest time that this took."""

    def __init__(self, requests: int) -> None:
        self.longest: Floats = np.full(requests, math.nan)
        self._latest: Floats = np.full(requests, math.nan)

    def emitted(self, slots: Sequence[int], instant: float, longest: float | None = None) -> None:
        """A token each; or several, the last one at ``instant``, of which ``longest`` was the longest gap."""
        index = np.array(slots, np.int64)
        gaps = instant - self._latest[index] if longest is None else longest
        self.longest[index] = np.fmax(self.longest[index], gaps)
        self._latest[index] = instant


class _Run:
    def __init__(
        self,
        workload: Sequence[RequestSpec],
        options: SchedulerOptions,
        cost: LinearCostModel,
        until: float,
        pace: Pace | None = None,
        gaps: _Gaps | None = None,
    ) -> None:
        self._until = until
        self._pace = pace
        self.gaps = gaps
        self._workload = workload
        self._arrivals = [spec.arrival for spec in workload] + [math.inf]
        self._next = 0
        self._cost = cost
        self._scheduler = Scheduler(options)
        self.instants = Instants(len(workload))
        self.now = 0.0
        self._work_at_first: dict[int, tuple[float, ...]] = {}

    def step(self) -> bool:
        """An iteration and those that repeat it, or a wait; False when there is nothing left."""
        self._take_arrivals()
        batch = self._scheduler.form_batch()
        if not batch:
            self.now = self._arrivals[self._next]
            return self.now < math.inf
        started = self.now
        if self._iterate(batch):
            self._repeat(batch)
        seconds = self.instants.busy_seconds
        limiter = batch.limited_by.value
        seconds[limiter] = seconds.get(limiter, 0.0) + self.now - started
        return True

    def _take_arrivals(self) -> None:
        scheduler, now = self._scheduler, self.now
        while self._arrivals[self._next] <= now:
            request = scheduler.accept(self._workload[self._next], self._next)
            if scheduler.ever_fits(request):
                scheduler.enqueue(request)
            self._next += 1

    def _iterate(self, batch: Batch) -> bool:
        """One iteration; whether it may repeat itself: nobody ended."""
        instants, scheduled = self.instants, self.instants.first_scheduled
        for request in batch.admitted:
            if math.isnan(scheduled[request.slot]):
                scheduled[request.slot] = self.now
        for slot in batch.preempted:
            instants.preemptions[slot] += 1
        self._note_extremes(batch)
        seconds = self._cost.iteration_time(batch.prefill_tokens, len(batch.decode_slots), batch.kv_tokens_read)
        self.now += seconds * self._pace(self.now) if self._pace else seconds
        instants.iterations += 1
        if self.gaps is not None:
            new = [chunk.request.slot for chunk in batch.chunks if chunk.ends_prefill]
            self.gaps.emitted([*batch.decode_slots, *new], self.now)
        ended = self._scheduler.complete(batch)
        for chunk in batch.chunks:
            if chunk.ends_prefill and chunk.request.emitted == 1:
                instants.first_token[chunk.request.slot] = self.now
                self._work_at_first[chunk.request.slot] = tuple(instants.work)
        for request in ended:
            instants.last_token[request.slot] = self.now
            before = self._work_at_first.pop(request.slot)
            instants.decode_work[request.slot] = [now - then for now, then in zip(instants.work, before, strict=True)]
        return not ended

    def _repeat(self, batch: Batch) -> None:
        stretch = self._scheduler.steady_stretch(batch)
        if not stretch:
            return
        members, context = len(batch.decode_slots), batch.kv_tokens_read
        growth = members + batch.prefill_tokens
        alike = self._cost.iteration_time(batch.prefill_tokens, members, 0)
        per_token = self._cost.per_kv_token_read + growth * self._cost.per_token_pair
        now, until, steps, pace = self.now, self._arrivals[self._next], 0, self._pace
        if batch.chunks:
            until = min(until, self._until)
        longest = 0.0
        for _ in range(stretch):
            if now >= until:
                break
            context += growth
            seconds = alike + per_token * context
            if pace:
                seconds *= pace(now)
                longest = max(longest, seconds)
            now += seconds
            steps += 1
        if steps:
            self._scheduler.advance_by(batch, steps)
            self.instants.iterations += steps
            if self.gaps is not None:
                self.gaps.emitted(batch.decode_slots, now, longest or seconds)  # without a pace the last is the longest
            read = steps * (batch.kv_tokens_read + context + growth) / 2
            work = self.instants.work
            work[0], work[1] = work[0] + steps, work[1] + steps * batch.prefill_tokens
            work[2], work[3] = work[2] + steps * members, work[3] + read
            work[4] += growth * (read + steps * batch.prefill_tokens)
            self.instants.largest_context = max(self.instants.largest_context, context)
            self.now = now

    def _note_extremes(self, batch: Batch) -> None:
        instants = self.instants
        work = instants.work
        work[0] += 1
        work[1] += batch.prefill_tokens
        work[2] += len(batch.decode_slots)
        work[3] += batch.kv_tokens_read
        work[4] += token_pairs(batch.prefill_tokens, len(batch.decode_slots), batch.kv_tokens_read)
        instants.largest_batch = max(instants.largest_batch, len(batch))
        instants.largest_context = max(instants.largest_context, batch.kv_tokens_read)
        instants.largest_chunk = max(instants.largest_chunk, batch.prefill_tokens)
