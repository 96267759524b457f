"""Rows of several writers in the order of their instants, a bounded block at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchscope.aggregation.ordering import MOST_ROWS, NewMemory, ReusedMemory, in_order
from batchscope.histograms.cells import FURTHEST
from batchscope.recording.unread import ReadyRows
from batchscope.rows import COLUMNS, RowKind, Rows

NOW = 100.0


def streams_of(instants, kind=RowKind.ERROR):
    """A stream a list of instants; the object beside a row says its stream and place."""
    width = len(COLUMNS[kind])
    return [
        ReadyRows(
            Rows(kind, np.tile(np.array(at, dtype=np.float64), (width, 1)).T, [(number, k) for k in range(len(at))])
        )
        for number, at in enumerate(instants)
    ]


def ordered(instants, most, scratch=None):
    """(instant, object) of each row, and the sizes of the blocks."""
    rows, sizes = [], []
    for block in in_order(streams_of(instants), NOW, scratch or ReusedMemory(), most=most):
        rows += zip(block.values[:, 0].tolist(), block.objects, strict=True)
        sizes.append(len(block.values))
    return rows, sizes


writers = st.lists(st.lists(st.integers(0, 12), max_size=30).map(sorted), max_size=5)


@given(writers, st.integers(1, 20))
def test_blocks_one_after_the_other_are_all_rows_stably_sorted(instants, most):
    rows, sizes = ordered(instants, most)
    everything = [(float(at), (number, k)) for number, each in enumerate(instants) for k, at in enumerate(each)]
    assert rows == sorted(everything, key=lambda row: row[0])
    assert all(size == most for size in sizes[:-1])
    assert all(0 < size <= most for size in sizes)


@given(st.lists(st.lists(st.floats(allow_nan=True), max_size=30), max_size=4), st.integers(1, 20))
def test_whatever_the_instants_each_row_comes_once_in_blocks_of_at_most_so_many(instants, most):
    rows, sizes = ordered(instants, most)
    assert sorted(item for _, item in rows) == [(n, k) for n, each in enumerate(instants) for k in range(len(each))]
    assert all(0 < size <= most for size in sizes)
    known = [at for at, _ in rows if at == at]  # noqa: PLR0124  (not nan)
    assert all(-FURTHEST <= at <= NOW for at in known)


def test_scratch_is_used_again_and_lasting_memory_is_not():
    scratch = ReusedMemory()
    first = scratch.columns(RowKind.REQUEST, MOST_ROWS)
    assert np.shares_memory(first, scratch.columns(RowKind.ERROR, 3))
    lasting = NewMemory()
    assert not np.shares_memory(lasting.columns(RowKind.ERROR, 3), lasting.columns(RowKind.ERROR, 3))


def test_scratch_is_as_large_as_what_was_asked_for_and_never_more_than_a_full_block():
    scratch = ReusedMemory()
    assert scratch.columns(RowKind.BATCH, 10).base.nbytes <= 8 * 64 * len(COLUMNS[RowKind.BATCH])
    assert scratch.columns(RowKind.ITERATION, MOST_ROWS - 1).base.nbytes == 8 * MOST_ROWS * len(
        COLUMNS[RowKind.ITERATION]
    )
