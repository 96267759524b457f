"""Random histories of a scheduler, told to a tracker: chunks, drafts, evictions, idle engines, overlap, users who leave."""

from __future__ import annotations

import random

from batchscope import (
    BatchLimiter,
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
)
from batchscope.testing import RecordingSink
from batchscope.testing.sink import RecordedRun

LIMITERS = (BatchLimiter.KV_CACHE, BatchLimiter.TOKEN_BUDGET, BatchLimiter.DEMAND)
STEP = 1 / 8  # instants are exact


class _Request:
    def __init__(self, slot: int, prompt: int, output: int) -> None:
        self.slot, self.left, self.output, self.placed = slot, prompt, output, False
        self.evicted_at = -1.0


def random_run(
    seed: int, iterations: int = 40, *, ranks: int = 1, overlap: bool = True, drains: int = 7
) -> RecordedRun:
    """One run; equal seeds give equal runs."""
    rng = random.Random(seed)
    now = 0.0
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(strict=False), limits=SchedulerLimits(max_running_requests=8), clock=lambda: now
    )
    sink = RecordingSink()
    collector.subscribe(sink)
    tracker = RequestTracker(collector)
    waiting: list[_Request] = []
    running: list[list[_Request]] = [[] for _ in range(ranks)]
    ended = [0.0] * ranks
    count = 0
    for step in range(iterations):
        rank = rng.randrange(ranks)
        for _ in range(rng.choice((0, 0, 1, 2))):
            count += 1
            waiting.append(_Request(tracker.arrived(f"r{count}", at=now), rng.randrange(1, 40), rng.randrange(1, 12)))
        mine = running[rank]
        before = max(ended[rank] - (STEP if overlap and rng.random() < 0.3 else 0.0), 0.0)
        started = max(now if rng.random() < 0.3 else before, before)
        placed = [one for one in mine if one.placed]
        evicted = [rng.choice(placed)] if placed and rng.random() < 0.15 else []
        while waiting and len(mine) < 4 and started > waiting[0].evicted_at and rng.random() < 0.5:
            mine.append(waiting.pop(0))
        for one in evicted:
            mine.remove(one)
            one.left, one.placed, one.evicted_at = rng.randrange(1, 40), False, started
        batch = [one for one in mine if rng.random() < 0.8 and started > one.evicted_at]
        waiting += evicted
        if not batch and not evicted:
            now += STEP * rng.randrange(4)
            continue
        finished = max(started, ended[rank], now) + STEP * rng.randrange(1, 6)
        scheduled = [min(one.left, rng.randrange(1, 20)) if one.left else rng.choice((1, 1, 3)) for one in batch]
        tokens = [
            0 if one.left > part else 1 if one.left else min(rng.randrange(1, part + 1), one.output)
            for one, part in zip(batch, scheduled, strict=True)
        ]
        tracker.iteration(
            [one.slot for one in batch], tokens, scheduled_tokens=scheduled, preempted=[one.slot for one in evicted],
            started_at=started, finished_at=finished, rank=rank, limited_by=rng.choice(LIMITERS),
        )  # fmt: skip
        now = ended[rank] = finished
        for one, part, emitted in zip(batch, scheduled, tokens, strict=True):
            one.left, one.placed = max(one.left - part, 0), True
            one.output -= emitted
        now += STEP * rng.choice((0, 0, 1))
        for one in [one for one in batch if one.output <= 0]:
            mine.remove(one)
            tracker.finished(one.slot, CompletionReason.EOS_TOKEN_REACHED, at=now)
        for queue in (waiting, mine):
            if queue and rng.random() < 0.05:
                tracker.finished(queue.pop().slot, CompletionReason.CANCELLED, at=now)
        if step % drains == 0:
            collector.drain()
    collector.close()
    return sink.runs[0]
