"""A fit finds the constants of an engine, says how well it knows them, and refuses where it knows too little."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from msgspec.structs import replace
from recorded_engines import OPTIONS, TRUTH, recorded

from batchscope.errors import ConfigurationError, DecodeError
from batchscope.prediction import NotEnoughError, fit, read_model, what_if
from batchscope.prediction.model import CONSTANTS
from batchscope.simulator import RequestSpec


@pytest.fixture(scope="module")
def engine():
    return recorded()


@pytest.fixture(scope="module")
def from_requests(engine):
    return fit(replace(engine, iterations=None))


def test_iterations_give_the_constants_within_a_few_per_cent(engine):
    model = fit(engine)
    assert model.depth == "iterations"
    for name in ("fixed", "per_prefill_token"):
        assert getattr(model.cost, name) == pytest.approx(getattr(TRUTH, name), rel=0.05)
    assert model.error < 0.03


def test_a_run_in_which_nobody_decodes_tells_what_prompts_take():
    run = recorded(workload=tuple(RequestSpec(at, at / 3, 50 + 7 * at % 400, 1) for at in range(150)), iterations=False)
    model = fit(run)
    assert model.error < 0.03
    prompts = model.cost.iteration_time(400, 0, 0) - model.cost.iteration_time(100, 0, 0)
    assert prompts == pytest.approx(300 * TRUTH.per_prefill_token, rel=0.1)
    assert not model.constants["per_decoding_request"].identified


def test_a_constant_more_is_fitted_where_other_iterations_are_foretold_better_with_it(engine, tmp_path):
    masked = replace(TRUTH, per_token_pair=60e-9)
    model = fit(recorded(cost=masked))
    assert model.cost.per_token_pair == pytest.approx(60e-9, rel=0.1)
    assert len(model.draws[0]) == len(CONSTANTS) + 1
    path = tmp_path / "model.json"
    path.write_bytes(model.to_json())
    assert read_model(path) == model
    assert "per_token_pair" not in fit(engine).constants


def test_requests_alone_give_iterations_that_take_as_long(from_requests):
    assert from_requests.depth == "requests"
    assert from_requests.error < 0.02
    for work in ((0, 4, 3000), (0, 20, 15_000), (1000, 10, 8000)):
        assert from_requests.cost.iteration_time(*work) == pytest.approx(TRUTH.iteration_time(*work), rel=0.05)


HOST = 4e-3
"""Seconds an iteration that are in no forward pass."""


def forward_passes(engine, every=1):
    """The engine as its forward-pass metrics tell it: without the host's time, and one iteration of ``every`` only."""
    seen = engine.iterations
    kept = seen.where(np.arange(len(seen)) % every == 0)
    return replace(engine, iterations=replace(kept, seconds=kept.seconds - HOST), forward_passes=True)


@pytest.mark.parametrize("every", [1, 3])
def test_forward_passes_and_requests_give_the_constants_and_the_time_between_the_passes(engine, every):
    """The passes alone say a fixed time that is 20 % too small; the requests, what is missing."""
    model = fit(forward_passes(engine, every))
    assert model.depth == "forward passes"
    for name in ("fixed", "per_prefill_token"):
        constant = model.constants[name]
        assert constant.value == pytest.approx(getattr(TRUTH, name), rel=0.05)
        assert constant.low <= getattr(TRUTH, name) <= constant.high
    for work in ((0, 4, 3000), (0, 20, 15_000), (1000, 10, 8000)):
        assert model.cost.iteration_time(*work) == pytest.approx(TRUTH.iteration_time(*work), rel=0.03)
    [told] = [each for each in model.assumed if "between its forward passes" in each]
    assert float(told.split(" ms")[0].split()[-1]) == pytest.approx(1e3 * HOST, rel=0.2)
    assert model.error < 0.03


def test_passes_that_last_until_the_next_one_have_nothing_between(engine):
    whole = replace(engine, forward_passes=True)
    assert fit(whole).cost.fixed == pytest.approx(TRUTH.fixed, rel=0.05)


def test_where_forward_passes_are_known_a_replays_error_is_told_as_a_whole(engine):
    told = what_if(forward_passes(engine), fit(engine)).errors
    assert math.isnan(told.step_time)
    assert told.both < 0.05


def test_every_constant_lies_in_its_interval(from_requests):
    for constant in from_requests.constants.values():
        assert 0 <= constant.low <= constant.value <= constant.high
    assert sum(constant.share for constant in from_requests.constants.values()) == pytest.approx(1)


def test_a_constant_of_which_nothing_was_seen_is_named(engine):
    four = np.full(len(engine.iterations), 4.0)  # a batch of four, over and over
    alike = replace(engine, iterations=replace(engine.iterations, decoding_requests=four))
    assert fit(alike).not_identified == ["fixed", "per_decoding_request"]
    assert not {"fixed", "per_prefill_token"} & set(fit(engine).not_identified)


def test_equal_runs_give_equal_models(engine):
    assert fit(engine, seed=3) == fit(engine, seed=3)


def test_too_few_requests_are_refused(engine):
    with pytest.raises(NotEnoughError, match="requests finished in what is to be fitted: expected at least 100"):
        fit(engine, until=0.2)


@pytest.mark.parametrize("until", [0, -1, 1.5, float("nan")])
def test_a_share_outside_the_run_is_refused(engine, until):
    with pytest.raises(ConfigurationError, match="until"):
        fit(engine, until=until)


def test_a_compilation_in_between_does_not_move_the_constants(engine):
    seconds = engine.iterations.seconds.copy()
    seconds[100] = 30.0
    held_up = replace(engine, iterations=replace(engine.iterations, seconds=seconds))
    assert fit(held_up).cost.fixed == pytest.approx(fit(engine).cost.fixed, rel=0.01)


def test_a_model_comes_back_from_its_file(engine, tmp_path):
    model = fit(engine)
    path = tmp_path / "model.json"
    path.write_bytes(model.to_json())
    assert read_model(path) == model
    assert len(model.draws[0]) == len(CONSTANTS)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]"])
def test_another_file_is_no_model(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match="no model"):
        read_model(path)
    with pytest.raises(DecodeError, match="cannot be read"):
        read_model(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda model: model["constants"].pop("fixed"), "expected fixed, per_prefill_token"),
        (lambda model: model["constants"].update(other=model["constants"]["fixed"]), "'other'"),
        (lambda model: model["constants"]["fixed"].update(value=-1.0), "expected seconds >= 0"),
        (lambda model: [each.update(value=0) for each in model["constants"].values()], "not all of them 0"),
        (lambda model: model.update(draws=[[1]]), "draws: expected rows of 4 numbers"),
        (lambda model: model.update(draws=[]), "draws: expected rows of 4 numbers"),
        (lambda model: model.pop("schema"), "schema"),
        (lambda model: model.update(schema="batchscope.model/2"), "fit again with this version"),
        (lambda model: model["options"].update(block_size=0), "block_size"),
    ],
)
def test_a_model_that_was_edited_wrongly_is_refused(engine, tmp_path, change, match):
    """With what is wrong in it, and the file's name."""
    document = json.loads(fit(engine).to_json())
    change(document)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DecodeError, match=rf"model\.json: .*{match}"):
        read_model(path)


def test_the_settings_of_the_run_are_the_models(engine):
    assert fit(engine).options == OPTIONS
    assert np.isfinite(fit(engine).draws).all()
