from math import inf, nan
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError, InvalidRecordError
from batchscope.histograms import bucketed as bucketed_module
from batchscope.histograms import instrument as instrument_module
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.instrument import Instrument

VALUES = st.floats(1e-3, 10.0) | st.sampled_from([0.0, 1e-12, 1e-9, 0.5, 1.0, 1e9, 1e300])
INSTANTS = st.integers(8, 3200).map(lambda k: k / 8)
OBSERVATIONS = st.lists(st.tuples(VALUES, INSTANTS, st.integers(0, 3)), max_size=40)


def recorded(values, scale=6, thresholds=()):
    histogram = ExponentialHistogram(6, thresholds=thresholds)
    histogram.record_many(values)
    return histogram.downscaled(scale)


def same(one, other):
    first, second = one.to_dict(), other.to_dict()
    assert first.pop("sum") == pytest.approx(second.pop("sum"), rel=1e-9)
    assert first == second


def expanded(seen):
    return [(value, at) for value, at, count in seen for _ in range(count)]


@given(blocks=st.lists(OBSERVATIONS, max_size=4), weighted=st.booleans())
def test_lifetime_and_windows_are_what_brute_force_remembers(blocks, weighted):
    instrument, seen = Instrument(6, thresholds=[0.5]), []
    for block in blocks:
        values, at = [value for value, _, _ in block], np.array([at for _, at, _ in block], dtype=float)
        counts = np.array([count for _, _, count in block], dtype=np.int64) if weighted else None
        instrument.observe(values, at, counts)
        seen += expanded(block) if weighted else [(value, at) for value, at, _ in block]
    same(instrument.lifetime, recorded([value for value, _ in seen], thresholds=[0.5]))
    for window in (60.0, 300.0):
        histogram = instrument.windowed(400.0)[window]
        inside = [value for value, at in seen if 400.0 - window < at <= 400.0]
        same(histogram, recorded(inside, histogram.scale))


@given(seen=OBSERVATIONS)
def test_the_order_of_instants_does_not_matter(seen):
    shuffled, in_order = Instrument(6), Instrument(6)
    for instrument, block in ((shuffled, seen), (in_order, sorted(seen, key=lambda one: one[1]))):
        instrument.observe([value for value, _, _ in block], np.array([at for _, at, _ in block], dtype=float))
    same(shuffled.lifetime, in_order.lifetime)
    for window in (60.0, 300.0):
        same(shuffled.windowed(400.0)[window], in_order.windowed(400.0)[window])


@given(
    rows=st.lists(st.tuples(INSTANTS, st.tuples(*[VALUES | st.just(nan)] * 5)), max_size=30),
    at_once=st.sampled_from([1, 60, 16_000]),
)
def test_quantities_observed_together_are_those_observed_alone_without_what_is_not_a_number(rows, at_once):
    together, alone = ([Instrument(6, thresholds=[0.5] if k else ()) for k in range(5)] for _ in range(2))
    at = np.array([instant for instant, _ in rows])
    quantities = list(np.array([values for _, values in rows]).reshape(-1, 5).T.copy())
    kept = [values.copy() for values in quantities]
    with (
        mock.patch.object(instrument_module, "VALUES_AT_ONCE", at_once),
        mock.patch.object(bucketed_module, "VALUES_AT_ONCE", at_once),
    ):
        Instrument.observe_together(together, quantities, at)
    for one, other, values, unchanged in zip(together, alone, quantities, kept, strict=True):
        assert np.array_equal(values, unchanged, equal_nan=True)
        number = ~np.isnan(values)
        other.observe(values[number], at[number])
        same(one.lifetime, other.lifetime)
        for window in (60.0, 300.0):
            same(one.windowed(400.0)[window], other.windowed(400.0)[window])


def test_many_values_over_many_cells_are_counted_exactly():
    generator = np.random.default_rng(3)
    values, at = generator.lognormal(-3, 1, 60_000), generator.integers(0, 8 * 400, 60_000) / 8
    counts = generator.integers(0, 4, 60_000)
    instrument = Instrument(6, thresholds=[0.05])
    instrument.observe(values, at, counts)
    same(instrument.lifetime, recorded(np.repeat(values, counts), thresholds=[0.05]))
    for window in (60.0, 300.0):
        inside = (at > 400 - window) & (at <= 400)
        histogram = instrument.windowed(400.0)[window]
        same(histogram, recorded(np.repeat(values[inside], counts[inside]), histogram.scale))


