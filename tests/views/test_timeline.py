"""The picture over time: exact integrals in a bounded number of cells."""

import math

import numpy as np
import pytest

from batchscope.rows import IterationColumn, RowKind, Rows, empty_rows
from batchscope.views.numbers import bar, count, duration, per_second, percent, sparkline
from batchscope.views.timeline import CELLS, Timeline


def block(*iterations):
    values = empty_rows(RowKind.ITERATION, len(iterations))
    for row, (start, finish, requests) in zip(values, iterations, strict=True):
        row[IterationColumn.FINISHED_AT] = finish
        row[IterationColumn.BUSY_TIME] = finish - start
        row[IterationColumn.REQUEST_COUNT] = requests
    return Rows(RowKind.ITERATION, values)


def test_iterations_count_for_their_time_and_idle_time_as_zero():
    timeline = Timeline()
    timeline(block((0, 1, 8), (1, 1.5, 4)))
    timeline(block((3, 4, 2)))
    assert timeline.means(IterationColumn.REQUEST_COUNT, 4) == pytest.approx([8, 2, 0, 2])


def test_the_integral_stays_exact_while_cells_double():
    timeline = Timeline(cell_seconds=0.5)
    for start in range(0, 10 * CELLS, 4):
        timeline(block((start, start + 3, 5)))
    means = timeline.means(IterationColumn.REQUEST_COUNT, 10)
    assert np.mean(means) * timeline.end == pytest.approx(5 * 3 * 10 * CELLS / 4)


def test_what_the_scheduler_did_not_report_is_nan():
    timeline = Timeline()
    assert np.isnan(timeline.means(IterationColumn.REQUEST_COUNT, 3)).all()
    timeline(block((0, 1, 8)))
    assert np.isnan(timeline.means(IterationColumn.KV_CACHE_USAGE, 2)).all()


def test_a_peak_is_the_largest_value_of_any_iteration_however_short():
    timeline = Timeline(cell_seconds=0.5)
    assert np.isnan(timeline.peak(IterationColumn.REQUEST_COUNT))
    timeline(block((0, 100, 3), (100, 100.001, 64)))
    timeline(block((101, 10 * CELLS, 5)))
    assert timeline.peak(IterationColumn.REQUEST_COUNT) == 64
    assert max(timeline.means(IterationColumn.REQUEST_COUNT, 10)) < 6
    assert np.isnan(timeline.peak(IterationColumn.KV_CACHE_USAGE))


def test_a_sparkline_shows_little_as_something_and_nan_as_a_dash():
    assert sparkline([0, 0.001, 0.5, 1, math.nan], 1) == " ▁▄█-"
    assert sparkline([0, 1], 1, ascii_only=True) == " @"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(math.nan, "-"), (0, "0 s"), (2e-6, "2 us"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (99.96, "100.0 s"),
     (599, "599 s"), (600, "10.0 min"), (3600, "1.00 h"), (36_000, "10.0 h")],
)  # fmt: skip
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_other_figures():
    assert [count(None), count(math.nan), count(1234)] == ["-", "-", "1,234"]
    assert [percent(math.nan), percent(0), percent(1e-9), percent(0.99999), percent(1)] == [
        "-", "0.0 %", "<0.1 %", ">99.9 %", "100.0 %"]  # fmt: skip
    assert [per_second(math.nan), per_second(1 / 3), per_second(500)] == ["-", "0.33", "500"]
    assert [bar(1, 4), bar(0.5, 4), bar(0.5, 4, ascii_only=True)] == ["████", "██", "##"]
