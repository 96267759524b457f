from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError, InvalidRecordError
from batchscope.histograms.cells import CellGrid, cell_grid, group_by_cell

EIGHTHS = st.integers(-80_000, 80_000).map(lambda k: k / 8)
GRIDS = st.sampled_from([(60.0, 60), (300.0, 60), (1.0, 8), (7.0, 60), (45.0, 60), (0.1, 3), (10.0, 1)])


@given(grid=GRIDS, instant=EIGHTHS)
def test_a_cell_excludes_its_lower_edge_and_includes_its_upper_one(grid, instant):
    window, cells = grid
    exact = -(-Fraction(instant) * cells // Fraction(str(window))) - 1
    assert CellGrid(window, cells).cell_of(instant) == exact


@given(grid=GRIDS, instant=st.floats(-1e9, 1e9))
def test_an_instant_lies_between_its_cells_edges_in_floats_too(grid, instant):
    window, cells = grid
    cell = CellGrid(window, cells).cell_of(instant)
    assert cell * window / cells < instant <= (cell + 1) * window / cells


@given(
    at=st.lists(st.integers(0, 4000).map(lambda k: 1000 + k / 8), min_size=1, max_size=60),
    in_order=st.booleans(),
    oldest=st.integers(900, 1700),
)
def test_grouping_is_by_the_cell_of_each_instant_with_what_is_too_old_together(at, in_order, oldest):
    grid = CellGrid(60.0, 60)
    at = np.array(sorted(at) if in_order else at)
    groups = group_by_cell(grid, at, oldest)
    ordered = at if groups.order is None else at[groups.order]
    newest = grid.cell_of(float(at.max()))
    found = {}
    for cell, start, stop in zip(groups.cells, groups.starts, [*groups.starts[1:], len(at)], strict=True):
        assert stop > start
        found[cell] = sorted(ordered[start:stop].tolist())
    expected = {}
    for instant in sorted(at.tolist()):
        expected.setdefault(max(grid.cell_of(instant), min(oldest, newest)), []).append(instant)
    assert found == expected
    assert groups.cells == sorted(groups.cells)


def test_instants_far_apart_are_grouped_without_much_memory():
    groups = group_by_cell(CellGrid(60.0, 60), np.array([-1e12, 1e12, 0.0, 1e12]), -(10**11))
    assert groups.cells == [-(10**11), -1, 10**12 - 1]
    assert groups.starts == [0, 1, 2]
    assert groups.order.tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("instant", [nan, inf, -inf, 1e13])
def test_what_is_no_instant_is_refused(instant):
    with pytest.raises(InvalidRecordError, match="instant"):
        CellGrid(60.0, 60).cell_of(instant)
    with pytest.raises(InvalidRecordError, match="instant"):
        group_by_cell(CellGrid(60.0, 60), np.array([1.0, instant]), 0)


@pytest.mark.parametrize(("window", "cells"), [(0, 60), (-1, 60), (nan, 60), (inf, 60), (60, 0)])
def test_a_window_or_number_of_cells_that_is_none_is_refused(window, cells):
    with pytest.raises(ConfigurationError):
        cell_grid(window, cells)
