"""Specification, test group 5: the sliding window counter. Properties of it stand in tests/aggregation."""

from math import isnan

from batchscope import SlidingWindowCounter


def test_counts_are_added_up():
    counter = SlidingWindowCounter(60)
    counter.add(3, 1.0)
    counter.add(4, 2.0)
    assert counter.total(2.0) == 7


def test_the_rate_is_the_sum_over_the_time_since_the_start_and_then_over_the_window():
    counter = SlidingWindowCounter(60, start=0.0)
    counter.add(120, 30.0)
    assert counter.rate(30.0) == 4.0
    assert counter.rate(60.0) == 2.0
    assert counter.rate(80.0) == 2.0


def test_old_counts_leave_the_window():
    counter = SlidingWindowCounter(60)
    counter.add(5, 1.0)
    counter.add(2, 50.0)
    assert counter.total(60.0) == 7
    assert counter.total(61.0) == 2
    assert counter.total(110.0) == 0


def test_a_reset_forgets_counts_and_starts_time_anew():
    counter = SlidingWindowCounter(60)
    counter.add(5, 10.0)
    counter.reset(20.0)
    assert counter.total(20.0) == 0
    assert isnan(counter.rate(20.0))
    counter.add(8, 22.0)
    assert counter.rate(24.0) == 2.0
