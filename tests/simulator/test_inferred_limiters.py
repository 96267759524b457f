"""The embedded scheduler with its reports switched off: what is inferred, beside what it says itself."""

import pytest

from batchscope import BatchLimiter, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.simulator import (
    Disturbances,
    RequestClass,
    SchedulerOptions,
    Simulator,
    SyntheticWorkload,
    VirtualClock,
)

CLOSE = 0.05


class ToldAndSilent:
    """Two trackers; the second is not told who runs or waits, nor what limited the batch."""

    def __init__(self, collectors):
        self.told, self.silent = map(RequestTracker, collectors)
        self.slots = {}

    def arrived(self, request_id, **facts):
        slot = self.told.arrived(request_id, **facts)
        self.slots[slot] = self.silent.arrived(request_id, **facts)
        return slot

    def iteration(self, slots, tokens=None, *, preempted=(), **facts):
        self.told.iteration(slots, tokens, preempted=preempted, **facts)
        for known in ("limited_by", "waiting", "running_requests"):
            del facts[known]
        mine, evicted = ([self.slots[slot] for slot in named] for named in (slots, preempted))
        self.silent.iteration(mine, tokens, preempted=evicted, **facts)

    def finished(self, slot, reason, **facts):
        self.told.finished(slot, reason, **facts)
        self.silent.finished(self.slots.pop(slot), reason, **facts)


def shares(workload, options, disturbances=None):
    """Reported and inferred."""
    clock = VirtualClock()
    limits = SchedulerLimits(
        options.max_running_requests, options.max_scheduled_tokens, options.kv_cache_blocks, options.block_size
    )
    collectors = [SchedulerMetricsCollector(limits=limits, clock=clock) for _ in range(2)]
    tracker = ToldAndSilent(collectors)
    Simulator(workload, tracker, options=options, disturbances=disturbances, clock=clock).run()
    assert collectors[1].get_snapshot().totals.rejected_records == {}
    return [collector.get_iteration_statistics().limited_by for collector in collectors]


KNOWN = {
    "chunks, a small budget": (SyntheticWorkload(200, 6.0), SchedulerOptions(max_scheduled_tokens=512), None),
    "whole prompts": (SyntheticWorkload(200, 6.0), SchedulerOptions(max_scheduled_tokens=16_384), None),
    "a small cache": (SyntheticWorkload(200, 4.0), SchedulerOptions(kv_cache_blocks=1500), None),
    "a small cache, whole prompts": (
        SyntheticWorkload(200, 4.0),
        SchedulerOptions(kv_cache_blocks=1500, max_scheduled_tokens=16_384),
        None,
    ),
    "few places": (SyntheticWorkload(200, 4.0), SchedulerOptions(max_running_requests=8), None),
    "few places, a small cache, bursts": (
        SyntheticWorkload(200, 4.0, 4.0),
        SchedulerOptions(max_running_requests=24, kv_cache_blocks=2000),
        None,
    ),
    "little to do": (SyntheticWorkload(200, 1.0), SchedulerOptions(), None),
    "deferred": (SyntheticWorkload(200, 1.0), SchedulerOptions(), Disturbances(deferral_probability=0.3)),
    "users who leave, deadlines": (
        SyntheticWorkload(200, 6.0),
        SchedulerOptions(kv_cache_blocks=2500),
        Disturbances(cancel_probability=0.2, timeout_probability=0.2, timeout_seconds=20.0),
    ),
    "priorities": (
        SyntheticWorkload(200, 4.0, classes=(RequestClass("chat", priority=1), RequestClass("batch"))),
        SchedulerOptions(kv_cache_blocks=1500),
        None,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_inferred_shares_are_those_that_the_scheduler_reports(name):
    reported, inferred = shares(*KNOWN[name])
    assert inferred == {limiter: pytest.approx(reported[limiter], abs=CLOSE) for limiter in BatchLimiter}


def test_a_pause_and_a_cap_are_known_to_the_scheduler_only():
    paused, inferred = shares(SyntheticWorkload(200, 2.0), SchedulerOptions(pauses=((10.0, 40.0), (60.0, 80.0))))
    assert paused["paused"] > CLOSE
    assert inferred["paused"] == 0.0
    capped, inferred = shares(SyntheticWorkload(200, 6.0), SchedulerOptions(max_prefill_requests=1))
    assert capped["policy"] > CLOSE
    assert inferred["policy"] == 0.0


def test_with_some_deferred_and_others_waiting_nothing_is_inferred_by_elimination():
    reported, inferred = shares(
        SyntheticWorkload(200, 4.0),
        SchedulerOptions(kv_cache_blocks=1500),
        Disturbances(deferral_probability=0.3, deferral_seconds=2.0),
    )
    assert inferred["unknown"] > CLOSE
    assert inferred["kv_cache"] + inferred["unknown"] == pytest.approx(reported["kv_cache"], abs=CLOSE)
