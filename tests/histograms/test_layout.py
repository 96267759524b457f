from fractions import Fraction
from math import inf, nextafter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError
from batchscope.histograms.layout import HIGHEST, LOWEST, MAX_SCALE, MIN_SCALE, bucket_layout

SCALES = range(MIN_SCALE, MAX_SCALE + 1)
IN_RANGE = st.floats(LOWEST, HIGHEST, exclude_max=True)


def above(value, bucket, scale):
    """Whether value > b^bucket, b = 2^(2^-scale), in exact arithmetic: compare the 2^scale-th powers."""
    if scale >= 0:
        return Fraction(value) ** (1 << scale) > Fraction(2) ** bucket
    return Fraction(value) > Fraction(2) ** (bucket << -scale)


@given(scale=st.integers(MIN_SCALE, 7), value=IN_RANGE)
def test_the_bucket_is_the_one_of_the_definition_in_exact_arithmetic(scale, value):
    bucket = bucket_layout(scale).index(value)
    assert above(value, bucket, scale)
    assert not above(value, bucket + 1, scale)


@pytest.mark.parametrize("scale", [8, 9, 10, 11, 12])
def test_at_the_finest_scales_samples_lie_in_their_bucket_in_exact_arithmetic(scale):
    layout = bucket_layout(scale)
    generator = np.random.default_rng(scale)
    for bucket in generator.integers(layout.first + 1, layout.last, 3).tolist():
        edge = float(layout.edges(bucket, 1)[0])
        assert not above(edge, bucket, scale)
        assert above(nextafter(edge, inf), bucket, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_powers_of_two_are_the_upper_end_of_their_bucket(scale):
    layout = bucket_layout(scale)
    for exponent in range(-29, 30):
        buckets = exponent * 2**scale if scale >= 0 else -(-exponent // 2**-scale)
        assert layout.index(2.0**exponent) == buckets - 1
        assert layout.index(nextafter(2.0**exponent, 0.0)) == buckets - 1
        beyond = layout.index(nextafter(2.0**exponent, inf))
        assert beyond == (buckets if scale >= 0 else exponent // 2**-scale)


@pytest.mark.parametrize("scale", SCALES)
def test_each_edge_is_inside_the_lower_bucket_and_the_next_double_is_not(scale):
    layout = bucket_layout(scale)
    edges = layout.edges(layout.first + 1, min(layout.last - layout.first, 5000))
    values = np.concatenate((edges, np.nextafter(edges, inf)))
    buckets = layout.indices(values)
    expected = np.arange(layout.first, layout.first + len(edges))
    assert np.array_equal(buckets[: len(edges)], expected)
    assert np.array_equal(buckets[len(edges) :], expected + 1)


@given(scale=st.integers(MIN_SCALE, MAX_SCALE), values=st.lists(IN_RANGE, min_size=1, max_size=50))
def test_many_values_are_found_where_one_is(scale, values):
    layout = bucket_layout(scale)
    assert layout.indices(np.array(values)).tolist() == [layout.index(value) for value in values]


@pytest.mark.parametrize("scale", SCALES)
def test_the_range_has_about_sixty_octaves_of_buckets(scale):
    layout = bucket_layout(scale)
    assert layout.index(LOWEST) == layout.first
    assert layout.index(nextafter(HIGHEST, 0.0)) == layout.last
    assert layout.last - layout.first + 1 <= 60 * 2.0**scale + 2


@pytest.mark.parametrize(("scale", "per_cent"), [(2, 8.64), (5, 1.083), (6, 0.5415), (9, 0.06769), (12, 0.008461)])
def test_the_relative_error_is_the_published_one(scale, per_cent):
    assert bucket_layout(scale).relative_error * 100 == pytest.approx(per_cent, rel=1e-3)


@pytest.mark.parametrize("scale", [-5, 13, 6.0, "6", None, True])
def test_a_scale_outside_the_range_is_refused(scale):
    with pytest.raises(ConfigurationError, match="from -4 to 12"):
        bucket_layout(scale)
