"""A small engine (prefill first, chunks, prefix cache, recomputation) and what its integration calls, as a list to play.

A mutant of the integration is a change of that list; ``play`` makes the calls.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batchscope import BatchLimiter, CompletionReason, RequestTracker, SchedulerLimits

BLOCK = 16
LIMITS = SchedulerLimits(max_running_requests=6, max_scheduled_tokens=192, kv_cache_blocks=40)


class Call(NamedTuple):
    """One call of the integration: of ``arrived`` and ``finished`` a request, of ``iteration`` those in the batch."""

    do: str
    who: Any
    said: dict[str, Any]

    def but(self, **changes: Any) -> Call:
        """The same call with other arguments; ``None`` leaves one out."""
        return self._replace(said={**self.said, **changes})


@dataclass(eq=False)
class Request:
    """``computed`` tokens are in the KV cache, of ``ever`` computed; ``shared`` may come from the prefix cache."""

    number: int
    at: float
    prompt: int
    output: int
    shared: int
    emitted: int = 0
    computed: int = 0
    ever: int = 0
    blocks: int = 0
    cached: int = 0
    recomputed: int = 0

    @property
    def length(self) -> int:
        return self.prompt + self.emitted


@dataclass
class Batch:
    """What was decided when it was formed."""

    requests: list[Request] = field(default_factory=list)
    scheduled: list[int] = field(default_factory=list)
    evicted: list[Request] = field(default_factory=list)
    limiter: BatchLimiter = BatchLimiter.DEMAND
    cached: int = 0
    recomputed: int = 0

    def add(self, request: Request, tokens: int) -> None:
        self.requests.append(request)
        self.scheduled.append(tokens)


class BlockEngine:
    """First come, first served; whole prompts, but the first of a batch may be cut to the budget."""

    def __init__(self) -> None:
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.free = LIMITS.kv_cache_blocks
        self.prefix_known = False

    def form(self) -> Batch:
        batch = Batch()
        self._prefill(batch)
        if not batch.requests:
            stopped = batch.limiter
            self._decode(batch)
            batch.limiter = BatchLimiter.KV_CACHE if batch.evicted else stopped
        elif not self.waiting and set(self.running) - set(batch.requests):
            batch.limiter = BatchLimiter.POLICY
        return batch

    def _prefill(self, batch: Batch) -> None:
        left = LIMITS.max_scheduled_tokens
        while self.waiting:
            head = self.waiting[0]
            cached = 0 if head.blocks else self._cached(head)
            missing = head.length - head.computed - cached
            room = 0 if head.blocks else -(-(head.length + 1) // BLOCK)
            if len(self.running) + bool(head.blocks) >= LIMITS.max_running_requests:
                batch.limiter = BatchLimiter.REQUEST_SLOTS
            elif not left or (missing > left and batch.requests):
                batch.limiter = BatchLimiter.TOKEN_BUDGET
            elif room > self.free:
                batch.limiter = BatchLimiter.KV_CACHE
            else:
                self._admit(head, cached, room, min(missing, left), batch)
                left -= batch.scheduled[-1]
                continue
            return

    def _cached(self, head: Request) -> int:
        return min(head.shared, head.length - 1) // BLOCK * BLOCK if self.prefix_known else 0

    def _admit(self, head: Request, cached: int, room: int, tokens: int, batch: Batch) -> None:
        self.free -= room
        head.blocks += room
        head.computed += cached
        if not head.ever:  # a prompt counts once, however often it is prefilled
            head.cached += cached
            batch.cached += cached
        again = max(0, min(head.computed + tokens, head.ever) - head.computed)
        head.recomputed += again
        batch.recomputed += again
        batch.add(head, tokens)
        if head.computed + tokens == head.length:
            self.running.append(self.waiting.popleft())

    def _decode(self, batch: Batch) -> None:
        for request in list(self.running):
            if request not in self.running:
                continue
            while request.length + 1 > request.blocks * BLOCK and not self.free and len(self.running) > 1:
                self._evict(next(each for each in reversed(self.running) if each is not request), batch)
            if request.length + 1 > request.blocks * BLOCK:
                self.free -= 1
                request.blocks += 1
            batch.add(request, 1)

    def _evict(self, victim: Request, batch: Batch) -> None:
        if victim in batch.requests:
            place = batch.requests.index(victim)
            del batch.requests[place], batch.scheduled[place]
        self.running.remove(victim)
        self.waiting.appendleft(victim)
        self.free += victim.blocks
        victim.blocks = victim.computed = 0
        batch.evicted.append(victim)

    def end(self, batch: Batch) -> tuple[list[int], list[Request]]:
        """Tokens that each emits, and who has emitted all of its own."""
        emitted = []
        for request, tokens in zip(batch.requests, batch.scheduled, strict=True):
            request.computed += tokens
            request.ever = max(request.ever, request.computed)
            emitted.append(int(request.computed == request.length))
            self.prefix_known |= bool(emitted[-1])
            request.emitted += emitted[-1]
        ended = [request for request in batch.requests if request.emitted == request.output]
        for request in ended:
            self.running.remove(request)
            self.free += request.blocks
        return emitted, ended


def workload(seed: int, count: int = 60) -> list[Request]:
    """Enough to fill places, budget and KV cache at times."""
    chance, at, requests = random.Random(seed), 0.0, []
    for number in range(count):
        at += chance.expovariate(12.0)
        shared = chance.choice([0, 0, 64])
        requests.append(Request(number, at, chance.randint(4, 260), chance.randint(1, 40), shared))
    return requests


def served(seed: int = 1) -> list[Call]:
    """The calls of a sound integration while a workload is served."""
    engine, now, due, calls = BlockEngine(), 0.0, deque(workload(seed)), []
    while due or engine.waiting or engine.running:
        if not engine.waiting and not engine.running:
            now = max(now, due[0].at)
        while due and due[0].at <= now:
            request = due.popleft()
            engine.waiting.append(request)
            calls.append(Call("arrived", request.number, {"prompt_tokens": request.prompt, "at": request.at}))
        batch = engine.form()
        said = {
            "scheduled_tokens": batch.scheduled, "preempted": [request.number for request in batch.evicted],
            "waiting": sum(not request.blocks for request in engine.waiting), "limited_by": batch.limiter,
            "kv_cache_usage": 1 - engine.free / LIMITS.kv_cache_blocks, "cached_prompt_tokens": batch.cached,
            "recomputed_tokens": batch.recomputed, "started_at": now,
        }  # fmt: skip
        now += 0.01 + 0.0001 * sum(batch.scheduled)
        emitted, ended = engine.end(batch)
        who = [request.number for request in batch.requests]
        calls.append(Call("iteration", who, {**said, "tokens": emitted, "finished_at": now}))
        for request in ended:
            told = {"at": now, "cached_tokens": request.cached, "recomputed_tokens": request.recomputed}
            calls.append(Call("finished", request.number, told))
    return calls


def play(calls: list[Call], metrics: Any) -> None:
    """Make the calls onto a tracker; a request keeps its slot's number even when it is gone."""
    tracker, slots = RequestTracker(metrics), {}
    for do, who, said in calls:
        given = {name: value for name, value in said.items() if value is not None}
        if do == "arrived":
            slots[who] = tracker.arrived(who, **given)
        elif do == "finished":
            tracker.finished(slots[who], CompletionReason.EOS_TOKEN_REACHED, **given)
        else:
            given["preempted"] = [slots[number] for number in given.get("preempted", ())]
            tracker.iteration([slots[number] for number in who], **given)
