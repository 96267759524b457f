"""Joint attainment counts a request that meets all of its targets, and its interval knows that requests queue together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.aggregation.slo import wilson_interval
from batchscope.configuration import SloTargets
from batchscope.prediction import NotEnoughError, RequestInstants
from batchscope.prediction.attainment import attainment_of, backlog_growth, nearness, nearness_at
from batchscope.simulator import RequestSpec

SLO = {"default": SloTargets(time_to_first_token=1.0, time_per_output_token=0.1)}


def _one(first=0.5, last=1.4, tokens=10, kind=None, slo=SLO, gap=None):
    """The nearness of a single request that arrived at 0."""
    columns = [np.array([float(value)]) for value in (0.0, 0.1, first, last, tokens)]
    instants = RequestInstants(*columns, None if gap is None else np.array([gap]))
    return nearness([RequestSpec(0, 0.0, 5, tokens, request_class=kind)], instants, slo)[0]


def test_the_worst_latency_over_its_target_counts_and_the_limit_itself_is_met():
    assert _one() == pytest.approx(1.0)
    assert _one(first=0.75, last=1.2) == pytest.approx(0.75)
    assert _one(last=2.3) == pytest.approx(2.0)


def test_one_token_has_no_time_per_output_token_to_miss():
    assert _one(first=0.5, last=0.5, tokens=1) == 0.5


def test_who_never_ended_missed():
    assert _one(first=math.nan, last=math.nan) == math.inf
    assert _one(last=math.nan) == math.inf


def test_a_request_is_measured_by_the_targets_of_its_class():
    by_class = {"chat": SloTargets(time_to_first_token=0.25), "batch": SloTargets(e2e_latency=14.0)}
    assert _one(kind="chat", slo=by_class) == 2.0
    assert _one(kind="batch", slo=by_class) == pytest.approx(0.1)
    assert math.isnan(_one(kind="other", slo=by_class))


def test_a_gap_counts_where_it_was_followed_and_is_refused_where_not():
    targets = {"default": SloTargets(max_emission_gap=0.2)}
    assert _one(slo=targets, gap=0.6) == pytest.approx(3.0)
    with pytest.raises(NotEnoughError, match="max_emission_gap was not followed"):
        _one(slo=targets)


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_independent_requests_get_about_wilsons_interval_and_never_a_narrower_one(seed, share):
    random = np.random.default_rng(seed)
    values = np.where(random.random(400) < share, 0.5, 1.5)
    found = attainment_of(values, np.arange(400.0))
    met = int((values <= 1).sum())
    low, high = wilson_interval(met, 400)
    assert found.value == met / 400
    assert found.low <= low + 1e-12
    assert found.high >= high - 1e-12
    assert 0 < found.effective <= 400


def test_requests_that_are_slow_together_count_for_few():
    values = np.tile(np.repeat([0.5, 1.5], 40), 5)
    together = attainment_of(values, np.arange(400.0))
    assert together.effective < 40
    assert together.low < 0.35
    assert together.high > 0.65


def test_where_all_were_in_time_it_is_seen_from_how_near_they_came():
    near = 0.5 + 0.4 * np.sin(np.arange(400) / 20)
    found = attainment_of(near, np.arange(400.0))
    assert found.value == 1.0
    assert found.effective < 60
    assert attainment_of(np.random.default_rng(0).random(400), np.arange(400.0)).effective > 150


def test_of_no_request_with_targets_nothing_is_known():
    found = attainment_of(np.array([math.nan]), np.zeros(1))
    assert math.isnan(found.value)
    assert found.requests == 0


@pytest.mark.parametrize("served", [1.0, 0.9, 0.5])
def test_the_backlog_grows_by_what_comes_and_is_not_served(served):
    arrived = np.arange(1000.0)
    growth = backlog_growth(arrived, arrived / served + 20)
    assert growth.value == pytest.approx(1 - served, abs=0.01)
    assert growth.low <= growth.value <= growth.high
    assert growth.certain == (served < 1)


def test_an_engine_that_fills_and_then_keeps_up_does_not_grow():
    arrived = np.cumsum(np.random.default_rng(1).exponential(1.0, 1000))
    assert abs(backlog_growth(arrived, arrived + 100).value) < 0.05


def test_of_requests_that_arrive_at_once_growth_is_not_known_and_refused_ones_are_no_backlog():
    assert math.isnan(backlog_growth(np.zeros(5), np.arange(5.0)).value)
    arrived = np.arange(400.0)
    ended = np.where(arrived % 2, arrived + 3, math.nan)
    assert abs(backlog_growth(arrived, ended).value) < 0.01


def test_how_near_a_share_of_the_requests_stays_is_bounded_around_its_quantile():
    values = np.random.default_rng(3).random(2000)
    low, high = nearness_at(0.9, values, np.arange(2000.0))
    assert 0.86 < low < np.quantile(values, 0.9) < high < 0.94
    together = np.where(np.arange(2000) < 300, 2.0, 0.5)
    assert nearness_at(0.9, together, np.arange(2000.0)) == (0.5, 2.0)
    assert nearness_at(0.9, np.full(2000, math.inf), np.arange(2000.0))[1] == math.inf
