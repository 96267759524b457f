"""What a run's charts draw: true to the counts, and of a bounded size whatever the run."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from batchscope.dashboard.run_data import chart_data, distribution, heat
from batchscope.ledger.analysis.over_time import (
    BUSY,
    CELLS,
    GAP,
    LATENCIES,
    RELATIVE_ERROR,
    Buckets,
    OverTime,
    per_cell,
    percentile,
)
from batchscope.ledger.analysis.report import RunReport
from batchscope.ledger.analysis.selection import rounded
from batchscope.ledger.steady_state import SteadyState
from batchscope.records import BatchLimiter
from batchscope.statistics.snapshot import MetricsSnapshot, decode_snapshot

ASSETS = 120_000
"""Bytes of the page that are the same for every run, tables and all, at most."""


def buckets(cells, values):
    """As the expression counts them."""
    keys = np.array([cells, rounded(np.asarray(values, dtype=float), 8)]).T
    found, counts = np.unique(keys, axis=0, return_counts=True)
    return Buckets(found[:, 0].astype(np.int64), found[:, 1], counts)


@pytest.fixture
def values():
    random = np.random.default_rng(2)
    return random.integers(0, 24, 5000), random.lognormal(-2, 1.5, 5000)


def test_percentiles_of_cells_that_were_joined_are_those_of_their_values(values):
    cells, numbers = values
    found = percentile(buckets(cells, numbers).together(4), 6, 95)
    for cell in range(6):
        mine = np.sort(numbers[cells // 4 == cell])
        nearest = mine[-(-len(mine) * 95 // 100) - 1]
        assert found[cell] == pytest.approx(nearest, rel=RELATIVE_ERROR)


def test_a_percentile_of_too_few_values_is_not_told():
    found = percentile(buckets([0, 0, 1], [1.0, 2.0, 3.0]), 3, 50, fewest=2)
    assert np.isnan(found).tolist() == [False, True, True]


def test_a_heat_map_counts_everything_once(values):
    cells, numbers = values
    found = heat(buckets(cells, numbers), 24)
    assert sum(sum(counts) for _, _, *counts in found["rows"]) == 5000
    assert [cell for cell, *_ in found["rows"]] == list(range(24))
    assert all(first + len(counts) <= found["count"] for _, first, *counts in found["rows"])
    assert found["most"] == max(max(counts) for _, _, *counts in found["rows"])


def test_where_all_is_the_same_it_is_in_the_middle_of_the_map():
    found = heat(buckets([0, 1], [0.05, 0.05]), 2)
    ((_, first, count), _) = found["rows"]
    assert count == 1
    assert abs(first - found["count"] / 2) <= 1
    assert found["low"] < 0.05 < found["high"]


def test_nothing_and_zeros_have_no_map():
    empty = buckets([], [])
    assert heat(empty, 4)["rows"] == heat(buckets([1], [0.0]), 4)["rows"] == []
    assert distribution(empty) == [[], []]
    assert per_cell(empty, 4).tolist() == [0, 0, 0, 0]


def test_a_distribution_of_many_values_keeps_its_ends_and_its_shares(values):
    _, numbers = values
    places, shares = distribution(buckets(np.zeros(5000), numbers))
    assert len(places) < 200
    assert shares[-1] == 1.0
    assert places[-1] == pytest.approx(numbers.max(), rel=2 * RELATIVE_ERROR)
    for place, share in zip(places, shares, strict=True):
        assert (numbers <= place * (1 + RELATIVE_ERROR)).mean() >= share - 1e-6
        assert (numbers <= place * (1 - RELATIVE_ERROR) - 1e-12).mean() <= share + 1e-6


def a_report(found, snapshot):
    return RunReport(snapshot, 0.0, 0.0, 86_400.0, SteadyState(0.0, 86_400.0, 1.0, 2.0, 0.0), None, found)


def test_what_held_the_batch_is_of_as_many_schedulers_as_there_were_however_idle():
    none = Buckets(np.array([], dtype=np.int64), np.array([]), np.array([], dtype=np.int64))
    idle = {str(each): np.full(CELLS, 0.3) for each in BatchLimiter}
    names = ("arrived", "completed", "failed", "cancelled", "preemptions")
    found = OverTime(
        0.0, 10.0, idle, idle, {name: np.zeros(CELLS) for name in BUSY}, {name: np.zeros(CELLS) for name in names},
        dict.fromkeys((*LATENCIES, GAP), none),
    )  # fmt: skip
    one = an_empty_snapshot()
    two = msgspec.structs.replace(
        one, elapsed_seconds=50.0, totals=msgspec.structs.replace(one.totals, rank_seconds=100.0)
    )
    assert [chart_data(a_report(found, snapshot))["ranks"] for snapshot in (one, two)] == [1, 2]


def test_the_longest_run_has_a_page_of_less_than_400_kb():
    """Every limiter, every cell and every row of the heat maps in use, with counts of nine digits."""
    random = np.random.default_rng(1)
    noisy = lambda: random.lognormal(5, 3, CELLS)  # noqa: E731
    of_cell = np.sort(rounded(random.lognormal(-1, 4, (CELLS, 800)), 8), axis=1)
    counts = random.integers(1, 10**8, of_cell.size)
    full = Buckets(np.repeat(np.arange(CELLS), 800), of_cell.ravel(), counts)
    names = ("arrived", "completed", "failed", "cancelled", "preemptions", "met", "missed")
    found = OverTime(
        0.0, 360.123456, {str(each): noisy() for each in BatchLimiter}, {str(each): noisy() for each in BatchLimiter},
        {name: noisy() for name in BUSY}, {name: noisy() for name in names}, dict.fromkeys((*LATENCIES, GAP), full),
    )  # fmt: skip
    assert len(msgspec.json.encode(chart_data(a_report(found, an_empty_snapshot())))) < 400_000 - ASSETS


def an_empty_snapshot() -> MetricsSnapshot:
    parts = {name: {} for name in ("request_stats", "iteration_stats", "batch_stats", "error_stats")}
    times = dict.fromkeys(("snapshot_time", "started_at"), "2026-11-28T18:00:00Z")
    return decode_snapshot(msgspec.json.encode({"schema": "batchscope.snapshot/1", **parts, **times}))
