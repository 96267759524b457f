from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError, InvalidRecordError
from batchscope.histograms.sliding_window import SlidingWindowCounter

INSTANTS = st.integers(8, 2400).map(lambda k: k / 8)  # binary-exact, in 1/8 of a cell
EVENTS = st.lists(st.tuples(INSTANTS, st.integers(0, 1000)), max_size=60)


def within(events, low, high):
    return sum(count for at, count in events if low < at <= high)


@given(events=EVENTS, ends=st.lists(st.integers(300, 500), min_size=1, max_size=5))
def test_at_the_end_of_a_cell_the_total_is_exact(events, ends):
    counter = SlidingWindowCounter(60)
    for at, count in sorted(events):
        counter.add(count, at)
    for end in sorted(ends):
        assert counter.total(end) == within(events, end - 60, end)


@given(events=EVENTS, now=INSTANTS)
def test_elsewhere_the_old_edge_is_at_most_one_cell_short(events, now):
    counter = SlidingWindowCounter(60)
    past = [(at, count) for at, count in sorted(events) if at <= now]
    for at, count in past:
        counter.add(count, at)
    assert within(past, now - 59, now) <= counter.total(now) <= within(past, now - 60, now)


@given(events=EVENTS, window=st.sampled_from([1, 8, 60, 300]), end=st.integers(38, 60))
def test_adding_many_in_any_order_is_adding_each_in_order(events, window, end):
    many, one = SlidingWindowCounter(window, cells=8), SlidingWindowCounter(window, cells=8)
    many.add_many(
        np.array([count for _, count in events], dtype=np.int64),
        np.array([at for at, _ in events], dtype=float),
    )
    for at, count in sorted(events):
        one.add(count, at)
    assert many.total(end * 8) == one.total(end * 8)
    assert many.rate(end * 8) == one.rate(end * 8)


@given(events=EVENTS.filter(len), before=st.integers(0, 300), later=st.integers(0, 80))
def test_what_the_window_has_left_behind_may_be_grouped_together(events, before, later):
    together, apart = SlidingWindowCounter(8, cells=8, start=before), SlidingWindowCounter(8, cells=8, start=before)
    at, counts = (np.array(column) for column in zip(*sorted(events), strict=True))
    now = at[-1] + later
    together.add_groups(together.groups(at, ascending=True, now=now), counts)
    apart.add_groups(apart.groups(at, ascending=True), counts, now=now)
    assert together.total(now) == apart.total(now)


@given(blocks=st.lists(st.tuples(st.lists(st.integers(-40, 0), max_size=5), st.integers(1, 200)), max_size=20))
def test_blocks_that_overlap_in_time_are_counted_exactly(blocks):
    counter, seen, now = SlidingWindowCounter(8, cells=8), [], 0
    for offsets, step in blocks:
        now += step
        at = [now + offset / 8 for offset in offsets]
        counter.add_many(np.ones(len(at), dtype=np.int64), np.array(at, dtype=float), now=now)
        seen += [(instant, 1) for instant in at]
        assert counter.total(now) == within(seen, now - 8, now)


def test_the_rate_divides_by_the_time_that_has_passed_and_at_most_by_the_window():
    counter = SlidingWindowCounter(60, start=100.0)
    counter.add(30, 110.0)
    assert counter.rate(110.0) == 3.0
    assert counter.rate(160.0) == 0.5
    assert counter.rate(165.0) == 0.5
    assert counter.rate(170.0) == 0.0


def test_before_any_time_has_passed_the_rate_is_not_measured():
    counter = SlidingWindowCounter(60, start=100.0)
    counter.add(5, 100.0)
    assert isnan(counter.rate(100.0))
    assert isnan(counter.rate(99.0))
    assert counter.total(100.0) == 5


def test_counts_older_than_the_window_are_ignored():
    counter = SlidingWindowCounter(60)
    counter.total(1000.0)
    counter.add_many(np.array([1, 2, 4]), np.array([900.0, 940.0, 940.5]))
    counter.add(8, 930.0)
    assert counter.total(1000.0) == 4


def test_an_earlier_now_neither_brings_back_nor_loses_anything():
    counter = SlidingWindowCounter(60)
    counter.add(1, 10.0)
    counter.add(2, 65.0)
    assert counter.total(100.0) == 2
    assert counter.total(20.0) == 2
    assert counter.rate(20.0) == counter.rate(100.0)
    counter.add(4, 50.0)
    assert counter.total(100.0) == 6


@given(future=st.lists(st.integers(1, 10**9), max_size=60))
def test_an_instant_of_the_future_shows_when_its_time_has_come_and_disturbs_nothing(future):
    counter = SlidingWindowCounter(60)
    for second in range(100, 160):
        counter.add(1, float(second))
    at = np.array([160.0 + seconds for seconds in future])
    counter.add_many(np.full(len(at), 1000), at)
    for second in range(160, 220):
        counter.add(1, float(second))
        due = sum(second - 60 < instant <= second for instant in at)
        assert counter.total(float(second)) == 60 + 1000 * due


def test_one_far_future_instant_among_others_moves_none_of_them():
    counter = SlidingWindowCounter(60)
    counter.add_many(np.array([1, 2, 4]), np.array([10.0, 1e11, 12.0]), now=20.0)
    assert counter.total(20.0) == 5
    assert counter.total(71.0) == 4


def test_memory_does_not_depend_on_what_happened():
    counter = SlidingWindowCounter(60)
    for second in range(5000):
        counter.add(1, second / 2)
        counter.add_many(np.ones(3, dtype=np.int64), np.array([second, 10.0 * second, 1e9 - second]))
    assert len(counter._counts) <= 120


def test_a_reset_forgets_and_starts_anew():
    counter = SlidingWindowCounter(60)
    counter.add(5, 10.0)
    counter.reset(12.0)
    assert counter.total(12.0) == 0
    assert isnan(counter.rate(12.0))
    counter.add(6, 14.0)
    assert counter.rate(15.0) == 2.0
    assert counter.window_seconds == 60.0


def test_totals_are_python_integers_without_a_limit():
    counter = SlidingWindowCounter(60)
    counter.add_many(np.array([2**62, 3]), np.array([1.0, 2.0]))
    counter.add(2**80, 2.0)
    assert counter.total(2.0) == 2**80 + 2**62 + 3


def test_counts_and_instants_must_be_as_many():
    with pytest.raises(InvalidRecordError, match="one a value"):
        SlidingWindowCounter(60).add_many(np.array([1, 2]), np.array([1.0]))


def test_nothing_is_added_by_nothing():
    counter = SlidingWindowCounter(60)
    counter.add_many(np.array([], dtype=np.int64), np.array([]))
    assert counter.total(1.0) == 0


@pytest.mark.parametrize("wrong", [{"window_seconds": 0}, {"window_seconds": nan}, {"cells": 0}, {"start": inf}])
def test_a_wrong_argument_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        SlidingWindowCounter(**wrong)
