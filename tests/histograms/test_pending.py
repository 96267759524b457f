"""Pending: observations held as they came, in bounded memory."""

import numpy as np

from batchscope.histograms.bucketed import MOST_AT_ONCE, checked
from batchscope.histograms.held_values import CAPACITY, Pending
from batchscope.histograms.instrument import Instrument


def test_what_is_taken_is_what_was_added_in_order_with_one_count_each_where_none_was_given():
    pending, values = Pending(), np.array([2.0, 0.5])
    assert pending.add(checked(values, at=7.0))
    assert pending.add(checked([4.0], [3], [8.0]))
    assert pending.add(checked([1.0], at=[9.0]))
    values[:] = -1.0  # held as a copy
    seen = pending.take()
    assert (seen.values.tolist(), seen.counts.tolist()) == ([2.0, 0.5, 4.0, 1.0], [1, 1, 3, 1])
    assert seen.at.tolist() == [7.0, 7.0, 8.0, 9.0]
    assert pending.size == 0


def test_memory_grows_as_needed_up_to_the_capacity_and_what_does_not_fit_is_left_out():
    pending, many = Pending(), checked(np.ones(5000), at=1.0)
    assert [pending.add(many) for _ in range(4)] == [True, True, True, False]
    assert (pending.size, len(pending._values)) == (15_000, CAPACITY)
    assert len(pending.take().values) == 15_000


def test_more_observations_than_a_double_counts_are_not_held_together():
    pending = Pending()
    assert pending.add(checked([1.0], [MOST_AT_ONCE], [1.0]))
    assert not pending.add(checked([1.0], at=[1.0]))


def test_an_instrument_reads_the_same_however_much_it_holds():
    generator = np.random.default_rng(5)
    values, at = generator.lognormal(-3, 1, 3 * CAPACITY), np.sort(generator.uniform(0, 400, 3 * CAPACITY))
    whole, parts, read = Instrument(), Instrument(), Instrument()
    whole.observe(values, at)
    for part in np.array_split(np.arange(len(values)), 40):
        parts.observe(values[part], at[part])
        read.observe(values[part], at[part])
        assert read.lifetime.count == part[-1] + 1
    for one in (parts, read):
        for found, expected in [
            (one.lifetime, whole.lifetime),
            *((one.windowed(400.0)[window], whole.windowed(400.0)[window]) for window in (60.0, 300.0)),
        ]:
            assert (found.count, found.min, found.max) == (expected.count, expected.min, expected.max)
            assert found.counts.tolist() == expected.counts.tolist()


def test_what_an_instrument_holds_is_forgotten_with_the_rest():
    instrument = Instrument()
    instrument.observe([1.0], 5.0)
    instrument.clear()
    assert instrument.lifetime.count == instrument.windowed(5.0)[60.0].count == 0