def test_one_instant_holds_for_all_values():
    instrument = Instrument(6)
    instrument.observe([0.5, 1.0], 100.0)
    instrument.observe(np.array([2.0]), np.float64(200.0))
    assert instrument.lifetime.count == 3
    assert instrument.windowed(200.0)[60.0].count == 1
    assert instrument.windowed(200.0)[300.0].count == 3


def test_observations_older_than_a_window_enter_only_the_lifetime():
    instrument = Instrument(6)
    instrument.observe([1.0], 1000.0)
    instrument.observe([2.0, 3.0, 4.0], np.array([500.0, 800.0, 950.0]))
    assert instrument.lifetime.count == 4
    assert instrument.windowed(1000.0)[300.0].count == 3
    assert instrument.windowed(1000.0)[60.0].count == 2


def test_a_pair_is_as_many_observations_of_its_gap():
    instrument = Instrument(6)
    instrument.observe(np.array([0.02]), 10.0, np.array([256]))
    assert (instrument.lifetime.count, instrument.lifetime.sum) == (256, pytest.approx(5.12))
    assert instrument.windowed(10.0)[60.0].count == 256


def test_values_seen_zero_times_leave_no_trace():
    instrument = Instrument(6)
    instrument.observe([5.0, 1.0], np.array([1e6, 10.0]), np.array([0, 1]))
    assert instrument.lifetime.max == 1.0
    assert instrument.windowed(10.0)[60.0].count == 1
    instrument.observe([], np.array([]))
    assert instrument.lifetime.count == 1


@pytest.mark.parametrize(
    ("values", "at", "counts"),
    [
        ([1.0, nan], 1.0, None),
        ([-1.0], 1.0, None),
        ([inf], 1.0, None),
        ([1.0], nan, None),
        ([1.0], inf, None),
        ([1.0, 2.0], np.array([1.0]), None),
        ([1.0, 2.0], np.array([1.0, nan]), None),
        ([1.0, 2.0], 1.0, np.array([1])),
        ([1.0, 2.0], 1.0, np.array([1, -1])),
        ([1.0, 2.0], 1.0, np.array([1.0, 2.0])),
        ([1.0], "noon", None),
    ],
)
def test_what_is_no_observation_is_refused_and_nothing_is_added(values, at, counts):
    instrument = Instrument(6)
    with pytest.raises(InvalidRecordError):
        instrument.observe(values, at, counts)
    assert instrument.lifetime.count == 0
    assert instrument.windowed(1.0)[60.0].count == 0


def test_a_cleared_instrument_is_a_new_one():
    instrument = Instrument(6, thresholds=[1.0])
    instrument.observe([1.0], 1e6)
    instrument.clear()
    instrument.observe([0.5], 1.0)
    assert instrument.lifetime.count == 1
    assert instrument.lifetime.cumulative_count_at(1.0) == 1
    assert instrument.windowed(1.0)[60.0].max == 0.5


def test_windows_are_multiples_of_the_shortest():
    assert list(Instrument(6, windows=(300.0, 60.0, 900.0)).windowed(1.0)) == [300.0, 60.0, 900.0]
    with pytest.raises(ConfigurationError, match="multiple"):
        Instrument(6, windows=(60.0, 90.0))


def test_without_windows_there_is_the_lifetime():
    instrument = Instrument(6, windows=())
    instrument.observe([1.0, 2.0], np.array([5.0, 4000.0]))
    assert instrument.lifetime.count == 2


def test_memory_is_constant_after_the_windows_are_full():
    instrument = Instrument(6)
    generator = np.random.default_rng(5)

    def size():
        stores = [instrument.lifetime._store]
        for window in instrument._windows.values():
            stores += [window._total, *(cell.store for cell in window._cells.values())]
        return sum(store._array.nbytes for store in stores)

    sizes = []
    for minute in range(30):
        instrument.observe(generator.uniform(0.01, 0.1, 3000), np.sort(generator.uniform(0, 60, 3000)) + 60 * minute)
        sizes.append(size())
    assert max(sizes[10:]) <= 1.05 * max(sizes[:10])
    assert max(sizes) < 512 * 1024
