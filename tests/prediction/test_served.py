"""Settings that are simulated on several cores give what they give on one, and each is simulated once."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from recorded_engines import OPTIONS, TRUTH, recorded

from batchscope.configuration import SloTargets
from batchscope.prediction import served
from batchscope.prediction.attainment import nearness
from batchscope.prediction.served import Simulations, instants_of, mean_goodput
from batchscope.simulator.instants import simulate_instants

SLO = {"default": SloTargets(time_to_first_token=2.0, max_emission_gap=0.2)}


@pytest.fixture(scope="module")
def run():
    return recorded(requests=60, rate=4.0, iterations=False)


@pytest.fixture
def tasks(run):
    settings = [replace(OPTIONS, max_running_requests=places) for places in (4, 8, 8, 16)]
    return [(options, TRUTH, requests) for options in settings for requests in (30, 60)]


def on(workers, run, tasks):
    told = []
    with Simulations(run, SLO, workers, lambda *done: told.append(done)) as simulations:
        found = simulations(tasks)
        assert simulations(tasks[:3]) == found[:3]
        return found, simulations.count, told


def test_several_cores_give_what_one_gives_and_tell_of_each(run, tasks, monkeypatch):
    alone, count, told = on(1, run, tasks)
    monkeypatch.setattr(served, "IN_PROCESS_BELOW", 0)
    together, _, also_told = on(2, run, tasks)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.met, other.met)
        assert one.goodput == other.goodput
        assert one.p99_time_to_first_token == other.p99_time_to_first_token
    assert count == 6
    assert told == also_told == [(done, 6) for done in range(1, 7)]


def test_who_is_served_in_time_is_judged_by_what_the_simulation_gave(run):
    [one] = on(1, run, [(OPTIONS, TRUTH, 60)])[0]
    found = simulate_instants(run.workload, OPTIONS, TRUTH, follow_gaps=True)
    met = nearness(run.workload, instants_of(run, found), SLO) <= 1
    assert np.array_equal(one.met, met)
    assert mean_goodput([one]) == pytest.approx(met.sum() / found.last_token.max())
    waited = found.first_token - run.instants.arrived
    assert one.p99_time_to_first_token == pytest.approx(np.percentile(waited, 99))
