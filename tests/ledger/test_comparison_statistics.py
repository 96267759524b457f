"""The arithmetic of comparisons: Student's t, Holm, block lengths, blocks that are drawn again."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.ledger.comparison.repeats import welch
from batchscope.ledger.comparison.resampling import ResampledValues, block_length, draw, resampled_means
from batchscope.ledger.comparison.student import holm, quantile, two_sided_p

TABLE = {
    (1, 0.95): 12.7062,
    (2, 0.95): 4.30265,
    (4, 0.99): 4.60409,
    (10, 0.95): 2.22814,
    (30, 0.9): 1.69726,
    (120, 0.95): 1.97993,
}
"""Student's t as printed in tables (NIST/SEMATECH e-Handbook, 1.3.6.7.2)."""


@pytest.mark.parametrize(("key", "t"), TABLE.items())
def test_quantiles_of_student_are_those_of_the_tables(key, t):
    assert quantile(key[1], key[0]) == pytest.approx(t, rel=1e-5)
    assert two_sided_p(t, key[0]) == pytest.approx(1 - key[1], rel=1e-4)


@given(st.floats(0, 50), st.floats(1, 1e4))
def test_a_probability_falls_with_the_distance_and_lies_in_0_to_1(t, freedom):
    here, further = two_sided_p(t, freedom), two_sided_p(t * 1.5 + 0.1, freedom)
    assert 0 <= further <= here <= 1
    assert two_sided_p(-t, freedom) == here


def test_with_one_degree_of_freedom_it_is_cauchys_and_with_many_the_normal():
    assert two_sided_p(3.0, 1) == pytest.approx(1 - 2 * math.atan(3.0) / math.pi, rel=1e-12)
    assert two_sided_p(1.959964, 1e7) == pytest.approx(0.05, rel=1e-5)
    assert two_sided_p(math.inf, 3) == 0


def test_holm_rejects_what_bonferroni_does_and_no_less():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.04]) == [True]
    assert holm([float("nan"), 1e-9]) == [False, True]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_lies_between_bonferroni_and_no_correction(p_values):
    for p, rejected in zip(p_values, holm(p_values), strict=True):
        assert not rejected or p <= 0.05
        assert rejected or p > 0.05 / len(p_values)


def autoregressive(random, count, keep):
    noise, values = random.normal(size=count), np.zeros(count)
    for index in range(1, count):
        values[index] = keep * values[index - 1] + noise[index]
    return values


def test_blocks_are_longer_where_values_hang_together_longer():
    runs = {
        keep: [autoregressive(np.random.default_rng(seed), 200, keep) for seed in range(40)] for keep in (0, 0.5, 0.9)
    }
    lengths = [np.median([block_length(values) for values in of_kind]) for of_kind in runs.values()]
    assert lengths[0] < 4 < lengths[1] < 10 < lengths[2] < 45


def test_a_block_length_is_that_of_the_formula_for_a_known_autocorrelation():
    """Politis and White (2004): of an autoregression the length is (1.5 (2 a / (1 - a^2))^2 n)^(1/3), circular."""
    keep, count = 0.5, 20_000
    found = np.mean([block_length(autoregressive(np.random.default_rng(seed), count, keep)) for seed in range(10)])
    assert found == pytest.approx((1.5 * (2 * keep / (1 - keep**2)) ** 2 * count) ** (1 / 3), rel=0.15)


@pytest.mark.parametrize("values", [np.zeros(200), np.ones(200)])
def test_a_constant_needs_no_block(values):
    assert block_length(values) == 1


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**31))
def test_each_resample_is_as_long_as_the_run(cells, length, seed):
    drawn = draw(cells, length, np.random.default_rng(seed), resamples=20)
    assert (drawn.sum(axis=1) == cells).all()
    assert drawn.shape == (20, cells)


@given(st.data())
def test_figures_of_a_resample_are_those_of_its_cells_written_out(data):
    count = data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 2**31))
    random = np.random.default_rng(seed)
    cell, values = random.integers(0, 10, count), random.integers(0, 8, count).astype(float)
    weights = random.uniform(0.5, 2, count)
    drawn = draw(10, 3, random, resamples=8)
    means, percentiles = resampled_means(drawn, cell, values, weights), ResampledValues(drawn, cell, values)
    for times, mean, p75 in zip(drawn, means, percentiles.percentile(0.75), strict=True):
        again = np.repeat(values, times[cell].astype(int))
        if len(again):
            assert mean == pytest.approx(np.average(again, weights=np.repeat(weights, times[cell].astype(int))))
            assert p75 == np.quantile(again, 0.75, method="inverted_cdf")
        else:
            assert np.isnan(mean)


def test_many_values_are_taken_together_without_a_visible_difference():
    random = np.random.default_rng(1)
    values, cell = random.lognormal(size=50_000), random.integers(0, 200, 50_000)
    drawn = draw(200, 4, random, resamples=20)
    found = ResampledValues(drawn, cell, values).percentile(0.99)
    exact = [np.quantile(np.repeat(values, times[cell].astype(int)), 0.99) for times in drawn]
    assert found == pytest.approx(exact, rel=0.02)


def test_welchs_degrees_of_freedom_are_those_of_the_textbook():
    """Two samples with variances 4 and 1 of 5 and 10: nu = (0.8 + 0.1)^2 / (0.8^2 / 4 + 0.1^2 / 9)."""
    a, b = np.array([-2, -2, 0, 2, 2.0]), np.concatenate([np.full(5, math.sqrt(0.9)), np.full(5, -math.sqrt(0.9))])
    error, freedom = welch(a, b)
    assert error == pytest.approx(math.sqrt(0.9))
    assert freedom == pytest.approx(0.81 / (0.64 / 4 + 0.01 / 9))
    assert welch(np.ones(3), np.ones(4)) == (0.0, 5.0)
