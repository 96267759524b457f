"""The fast simulation tells what a tracker of the slow one sees."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchscope.simulator import Lengths, LinearCostModel, SchedulerOptions, Simulator, SyntheticWorkload
from batchscope.simulator.instants import simulate_instants

COST = LinearCostModel(20e-3, 100e-6, 80e-6, 150e-9)
WORKLOAD = tuple(
    SyntheticWorkload(requests=60, rate=4.0, seed=2, prompt=Lengths(400, 0.8, 2000), output=Lengths(60, 0.7, 300))
)


class _Emissions:
    """A tracker that keeps the instants of each request's tokens."""

    def __init__(self):
        self.of = [[] for _ in WORKLOAD]
        self.arrivals = 0

    def arrived(self, request_id, **facts):
        self.arrivals += 1
        return self.arrivals - 1

    def iteration(self, slots, tokens=None, *, finished_at, **facts):
        for slot, count in zip(slots, [1] * len(slots) if tokens is None else tokens, strict=True):
            if count:
                self.of[slot].append(finished_at)

    def finished(self, slot, reason, **facts):
        pass


@pytest.mark.parametrize("policy", ["vllm", "sglang"])
def test_the_longest_gap_between_tokens_is_that_of_the_tokens_themselves(policy):
    options = SchedulerOptions(
        policy=policy, max_running_requests=16, max_scheduled_tokens=512, kv_cache_blocks=260, hash_block_tokens=16
    )
    seen = _Emissions()
    Simulator(WORKLOAD, seen, options=options, cost=COST).run()
    found = simulate_instants(WORKLOAD, options, COST, follow_gaps=True)
    truth = [max(np.diff(instants), default=math.nan) for instants in seen.of]
    np.testing.assert_allclose(found.max_emission_gap, truth, rtol=1e-9)
    assert (found.preemptions.sum() > 0) == (policy == "vllm")
    assert simulate_instants(WORKLOAD, options, COST).max_emission_gap is None
