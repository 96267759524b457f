"""A prediction stands beside what was recorded and the model's own replay, and says where it errs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace
from recorded_engines import OPTIONS, TRUTH, recorded

from batchscope.errors import ConfigurationError
from batchscope.prediction import NotEnoughError, OtherEngineError, fit, what_if
from batchscope.prediction.blocks import student_factor
from batchscope.prediction.model import CONSTANTS
from batchscope.prediction.split import split_errors
from batchscope.prediction.whatif import OF_THE_WHOLE, recorded_over_replayed
from batchscope.simulator import LinearCostModel
from batchscope.simulator.instants import simulate_instants


@pytest.fixture(scope="module")
def engine():
    return recorded(rate=3.0)


@pytest.fixture(scope="module")
def model(engine):
    return fit(engine)


def test_the_recorded_settings_give_the_recorded_figures_again(engine, model):
    prediction = what_if(engine, model)
    assert prediction.predicted == prediction.replayed
    for name in ("time_to_first_token", "time_per_output_token", "total_time"):
        ours, theirs = prediction.replayed.figures[name], prediction.recorded.figures[name]
        assert ours.mean == pytest.approx(theirs.mean, rel=0.03)
        assert ours.low <= ours.mean <= ours.high
        assert math.isnan(theirs.low)
    assert not prediction.extrapolated


def test_other_settings_come_close_to_the_engine_under_these_settings(engine, model):
    options = replace(OPTIONS, max_running_requests=8)
    truth = recorded(rate=3.0, options=options)
    prediction = what_if(engine, model, {"max_running_requests": 8})
    really = what_if(truth, fit(truth)).recorded
    for name in ("time_to_first_token", "time_per_output_token", "total_time"):
        assert prediction.predicted.figures[name].mean == pytest.approx(really.figures[name].mean, rel=0.05)
    assert prediction.predicted.limited_by["request_slots"] > 0.5
    assert prediction.settings == {"max_running_requests": 8}


def test_a_higher_rate_leaves_what_was_seen_and_says_so(engine, model):
    small = fit(recorded(rate=0.3, requests=150))
    prediction = what_if(recorded(rate=0.3, requests=150), small, rate_scale=20.0)
    assert any("requests in a batch" in each for each in prediction.extrapolated)


def test_figures_after_a_share_of_the_run_are_of_the_same_requests(engine, model):
    late = what_if(engine, model, since=0.5)
    assert late.notes[-1] == OF_THE_WHOLE
    assert OF_THE_WHOLE not in what_if(engine, model).notes
    assert 0 < late.requests < what_if(engine, model).requests
    with pytest.raises(NotEnoughError, match="no request finished after"):
        what_if(engine, model, since=1.0)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"max_num_seqs": 8}, "max_num_seqs.*expected one of max_running_requests"),
        ({"max_running_requests": 0}, "max_running_requests = 0"),
        ({"policy": "orca"}, "expected one of sarathi, vllm"),
    ],
)
def test_an_unknown_setting_or_one_out_of_range_is_refused(engine, model, settings, match):
    with pytest.raises(ConfigurationError, match=match):
        what_if(engine, model, settings)


def test_a_model_of_another_engine_is_refused(engine, model):
    with pytest.raises(OtherEngineError, match=r"the model is of sglang 0.5, the run engine 0 of vllm 0.19.0"):
        what_if(engine, replace(model, engine="sglang 0.5"))


def _split(engine, cost, options):
    asked = replace(engine, options=options)
    return split_errors(asked, cost, simulate_instants(asked.workload, options, cost))


def test_a_wrong_step_time_is_put_into_the_step_time(engine):
    slower = LinearCostModel(*(1.2 * getattr(TRUTH, name) for name in CONSTANTS))
    split = _split(engine, slower, OPTIONS)
    assert split.step_time == pytest.approx(0.2, abs=0.02)
    assert split.schedule < 0.05 < split.both


@pytest.mark.parametrize("wrong", [{"policy": "prefill-first"}, {"kv_cache_blocks": 500}, {"max_running_requests": 8}])
def test_a_wrong_schedule_is_put_into_the_schedule(engine, wrong):
    split = _split(engine, TRUTH, replace(OPTIONS, **wrong))
    assert abs(split.step_time) < 0.02
    assert split.schedule > 0.04


def test_without_iterations_only_both_together_are_known(engine):
    split = _split(replace(engine, iterations=None), TRUTH, OPTIONS)
    assert math.isnan(split.step_time)
    assert math.isnan(split.schedule)
    assert split.both < 0.05


def test_of_too_few_requests_there_is_no_interval_and_no_p99_and_that_is_said(engine, model):
    few = next(since for since in (0.9, 0.93, 0.96, 0.98) if what_if(engine, model, since=since).requests < 20)
    prediction = what_if(engine, model, since=few)
    figure = prediction.predicted.figures["total_time"]
    assert math.isnan(figure.low + figure.high)
    assert math.isnan(figure.p99)
    assert figure.mean > 0
    assert any(note.startswith(f"these figures are of {prediction.requests} requests") for note in prediction.notes)


def test_a_budget_that_had_to_grow_with_the_places_is_among_the_settings(engine, model):
    prediction = what_if(engine, model, {"max_running_requests": 4096})
    assert prediction.settings == {"max_running_requests": 4096, "max_scheduled_tokens": 4096}


def test_blocks_that_are_off_by_the_same_factor_leave_no_doubt(engine):
    chosen = np.ones(len(engine.workload), bool)
    ratios = recorded_over_replayed(engine.instants, _longer(engine.instants, 2.0), chosen, np.random.default_rng(0))
    assert ratios["total_time"] == pytest.approx(0.5)


def test_the_doubt_is_that_of_what_was_recorded_and_of_what_would_be(engine):
    """Requests that err independently: twice the variance of their mean, times what so few blocks do not know of it."""
    recorded, chosen = engine.instants, np.ones(len(engine.workload), bool)
    drawn, independent = [], []
    for seed in range(40):
        varied = _longer(recorded, np.exp(np.random.default_rng(seed).normal(0, 0.2, len(chosen))))
        drawn.append(recorded_over_replayed(recorded, varied, chosen, np.random.default_rng(seed))["total_time"].var())
        total, again = (each.latencies()["total_time"] for each in (recorded, varied))
        errors = total - again * total.sum() / again.sum()
        independent.append(errors.var() * len(errors) / again.sum() ** 2)
    few = student_factor(8) ** 2 * 7 / 8
    assert np.mean(drawn) / np.mean(independent) == pytest.approx(2 * few, rel=0.2)


def _longer(instants, factor):
    """With so many times the total time."""
    return replace(instants, last_token=instants.arrived + factor * (instants.last_token - instants.arrived))
