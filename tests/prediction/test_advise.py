"""Advice: the best setting of a small search, nothing where nothing helps, and no winning by stalls."""

from __future__ import annotations

import numpy as np
import pytest
from advised_engines import expected_goodput, made_up, model_of
from msgspec.structs import replace
from recorded_engines import OPTIONS, TRUTH, recorded

from batchscope.configuration import SloTargets
from batchscope.errors import ConfigurationError
from batchscope.prediction import NotEnoughError
from batchscope.prediction.advise import advise
from batchscope.prediction.candidates import Space
from batchscope.prediction.model import ALL_CONSTANTS
from batchscope.prediction.observed import Gone
from batchscope.simulator import LinearCostModel
from batchscope.simulator.instants import simulate_instants

PLACES = Space(("max_running_requests",))
STARVED = replace(OPTIONS, max_running_requests=6)
PATIENT = {"default": SloTargets(time_to_first_token=5.0, time_per_output_token=0.1)}


@pytest.fixture(scope="module")
def starved():
    """An engine with a quarter of the places that its requests need."""
    return recorded(requests=100, rate=3.0, options=STARVED, iterations=False)


def test_places_that_lack_are_found_with_the_gain_and_what_gets_worse(starved):
    advice = advise(starved, model_of(starved, 0), PATIENT, space=PLACES)
    assert advice.verdict == "change"
    assert advice.changed["max_running_requests"] > STARVED.max_running_requests
    assert advice.gain_low > 0
    assert advice.gain_low <= advice.gain <= advice.gain_high
    assert advice.now.limited_by["request_slots"] > 0.5
    slower = "time_per_output_token"
    assert advice.best.figures[slower].mean > advice.now.figures[slower].mean


def test_asked_again_in_the_best_setting_it_says_to_change_nothing(starved):
    found = advise(starved, model_of(starved, 0), PATIENT, space=PLACES)
    better = recorded(requests=100, rate=3.0, options=replace(STARVED, **found.changed), iterations=False)
    assert advise(better, model_of(better, 0), PATIENT, space=PLACES).verdict == "keep"


def test_an_idle_engine_is_left_alone():
    run = recorded(requests=100, rate=0.3, iterations=False)
    advice = advise(run, model_of(run, 0), {"default": SloTargets(time_to_first_token=10.0)}, space=PLACES)
    assert (advice.verdict, advice.changed) == ("keep", {})


def test_requests_given_up_count_as_missed(starved):
    model = model_of(starved, 0)
    whole = advise(starved, model, PATIENT, space=PLACES)
    served = len(starved.workload)
    gone = Gone(unserved=tuple((float(at), None) for at in range(60)))
    some = advise(replace(starved, gone=gone), model, PATIENT, space=PLACES)
    assert some.now.attainment.value == pytest.approx(whole.now.attainment.value * served / (served + 60))
    assert any("60 requests" in note for note in some.notes)


def test_who_gave_up_midway_is_served_in_time_by_no_setting(starved):
    gone = Gone(given_up=np.arange(len(starved.workload)) % 2 == 0)
    some = advise(replace(starved, gone=gone), model_of(starved, 0), PATIENT, space=PLACES)
    assert some.best.attainment.value <= 0.5
    assert all(each.goodput * some.best.seconds < 60 for each in some.tried if each.alike)


def test_requests_are_judged_by_the_targets_of_their_class(starved):
    classes = ["chat" if at % 2 else "batch" for at in range(len(starved.workload))]
    mixed = tuple(replace(spec, request_class=name) for spec, name in zip(starved.workload, classes, strict=True))
    run, model = replace(starved, workload=mixed), model_of(starved, 0)
    batch = {"batch": SloTargets(e2e_latency=1e6)}
    advice = advise(run, model, {**batch, "chat": PATIENT["default"]}, space=PLACES)
    assert advice.verdict == "change"
    assert advice.now.attainment.requests == len(classes)
    assert advice.now.by_class["batch"].value == 1.0
    assert advice.now.by_class["chat"].value < 0.6 < advice.best.by_class["chat"].value
    with pytest.raises(NotEnoughError, match=r"has requests of batch, chat, and targets are of rest"):
        advise(run, model, {"rest": SloTargets(1.0)})


def test_everything_tried_is_told_and_what_cannot_be_told_apart_is_marked(starved):
    said = []
    advice = advise(
        starved, model_of(starved, 0), PATIENT, space=PLACES, on_simulated=lambda *stage: said.append(stage)
    )
    settings = [tuple(each.settings.values()) for each in advice.tried]
    assert len(set(settings)) == len(settings)
    assert {tuple(side.settings.values()) for side in (advice.now, advice.best)} <= set(settings)
    assert max(each.goodput for each in advice.tried) == advice.tried[0].goodput
    best = next(each for each in advice.tried if each.settings == advice.best.settings)
    assert best.alike
    assert advice.alike_low <= best.goodput <= advice.alike_high
    assert not next(each for each in advice.tried if each.settings == advice.now.settings).alike
    assert len(said) == advice.simulations
    assert all(1 <= done <= of for _, done, of in said)
    assert len({stage for stage, _, _ in said}) == 3


