"""An engine that does what a script says, and tells a tracker and a plain list of facts alike.

Time runs in ticks of 1/64 s, so every sum of instants is exact. The facts are kept request by request
and iteration by iteration, without any arithmetic of the tracker's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from batchscope import BatchLimiter, CompletionReason, RequestTracker, SchedulerMetricsCollector

TICK = 1 / 64
SKIP, EVICT = "skip", "evict"
ARRIVAL, GIVES_UP, READ = "arrival", "gives up", "read"
COMPLETED = [reason for reason in CompletionReason if reason.outcome == "completed"]
FAILED = [reason for reason in CompletionReason if reason.outcome == "failed"]
CANCELLED = [CompletionReason.CANCELLED]
NOT_COMPLETED = FAILED + CANCELLED


@dataclass(frozen=True)
class Arrive:
    wait: int
    prompt: int
    request_class: str | None
    explicit: bool


@dataclass(frozen=True)
class Iterate:
    """``roles[k]`` is what the k-th request in flight does: skip, evicted if it runs, or emits that many."""

    wait: int
    duration: int
    roles: tuple[str | int, ...]
    one_each: bool
    during: tuple[tuple[int, str], ...]  # (ticks into it, what): reported before the iteration itself is


@dataclass(frozen=True)
class End:
    wait: int
    which: int
    reason: int


@dataclass(frozen=True)
class Read:
    """A drain; its figures at the next cell edge."""


WAITS = st.sampled_from([0, 0, 0, 1, 2, 7, 40])
ROLES = st.sampled_from([SKIP, SKIP, 0, 1, 1, 1, 1, 2, 5, EVICT])
STEPS = st.one_of(
    st.builds(Arrive, WAITS, st.integers(0, 40), st.sampled_from([None, "chat", "batch", "nobody"]), st.booleans()),
    st.builds(
        Iterate,
        WAITS,
        st.integers(1, 30),
        st.lists(ROLES, min_size=1, max_size=6).map(tuple),
        st.booleans(),
        st.lists(st.tuples(st.integers(0, 30), st.sampled_from([ARRIVAL, GIVES_UP, READ])), max_size=3).map(tuple),
    ),
    st.builds(
        Iterate, WAITS, st.sampled_from([2, 2, 3]), st.just((1,)), st.booleans(), st.just(())
    ),  # everybody decodes
    st.builds(
        Iterate, WAITS, st.just(9), st.just((SKIP, 1)), st.booleans(), st.just(((3, GIVES_UP), (5, READ), (6, ARRIVAL)))
    ),  # the newest gives up while the iteration runs, and somebody reads before it is reported
    st.builds(End, WAITS, st.integers(0, 9), st.integers(0, 99)),
    st.builds(Read),
)
SCRIPTS = st.lists(STEPS, max_size=50)


@dataclass
class RequestFacts:
    request_id: int
    slot: int
    arrival: float
    prompt: int
    request_class: str | None
    first_scheduled: float | None = None
    token_times: list[float] = field(default_factory=list)
    evicted: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)  # instants at which it got a place
    decoding: bool = False
    finish: float | None = None
    reason: CompletionReason | None = None

    @property
    def holding(self) -> bool:
        return len(self.taken) > len(self.evicted)

    def held_at(self, instant: float) -> bool:
        ends = [*self.evicted, *([self.finish] if self.finish is not None and self.holding else [])]
        return sum(t <= instant for t in self.taken) > sum(t <= instant for t in ends)

    def present_at(self, instant: float) -> bool:
        return self.arrival <= instant and (self.finish is None or instant < self.finish)

    def stays_until(self, instant: float) -> bool:
        return self.finish is None or self.finish >= instant

    @property
    def preempted_time(self) -> float:
        """Each eviction until the place after it, or until the finish."""
        back = [*self.taken[1:], self.finish]
        return math.fsum(again - gone for gone, again in zip(self.evicted, back, strict=False))


@dataclass
class IterationFacts:
    started: float
    finished: float
    size: int
    tokens: int
    scheduled: int | None
    prefill_requests: int
    preemptions: int
    running: int = 0
    waiting: int = 0
    standing: int = 0  # had a place from before it until after it, and took no part


class Time:
    """A clock that stands until it is moved."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class ScriptedEngine:
    """``scheduled_given``: says how many tokens each slot was scheduled; ``read`` reads in the middle."""

    def __init__(
        self,
        collector: SchedulerMetricsCollector,
        time: Time,
        *,
        scheduled_given: bool,
        read: Callable[[], object] = lambda: None,
    ) -> None:
        self.tracker = RequestTracker(collector)
        self.time = time
        self.read = read
        self.scheduled_given = scheduled_given
        self.requests: list[RequestFacts] = []
        self.iterations: list[IterationFacts] = []

    @property
    def live(self) -> list[RequestFacts]:
        return [request for request in self.requests if request.finish is None]

    def play(self, step: Arrive | Iterate | End) -> None:
        self.time.now += step.wait * TICK
        if isinstance(step, Arrive):
            self._arrive(step.prompt, step.request_class, None if not step.explicit else self.time.now)
        elif isinstance(step, Iterate):
            self._iterate(step)
        elif self.live:
            self._end(self.live[step.which % len(self.live)], step.reason)

    def _arrive(self, prompt: int, request_class: str | None, at: float | None) -> None:
        number = len(self.requests)
        slot = self.tracker.arrived(number, prompt_tokens=prompt, request_class=request_class, at=at)
        arrival = self.time.now if at is None else at
        self.requests.append(RequestFacts(number, slot, arrival, prompt, request_class))

    def _iterate(self, step: Iterate) -> None:
        started = self.time.now
        there = self.live
        for ticks, what in sorted(step.during):
            self.time.now = started + min(ticks, step.duration) * TICK
            if what == READ:
                self.read()
            elif what == ARRIVAL:
                self._arrive(7, "chat", None)
            elif self.live:  # somebody who is not in this batch
                leaver = self.live[-1]
                if leaver not in there or step.roles[there.index(leaver) % len(step.roles)] == SKIP:
                    self._end(leaver, 3)
        self.time.now = finished = started + step.duration * TICK
        roles = [step.roles[k % len(step.roles)] for k in range(len(there))]
        evicted = [r for r, role in zip(there, roles, strict=True) if role == EVICT and r.holding]
        batch = [
            (r, 1 if step.one_each else role) for r, role in zip(there, roles, strict=True) if role not in (SKIP, EVICT)
        ]
        chunks = [1 if r.decoding else 3 + r.request_id for r, _ in batch]
        self.tracker.iteration(
            [r.slot for r, _ in batch],
            None if step.one_each else [tokens for _, tokens in batch],
            started_at=started,
            finished_at=finished,
            scheduled_tokens=chunks if self.scheduled_given else None,
            preempted=[r.slot for r in evicted],
        )
        prefilling = sum(not r.decoding for r, _ in batch)
        known = self.scheduled_given or not prefilling
        for request in evicted:
            request.evicted.append(started)
            request.decoding = False
        for request, tokens in batch:
            if request.first_scheduled is None:
                request.first_scheduled = started
            if not request.holding:
                request.taken.append(started)
            request.token_times += [finished] * tokens
            request.decoding |= tokens > 0
        self.iterations.append(
            IterationFacts(
                started, finished, len(batch), sum(tokens for _, tokens in batch), sum(chunks) if known else None,
                prefilling, len(evicted),
                running=sum(r.held_at(started) for r in self.requests),
                waiting=sum(r.present_at(started) and not r.held_at(started) for r in self.requests),
                standing=sum(r.held_at(started) and r.stays_until(finished) for r in self.requests) - len(batch),
            )
        )  # fmt: skip

    def _end(self, request: RequestFacts, choice: int) -> None:
        reasons: Sequence[CompletionReason] = NOT_COMPLETED
        if request.first_scheduled is not None and choice % 3:
            reasons = COMPLETED
        request.reason = reasons[choice % len(reasons)]
        request.finish = self.time.now
        self.tracker.finished(request.slot, request.reason)


def limiter(facts: IterationFacts, places: int, budget: int) -> BatchLimiter:
    """The first rule that matches, as the design lists them, of those that a tracker alone can feed."""
    if facts.preemptions:
        return BatchLimiter.KV_CACHE
    if facts.waiting and facts.scheduled is not None and facts.scheduled >= budget:
        return BatchLimiter.TOKEN_BUDGET
    if facts.waiting and facts.running >= places:
        return BatchLimiter.REQUEST_SLOTS
    if facts.standing:
        return BatchLimiter.REQUEST_SLOTS if facts.size >= places else BatchLimiter.POLICY
    return BatchLimiter.UNKNOWN if facts.waiting else BatchLimiter.DEMAND
