"""What the first request of the queue needs room for, against a walk over every request and every iteration."""

from __future__ import annotations

import random

import pytest

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.rows import IterationColumn, RowKind, Rows

RANKS = 2


class Walk:
    """A random history on whole instants, told to a tracker; ``needs`` is what each iteration's head needed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        limits = SchedulerLimits(max_running_requests=9, kv_cache_blocks=100, kv_block_size=16)
        self.collector = SchedulerMetricsCollector(limits=limits, clock=lambda: self.now)
        self.tracker = RequestTracker(self.collector)
        self.rows: list[Rows] = []
        self.collector.subscribe(self._keep)
        self.live: list[dict] = []
        self.arrived = 0
        self.needs: list[float | None] = []
        self.several = self.chance.random() < 0.5

    def _keep(self, block) -> None:
        if isinstance(block, Rows) and block.kind is RowKind.ITERATION:
            self.rows += [row.copy() for row in block.values]

    def play(self, steps: int) -> None:
        for _ in range(steps):
            what = self.chance.choice(["arrive", "arrive", "iterate", "iterate", "iterate", "end", "read"])
            getattr(self, what)()

    def arrive(self) -> None:
        self.now += self.chance.choice([0.0, 1.0])
        prompt, rank = self.chance.randint(1, 900), self.chance.choice([None, 0, 1] if self.several else [None])
        slot = self.tracker.arrived(self.arrived, prompt_tokens=prompt, rank=rank)
        self.live.append({"slot": slot, "need": prompt, "rank": rank, "runs": False, "at": self.now})
        self.arrived += 1

    def read(self) -> None:
        self.collector.read_totals()

    def end(self) -> None:
        if self.live:
            request = self.live.pop(self.chance.randrange(len(self.live)))
            self.tracker.finished(request["slot"], CompletionReason.CANCELLED)

    def iterate(self) -> None:
        rank = self.chance.randrange(RANKS) if self.several else 0
        started = self.now = self.now + 1.0
        mine = [request for request in self.live if request["rank"] in (rank, None)]
        evicted = [r for r in mine if r["runs"] and self.chance.random() < 0.2]
        batch = [r for r in mine if r not in evicted and self.chance.random() < (0.8 if r["runs"] else 0.2)]
        for request in evicted:
            request["runs"] = False
        for request in batch:
            request.update(runs=True, rank=rank)
        waiting = [r for r in self.live if not r["runs"] and r["rank"] in (rank, None)]
        head = min(waiting, key=lambda r: r["at"], default=None)
        self.needs.append(None if head is None else head["need"])
        tokens = [self.chance.randint(0, 2) for _ in batch]
        for request, count in zip(batch, tokens, strict=True):
            request["need"] += count
        self.now += 1.0
        self.tracker.iteration(
            [r["slot"] for r in batch], tokens, started_at=started, finished_at=self.now, rank=rank,
            preempted=[r["slot"] for r in evicted], kv_cache_usage=0.5,
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_the_head_of_the_queue_is_who_arrived_first_of_those_that_wait(seed):
    walk = Walk(seed)
    walk.play(150)
    walk.read()
    found = [row[IterationColumn.HEAD_TOKENS] for row in walk.rows]
    assert [None if need != need else need for need in found] == walk.needs  # noqa: PLR0124
    assert walk.collector.get_snapshot().totals.rejected_records == {}
    assert sum(need is not None for need in walk.needs) > 10


def test_nobody_is_looked_for_where_it_is_reported_why_or_some_are_deferred():
    walk = Walk(1)
    first, second = (walk.tracker.arrived(n, prompt_tokens=50, at=0.0) for n in range(2))
    for facts in ({"limited_by": "policy"}, {"deferred_requests": 1}, {}):
        walk.now += 1
        walk.tracker.iteration([first], started_at=walk.now - 1, kv_cache_usage=0.1, **facts)
    walk.read()
    found = [row[IterationColumn.HEAD_TOKENS] for row in walk.rows]
    assert [need == 50 for need in found] == [False, False, True]
    assert second
