"""The simulator: a scheduler serves a workload in virtual time, and reports to a tracker what it does.

This is how an engine uses ``RequestTracker``: ``arrived`` when a request comes, ``iteration`` once for each
step of the engine, ``finished`` when a request leaves. There is nothing more to it, but that several steps in a row
with one batch may be told by ``repeated``, in one call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from batchscope.clock import Clock
from batchscope.records import CompletionReason, Outcome
from batchscope.simulator.arrivals import Arrivals
from batchscope.simulator.batch import Batch
from batchscope.simulator.cost import LinearCostModel
from batchscope.simulator.disturbances import Disturbances, FateTeller, Timers
from batchscope.simulator.interrupts import held_interrupts
from batchscope.simulator.options import SchedulerOptions
from batchscope.simulator.requests import LiveRequest
from batchscope.simulator.scheduler import Scheduler
from batchscope.simulator.tracker import TakesRepeated, Tracker
from batchscope.simulator.virtual_clock import Pacer, VirtualClock
from batchscope.simulator.workload import RequestSpec, Workload

ITERATIONS_BETWEEN_PROGRESS = 100
MOST_AT_ONCE = 1024
"""Iterations told in one call: Ctrl-C is looked at between two."""


class SimulationResult(msgspec.Struct, frozen=True):
    """What a run did so far. ``arrived`` = completed + failed + cancelled + ``in_flight``.

    ``prompt_tokens`` are of the requests that arrived, ``output_tokens`` those emitted.
    """

    arrived: int
    completed: int
    failed: int
    cancelled: int
    iterations: int
    virtual_seconds: float
    prompt_tokens: int
    output_tokens: int
    interrupted: bool
    preemptions: int
    recomputed_tokens: int
    cached_prompt_tokens: int

    @property
    def in_flight(self) -> int:
        """Requests that arrived and have not ended: none, unless the run was interrupted."""
        return self.arrived - self.completed - self.failed - self.cancelled


class Simulator:
    """Serves ``workload`` once, reporting to ``tracker``.

    ``clock`` (default: a new one at 0) is advanced by the run; give it to the collector too. ``speed`` 1
    runs in real time, 10 ten times as fast, ``None`` as fast as possible. Equal arguments give equal runs:
    ``seed`` decides the ``disturbances``, and nothing else is random.
    """

    def __init__(
        self,
        workload: Workload,
        tracker: Tracker,
        *,
        options: SchedulerOptions | None = None,
        cost: LinearCostModel | None = None,
        disturbances: Disturbances | None = None,
        clock: VirtualClock | None = None,
        seed: int = 0,
        speed: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        real_clock: Clock = time.monotonic,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.options = options or SchedulerOptions()
        self._tracker = tracker
        self._cost = cost or LinearCostModel()
        self._scheduler = Scheduler(self.options)
        self._fates = FateTeller(disturbances or Disturbances(), self._cost, seed)
        self._timers = Timers()
        self._start = self.clock()
        self._pauses = [(self._start + start, self._start + end) for start, end in self.options.pauses]
        self._arrivals = Arrivals(workload, self._start)
        self._pacer = Pacer(self.clock, speed, sleep=sleep, real_clock=real_clock)
        self._paced = speed is not None
        self._counts = _Counts()
        self._at_once: TakesRepeated | None = None

    def run(
        self,
        on_progress: Callable[[SimulationResult], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> SimulationResult:
        """Serve until every request has ended, ``should_stop()`` says so, or Ctrl-C.

        ``on_progress`` is called every 100 iterations. After a stop, what is in flight stays so, and
        another ``run`` goes on with it.
        """
        done = False
        tracker, told_each = self._tracker, self._paced or should_stop is not None
        self._at_once = tracker if isinstance(tracker, TakesRepeated) and not told_each else None
        with held_interrupts() as interrupted, suppress(KeyboardInterrupt):
            stopped = interrupted if should_stop is None else lambda: interrupted() or bool(should_stop())
            done = self._serve(stopped, on_progress)
        return self._result(interrupted=not done)

    def _serve(self, stopped: Callable[[], bool], on_progress: Callable[[SimulationResult], None] | None) -> bool:
        """The engine's loop; whether everything was served."""
        while not stopped():
            now = self.clock()
            self._take_arrivals(now)
            self._fire_timers(now)
            batch = self._scheduler.form_batch(paused=bool(self._pauses) and self._pause_end() < math.inf)
            if batch:
                self._iterate(batch, stopped, on_progress)
            elif (instant := self._next_event()) < math.inf:
                self._pacer.wait_until(instant, stopped)
            else:
                return True
        return False

    def _iterate(
        self,
        batch: Batch,
        stopped: Callable[[], bool],
        on_progress: Callable[[SimulationResult], None] | None,
    ) -> None:
        """A step of the engine, and those that repeat it until something else happens, with their reports.

        They are reported as one by one, but not formed anew.
        """
        formed_at = self.clock()
        span = self._pass_time(batch, stopped)
        ended = self._scheduler.complete(batch)
        stretch = 0 if ended else self._scheduler.steady_stretch(batch)
        if stretch and self._at_once is not None:
            steps = self._tell_at_once(
                self._at_once, batch, span, self._until_shown(stretch, on_progress), self._next_outside_event(formed_at)
            )
            self._show(on_progress)
        else:
            self._report(batch, *span)
            self._end(ended, span[1])
            self._show(on_progress)
            steps = stretch and self._repeat_one_by_one(
                batch, stretch, self._next_outside_event(formed_at), stopped, on_progress
            )
        if steps:
            self._scheduler.advance_by(batch, steps)

    def _tell_at_once(
        self, tracker: TakesRepeated, batch: Batch, span: tuple[float, float], stretch: int, until: float
    ) -> int:
        """Report ``batch``, and what repeats it by ``until``, in one call; returns how many iterations did."""
        started, finished = span
        if not stretch or finished >= until:
            self._report(batch, started, finished)
            return 0
        ends = self._ends(batch, finished, min(stretch, MOST_AT_ONCE), until)
        steps = len(ends) - 1
        held = self._scheduler.blocks_held(batch, steps)
        if batch.cached_prompt_tokens or batch.recomputed_tokens:  # the first one differs
            self._report(batch, started, finished)
            started, ends, held = finished, ends[1:], held[1:]
            batch.repeat(held[0])
        self.clock.advance_to(ends[-1])
        self._report_repeated(tracker, batch, started, ends, held)
        return steps

    def _ends(self, batch: Batch, finished: float, most: int, until: float) -> list[float]:
        """When ``batch`` ended, before ``until``, and when ``most`` that repeat it end: the last one at ``until``."""
        cost, prefill, members = self._cost, batch.prefill_tokens, len(batch.decode_slots)
        alike, per_token, pairs = cost.iteration_time(prefill, members, 0), cost.per_kv_token_read, cost.per_token_pair
        growth, context = members + prefill, batch.kv_tokens_read
        ends = [finished]
        for read in range(context + growth, context + growth * (most + 1), growth):
            finished += cost.iteration_time(prefill, members, read) if pairs else alike + per_token * read
            ends.append(finished)
            if finished >= until:
                break
        return ends

    def _report_repeated(
        self, tracker: TakesRepeated, batch: Batch, started: float, ends: list[float], held: list[int]
    ) -> None:
        steps = len(ends)
        blocks, bytes_per_block = self._scheduler.cache.blocks, float(self.options.bytes_per_block)
        tracker.repeated(
            batch.slots,
            batch.tokens,
            started_at=started,
            finished_at=ends,
            scheduled_tokens=batch.scheduled_tokens,
            waiting=batch.waiting,
            running_requests=batch.running,
            deferred_requests=batch.deferred,
            unscheduled_prefill_tokens=_growing(batch.unscheduled_prefill_tokens, -batch.prefill_tokens, steps),
            cached_prompt_tokens=0,
            recomputed_tokens=0,
            decode_context_tokens=_growing(batch.decode_context_tokens, len(batch.decode_slots), steps),
            kv_cache_usage=[each / blocks for each in held],
            memory_bytes_used=[each * bytes_per_block for each in held],
            limited_by=batch.limited_by,
        )
        self._counts.iterations += steps
        self._counts.output_tokens += steps * batch.emitted_tokens

    def _repeat_one_by_one(
        self,
        batch: Batch,
        stretch: int,
        until: float,
        stopped: Callable[[], bool],
        on_progress: Callable[[SimulationResult], None] | None,
    ) -> int:
        """Likewise, for who wants to be told each when it takes place, or to be asked before each whether to stop."""
        for step, blocks_held in enumerate(self._scheduler.blocks_held(batch, stretch)[1:]):
            if self.clock() >= until or stopped():
                return step
            batch.repeat(blocks_held)
            self._report(batch, *self._pass_time(batch, stopped))
            if on_progress:
                self._show(on_progress)
        return stretch

    def _pass_time(self, batch: Batch, stopped: Callable[[], bool]) -> tuple[float, float]:
        """When the iteration starts and ends; it has ended now."""
        started = self.clock()
        finished = started + self._cost.iteration_time(
            batch.prefill_tokens, len(batch.decode_slots), batch.kv_tokens_read
        )
        if self._paced:
            self._pacer.wait_until(finished, stopped)
        self.clock.advance_to(finished)  # a stop cuts the waiting short, not the iteration
        return started, finished

    def _report(self, batch: Batch, started: float, finished: float) -> None:
        self._tracker.iteration(
            batch.slots,
            batch.tokens,
            started_at=started,
            finished_at=finished,
            scheduled_tokens=batch.scheduled_tokens,
            preempted=batch.preempted,
            waiting=batch.waiting,
            running_requests=batch.running,
            deferred_requests=batch.deferred,
            unscheduled_prefill_tokens=batch.unscheduled_prefill_tokens,
            cached_prompt_tokens=batch.cached_prompt_tokens,
            recomputed_tokens=batch.recomputed_tokens,
            decode_context_tokens=batch.decode_context_tokens,
            kv_cache_usage=batch.kv_blocks_held / self._scheduler.cache.blocks,
            memory_bytes_used=batch.kv_blocks_held * self.options.bytes_per_block,
            limited_by=batch.limited_by,
        )
        self._counts.add(batch)

    def _show(self, on_progress: Callable[[SimulationResult], None] | None) -> None:
        if on_progress and self._counts.iterations % ITERATIONS_BETWEEN_PROGRESS == 0:
            on_progress(self._result(interrupted=False))

    def _until_shown(self, stretch: int, on_progress: Callable[[SimulationResult], None] | None) -> int:
        """How many of the iterations behind the present one may be told before progress is shown."""
        shown_after = ITERATIONS_BETWEEN_PROGRESS - self._counts.iterations % ITERATIONS_BETWEEN_PROGRESS - 1
        return min(stretch, shown_after) if on_progress else stretch

    def _end(self, ended: Sequence[LiveRequest], instant: float) -> None:
        """Report who emitted the last token."""
        for request in ended:
            reason = CompletionReason.LENGTH_REACHED if request.cut else CompletionReason.EOS_TOKEN_REACHED
            self._finish(request, reason, instant)

    def _take_arrivals(self, now: float) -> None:
        if self._arrivals.next_instant > now:
            return
        for spec, instant in self._arrivals.until(now):
            slot = self._tracker.arrived(
                spec.request_id,
                prompt_tokens=spec.prompt_tokens,
                request_class=spec.request_class,
                at=instant,
            )
            self._counts.arrived += 1
            self._counts.prompt_tokens += spec.prompt_tokens
            self._receive(spec, self._scheduler.accept(spec, slot), instant)

    def _receive(self, spec: RequestSpec, request: LiveRequest, instant: float) -> None:
        """Refuse the request, hold it back, or let it wait."""
        fate = self._fates.fate_of(spec)
        if spec.output_tokens == 0:
            self._finish(request, CompletionReason.ERROR, instant)
        elif not self._scheduler.ever_fits(request):
            self._finish(request, CompletionReason.REJECTED, instant)
        else:
            self._timers.set(instant + fate.cancelled_after, request, CompletionReason.CANCELLED)
            self._timers.set(instant + fate.times_out_after, request, CompletionReason.TIMEOUT)
            if fate.ready_after:
                self._scheduler.defer(request)
                self._timers.set(instant + fate.ready_after, request, None)
            else:
                self._scheduler.enqueue(request)

    def _fire_timers(self, now: float) -> None:
        if self._timers.next_instant > now:
            return
        for request, reason in self._timers.due(now):
            if reason is None:
                self._scheduler.enqueue(request)
            else:
                self._scheduler.withdraw(request)
                self._finish(request, reason, now)

    def _finish(self, request: LiveRequest, reason: CompletionReason, instant: float) -> None:
        self._tracker.finished(
            request.slot,
            reason,
            at=instant,
            cached_tokens=request.cached_tokens,
            recomputed_tokens=request.recomputed_tokens,
        )
        self._counts.ended[reason.outcome] += 1

    def _next_event(self) -> float:
        """When something happens to an engine that has nothing to do; ``inf`` = never again."""
        pause_ends = self._pause_end() if self._scheduler.waiting else math.inf
        return min(self._arrivals.next_instant, self._timers.next_instant, pause_ends)

    def _next_outside_event(self, since: float) -> float:
        """The first thing behind ``since`` that arrives, is due, pauses or goes on."""
        if not self._pauses:
            return min(self._arrivals.next_instant, self._timers.next_instant)
        turns = [turn for pause in self._pauses for turn in pause if turn > since]
        return min(self._arrivals.next_instant, self._timers.next_instant, *turns)

    def _pause_end(self) -> float:
        """When the present pause ends; ``inf`` when there is none."""
        now = self.clock()
        return min((end for start, end in self._pauses if start <= now < end), default=math.inf)

    def _result(self, *, interrupted: bool) -> SimulationResult:
        counts = self._counts
        return SimulationResult(
            arrived=counts.arrived,
            completed=counts.ended[Outcome.COMPLETED],
            failed=counts.ended[Outcome.FAILED],
            cancelled=counts.ended[Outcome.CANCELLED],
            iterations=counts.iterations,
            virtual_seconds=self.clock() - self._start,
            prompt_tokens=counts.prompt_tokens,
            output_tokens=counts.output_tokens,
            interrupted=interrupted,
            preemptions=counts.preemptions,
            recomputed_tokens=counts.recomputed_tokens,
            cached_prompt_tokens=counts.cached_prompt_tokens,
        )


def _growing(amount: int, by: int, times: int) -> Sequence[float]:
    """``amount``, and what it becomes, ``by`` more each time."""
    return range(amount, amount + by * times, by) if by else [float(amount)] * times


class _Counts:
    """The running totals of a simulation."""

    def __init__(self) -> None:
        self.arrived = self.prompt_tokens = self.iterations = self.output_tokens = 0
        self.preemptions = self.recomputed_tokens = self.cached_prompt_tokens = 0
        self.ended = dict.fromkeys(Outcome, 0)

    def add(self, batch: Batch) -> None:
        self.iterations += 1
        if not batch.chunks:
            self.output_tokens += len(batch.decode_slots)
            self.preemptions += len(batch.preempted)
            return
        self.output_tokens += batch.emitted_tokens
        self.preemptions += len(batch.preempted)
        self.recomputed_tokens += batch.recomputed_tokens
        self.cached_prompt_tokens += batch.cached_prompt_tokens
