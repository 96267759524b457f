"""Values that an instrument holds back show at whatever moment it is read, in every window, after any jump of the clock.

The oracle is a list of (value, count, instant) and the definition of a window's cells.
"""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscope import ExponentialHistogram
from batchscope.histograms import held_values as pending
from batchscope.histograms.bucketed import checked
from batchscope.histograms.instrument import Instrument

WINDOWS = (60.0, 300.0)
CELLS = 60
LIMIT = 0.25
VALUES = st.sampled_from(
    [0.0, -0.0, 5e-324, 1e-12, 9.999999999999999e-10, 1e-9, 1.0000000000000002e-9, 2.0**-20, 0.1, 0.25, 0.5, 1.0,
     math.nextafter(1.0, 2), math.nextafter(1.0, 0), 3.0, 1e3, 2.0**29, 999999999.9999999, 1e9, 1e300]
)  # fmt: skip
JUMPS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 5.0, 59.0, 61.0, 299.0, 1e4, 1e7, -0.5, -30.0, -400.0, -1e7])
BLOCKS = st.lists(
    st.tuples(VALUES, st.integers(1, 5), st.sampled_from([0.0, 0.0, -0.25, -1.0, -70.0, -1e5])), min_size=1, max_size=9
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("observe"), JUMPS, BLOCKS, st.booleans()),
        st.tuples(st.just("read"), JUMPS),
        st.tuples(st.just("window"), JUMPS, st.sampled_from(WINDOWS)),
    ),
    max_size=25,
)


class Oracle:
    """All that was observed, and each window's present cell, which never goes back."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, float]] = []
        self.present = dict.fromkeys(WINDOWS, -math.inf)
        self.inside: dict[float, list[tuple[float, int, float]]] = {window: [] for window in WINDOWS}

    @staticmethod
    def cell(window: float, instant: float) -> int:
        return math.ceil(instant / (window / CELLS)) - 1  # instants are multiples of 1/4 s, cells of 1 s: exact

    def move(self, window: float, instant: float) -> None:
        self.present[window] = max(self.present[window], self.cell(window, instant))

    def observe(self, block: list[tuple[float, int, float]]) -> None:
        self.seen += block
        for window in WINDOWS:
            self.move(window, max(at for _, _, at in block))
            self.inside[window] += block

    def held(self, window: float) -> list[tuple[float, int]]:
        oldest = self.present[window] - CELLS
        self.inside[window] = [one for one in self.inside[window] if self.cell(window, one[2]) > oldest]
        return [(value, count) for value, count, _ in self.inside[window]]


def assert_holds(histogram: ExponentialHistogram, held: list[tuple[float, int]]) -> None:
    ordered = sorted(abs(value) for value, count in held for _ in range(count))
    assert histogram.count == len(ordered)
    assert histogram.zero_count == sum(value < 1e-9 for value in ordered)
    assert histogram.overflow_count == sum(value >= 1e9 for value in ordered)
    if not ordered:
        return
    assert (histogram.min, histogram.max) == (ordered[0], ordered[-1])
    assert histogram.sum == pytest.approx(math.fsum(ordered), rel=1e-9)
    for percent in (0, 1, 25, 50, 75, 99, 100):
        rank = max(-(-percent * len(ordered) // 100), 1)
        nearest = ordered[rank - 1]
        estimate = histogram.quantile(percent / 100)
        if nearest < 1e-9:
            assert estimate == ordered[0]
        elif nearest >= 1e9:
            assert estimate == ordered[0 if rank == 1 else -1]  # the extreme ranks are exact
        else:
            assert abs(estimate - nearest) <= histogram.relative_error * nearest * (1 + 1e-12), percent


def told(instrument: Instrument, block: list[tuple[float, int, float]], *, counted: bool) -> None:
    values, counts, at = zip(*block, strict=True)
    instrument.hold(checked(np.array(values), np.array(counts) if counted else None, np.array(at)))


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(-4, 12), st.sampled_from([4, 16, 16_384]))
def test_what_is_held_back_shows_whenever_and_however_it_is_read(steps, scale, capacity):
    now, oracle, instrument = 1e6, Oracle(), Instrument(scale, thresholds=(LIMIT,))
    with mock.patch.object(pending, "CAPACITY", capacity):
        for what, jump, *rest in steps:
            now += jump
            if what == "observe":
                block = [(value, count if rest[1] else 1, now + ago) for value, count, ago in rest[0]]
                told(instrument, block, counted=rest[1])
                oracle.observe(block)
            elif what == "read":
                assert_holds(instrument.lifetime, [(value, count) for value, count, _ in oracle.seen])
                below = sum(count for value, count, _ in oracle.seen if value <= LIMIT)
                assert instrument.lifetime.cumulative_count_at(LIMIT) == below
            else:
                for window in WINDOWS:
                    oracle.move(window, now)
                assert_holds(instrument.windowed(now)[rest[0]], oracle.held(rest[0]))
    assert_holds(instrument.lifetime, [(value, count) for value, count, _ in oracle.seen])
    for window in WINDOWS:
        oracle.move(window, now)
        assert_holds(instrument.windowed(now)[window], oracle.held(window))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(BLOCKS, st.integers(-4, 12), st.booleans()), min_size=2, max_size=5), st.randoms())
def test_instruments_read_at_any_moment_merge_to_the_same_in_any_order_and_grouping(parts, random):
    found = []
    for block, scale, read_before in parts:
        instrument = Instrument(scale)
        for value, count, ago in block:
            told(instrument, [(value, count, 1e6 + ago)], counted=True)
            if read_before:
                assert instrument.lifetime.count
        found.append(instrument.lifetime.copy())
    expected = merged(found)
    held = [(value, count) for block, _, _ in parts for value, count, _ in block]
    assert_holds(expected, held)
    assert expected.scale == min(scale for _, scale, _ in parts)
    shuffled = random.sample(found, len(found))
    split = random.randint(1, len(found) - 1)
    for other in (merged(shuffled), merged([merged(shuffled[:split]), merged(shuffled[split:])])):
        assert other.to_dict() | {"sum": 0} == expected.to_dict() | {"sum": 0}
        assert other.sum == pytest.approx(expected.sum, rel=1e-12)
        assert ExponentialHistogram.from_dict(other.to_dict()) == other


def merged(histograms: list[ExponentialHistogram]) -> ExponentialHistogram:
    whole = histograms[0].copy()
    for histogram in histograms[1:]:
        whole.merge(histogram)
    return whole
