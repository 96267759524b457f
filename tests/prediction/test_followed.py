"""What lies between recorded instants gives the constants, and says which of them it does not tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from recorded_engines import OPTIONS, TRUTH, recorded

from batchscope.prediction.blocks import student_factor
from batchscope.prediction.followed import followed, stretches
from batchscope.prediction.model import CONSTANTS, LEAST_DOUBT

TRUE = np.array([getattr(TRUTH, name) for name in CONSTANTS])


@pytest.fixture(scope="module")
def engine():
    return recorded(rate=3.0, iterations=False)


def ask(engine, start, until=math.inf):
    instants = engine.instants
    return followed(
        engine.workload, engine.options, instants.first_token, instants.last_token,
        start=start, until=until, draws=200, random=np.random.default_rng(0),
    )  # fmt: skip


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_the_constants_are_found_from_afar(engine, factor):
    point, draws = ask(engine, factor * TRUE)
    assert point[:2] == pytest.approx(TRUE[:2], rel=0.03)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    assert (low * (1 - LEAST_DOUBT) <= TRUE).all()
    assert (high * (1 + LEAST_DOUBT) >= TRUE).all()


def test_what_the_instants_tell_together_is_known_better_than_each_constant(engine):
    _, draws = ask(engine, TRUE)
    work = np.array([1.0, 0.0, 20.0, 15_000.0])
    assert np.std(draws @ work) / (TRUE @ work) < 0.01 < np.std(draws[:, 2]) / TRUE[2]


def test_the_stretches_end_at_recorded_instants_and_none_is_counted_twice(engine):
    instants = engine.instants
    rows = stretches(engine.workload, engine.options, instants.first_token, instants.last_token, TRUE, math.inf)
    assert len(rows) > len(engine.workload)
    assert (rows.seconds > 0).all()
    assert rows.seconds.sum() <= engine.end
    assert rows.work[:, 1].sum() == pytest.approx(sum(spec.prompt_tokens for spec in engine.workload), rel=0.01)


def test_of_a_schedule_that_is_lost_nothing_is_claimed(engine):
    nowhere = np.full(len(engine.workload), math.nan)
    point, draws = followed(
        engine.workload, OPTIONS, nowhere, nowhere,
        start=TRUE, until=math.inf, draws=100, random=np.random.default_rng(0),
    )  # fmt: skip
    assert (point == TRUE).all()
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    assert (high / low > 3).all()


@pytest.mark.parametrize(("blocks", "quantile"), [(8, 2.3646), (16, 2.1314), (40, 2.0227)])
def test_few_blocks_are_widened_as_student_says(blocks, quantile):
    assert student_factor(blocks) == pytest.approx(quantile / 1.959964 * math.sqrt(blocks / (blocks - 1)), rel=5e-3)
