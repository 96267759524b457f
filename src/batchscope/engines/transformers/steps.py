"""The iterations of transformers' continuous batching, followed from forming a batch to the update after it.

In asynchronous batching a batch is formed before the one before it is updated: formed batches wait in a queue.
Everything but arrivals happens on the generation thread; arrivals and failures may come from any.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from batchscope.clock import Clock
from batchscope.engines.transformers.limiter import limiter
from batchscope.records import BatchLimiter, CompletionReason, SchedulerMetrics
from batchscope.tracking.tracker import RequestTracker

_PENDING, _FINISHED = 0, 3
"""Values of transformers' RequestStatus."""


class Followed:
    """What is remembered of a request in flight, across its incarnations."""

    __slots__ = ("cached", "computed", "recomputed", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.computed = 0
        self.cached: int | None = None
        self.recomputed = 0


class Step:
    """One batch: formed, run, updated."""

    __slots__ = (
        "cached", "forward_time", "kv_cache_usage", "lengths", "limited_by", "preempted", "recomputed", "requests",
        "schedule_time", "started_at", "unscheduled",
    )  # fmt: skip

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.requests: list[Any] = []
        self.preempted: list[int] = []
        self.limited_by: BatchLimiter | None = None
        self.unscheduled = self.cached = self.recomputed = 0
        self.kv_cache_usage: float | None = None
        self.schedule_time: float | None = None
        self.forward_time: float | None = None
        self.lengths: list[int | None] = []


class Steps:
    """Turns what the hooks saw into calls of the tracker."""

    def __init__(self, tracker: RequestTracker, metrics: SchedulerMetrics) -> None:
        self._tracker = tracker
        self._metrics = metrics
        self.clock: Clock = tracker.clock
        self.cache: Any = None
        self.scheduler: Any = None
        self._followed: dict[str, Followed] = {}
        self._formed: deque[Step] = deque()
        self._forming: Step | None = None

    # Requests.

    def arrived(self, state: Any) -> Followed:
        """A request was put into the input queue; or a child was forked, which is first seen in a batch."""
        known = self._followed.get(state.request_id)
        if known is None:
            prompt = len(state.initial_tokens)
            known = Followed(self._tracker.arrived(state.request_id, prompt_tokens=prompt))
            self._followed[state.request_id] = known
        return known

    def finished(self, request_id: str, reason: CompletionReason, at: float | None = None) -> None:
        """A request left; of one that left before nothing is said."""
        gone = self._followed.pop(request_id, None)
        if gone is not None:
            self._tracker.finished(
                gone.slot, reason, at=at, cached_tokens=gone.cached, recomputed_tokens=gone.recomputed
            )

    def failed(self, state: Any, error: BaseException) -> None:
        """The engine gave a request up."""
        if state.request_id in self._followed:
            self._metrics.record_error(type(error).__name__)
            self.finished(state.request_id, CompletionReason.ERROR)

    def cancelled(self, states: Iterable[Any]) -> None:
        """The scheduler removed requests that the client cancelled."""
        for state in states:
            self.finished(state.request_id, CompletionReason.CANCELLED)

    def scheduler_reset(self) -> None:
        """The scheduler forgets what it holds; what is still in the input queue stays."""
        self._formed.clear()
        self._lose([*self.scheduler.active_requests, *self.scheduler.waiting_requests])

    def lose_all(self) -> None:
        """Nobody will say how the requests in flight end."""
        self._formed.clear()
        self._lose(list(self._followed))

    def _lose(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            gone = self._followed.pop(request_id, None)
            if gone is not None:
                self._tracker.lost(gone.slot)

    # Iterations, in the order of the calls.

    def begin(self) -> None:
        """A batch begins to be formed."""
        self._forming = Step(self.clock())

    def scheduled(self, result: Any, token_budget: int, cache_budget: int) -> None:
        """The scheduler answered; ``None`` for requests: the cache is full, it will be asked again."""
        step, requests = self._forming, result[0]
        if step is None or not requests:
            return
        step.requests = requests
        step.kv_cache_usage = 1.0 - float(self.cache.compute_free_capacity())
        step.limited_by = limiter(self.scheduler, result, token_budget, cache_budget, 1.0 - step.kv_cache_usage)
        for future in requests:
            state, known = future.state, self.arrived(future.state)
            if known.cached is None:
                known.cached = state.position_offset
                step.cached += state.position_offset
            reached = state.position_offset + future.query_length
            again = max(0, min(reached, known.computed) - state.position_offset)
            known.computed = max(known.computed, reached)
            known.recomputed += again
            step.recomputed += again
            step.unscheduled += len(state.remaining_prefill_tokens)

    def active_ids(self) -> list[str]:
        """Who held cache before the scheduler made room."""
        return list(self.scheduler.active_requests)

    def offloaded(self, active: list[str] | None) -> None:
        """Room was made: who was active and waits now was preempted."""
        if self._forming is not None:
            waiting = self.scheduler.waiting_requests
            self._forming.preempted += [
                self._followed[request_id].slot
                for request_id in active or ()
                if request_id in waiting and request_id in self._followed
            ]

    def formed(self, *, ready: bool) -> None:
        """The batch is formed, or there is none."""
        step, self._forming = self._forming, None
        if step is None:
            return
        step.schedule_time = self.clock() - step.started_at
        if ready:
            self._formed.append(step)
        elif step.preempted:
            self._tracker.iteration([], preempted=step.preempted, started_at=step.started_at)

    def forwarded(self, started_at: float) -> None:
        """The newest batch went through the model (asynchronously: was handed to the device)."""
        if self._formed:
            self._formed[-1].forward_time = self.clock() - started_at

    def before_update(self) -> Step | None:
        """The oldest batch is about to get its tokens: how many each request has; None for one that left."""
        if not self._formed:
            return None
        step = self._formed.popleft()
        step.lengths = [
            None if future.state.status in (_PENDING, _FINISHED) else len(future.state.generated_tokens)
            for future in step.requests
        ]
        return step

    def updated(self, step: Step | None) -> None:
        """It has them: the iteration ended, and some requests with it."""
        if step is None:
            return
        now = self.clock()
        slots, tokens, scheduled, ended = [], [], [], []
        for future, length in zip(step.requests, step.lengths, strict=True):
            state = future.state
            known = self._followed.get(state.request_id)
            if known is None:
                continue
            slots.append(known.slot)
            tokens.append(0 if length is None else len(state.generated_tokens) - length)
            scheduled.append(future.query_length)
            if length is not None and state.status == _FINISHED:
                ended.append(state)
        self._tracker.iteration(
            slots, tokens, started_at=step.started_at, finished_at=now, scheduled_tokens=scheduled,
            preempted=step.preempted, requests_completed=len(ended), unscheduled_prefill_tokens=step.unscheduled,
            cached_prompt_tokens=step.cached, recomputed_tokens=step.recomputed, kv_cache_usage=step.kv_cache_usage,
            schedule_time=step.schedule_time, forward_time=step.forward_time, limited_by=step.limited_by,
        )  # fmt: skip
        for state in ended:
            self.finished(state.request_id, _reason(state), at=now)


def _reason(state: Any) -> CompletionReason:
    """The engine keeps none: an end-of-sequence token, else the limit of new tokens."""
    tokens = state.generated_tokens
    if tokens and tokens[-1] in getattr(state, "_eos_token_ids", ()):
        return CompletionReason.EOS_TOKEN_REACHED
    return CompletionReason.MAX_TOKENS_REACHED
