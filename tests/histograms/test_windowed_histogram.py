from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.windowed_histogram import WindowedHistogram

VALUES = st.floats(1e-3, 10.0) | st.floats(0, 1e12) | st.just(0.0)


def batch(*values, scale=6):
    histogram = ExponentialHistogram(scale)
    histogram.record_many(values)
    return histogram.bucketed()


def brute(seen, cell, cells, scale):
    histogram = ExponentialHistogram(6)
    for at, values in seen:
        if cell - cells < at <= cell:
            histogram.record_many(values)
    return histogram.downscaled(scale)


def window_at(window, now):
    return window.histogram(window.grid.cell_of(now))


def same(one, other):
    first, second = one.to_dict(), other.to_dict()
    assert first.pop("sum") == pytest.approx(second.pop("sum"), rel=1e-9)
    assert first == second


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 12), st.lists(VALUES, min_size=1, max_size=4)),
        max_size=40,
    ),
    max_buckets=st.sampled_from([8, 20, 640, 4000]),
)
def test_the_window_holds_just_what_brute_force_remembers(steps, max_buckets):
    window, seen, present = WindowedHistogram(8.0, cells=8, max_buckets=max_buckets), [], 0
    for step, late, values in steps:
        present += step
        window.add(batch(*values), present)
        seen.append((present, values))
        window.add(batch(*values), present - late)
        seen.append((present - late, values))
        histogram = window_at(window, float(present + 1))
        same(histogram, brute(seen, present, 8, histogram.scale))
        assert len(histogram.counts) <= max_buckets


@given(values=st.lists(st.tuples(st.integers(0, 100), VALUES), min_size=1, max_size=30), now=st.integers(50, 120))
def test_at_the_end_of_a_cell_the_window_is_exact(values, now):
    window = WindowedHistogram(60.0)
    for at, value in sorted(values):
        window.add(batch(value), window.grid.cell_of(at / 2))
    inside = [value for at, value in values if now - 60 < at / 2 <= now]
    histogram = window_at(window, float(now))
    expected = ExponentialHistogram(6)
    expected.record_many(inside)
    same(histogram, expected.downscaled(histogram.scale))


def test_it_forgets_cell_by_cell():
    window = WindowedHistogram(60.0)
    for second in range(1, 121):
        window.add(batch(second / 1000), second - 1)
    for now in range(120, 181):
        histogram = window_at(window, float(now))
        assert histogram.count == 180 - now
        if histogram.count:
            assert (histogram.min, histogram.max) == ((now - 59) / 1000, 0.12)


def test_one_outlier_coarsens_the_window_only_while_it_is_inside():
    window = WindowedHistogram(60.0, max_buckets=320)
    for second in range(1, 200):
        window.add(batch(0.01, 0.02, *([1e-9, 1e8] if second == 50 else [])), second - 1)
        scale = window_at(window, float(second)).scale
        assert scale == (2 if 50 <= second < 110 else 6)


def test_a_window_that_is_wide_as_a_whole_keeps_its_coarser_scale():
    window = WindowedHistogram(4.0, cells=4, max_buckets=320)
    for second in range(1, 30):
        window.add(batch(1000.0 if second % 2 else 0.001), second - 1)
        assert window_at(window, float(second)).scale == (6 if second == 1 else 4)


def test_when_the_window_is_empty_its_own_scale_is_back():
    window = WindowedHistogram(60.0, max_buckets=8)
    window.add(batch(1e-6, 1e6), 0)
    assert window.scale < 0
    assert window_at(window, 1000.0).scale == 6
    assert window.scale == 6


def test_a_cell_that_has_left_the_window_is_ignored_and_the_present_never_goes_back():
    window = WindowedHistogram(60.0)
    window.add(batch(1.0), 100)
    window.add(batch(2.0), 40)
    assert window_at(window, 101.0).count == 1
    window.add(batch(3.0), 41)
    assert window_at(window, 50.0).count == 2
    assert window_at(window, 102.0).count == 1
    assert window_at(window, 101.0).count == 1


def test_a_later_cell_makes_room_for_itself():
    window = WindowedHistogram(60.0)
    window.add(batch(1.0), 0)
    window.add(batch(2.0), 10**9)
    assert window_at(window, 1.0).min == 2.0


@pytest.mark.parametrize("scale", [6, 12])
def test_memory_is_bounded_whatever_values_arrive(scale):
    window = WindowedHistogram(60.0, scale=scale, max_buckets=320)
    generator = np.random.default_rng(1)
    for second in range(200):
        window.add(batch(*10.0 ** generator.uniform(-12, 12, 400), scale=scale), second)
    stores = [window._total, *(cell.store for cell in window._cells.values())]
    assert len(stores) == 61
    assert sum(store._array.nbytes for store in stores) <= 61 * (320 + 32) * 8


def test_nothing_is_allocated_before_something_is_seen():
    window = WindowedHistogram(60.0)
    assert window._total._array.nbytes == 0
    assert window_at(window, 5.0) == ExponentialHistogram(6)
    assert not window._cells


def test_a_cleared_window_is_a_new_one():
    window = WindowedHistogram(60.0)
    window.add(batch(1.0), 10**6)
    window.clear()
    window.add(batch(2.0), 3)
    assert window_at(window, 4.0).max == 2.0


def test_the_histogram_given_out_is_a_copy():
    window = WindowedHistogram(60.0)
    window.add(batch(1.0), 0)
    window_at(window, 1.0).record(5.0)
    assert window_at(window, 1.0).count == 1
    window.add(batch(1.0), 0)
    assert window_at(window, 1.0).count == 2


@pytest.mark.parametrize("wrong", [{"window_seconds": inf}, {"cells": 0}, {"scale": 13}, {"max_buckets": 2}])
def test_a_wrong_argument_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        WindowedHistogram(**{"window_seconds": 60.0, **wrong})


def test_what_is_recorded_into_the_histogram_of_an_empty_window_stays_in_it():
    window = WindowedHistogram(60.0)
    window_at(window, 1.0).record(5.0)
    assert window_at(window, 1.0).count == window_at(WindowedHistogram(60.0), 1.0).count == 0
    assert window_at(window, 1.0) == ExponentialHistogram(6)
