"""Rows that wait among the samples are observed once each, in order, whatever the blocks and whoever reads when."""

import contextlib
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchscope.aggregation import observed_rows
from batchscope.aggregation.observed_rows import ObservedRows


class Observer:
    """Keeps what it is given; the ``fails_at``-th time it is interrupted."""

    def __init__(self, fails_at: int = -1) -> None:
        self.seen: list[float] = []
        self._left = fails_at

    def observe(self, rows):
        self._left -= 1
        if self._left == -1:
            raise KeyboardInterrupt
        self.seen += rows[:, 0].tolist()


@given(
    capacity=st.integers(1, 60), most=st.integers(1, 60), steps=st.lists(st.none() | st.integers(0, 90), max_size=12)
)
def test_each_row_is_observed_once_and_in_order_and_never_more_wait_than_may(capacity, most, steps):
    observer, count = Observer(), 0
    with mock.patch.object(observed_rows, "CAPACITY", most):
        samples = ObservedRows(capacity, 2, observer.observe)
    for size in steps:
        if size is None:
            samples.settle()
            assert len(observer.seen) == count
        else:
            samples.append(np.full((size, 2), np.arange(count, count + size)[:, None], dtype=float))
            count += size
        assert count - len(observer.seen) <= min(capacity, most)
        assert samples.rows()[:, 0].tolist() == list(range(max(count - capacity, 0), count))
    samples.settle()
    assert observer.seen == list(range(count))


@given(capacity=st.integers(1, 60), sizes=st.lists(st.floats(0, 1), max_size=12))
def test_rows_that_nobody_reads_are_observed_an_array_at_a_time(capacity, sizes):
    pieces = []
    samples = ObservedRows(capacity, 2, lambda rows: pieces.append(len(rows)))
    for size in sizes:
        samples.append(np.zeros((int(size * capacity), 2)))
    assert pieces == [capacity] * len(pieces)
    assert samples.appended - sum(pieces) <= capacity


@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=12), fails_at=st.integers(0, 12))
def test_an_interruption_costs_what_was_being_observed_and_nothing_is_observed_twice(sizes, fails_at):
    observer, count = Observer(fails_at), 0
    samples = ObservedRows(50, 2, observer.observe)
    for size in sizes:
        with contextlib.suppress(KeyboardInterrupt):
            samples.append(np.full((size, 2), np.arange(count, count + size)[:, None], dtype=float))
        count += size
    with contextlib.suppress(KeyboardInterrupt):
        samples.settle()
    assert observer.seen == sorted(set(observer.seen))
    assert set(observer.seen) <= set(range(count))
    before = len(observer.seen)
    samples.settle()
    assert len(observer.seen) == before
