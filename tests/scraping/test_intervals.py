"""Classic buckets: what they say is true, whatever the data and the edges."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.scraping.intervals import BucketError, Buckets, merged

# Quarters are exact in binary: sums of them are, too.
VALUES = st.lists(st.integers(0, 4000).map(lambda n: n / 4), min_size=1, max_size=200)
EDGES = st.sets(st.integers(1, 4400).map(lambda n: n / 4), min_size=1, max_size=20)
PERCENTS = st.integers(1, 100)


def observed(values, edges):
    counts = {edge: sum(value <= edge for value in values) for edge in (*edges, math.inf)}
    return Buckets.of(counts, len(values), sum(values))


def nearest_rank(values, percent):
    return sorted(values)[max(1, math.ceil(percent * len(values) / 100)) - 1]


def holds(interval, value):
    low, high = interval
    return low <= value <= high


@given(VALUES, EDGES, PERCENTS)
def test_the_interval_holds_the_true_nearest_rank_percentile(values, edges, percent):
    assert holds(observed(values, edges).quantile(percent), nearest_rank(values, percent))


@given(VALUES, EDGES)
def test_the_interval_is_one_bucket_wide_and_no_wider(values, edges):
    low, high = observed(values, edges).quantile(99)
    steps = [0.0, *sorted(edges), math.inf]
    assert steps.index(high) - steps.index(low) == 1


@given(st.lists(st.tuples(VALUES, EDGES), min_size=1, max_size=4), PERCENTS)
def test_merged_buckets_hold_the_percentile_of_all_even_where_edges_differ(ranks, percent):
    everything = [value for values, _ in ranks for value in values]
    whole = merged([observed(values, edges) for values, edges in ranks])
    assert whole.count == len(everything)
    assert whole.total == sum(everything)
    assert holds(whole.quantile(percent), nearest_rank(everything, percent))


@given(VALUES, VALUES, EDGES, PERCENTS)
def test_the_difference_of_two_scrapes_is_what_came_in_between(before, between, edges, percent):
    gained = observed(before + between, edges).since(observed(before, edges))
    assert gained.count == len(between)
    assert gained.mean == sum(between) / len(between)
    assert holds(gained.quantile(percent), nearest_rank(between, percent))


def test_a_value_on_an_edge_is_below_it():
    assert observed([0.5], [0.25, 0.5, 1]).quantile(50) == (0.25, 0.5)


def test_above_the_last_edge_there_is_no_upper_bound():
    assert observed([7, 8, 9], [1, 5]).quantile(99) == (5, math.inf)


def test_of_nothing_there_is_no_percentile_and_no_mean():
    empty = observed([], [1, 2])
    assert all(math.isnan(edge) for edge in empty.quantile(50))
    assert math.isnan(empty.mean)


def test_ranks_are_whole_arithmetic():
    buckets = observed(range(1, 101), range(1, 100))
    assert [buckets.quantile(percent)[1] for percent in (1, 50, 55, 99)] == [1, 50, 55, 99]


def test_without_an_infinite_edge_the_count_stands_in():
    assert Buckets.of({1.0: 2.0}, 3.0, 9.0).cumulative == (2.0, 3.0)


@pytest.mark.parametrize(
    ("counts", "count"),
    [({1.0: 5.0, 2.0: 4.0}, 6.0), ({1.0: -1.0}, 3.0), ({1.0: 5.0}, 3.0), ({1.0: 5.0}, math.nan), ({math.nan: 1.0}, 2.0),
     ({1.0: math.nan}, 2.0), ({1.0: 0.5}, 2.0), ({1.0: 2.0}, 2.0**60), ({1.0: math.inf}, math.inf)],
)  # fmt: skip
def test_buckets_that_contradict_themselves_are_refused(counts, count):
    with pytest.raises(BucketError):
        Buckets.of(counts, count, 1.0)


@pytest.mark.parametrize(
    "later",
    [observed([1], [1, 2]), observed([1, 5], [1, 2]), observed([1, 1, 1, 1], [1, 3]), observed([5, 5, 5, 5], [1, 2])],
)
def test_counts_that_fell_or_other_edges_are_no_difference(later):
    assert later.since(observed([1, 2, 3], [1, 2])) is None
