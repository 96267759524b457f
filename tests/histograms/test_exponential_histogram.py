import copy as copying
from fractions import Fraction
from itertools import chain
from math import inf, isclose, isnan, nan, nextafter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscope.errors import BatchscopeError, ConfigurationError, InvalidRecordError, MergeError
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.layout import MAX_SCALE, MIN_SCALE, bucket_layout

TINIEST = 5e-324
EDGE_VALUES = (0.0, TINIEST, 1e-300, nextafter(1e-9, 0), 1e-9, 0.25, 1.0, nextafter(1e9, 0), 1e9, 1e300)
IN_RANGE = st.floats(1e-9, 1e9, exclude_max=True) | st.sampled_from([2.0**k for k in range(-29, 30)])
LATENCIES = st.floats(1e-4, 100.0)
ANY = st.floats(0, 1e300) | st.sampled_from(EDGE_VALUES) | LATENCIES
SCALES = st.integers(MIN_SCALE, MAX_SCALE)
QUANTILES = st.sampled_from([0, 0.001, 0.01, 0.07, 0.5, 0.55, 0.9, 0.95, 0.99, 0.999, 1]) | st.floats(0, 1)


def nearest_rank(values, q):
    """The definition, in exact arithmetic: the ceil(q n)-th of sorted values."""
    rank = -(-Fraction(str(q)) * len(values) // 1)
    return values[max(int(rank), 1) - 1]


def recorded(values, scale=6, **options):
    histogram = ExponentialHistogram(scale, **options)
    histogram.record_many(values)
    return histogram


def same(one, other):
    """Equal in everything but the rounding of the sum."""
    first, second = one.to_dict(), other.to_dict()
    sums = first.pop("sum"), second.pop("sum")
    return first == second and (sums == (None, None) or isclose(*sums, rel_tol=1e-12))


@given(scale=st.integers(0, MAX_SCALE), values=st.lists(IN_RANGE, min_size=1, max_size=200), q=QUANTILES)
@settings(max_examples=200)
def test_a_quantile_is_within_the_relative_error_of_the_nearest_rank(scale, values, q):
    histogram, exact = recorded(values, scale), nearest_rank(sorted(values), q)
    assert abs(histogram.quantile(q) - exact) <= (histogram.relative_error + 1e-12) * exact
    assert min(values) <= histogram.quantile(q) <= max(values)


@pytest.mark.parametrize("scale", range(MAX_SCALE + 1))
def test_quantiles_of_a_long_tail_keep_the_guarantee_at_every_scale(scale):
    values = np.sort(np.random.default_rng(scale).lognormal(-3, 1.5, 20_000)).tolist()
    histogram = recorded(values, scale)
    qs = [k / 1000 for k in range(1001)]
    for q, estimate in zip(qs, histogram.quantiles(qs), strict=True):
        exact = nearest_rank(values, q)
        assert abs(estimate - exact) <= (histogram.relative_error + 1e-12) * exact


def test_the_rank_is_computed_exactly():
    """0.55 * 100 is 55.00000000000001 in floats: that would be rank 56."""
    histogram = recorded([1.0] * 55 + [1000.0] * 45)
    assert histogram.quantile(0.55) < 1.01
    assert histogram.quantile(0.551) > 990


def test_the_extreme_ranks_are_exact():
    histogram = recorded([0.0123, 0.5, 7.89])
    assert (histogram.quantile(0), histogram.quantile(1)) == (0.0123, 7.89)
    assert recorded([0.0123]).quantile(0.5) == 0.0123


def test_quantiles_of_nothing_are_not_measured():
    histogram = ExponentialHistogram()
    assert isnan(histogram.quantile(0.5))
    assert isnan(histogram.mean)
    assert isnan(histogram.min)
    assert isnan(histogram.max)
    assert (histogram.count, histogram.sum, histogram.offset, list(histogram.buckets())) == (0, 0.0, 0, [])


def test_ranks_below_the_range_give_the_minimum_and_above_it_the_maximum():
    histogram = recorded([0.0, TINIEST, 1e-10, 1.0, 1e9, 3e300])
    assert (histogram.zero_count, histogram.overflow_count, histogram.count) == (3, 2, 6)
    assert histogram.quantile(0.5) == 0.0
    assert histogram.quantile(0.6) == pytest.approx(1.0, rel=histogram.relative_error)
    assert histogram.quantile(0.8) == 3e300


@pytest.mark.parametrize("q", [-0.1, 1.1, nan, inf])
def test_a_quantile_outside_0_to_1_is_refused(q):
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        recorded([1.0]).quantile(q)


@given(values=st.lists(ANY, max_size=50), scale=SCALES)
def test_recording_one_by_one_is_recording_many(values, scale):
    one = ExponentialHistogram(scale, thresholds=[0.5, 1.0])
    for value in values:
        one.record(value)
    assert same(one, recorded(values, scale, thresholds=[0.5, 1.0]))


@given(pairs=st.lists(st.tuples(ANY, st.integers(0, 5)), max_size=30), scale=SCALES)
def test_a_count_is_that_many_observations(pairs, scale):
    repeated = [value for value, count in pairs for _ in range(count)]
    expected = recorded(repeated, scale, thresholds=[1.0])
    many = ExponentialHistogram(scale, thresholds=[1.0])
    many.record_many([value for value, _ in pairs], np.array([count for _, count in pairs], dtype=np.int64))
    one = ExponentialHistogram(scale, thresholds=[1.0])
    for value, count in pairs:
        one.record(value, count)
    assert same(many, expected)
    assert same(one, expected)


@given(values=st.lists(ANY, min_size=1, max_size=50), scale=SCALES)
def test_count_sum_min_and_max_are_exact(values, scale):
    histogram = recorded(values, scale)
    assert (histogram.count, histogram.min, histogram.max) == (len(values), min(values), max(values))
    assert isclose(histogram.sum, sum(values), rel_tol=1e-12)
    inside = [value for value in values if 1e-9 <= value < 1e9]
    assert histogram.counts.sum() == len(inside)
    assert histogram.zero_count == sum(value < 1e-9 for value in values)
    assert histogram.overflow_count == sum(value >= 1e9 for value in values)


@given(values=st.lists(ANY, max_size=50), scale=SCALES)
def test_each_bucket_counts_just_the_values_above_lower_up_to_upper(values, scale):
    values = [value for value in values if 1e-9 <= value < 1e9]
    for lower, upper, count in recorded(values, scale).buckets():
        assert count == sum(lower < value <= upper for value in values) > 0


@given(values=st.lists(ANY, max_size=50), scale=SCALES)
def test_bucket_indices_are_those_that_recording_uses(values, scale):
    histogram, layout = recorded(values, scale), bucket_layout(scale)
    indices = histogram.bucket_indices(values).tolist()
    assert indices.count(layout.first - 1) == histogram.zero_count
    assert indices.count(layout.last + 1) == histogram.overflow_count
    for place, count in enumerate(histogram.counts.tolist()):
        assert indices.count(histogram.offset + place) == count


def test_opentelemetrys_example_lands_in_its_buckets():
    """Data model: at scale 0 bucket 0 covers (1, 2], bucket 1 (2, 4]; at scale -1 bucket 0 covers (1, 4]."""
    assert ExponentialHistogram(0).bucket_indices([1.0, 1.5, 2.0, 3.0, 4.0]).tolist() == [-1, 0, 0, 1, 1]
    assert ExponentialHistogram(-1).bucket_indices([1.0, 1.5, 4.0, 4.1, 16.0]).tolist() == [-1, 0, 0, 1, 1]


@given(
    parts=st.lists(st.lists(ANY, max_size=20), min_size=1, max_size=4),
    scales=st.lists(SCALES, min_size=4, max_size=4),
)
def test_merging_is_recording_everything_at_the_coarsest_scale(parts, scales):
    merged = ExponentialHistogram(scales[0], thresholds=[0.5])
    for part, scale in zip(parts, scales, strict=False):
        merged.merge(recorded(part, scale, thresholds=[0.5]))
    expected = recorded(list(chain(*parts)), min(scales[: len(parts)]), thresholds=[0.5])
    assert same(merged, expected)


@given(one=st.lists(ANY, max_size=20), other=st.lists(ANY, max_size=20), scale=SCALES, coarse=SCALES)
def test_downscaling_and_merging_commute(one, other, scale, coarse):
    coarse = min(scale, coarse)
    merged_first = recorded(one, scale)
    merged_first.merge(recorded(other, scale))
    downscaled_first = recorded(one, scale).downscaled(coarse)
    downscaled_first.merge(recorded(other, scale).downscaled(coarse))
    assert merged_first.downscaled(coarse) == downscaled_first
    assert same(downscaled_first, recorded(one + other, coarse))


def test_a_histogram_can_be_merged_into_itself():
    histogram = recorded([0.0, 0.5, 2.0, 1e10], thresholds=[1.0])
    histogram.merge(histogram)
    assert same(histogram, recorded([0.0, 0.5, 2.0, 1e10] * 2, thresholds=[1.0]))


@pytest.mark.parametrize("foreign", [None, 3, {}, "histogram"])
def test_only_histograms_can_be_merged(foreign):
    histogram = recorded([1.0])
    with pytest.raises(MergeError, match="expected an ExponentialHistogram"):
        histogram.merge(foreign)
    assert histogram == recorded([1.0])


def test_other_thresholds_are_not_merged_and_the_message_names_both():
    histogram = recorded([1.0], thresholds=[0.5])
    with pytest.raises(MergeError, match=r"\(0.25,\).*\(0.5,\)"):
        histogram.merge(recorded([1.0], thresholds=[0.25]))
    assert histogram == recorded([1.0], thresholds=[0.5])


def test_merging_never_overflows_a_counter():
    histogram = recorded([])
    for _ in range(2):
        histogram.record(1.0, 2**52)
    for _ in range(9):
        histogram.merge(histogram.copy())
    assert histogram.count == 2**62
    with pytest.raises(MergeError, match=r"2\^63"):
        histogram.merge(histogram)


@pytest.mark.parametrize("scale", [7, 13, -5, 5.0])
def test_downscaling_to_a_finer_scale_is_refused(scale):
    with pytest.raises(ConfigurationError, match="from -4 to 6"):
        recorded([1.0], 6).downscaled(scale)


def test_a_copy_is_equal_and_independent():
    histogram = recorded([0.0, 1.0, 1e10], thresholds=[1.0])
    twin = histogram.copy()
    assert twin == histogram
    twin.record(3.0)
    assert twin != histogram
    assert histogram.count == 3


def test_a_cleared_histogram_is_a_new_one():
    histogram = recorded([0.0, 1.0, 1e10], thresholds=[1.0])
    histogram.clear()
    assert histogram == ExponentialHistogram(thresholds=[1.0])
    assert histogram != 0
    with pytest.raises(TypeError):
        hash(histogram)


@given(values=st.lists(ANY, max_size=50), thresholds=st.lists(st.floats(0, 1e300) | LATENCIES, max_size=8))
def test_counts_at_thresholds_are_exact_and_inclusive(values, thresholds):
    histogram = recorded(values, thresholds=[*thresholds, *values[:3]])
    for threshold in histogram.thresholds:
        assert histogram.cumulative_count_at(threshold) == sum(value <= threshold for value in values)
    assert list(histogram.thresholds) == sorted({*thresholds, *values[:3]})


def test_an_undeclared_threshold_is_refused():
    with pytest.raises(ConfigurationError, match="declared"):
        recorded([1.0], thresholds=[0.5]).cumulative_count_at(0.6)


@pytest.mark.parametrize("threshold", [-1.0, nan, inf])
def test_a_threshold_that_is_no_duration_is_refused(threshold):
    with pytest.raises(ConfigurationError, match="thresholds"):
        ExponentialHistogram(thresholds=[threshold])


def test_counts_for_thresholds_are_due_when_adding_counts():
    with pytest.raises(MergeError, match="due"):
        ExponentialHistogram(thresholds=[1.0]).add_counts(recorded([1.0]).bucketed())


@pytest.mark.parametrize("wrong", [-1.0, -TINIEST, nan, inf, -inf])
def test_a_value_that_is_no_duration_is_refused_and_changes_nothing(wrong):
    histogram = ExponentialHistogram()
    with pytest.raises(InvalidRecordError, match="finite number >= 0"):
        histogram.record(wrong)
    with pytest.raises(InvalidRecordError, match="at index 2"):
        histogram.record_many([1.0, 2.0, wrong, wrong])
    assert histogram == ExponentialHistogram()


@pytest.mark.parametrize("count", [-1, 1.5, 2**53, 2**53 + 1, "1", nan])
def test_a_count_that_is_none_is_refused(count):
    histogram = ExponentialHistogram()
    with pytest.raises(InvalidRecordError, match="count"):
        histogram.record(1.0, count)
    with pytest.raises(InvalidRecordError, match="count"):
        histogram.record_many([1.0, 1.0], [1, count])
    assert histogram == ExponentialHistogram()


@pytest.mark.parametrize("values", [["a"], [[1.0]], 1.0, [None], [object()]])
def test_what_is_no_row_of_numbers_is_refused(values):
    with pytest.raises(InvalidRecordError):
        ExponentialHistogram().record_many(values)


def test_counts_must_be_one_a_value():
    for counts in ([1], [1, 2, 3], [[1, 2]]):
        with pytest.raises(InvalidRecordError, match="one a value"):
            ExponentialHistogram().record_many([1.0, 2.0], counts)
    ExponentialHistogram().record_many([], [])


def test_a_sum_too_large_for_a_double_is_infinite():
    histogram = recorded([1.5e308, 1.5e308])
    assert (histogram.sum, histogram.count, histogram.max) == (inf, 2, 1.5e308)


def test_a_negative_zero_is_zero():
    histogram = recorded([-0.0])
    histogram.record(-0.0)
    assert str(histogram.min) == str(histogram.max) == "0.0"


@given(values=st.lists(ANY, max_size=60), max_buckets=st.integers(8, 50))
def test_a_bound_on_buckets_holds_and_lowers_the_scale_exactly(values, max_buckets):
    bounded = recorded(values, 12, max_buckets=max_buckets)
    assert len(bounded.counts) <= max_buckets
    assert same(bounded, recorded(values, bounded.scale))
    one = ExponentialHistogram(12, max_buckets=max_buckets)
    for value in values:
        one.record(value)
    assert same(one, bounded)


def test_a_bound_on_buckets_lowers_the_scale_no_further_than_due():
    bounded = recorded([2.0**k for k in range(9)], 12, max_buckets=9)
    assert bounded.scale == 0
    assert len(bounded.counts) == 9


def test_a_bound_below_eight_buckets_is_refused():
    with pytest.raises(ConfigurationError, match="max_buckets"):
        ExponentialHistogram(max_buckets=7)


@pytest.mark.parametrize("scale", [6, 9])
def test_memory_is_bounded_by_the_range_whatever_is_recorded(scale):
    histogram = ExponentialHistogram(scale)
    for exponent in range(-400, 300):
        histogram.record(10.0 ** (exponent / 20))
    histogram.record_many(EDGE_VALUES)
    assert histogram._store._array.nbytes <= 8 * (60 * 2**scale + 32)


def test_counts_are_a_copy():
    histogram = recorded([1.0])
    histogram.counts[:] = 5
    assert histogram.counts.tolist() == [1]
    assert copying.copy(histogram.counts).dtype == np.int64


def test_its_text_shows_what_it_holds():
    assert repr(recorded([0.5, 2.0])) == "ExponentialHistogram(scale=6, count=2, min=0.5, max=2.0)"


def test_every_refusal_is_a_batchscope_error():
    assert issubclass(MergeError, BatchscopeError)
    with pytest.raises(BatchscopeError):
        ExponentialHistogram(99)


@given(
    st.lists(ANY, max_size=9),
    st.lists(ANY, min_size=1, max_size=3),
    st.sampled_from(["record", "record_many", "merge", "clear"]),
    st.booleans(),
)
def test_a_copy_and_its_original_go_separate_ways(before, after, change, of_the_copy):
    original = ExponentialHistogram(4, thresholds=(1.0,))
    original.record_many(before)
    copy = original.copy()
    changed, other = (copy, original) if of_the_copy else (original, copy)
    expected = other.to_dict()
    for value in after:
        if change == "record":
            changed.record(value)
        elif change == "record_many":
            changed.record_many([value, value])
        elif change == "clear":
            changed.clear()
        else:
            more = ExponentialHistogram(2, thresholds=(1.0,))
            more.record(value)
            changed.merge(more)
    assert other.to_dict() == expected
    assert changed.count == sum(changed.counts.tolist()) + changed.zero_count + changed.overflow_count
