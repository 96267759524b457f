"""Iterations told in one call count as if each had been told by itself, whatever is told and however wrong it is."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchscope import (
    BatchLimiter,
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
)
from batchscope.rows import Gaps
from batchscope.testing import RecordingSink

EOS = CompletionReason.EOS_TOKEN_REACHED
LIMITS = SchedulerLimits(max_running_requests=4, max_scheduled_tokens=64, kv_cache_blocks=100, kv_block_size=16)
SLOTS = 5

amounts = st.one_of(st.none(), st.integers(0, 9), st.just(-1))


@st.composite
def stretches(draw):
    """A batch that repeats itself; mostly as an engine would tell it, sometimes not."""
    count = draw(st.integers(0, 5))
    slots = draw(st.lists(st.integers(0, SLOTS), max_size=4, unique=draw(st.integers(0, 5)) > 0))
    each = st.lists(st.integers(0, 50), min_size=count, max_size=count)
    steps = st.sampled_from([0.5, 0.5, 1.0, 0.0, -0.25])
    return {
        "slots": slots,
        "tokens": draw(st.none() | st.lists(st.integers(0, 2), min_size=len(slots), max_size=len(slots))),
        "scheduled_tokens": draw(st.none() | st.lists(st.integers(0, 3), min_size=len(slots), max_size=len(slots))),
        "starts": draw(st.booleans()),
        "steps": draw(st.lists(steps if draw(st.integers(0, 4)) == 0 else st.just(0.5), min_size=count, max_size=count)),
        "waiting": draw(amounts),
        "running_requests": draw(amounts),
        "deferred_requests": draw(amounts),
        "recomputed_tokens": draw(amounts),
        "limited_by": draw(st.sampled_from([None, None, BatchLimiter.KV_CACHE])),
        "rank": draw(st.sampled_from([None, None, None, 0, 1])),
        "memory_bytes_used": draw(st.none() | each),
        "unscheduled_prefill_tokens": draw(st.none() | each),
        "decode_context_tokens": draw(st.none() | each),
        "kv_cache_usage": draw(st.none() | st.lists(st.sampled_from([0.0, 0.5, 0.99, 7.0]), min_size=count, max_size=count)),
    }  # fmt: skip


moves = st.one_of(
    st.tuples(st.just("repeat"), stretches()),
    st.tuples(st.just("repeat"), stretches()),
    st.tuples(st.just("finish"), st.integers(0, SLOTS)),
    st.tuples(st.just("arrive"), st.none()),
    st.tuples(st.just("evict"), st.integers(0, SLOTS)),
    st.tuples(st.just("stop"), st.none()),
    st.tuples(st.just("read"), st.none()),
)


PLAIN = dict.fromkeys(
    ("waiting", "running_requests", "deferred_requests", "recomputed_tokens", "limited_by", "rank", "memory_bytes_used",
     "unscheduled_prefill_tokens", "decode_context_tokens", "kv_cache_usage")
)  # fmt: skip
TWICE = PLAIN | {"slots": [0, 0], "tokens": None, "scheduled_tokens": [0, 1], "starts": False, "steps": [0.5, 0.5]}
"""One slot as two: a chunk, and a token."""


class _Told:
    """A collector whose tracker is told a script: stretches in one call, or one by one."""

    EACH = ("memory_bytes_used", "unscheduled_prefill_tokens", "decode_context_tokens", "kv_cache_usage")

    def __init__(self, *, at_once: bool) -> None:
        self.at_once, self.now = at_once, 0.0
        self.collector = SchedulerMetricsCollector(MetricsConfiguration(), limits=LIMITS, clock=lambda: self.now)
        self.sink = RecordingSink()
        self.collector.subscribe(self.sink)
        self.tracker = RequestTracker(self.collector)
        self.arrived: list[int] = []
        self.ends = 0.0

    def play(self, script) -> None:
        for _ in range(SLOTS):
            self.arrive(None)
        for name, value in script:
            getattr(self, name)(value)
        self.read(None)

    def arrive(self, _) -> None:
        self.arrived.append(self.tracker.arrived(len(self.arrived), prompt_tokens=3, at=self.ends))

    def finish(self, which: int) -> None:
        self.tracker.finished(self._slot(which), EOS, at=self.ends)

    def evict(self, which: int) -> None:
        self.ends += 0.5
        self.tracker.iteration([], preempted=[self._slot(which)], started_at=self.ends - 0.5, finished_at=self.ends)

    def stop(self, _) -> None:
        self.tracker.stopped(BatchLimiter.REQUEST_SLOTS)

    def read(self, _) -> None:
        self.now = max(self.now, self.ends)
        self.snapshot = self.collector.get_snapshot()

    def repeat(self, stretch) -> None:
        facts = dict(stretch)
        slots, tokens = [self._slot(which) for which in facts.pop("slots")], facts.pop("tokens")
        started, finished = self.ends if facts.pop("starts") else None, []
        for step in facts.pop("steps"):
            self.ends += step
            finished.append(self.ends)
        if self.at_once:
            self.tracker.repeated(slots, tokens, started_at=started, finished_at=finished, **facts)
            return
        each = {name: facts.pop(name) for name in self.EACH}
        for place, end in enumerate(finished):
            own = {name: None if values is None else values[place] for name, values in each.items()}
            self.tracker.iteration(slots, tokens, started_at=started, finished_at=end, **own, **facts)
            started = end

    def _slot(self, which: int) -> int:
        return self.arrived[-1 - which] if which < len(self.arrived) else 7


def _same(one: _Told, other: _Told) -> None:
    first, second = (json.loads(told.snapshot.to_json(histograms=True)) for told in (one, other))
    for name in ("instance_id", "started_at", "snapshot_time"):  # of each collector its own
        first[name] = second[name]
    assert first == second
    heard, expected = ([block for run in told.sink.runs for block in run.blocks] for told in (one, other))
    assert len(heard) == len(expected)
    for ours, theirs in zip(heard, expected, strict=True):
        if isinstance(ours, Gaps):
            assert [a.tolist() for a in ours[1:]] == [a.tolist() for a in theirs[1:]]
            continue
        assert ours.kind is theirs.kind
        np.testing.assert_array_equal(ours.values, theirs.values)
        assert ours.objects == theirs.objects


@settings(max_examples=80, deadline=None)
@given(st.lists(moves, max_size=12))
@example([("repeat", TWICE)])
def test_a_stretch_told_at_once_counts_as_each_of_its_iterations(script):
    at_once, one_by_one = _Told(at_once=True), _Told(at_once=False)
    at_once.play(script)
    one_by_one.play(script)
    _same(at_once, one_by_one)


def test_values_that_are_not_one_for_each_iteration_are_one_mistake_of_the_call():
    told = _Told(at_once=True)
    told.arrive(None)
    told.tracker.repeated(told.arrived, finished_at=[1.0, 2.0], kv_cache_usage=[0.5])
    told.read(None)
    assert told.snapshot.totals.rejected_records == {"wrong_type": 1}
    assert told.snapshot.totals.iterations == 0
