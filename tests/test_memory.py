"""The collector's memory is bounded, whatever piles up: counted in bytes, without a clock."""

from __future__ import annotations

import tracemalloc
from collections import deque

import numpy as np
import pytest

from batchscope import CompletionReason, SchedulerMetricsCollector
from batchscope.aggregation.ordering import MOST_ROWS
from batchscope.histograms.held_values import CAPACITY
from batchscope.recording.rings import Rings
from batchscope.recording.writer import Writer
from batchscope.rows import COLUMNS, RowKind

WRITERS = 4
MIB = 1024 * 1024
RINGS_AT_MOST = 2.25 * MIB
"""Bytes of one writer's rings, all kinds."""
DRAIN_AT_MOST = 4 * MIB
"""Bytes that a drain needs for itself, scratch and what is pending included."""
EOS = CompletionReason.EOS_TOKEN_REACHED


class Crowd:
    """A collector and as many writers, driven by this thread."""

    def __init__(self) -> None:
        self.collector = SchedulerMetricsCollector()
        core = self.collector._draining
        self.rings = [Rings(core.shared) for _ in range(WRITERS)]
        core.writers.rings.extend(self.rings)
        self.writers = [Writer(core.shared, rings, deque()) for rings in self.rings]
        self.recorded = 0

    def fill(self) -> int:
        """Record on each kind until every ring is full and drops, while somebody else holds the lock."""
        before = self.dropped()
        with self.collector._draining.lock:
            for k in range(11_000):
                value = 10.0 ** (k % 6 - 3)
                for writer in self.writers:
                    writer.request(k, 100, EOS, value, value, value, value, value, value, 0.0, 100)
                    writer.iteration(k, 200, 200, 1, value, running_requests=200, scheduled_tokens=200)
                    writer.batch(0.8, k, 200)
                    writer.inter_emission_latency(value, 10)
                    writer.error("e")
            self.recorded += 11_000 * 5 * WRITERS
        return self.dropped() - before

    def dropped(self) -> int:
        return sum(rings.dropped for rings in self.rings)

    def counted(self) -> int:
        found = self.collector.get_snapshot()
        gaps = found.request_stats.inter_emission_latency.count // 10
        kept = found.totals.iterations + found.totals.batches + found.error_stats.total_errors + gaps
        return kept + found.request_stats.total_requests + found.totals.dropped_records


@pytest.fixture
def crowd(monkeypatch):
    monkeypatch.setattr("batchscope.recording.ring.time.sleep", lambda _: None)
    return Crowd()


def bytes_of(rings: Rings) -> int:
    """Buffers and places for objects of all blocks."""
    total = 0
    for ring in rings._all():
        total += sum(len(block.buffer) + 8 * len(block.objects) for block in ring._blocks)
    return total


def test_rings_that_overflow_again_and_again_stay_as_small_and_every_record_is_accounted_for(crowd):
    for _ in range(3):
        assert crowd.fill() > 0
        assert all(0 < bytes_of(rings) <= RINGS_AT_MOST for rings in crowd.rings)
        assert crowd.counted() == crowd.recorded


def test_a_drain_of_four_writers_full_rings_needs_a_bounded_block_and_not_as_much_as_they_hold(crowd):
    crowd.fill()
    crowd.counted()
    crowd.fill()
    held = sum(bytes_of(rings) for rings in crowd.rings)
    assert held > 2 * DRAIN_AT_MOST
    tracemalloc.start()
    try:
        crowd.collector.read_totals()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= DRAIN_AT_MOST


def test_scratch_and_pending_observations_stay_within_their_bounds(crowd):
    for _ in range(2):
        crowd.fill()
        crowd.collector.read_totals()
    state = crowd.collector._draining.state
    widest = max(len(COLUMNS[kind]) for kind in RowKind)
    assert state._scratch._buffer.nbytes <= 8 * widest * MOST_ROWS
    instruments = [*state.requests.instruments["total_time"].values(), state.inter_emission_latency]
    for instrument in instruments:
        pending = instrument._pending
        arrays = [held for held in (pending._values, pending._at, pending._counts) if held is not None]
        assert sum(array.nbytes for array in arrays) <= 3 * 8 * CAPACITY
    assert len(state.inter_emission_latency._pending._values)
    crowd.fill()
    crowd.collector.drain()
    assert 0 < state.requests.samples.appended - state.requests.samples._observed <= CAPACITY


def test_a_subscriber_may_keep_what_it_is_given(crowd):
    kept = []
    crowd.collector.subscribe(lambda block: kept.append((block, block.values.copy())))
    crowd.fill()
    crowd.collector.read_totals()
    crowd.fill()
    crowd.collector.read_totals()
    assert len(kept) > 20
    assert all(np.array_equal(block.values, copy, equal_nan=True) for block, copy in kept)
