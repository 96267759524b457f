"""The cost model is linear, and its defaults are the fit that their docstring claims."""

from __future__ import annotations

import csv
import gzip
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_doubles import SHARED, needs_shared

from batchscope.errors import ConfigurationError
from batchscope.simulator import LinearCostModel

VIDUR = SHARED / "traces" / "vidur_conv_sarathi"


def measured_batches():
    """Prefill tokens, decoding requests, KV tokens read and seconds of vidur's 4,292 batches."""
    read = Counter()
    with gzip.open(VIDUR / "batch_requests.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            read[row["batch_id"]] += float(row["processed_before"])
    with gzip.open(VIDUR / "batches.csv.gz", "rt") as file:
        rows = [
            (
                float(row["num_prefill_tokens"]),
                float(row["num_decode_tokens"]),
                read[row["batch_id"]],
                float(row["completed_at"]) - float(row["scheduled_at"]),
            )
            for row in csv.DictReader(file)
        ]
    return np.array(rows).T


def test_an_iteration_costs_its_fixed_part_and_its_parts():
    cost = LinearCostModel(1.0, 10.0, 100.0, 1000.0)
    assert cost.iteration_time(0, 0, 0) == 1
    assert cost.iteration_time(2, 3, 4) == 4321


def test_a_batch_that_no_graph_was_captured_for_costs_more():
    cost = LinearCostModel(1.0, 10.0, 100.0, 1000.0, beyond_graphs=0.5, graphed_requests=24)
    assert cost.iteration_time(0, 24, 0) == 2401
    assert cost.iteration_time(0, 25, 0) == 2501.5


@needs_shared
def test_the_defaults_are_the_fit_to_vidurs_batches_as_their_docstring_says():
    prefill, decoding, read, seconds = measured_batches()
    assert len(seconds) == 4292
    fitted, default = LinearCostModel.fit(prefill, decoding, read, seconds), LinearCostModel()
    for field in LinearCostModel.__struct_fields__:
        assert getattr(default, field) == pytest.approx(getattr(fitted, field), rel=1e-3)
    predicted = default.iteration_time(prefill, decoding, read)
    explained = 1 - np.sum((predicted - seconds) ** 2) / np.sum((seconds - seconds.mean()) ** 2)
    errors = np.abs(predicted - seconds) / seconds
    assert round(explained, 4) == 0.9986
    assert round(np.median(errors), 3) == 0.010
    assert round(np.quantile(errors, 0.95), 3) == 0.035


constants = st.floats(0, 1).map(lambda x: round(x, 6))


@settings(max_examples=50, deadline=None)
@given(st.tuples(constants, constants, constants, constants), st.integers(0, 2**32))
def test_a_fit_finds_the_constants_that_made_the_times(truth, seed):
    work = np.random.default_rng(seed).integers(0, 100, (3, 40))
    seconds = LinearCostModel(*truth).iteration_time(*work)
    fitted = LinearCostModel.fit(*work, seconds)
    assert np.allclose([getattr(fitted, f) for f in LinearCostModel.__struct_fields__[:4]], truth, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_a_fit_is_never_negative_and_no_neighbour_is_better(seed):
    random = np.random.default_rng(seed)
    work, seconds = random.random((3, 30)), random.normal(size=30)

    def error(constants):
        return np.sum((LinearCostModel(*constants).iteration_time(*work) - seconds) ** 2)

    fitted = LinearCostModel.fit(*work, seconds)
    best = np.array([getattr(fitted, f) for f in LinearCostModel.__struct_fields__[:4]])
    for _ in range(20):
        assert error(np.maximum(0, best + random.normal(scale=0.01, size=4))) >= error(best) - 1e-12


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), "1", True])
def test_a_constant_that_is_no_duration_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=r"fixed = .*: expected seconds >= 0"):
        LinearCostModel(fixed=wrong)


@pytest.mark.parametrize("wrong", [-1, 2.5, "1", True])
def test_a_batch_of_graphs_that_is_no_number_of_requests_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=r"graphed_requests = .*: expected a whole number"):
        LinearCostModel(graphed_requests=wrong)