def test_fewer_than_a_hundred_requests_are_refused(starved):
    few = replace(starved, workload=starved.workload[:99], instants=starved.instants.first(99))
    with pytest.raises(NotEnoughError, match="99 requests: advice takes at least 100"):
        advise(few, model_of(starved, 0), PATIENT)


def test_a_gap_as_target_forbids_stalls():
    run = recorded(requests=100, rate=8.0, options=replace(OPTIONS, kv_cache_blocks=900), iterations=False)
    model = model_of(run, 0)
    alone, strict = SloTargets(time_per_output_token=0.15), SloTargets(time_per_output_token=0.15, max_emission_gap=0.5)
    lax = advise(run, model, {"default": alone}, space=PLACES)
    held = advise(run, model, {"default": strict}, space=PLACES)
    chosen = run.options if held.verdict == "keep" else replace(run.options, **held.changed)
    stalled = run.options if lax.verdict == "keep" else replace(run.options, **lax.changed)
    goodput = [expected_goodput(run, model, {"default": strict}, each) for each in (chosen, stalled)]
    assert goodput[0] >= goodput[1]
    assert held.best.preemptions <= lax.best.preemptions


def test_no_more_than_two_per_cent_below_a_search_of_everything():
    run, slo = made_up(4, requests=100)
    model = model_of(run, 4)
    advice = advise(run, model, slo, space=PLACES)
    chosen = run.options if advice.verdict == "keep" else replace(run.options, **advice.changed)
    places = range(4, 100, 8)
    most = max(expected_goodput(run, model, slo, replace(run.options, max_running_requests=each)) for each in places)
    assert expected_goodput(run, model, slo, chosen) >= 0.98 * most


def test_targets_that_nobody_can_meet_are_refused(starved):
    impossible = {"default": SloTargets(time_per_output_token=0.001)}
    with pytest.raises(NotEnoughError, match=r"none of \d+ settings serves anybody within time_per_output_token 0.001"):
        advise(starved, model_of(starved, 0), impossible, space=PLACES)


def test_without_a_target_there_is_nothing_to_search_for(starved):
    with pytest.raises(NotEnoughError, match="no target"):
        advise(starved, model_of(starved, 0), {"default": SloTargets()})


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigurationError, match="vary"):
        Space(("max_num_seqs",))


def test_a_larger_budget_costs_kv_blocks(starved):
    """Memory is traded: what the activations of a larger batch take, the KV cache has not."""
    replayed = simulate_instants(starved.workload, starved.options, model_of(starved, 0).cost)
    space = Space(kv_blocks_per_token=0.5)
    for each in space.grid(starved.options, replayed):
        more = each.max_scheduled_tokens - starved.options.max_scheduled_tokens
        assert each.kv_cache_blocks == starved.options.kv_cache_blocks - round(0.5 * more)
        for close in space.close_to(each, starved.options):
            further = close.max_scheduled_tokens - starved.options.max_scheduled_tokens
            assert close.kv_cache_blocks == pytest.approx(starved.options.kv_cache_blocks - 0.5 * further, abs=1)


def _taking(factor):
    """The engine's cost, were every iteration to take so many times as long."""
    return LinearCostModel(*(factor * getattr(TRUTH, name) for name in ALL_CONSTANTS))


@pytest.mark.parametrize("factor", [0.3, 0.7])
def test_a_replay_far_off_is_no_ground_for_a_gain_nor_for_changing_nothing(starved, factor):
    """With a model too fast by so much the engine is not short of places: it may not be told to stay as it is."""
    advice = advise(starved, model_of(starved, 0, _taking(factor)), PATIENT, space=PLACES)
    assert advice.verdict == "undecided"
    assert "replayed, the recorded goodput is off by +" in advice.why
    assert "no ground" in advice.why
    assert advice.replay_error > 1
    assert next(each for each in advice.matched if each.target == "time_to_first_token").off < -0.5


def test_a_replay_that_is_off_by_less_than_the_gain_leaves_the_advice(starved):
    for factor in (0.9, 1.1, 1.4):
        advice = advise(starved, model_of(starved, 0, _taking(factor)), PATIENT, space=PLACES)
        assert advice.verdict == "change"
        assert advice.changed["max_running_requests"] > STARVED.max_running_requests


def test_an_answer_that_its_own_measure_of_the_targets_overturns_is_none():
    """The replay takes 2 % more a token: some who really were just in time are late, and with fewer places are not."""
    run = recorded(requests=100, rate=3.0, options=replace(OPTIONS, max_running_requests=12), iterations=False)
    just = float(np.nanpercentile(run.instants.latencies()["time_per_output_token"], 60))
    slo = {"default": SloTargets(time_per_output_token=just)}
    right = advise(run, model_of(run, 0), slo, space=PLACES)
    wrong = advise(run, model_of(run, 0, _taking(1.02)), slo, space=PLACES)
    assert (right.verdict, wrong.verdict) == ("keep", "undecided")
    assert wrong.gain_low > 0
    assert "are within time_per_output_token 0." in wrong.why
    assert wrong.why.endswith("by that measure the gain may as well be none")
