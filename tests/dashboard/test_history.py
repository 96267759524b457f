"""The history in the server: exact sums, fixed memory, gaps, restarts."""

import math

import msgspec
import numpy as np
import pytest
from page_doubles import Hands, collector, second, seeded

from batchscope.dashboard.counts import BUCKETS, LATENCIES, LIMITERS, RELATIVE_ERROR, nothing, place
from batchscope.dashboard.history import COARSE_CELLS, FINE_CELLS, TENS, History
from batchscope.dashboard.ring import Ring

WALL = 1_700_000_000.0


def recorded(seconds, source=None, clock=None, **work):
    clock = clock or Hands()
    source = source or collector(clock)
    history, chance = History(), seeded()
    history.take(source.read_totals(), clock.now, WALL)
    for _ in range(seconds):
        second(source, clock, chance, **work)
        history.take(source.read_totals(), clock.now, WALL)
    return history, source, clock


def column(extract, name):
    return extract.cells.counts[:, place(name)]


def test_its_memory_is_fixed_and_below_four_mebibytes():
    history, _, _ = recorded(3)
    before = History().nbytes
    assert history.nbytes == before <= 4 * 2**20


def test_shares_of_any_window_sum_to_one_and_equal_the_snapshots():
    history, source, _ = recorded(45)
    snapshot = source.get_snapshot()
    for seconds in (1, TENS):
        extract = history.since(seconds=seconds)
        by_limiter = {name: column(extract, f"busy.{name}").sum() for name in LIMITERS}
        whole = sum(by_limiter.values())
        assert sum(value / whole for value in by_limiter.values()) == pytest.approx(1.0, abs=1e-9)
        for name, share in snapshot.iteration_stats.limited_by.items():
            assert by_limiter[name] / whole == pytest.approx(share, abs=1e-9)
            assert column(extract, f"lost.{name}").sum() == pytest.approx(
                snapshot.iteration_stats.lost_slot_seconds[name], abs=1e-6
            )


