"""The highest rate that holds is found in few simulations, and nothing is said of too little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace
from recorded_engines import OPTIONS, TRUTH, recorded

from batchscope.configuration import SloTargets
from batchscope.errors import ConfigurationError
from batchscope.prediction import NotEnoughError, fit
from batchscope.prediction.attainment import TOLERATED_GROWTH, backlog_growth
from batchscope.prediction.capacity import HIGHEST, LOWEST, MOST_SIMULATIONS, Traffic, capacity, traffic_of
from batchscope.prediction.observed import Gone
from batchscope.simulator import Lengths, SyntheticWorkload
from batchscope.simulator.instants import simulate_instants

SLO = {"default": SloTargets(time_to_first_token=1.0, time_per_output_token=0.1)}


def made_up(seed, requests=150, rate=2.0, **options):
    """Traffic whose engine is known."""
    lengths = {"prompt": Lengths(500, 0.8, 3000), "output": Lengths(60, 0.7, 300)}
    workload = tuple(SyntheticWorkload(requests=requests, rate=rate, seed=seed, **lengths))
    return Traffic(name=f"traffic {seed}", workload=workload, options=replace(OPTIONS, **options), cost=TRUTH)


def in_time(traffic, scale):
    """Of all requests at that rate, by hand; 0 where the backlog grows."""
    workload = [replace(spec, arrival=spec.arrival / scale) for spec in traffic.workload]
    found = simulate_instants(workload, traffic.options, traffic.cost)
    arrived, tokens = np.array([[spec.arrival, spec.output_tokens] for spec in workload]).T
    per_token = (found.last_token - found.first_token) / np.maximum(tokens - 1, 1)
    share = float(((found.first_token - arrived <= 1.0) & (per_token <= 0.1)).mean())
    return share * (backlog_growth(arrived, found.last_token).low <= TOLERATED_GROWTH)


def test_below_the_capacity_users_are_served_in_time_and_beyond_it_they_are_not():
    traffic = made_up(1)
    seen = []
    found = capacity(traffic, SLO, on_simulated=seen.append)
    assert seen == list(range(1, len(found.points) + 1))
    assert len(found.points) <= MOST_SIMULATIONS
    assert found.rate == pytest.approx(found.rate_scale * traffic.rate)
    assert found.edge == "attainment"
    for factor in (0.7, 0.9, 1.0):
        assert in_time(traffic, factor * found.rate_scale) >= 0.9
    for factor in (1.02, 1.1, 1.4):
        assert in_time(traffic, factor * found.rate_scale) < 0.9
    assert found.low <= found.rate <= found.high


@pytest.mark.parametrize("scale", [0.05, 20.0])
def test_it_does_not_depend_on_how_fast_the_requests_were_recorded(scale):
    once = capacity(made_up(2), SLO)
    other = made_up(2)
    moved = [replace(spec, arrival=spec.arrival / scale) for spec in other.workload]
    again = capacity(replace(other, workload=tuple(moved)), SLO)
    assert again.rate == pytest.approx(once.rate, rel=0.02)


def test_where_the_targets_are_loose_the_backlog_is_the_edge():
    found = capacity(made_up(3, requests=400), {"default": SloTargets(e2e_latency=1e6)})
    assert found.edge == "backlog"
    growths = {point.rate_scale: point.growth.low for point in found.points}
    assert growths[found.rate_scale] <= TOLERATED_GROWTH < min(g for s, g in growths.items() if s > found.rate_scale)


def test_more_places_give_more_capacity():
    few, many = (capacity(made_up(4, max_running_requests=places), SLO).rate for places in (4, 32))
    assert many > 1.5 * few


def test_targets_that_nobody_can_meet_are_met_at_no_rate():
    found = capacity(made_up(5), {"default": SloTargets(time_per_output_token=0.001)})
    assert not found.found
    assert math.isnan(found.low)
    assert found.edge == "attainment"
    assert found.points[0].rate_scale == LOWEST


def test_of_a_trickle_the_highest_multiple_that_is_looked_at_holds_or_an_edge_is_found():
    trickle = made_up(6, rate=1e-4)
    found = capacity(trickle, SLO)
    assert found.rate_scale == HIGHEST
    assert found.edge == ""


def test_who_gave_up_has_missed_at_every_rate():
    traffic = made_up(7)
    gave_up = np.arange(150) % 30 == 0
    found = capacity(replace(traffic, gone=Gone(gave_up, ((1.0, "default"), (2.0, "default")))), SLO)
    assert found.given_up == 7
    assert max(point.attainment.value for point in found.points) <= 145 / 152
    assert found.rate_scale < capacity(traffic, SLO).rate_scale
    assert any("given up" in each for each in found.notes)


def test_each_class_is_held_to_its_own_targets_and_its_attainment_is_told():
    traffic = made_up(9)
    mixed = tuple(
        replace(spec, request_class="chat" if at % 3 else "batch") for at, spec in enumerate(traffic.workload)
    )
    by_class = {"chat": SLO["default"], "batch": SloTargets(e2e_latency=1e6)}
    found = capacity(replace(traffic, workload=mixed), by_class)
    assert found.rate > capacity(traffic, SLO).rate
    for point in found.points:
        assert point.by_class["batch"].value == 1.0
        joint = sum(each.value * each.requests for each in point.by_class.values()) / 150
        assert point.attainment.value == pytest.approx(joint)


def test_a_gap_between_tokens_can_be_a_target():
    traffic = made_up(8)
    gaps = capacity(traffic, {"default": SloTargets(max_emission_gap=0.08)})
    assert gaps.found
    assert gaps.rate < capacity(traffic, {"default": SloTargets(max_emission_gap=1.0)}).rate


def test_constants_as_likely_widen_the_interval():
    run = recorded(rate=3.0)
    model = fit(run)
    found, sure = capacity(traffic_of(run, model), SLO), capacity(replace(traffic_of(run, model), model=None), SLO)
    assert found.rate == sure.rate
    assert found.low < sure.low
    assert found.high > sure.high
    ours = next(point.attainment.value for point in found.points if point.rate_scale == 1.0)
    assert ours == pytest.approx(found.recorded.value, abs=0.05)


def test_of_too_little_nothing_is_said():
    with pytest.raises(NotEnoughError, match="99 requests: a capacity takes at least 100"):
        capacity(made_up(0, requests=99), SLO)
    together = made_up(0)
    at_once = replace(together, workload=tuple(replace(spec, arrival=1.0) for spec in together.workload))
    with pytest.raises(NotEnoughError, match="all requests arrive at once"):
        capacity(at_once, SLO)
    with pytest.raises(NotEnoughError, match=r"has requests of default, and targets are of chat"):
        capacity(together, {"chat": SloTargets(e2e_latency=1.0), "batch": SloTargets()})


@pytest.mark.parametrize("target", [0, 1, 1.5, -1, math.nan])
def test_a_share_that_is_none_is_refused(target):
    with pytest.raises(ConfigurationError, match="attainment"):
        capacity(made_up(0), SLO, target=target)


@pytest.mark.parametrize("seed", [11, 12])
def test_it_is_what_trying_every_rate_finds(seed):
    traffic = made_up(seed, requests=120)
    found = capacity(traffic, SLO)
    grid = found.rate_scale * np.exp(np.linspace(-0.3, 0.3, 31))
    best = max(scale for scale in grid if in_time(traffic, scale) >= 0.9)
    assert found.rate_scale == pytest.approx(best, rel=0.03)
