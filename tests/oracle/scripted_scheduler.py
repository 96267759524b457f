"""Small schedulers whose cause is known: each says at its ``break`` why it stopped, to one tracker and not to another.

What is asked at an admission, in this order: is anybody there, is the token budget used up, is a place free, is
there room in the KV cache, does the policy allow it. Virtual time; every knob is a way of scheduling that engines have.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

from batchscope import BatchLimiter, CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector

EOS = CompletionReason.EOS_TOKEN_REACHED
BLOCK = 16


@dataclass(frozen=True)
class Ways:
    """``whole_prompts``: not cut into chunks. ``prefill_first``: decodes make way for prompts. ``reserves``: room for the
    whole answer is taken at once. ``watermark``: blocks that an admission leaves free. ``prefills``: at most so many
    in a batch. ``held_back``: the share of requests that are deferred for a while. ``tells_used``: usage without
    what is only reserved. ``room_first``: the KV cache is asked before the budget."""

    rate: float = 4.0
    prompts: tuple[int, int] = (20, 400)
    answers: tuple[int, int] = (5, 60)
    places: int = 64
    budget: int = 2048
    blocks: int = 4000
    whole_prompts: bool = False
    prefill_first: bool = False
    reserves: bool = False
    tells_used: bool = False
    watermark: int = 0
    prefills: int | None = None
    held_back: float = 0.0
    stages: int = 1
    ranks: int = 1
    overlaps: bool = False
    room_first: bool = False
    requests: int = 160
    bunches: int = 1


@dataclass(eq=False)
class Request:
    number: int
    arrival: float
    prompt: int
    answer: int
    ready: float
    slots: list[int] = field(default_factory=list)
    computed: int = 0
    emitted: int = 0
    held: int = 0

    @property
    def known(self) -> int:
        return self.prompt + self.emitted

    @property
    def decodes(self) -> bool:
        return self.emitted > 0 and self.computed >= self.known - 1


@dataclass
class Batch:
    rank: int
    started: float
    elements: list[tuple[Request, int]]
    evicted: list[Request]
    facts: dict[str, object]
    cause: BatchLimiter
    head: Request | None
    formed: list[object] = field(default_factory=list)


class Engine:
    """One scheduler a rank, with its own queue, blocks and pipeline; all of them tell the same two trackers."""

    def __init__(self, ways: Ways, seed: int = 1) -> None:
        self.ways = ways
        self.now = 0.0
        limits = SchedulerLimits(ways.places, ways.budget, ways.blocks, BLOCK, ways.stages)
        self.told, self.silent = (SchedulerMetricsCollector(limits=limits, clock=lambda: self.now) for _ in range(2))
        self.trackers = [RequestTracker(self.told), RequestTracker(self.silent)]
        self.arrivals = deque(self._workload(random.Random(seed)))
        self.queues = [deque() for _ in range(ways.ranks)]
        self.deferred: list[list[Request]] = [[] for _ in range(ways.ranks)]
        self.running: list[list[Request]] = [[] for _ in range(ways.ranks)]
        self.free = [ways.blocks] * ways.ranks

    def _workload(self, chance: random.Random):
        at, ways = 0.0, self.ways
        for number in range(ways.requests):
            if number % ways.bunches == 0:
                at += chance.expovariate(ways.rate / ways.bunches)
            ready = at + (3.0 if chance.random() < ways.held_back else 0.0)
            yield Request(number, at, chance.randint(*ways.prompts), chance.randint(*ways.answers), ready)

    def run(self) -> tuple[dict[str, float], dict[str, float]]:
        """Reported and inferred shares of busy time."""
        serve = {True: self._serve_overlapping, False: self._serve}[self.ways.overlaps]
        serve()
        for collector in (self.told, self.silent):
            assert collector.get_snapshot().totals.rejected_records == {}
        reported, inferred = (c.get_iteration_statistics() for c in (self.told, self.silent))
        assert math.isclose(reported.limiter_reported_ratio, 1.0)
        assert inferred.limiter_reported_ratio == 0.0
        return reported.limited_by, inferred.limited_by

    def _serve(self) -> None:
        """The next batch of a rank is formed when its first stage is free again, the results come at the end."""
        flying: list[list[tuple[float, Batch]]] = [[] for _ in range(self.ways.ranks)]
        due = [0.0] * self.ways.ranks
        while self.arrivals or any(map(self._busy, range(self.ways.ranks))):
            rank = min(range(self.ways.ranks), key=due.__getitem__)
            self.now = max(self.now, due[rank])
            for other in range(self.ways.ranks):
                while flying[other] and flying[other][0][0] <= self.now:
                    self._end(*flying[other].pop(0))
            self._take_arrivals()
            batch = self._form(rank, [r for _, b in flying[rank] for r, _ in b.elements])
            if batch.elements:
                step = self._step(batch)
                last = flying[rank][-1][0] if flying[rank] else 0.0  # nobody overtakes in a pipeline
                flying[rank].append((max(self.now + step * self.ways.stages, last), batch))
                due[rank] = max(self.now + step, flying[rank][0][0] if len(flying[rank]) == self.ways.stages else 0.0)
            else:
                due[rank] = min([end for end, _ in flying[rank]] + [self._next(rank)])
        for parts in flying:
            assert not parts

    def _serve_overlapping(self) -> None:
        """A batch is formed while the one before runs: who ends with that one is in it still."""
        before: Batch | None = None
        end = 0.0
        while self.arrivals or self._busy(0) or before:
            self._take_arrivals()
            batch = self._form(0, [])
            for tracker, cause in zip(self.trackers, (batch.cause, None), strict=True):
                slot = self.trackers.index(tracker)
                if cause is not None:
                    tracker.stopped(cause, slot=None if batch.head is None else batch.head.slots[slot])
                batch.formed.append(
                    tracker.forming(
                        [r.slots[slot] for r, _ in batch.elements],
                        scheduled_tokens=[count for _, count in batch.elements],
                        preempted=[r.slots[slot] for r in batch.evicted],
                        **batch.facts,
                    )
                )
            for request, count in batch.elements:
                request.computed += count
            if before is not None:
                self.now = end
                self._end(end, before)
            if not batch.elements:
                before = None
                if not self.queues[0] and not self.running[0] and self._next(0) < math.inf:
                    self.now = max(self.now, self._next(0))
                continue
            end = self.now + self._step(batch)
            self.now += (end - self.now) / 4  # the next is formed early
            before = batch

    def _busy(self, rank: int) -> bool:
        return bool(self.queues[rank] or self.deferred[rank] or self.running[rank])

    def _next(self, rank: int) -> float:
        arrivals = [self.arrivals[0].arrival] if self.arrivals else []
        return min(arrivals + [request.ready for request in self.deferred[rank]], default=math.inf)

    def _take_arrivals(self) -> None:
        while self.arrivals and self.arrivals[0].arrival <= self.now:
            request = self.arrivals.popleft()
            rank = request.number % self.ways.ranks
            for tracker in self.trackers:
                slot = tracker.arrived(request.number, prompt_tokens=request.prompt, at=request.arrival, rank=rank)
                request.slots.append(slot)
            (self.deferred[rank] if request.ready > self.now else self.queues[rank]).append(request)
        for rank, held in enumerate(self.deferred):
            for request in [each for each in held if each.ready <= self.now]:
                held.remove(request)
                self.queues[rank].append(request)

    def _step(self, batch: Batch) -> float:
        return 0.02 + 0.0002 * sum(count for _, count in batch.elements)

    def _form(self, rank: int, elsewhere: list[Request]) -> Batch:
        batch = Batch(rank, self.now, [], [], {}, BatchLimiter.UNKNOWN, None)
        ways, there = self.ways, set(map(id, elsewhere))
        batch_places = ways.places // ways.stages
        idle = [r for r in self.running[rank] if id(r) not in there and not (ways.overlaps and r.emitted >= r.answer)]
        budget = ways.budget
        if not ways.prefill_first:
            budget = self._go_on(batch, idle, budget, batch_places, there)
        cut_off = sum(r.known - r.computed for r in idle if not r.decodes and r in self.running[rank]) - sum(
            count for r, count in batch.elements if not r.decodes
        )
        first = len(batch.elements)
        left_out = not {id(r) for r in idle if r in self.running[rank]} <= {id(r) for r, _ in batch.elements}
        batch.cause = self._admit(batch, budget, batch_places, cut_off, idle_left=left_out)
        admitted = len(batch.elements) - first
        if ways.prefill_first:
            if not admitted:
                self._go_on(batch, idle, ways.budget, batch_places, there)
                if batch.evicted:
                    batch.cause = BatchLimiter.KV_CACHE
            elif idle and batch.cause in (BatchLimiter.DEMAND, BatchLimiter.DEFERRED):
                batch.cause = BatchLimiter.POLICY
        elif batch.evicted:
            batch.cause = BatchLimiter.KV_CACHE
        batch.facts = {"kv_cache_usage": self._usage(rank), "rank": rank}
        if ways.held_back:
            batch.facts["deferred_requests"] = len(self.deferred[rank])
        missing = sum(max(r.known - r.computed - count, 0) for r, count in batch.elements if not r.decodes)
        batch.facts["unscheduled_prefill_tokens"] = missing
        return batch

    def _usage(self, rank: int) -> float:
        if not self.ways.tells_used:
            return 1 - self.free[rank] / self.ways.blocks
        return sum(math.ceil(r.known / BLOCK) for r in self.running[rank]) / self.ways.blocks

    def _go_on(self, batch: Batch, idle: list[Request], budget: int, places: int, there: set[int]) -> int:
        """Those who run: decodes a token each, prompts in chunks; who needs a block and gets none evicts the last."""
        rank = batch.rank
        for request in idle:
            if len(batch.elements) >= places or not budget:
                break
            if request not in self.running[rank]:
                continue  # evicted meanwhile
            while request.decodes and math.ceil((request.known) / BLOCK) > request.held:
                if self.free[rank]:
                    self.free[rank] -= 1
                    request.held += 1
                    continue
                candidates = [r for r in self.running[rank] if id(r) not in there and r not in dict(batch.elements)]
                victim = candidates[-1]
                self._evict(victim, batch)
                if victim is request:
                    break
            if request not in self.running[rank]:
                continue
            count = min(max(request.known - request.computed, 1), budget)  # its token may not be known yet
            batch.elements.append((request, count))
            budget -= count
        return budget

    def _evict(self, victim: Request, batch: Batch) -> None:
        self.running[batch.rank].remove(victim)
        self.free[batch.rank] += victim.held
        victim.held = victim.computed = 0
        self.queues[batch.rank].appendleft(victim)
        batch.evicted.append(victim)

    def _admit(self, batch: Batch, budget: int, places: int, cut_off: int, *, idle_left: bool) -> BatchLimiter:
        queue, running = self.queues[batch.rank], self.running[batch.rank]
        started = 0
        while queue:
            head = batch.head = queue[0]
            room = math.ceil((head.prompt + head.answer if self.ways.reserves else head.known) / BLOCK)
            obstacle = self._obstacle(batch, head, room, budget, places, started)
            if obstacle is not None:
                return obstacle
            queue.popleft()
            running.append(head)
            head.held, self.free[batch.rank] = room, self.free[batch.rank] - room
            count = min(head.known - head.computed, budget)
            batch.elements.append((head, count))
            budget -= count
            started += 1
        batch.head = None
        if self.ways.stages > 1 and len(batch.elements) >= places and idle_left:
            return BatchLimiter.REQUEST_SLOTS
        if cut_off > 0 or any(r.known - r.computed > count for r, count in batch.elements if not r.decodes):
            return BatchLimiter.TOKEN_BUDGET
        return BatchLimiter.DEFERRED if self.deferred[batch.rank] else BatchLimiter.DEMAND

    def _obstacle(
        self, batch: Batch, head: Request, room: int, budget: int, places: int, started: int
    ) -> BatchLimiter | None:
        """What refuses the head of the queue, the first that is asked."""
        ways, running = self.ways, self.running[batch.rank]
        spare = ways.watermark if running else 0
        no_room = (room > self.free[batch.rank] - spare or bool(batch.evicted), BatchLimiter.KV_CACHE)
        asked = [
            (not budget or (ways.whole_prompts and head.known > budget), BatchLimiter.TOKEN_BUDGET),
            (len(running) >= ways.places or len(batch.elements) >= places, BatchLimiter.REQUEST_SLOTS),
            no_room,
            (started == ways.prefills, BatchLimiter.POLICY),
        ]
        if ways.room_first:
            asked.insert(0, no_room)
        return next((limiter for refuses, limiter in asked if refuses), None)

    def _end(self, at: float, batch: Batch) -> None:
        """The results: computed, emitted, told."""
        emitted = []
        for request, count in batch.elements:
            if not batch.formed:
                request.computed += count
            gives = request.computed >= request.known and request.emitted < request.answer
            emitted.append(int(gives))
            request.emitted += gives
        for place, tracker in enumerate(self.trackers):
            if batch.formed:
                tracker.iteration(batch.formed[place], emitted, finished_at=at)
                continue
            if place == 0:
                tracker.stopped(
                    batch.cause, slot=None if batch.head is None else batch.head.slots[place], rank=batch.rank
                )
            tracker.iteration(
                [r.slots[place] for r, _ in batch.elements],
                emitted,
                started_at=batch.started,
                finished_at=at,
                scheduled_tokens=[count for _, count in batch.elements],
                preempted=[r.slots[place] for r in batch.evicted],
                **batch.facts,
            )
        for request, _ in batch.elements:
            if request.emitted >= request.answer and request in self.running[batch.rank]:
                self.running[batch.rank].remove(request)
                self.free[batch.rank] += request.held
                for place, tracker in enumerate(self.trackers):
                    tracker.finished(request.slots[place], EOS, at=at)