def test_ten_cells_of_a_second_are_one_of_ten_exactly():
    history, _, _ = recorded(40)
    fine, coarse = history.since(), history.since(seconds=TENS)
    for at, number in enumerate(coarse.cells.numbers):
        own = -(-fine.cells.numbers // TENS) == number
        np.testing.assert_allclose(fine.cells.counts[own].sum(axis=0), coarse.cells.counts[at], rtol=1e-12, atol=1e-9)
        assert (fine.cells.slo[own].sum(axis=0) == coarse.cells.slo[at]).all()
        for kept, wide in zip(fine.cells.latencies, coarse.cells.latencies, strict=True):
            assert (kept[own].astype(np.int64).sum(axis=0) == wide[at]).all()


def test_every_observation_is_in_a_bucket_and_quantiles_keep_their_error():
    history, source, _ = recorded(40)
    snapshot, cells = source.get_snapshot(), history.since().cells
    for name, table in zip(LATENCIES, cells.latencies, strict=True):
        summary = snapshot.windowed["5m"].summaries[name]
        buckets = table.astype(np.int64).sum(axis=0)
        assert buckets.sum() == summary.count
        bucket = int(np.searchsorted(np.cumsum(buckets), math.ceil(summary.count / 2)))
        low, high = (2 ** (LATENCIES[name] + edge / 8) for edge in (bucket, bucket + 1))
        estimate = 2 * low * high / (low + high)
        assert estimate == pytest.approx(summary.p50, rel=RELATIVE_ERROR + summary.relative_error)
    assert BUCKETS == 18 * 8


def test_what_was_met_and_missed_equals_the_snapshots():
    history, source, _ = recorded(20)
    slo = history.since().cells.slo.sum(axis=0)[0]
    found = source.get_snapshot().slo_stats["interactive"]
    assert slo.tolist() == [found.met, found.missed]


def test_what_was_counted_before_it_began_has_no_time_of_its_own():
    clock = Hands()
    source = collector(clock)
    second(source, clock, seeded())
    history, _, _ = recorded(1, source, clock)
    assert column(history.since(), "iterations").tolist() == [20.0]


def test_a_second_that_nobody_sampled_is_missing_and_its_counts_are_in_the_next():
    clock = Hands()
    history, source, _ = recorded(3, clock=clock)
    for _ in range(5):
        second(source, clock, seeded())
    history.take(source.read_totals(), clock.now, WALL)
    extract = history.since()
    assert extract.cells.numbers.tolist() == [WALL + at for at in (1, 2, 3, 8)]
    assert column(extract, "wall_seconds").tolist() == [1, 1, 1, 5]
    assert column(extract, "iterations").tolist() == [20, 20, 20, 100]


def test_while_a_source_tells_nothing_new_there_is_no_cell_of_zero_and_the_next_covers_that_time():
    """As of a directory whose processes publish less often than it is read."""
    clock = Hands()
    history, source, _ = recorded(2, clock=clock)
    same = source.read_totals()
    for later in (1, 2, 3):
        history.take(same, clock.now + later, WALL)
        assert history.newest == WALL + 2 + later
    for _ in range(4):
        second(source, clock, seeded())
    history.take(source.read_totals(), clock.now, WALL)
    extract = history.since()
    assert extract.cells.numbers.tolist() == [WALL + at for at in (1, 2, 6)]
    assert column(extract, "wall_seconds").tolist() == [1, 1, 4]
    assert column(extract, "samples").tolist() == [1, 1, 4]
    assert column(extract, "iterations").tolist() == [20, 20, 80]


def test_a_wall_clock_that_jumps_moves_no_cell():
    history, source, clock = recorded(2)
    second(source, clock, seeded())
    history.take(source.read_totals(), clock.now, WALL - 9999)
    assert history.since().cells.numbers.tolist() == [WALL + at for at in (1, 2, 3)]


def test_a_reset_is_a_mark_and_nothing_is_counted_twice():
    history, source, clock = recorded(3)
    source.reset()
    second(source, clock, seeded())
    history.take(source.read_totals(), clock.now, WALL)
    extract = history.since()
    assert [(mark.number - WALL, mark.what) for mark in extract.marks] == [(4.0, "restarted")]
    assert column(extract, "iterations").tolist() == [20.0] * 4


def test_the_oldest_cells_make_room():
    ring, added = Ring(10, 1), nothing()
    before = ring.nbytes
    for number in range(25):
        ring.add(number, added)
    assert ring.since(0).numbers.tolist() == list(range(15, 25))
    assert ring.since(20).numbers.tolist() == list(range(20, 25))
    assert ring.nbytes == before
    assert (FINE_CELLS, COARSE_CELLS * TENS) == (600, 7200)


def test_a_bucket_of_a_second_that_is_full_says_so():
    ring, added = Ring(2, 1, narrow=True), nothing()
    added.latencies[0, 5] = 70_000
    ring.add(1, added)
    assert ring.since(0).latencies[0][0, 5] == 65_535
    assert ring.cut_off == 70_000 - 65_535


def test_present_values_and_the_budget_are_kept_as_sums_and_counts():
    history, source, _ = recorded(5, gpus=2)
    extract = history.since()
    assert column(extract, "samples").tolist() == [1.0] * 5
    assert (column(extract, "running.sum") / column(extract, "running.count")).tolist() == [60.0] * 5
    assert column(extract, "budget_tokens").tolist() == [20 * 2048.0] * 5
    lowest, mean, highest, fullest, watts = extract.cells.gpus[-1].tolist()
    stats = source.get_snapshot().resource_stats
    busy = [stats[f"gpu.{gpu}.utilization_ratio"].last for gpu in range(2)]
    assert (lowest, mean, highest) == pytest.approx((min(busy), sum(busy) / 2, max(busy)), rel=1e-6)
    assert fullest == pytest.approx(
        max(stats[f"gpu.{gpu}.memory_used_bytes"].last for gpu in range(2)) / 8e10, rel=1e-6
    )
    assert watts == pytest.approx(sum(stats[f"gpu.{gpu}.power_watts"].last for gpu in range(2)), rel=1e-6)


def test_a_limiter_of_a_later_version_is_not_known_and_not_left_out():
    clock = Hands()
    source = collector(clock)
    history = History()
    history.take(source.read_totals(), clock.now, WALL)
    second(source, clock, seeded())
    state = source.read_totals()
    busy = {**dict.fromkeys(state.totals.busy_seconds_by_limiter, 0.0), "solar_wind": state.totals.busy_seconds}
    history.take(
        state._replace(totals=msgspec.structs.replace(state.totals, busy_seconds_by_limiter=busy)), clock.now, WALL
    )
    assert column(history.since(), "busy.unknown").tolist() == [state.totals.busy_seconds]
