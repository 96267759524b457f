import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError
from batchscope.histograms.row_buffer import RowBuffer


def numbered(start, count, columns=2):
    return np.arange(start, start + count, dtype=float)[:, None] + np.arange(columns) / 8


@given(
    capacity=st.integers(1, 200),
    blocks=st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=8),
)
def test_rows_and_objects_are_the_last_ones_appended_in_order(capacity, blocks):
    buffer = RowBuffer(capacity, 2)
    rows, objects, count = np.empty((0, 2)), [], 0
    for size, named in blocks:
        block = numbered(count, size)
        names = [str(k) for k in range(count, count + size)] if named else None
        buffer.append(block, names)
        rows, objects, count = np.concatenate((rows, block)), objects + (names or [None] * size), count + size
    assert np.array_equal(buffer.rows(), rows[-capacity:])
    assert np.array_equal(buffer.column(1), rows[-capacity:, 1])
    assert buffer.objects() == objects[-capacity:]
    assert len(buffer) == min(count, capacity)


@given(capacity=st.integers(1, 50), sizes=st.lists(st.integers(0, 70), max_size=8), mark=st.integers(0, 400))
def test_what_came_since_some_row_is_what_is_left_of_it_as_views(capacity, sizes, mark):
    buffer = RowBuffer(capacity, 2)
    for size in sizes:
        buffer.append(numbered(buffer.appended, min(size, capacity)))
    mark = min(mark, buffer.appended)
    parts = buffer.since(mark)
    assert all(len(part) and part.base is not None for part in parts)
    expected = numbered(mark, buffer.appended - mark)[-capacity:]
    assert np.array_equal(np.concatenate([np.empty((0, 2)), *parts]), expected)


def test_appended_rows_are_copied():
    buffer, block = RowBuffer(4, 2), numbered(0, 3)
    buffer.append(block)
    block[:] = -1
    assert np.array_equal(buffer.rows(), numbered(0, 3))


def test_rows_are_a_view_until_the_buffer_wraps():
    buffer = RowBuffer(4, 2)
    buffer.append(numbered(0, 4))
    assert buffer.rows().base is not None
    buffer.append(numbered(4, 1))
    assert buffer.rows().base is None


def test_memory_grows_with_the_rows_and_ends_at_the_capacity():
    buffer = RowBuffer(1000, 2)
    assert buffer._rows.nbytes == 0
    buffer.append(numbered(0, 65))
    assert len(buffer._rows) == 128
    for start in range(0, 5000, 300):
        buffer.append(numbered(start, 300))
    assert len(buffer._rows) == 1000
    assert buffer.capacity == 1000


@pytest.mark.parametrize("forget", ["overwrite", "unnamed", "clear"])
def test_objects_that_were_overwritten_or_cleared_are_not_kept_alive(forget):
    class Name:
        pass

    buffer, name = RowBuffer(2, 2), Name()
    alive = weakref.ref(name)
    buffer.append(numbered(0, 1), [name])
    del name
    assert alive() is not None
    if forget == "clear":
        buffer.clear()
        assert (len(buffer), buffer.objects(), buffer.rows().shape) == (0, [], (0, 2))
    else:
        buffer.append(numbered(1, 2), ["a", "b"] if forget == "overwrite" else None)
    assert alive() is None


def test_rows_of_another_shape_are_refused():
    buffer = RowBuffer(4, 2)
    for wrong in (np.zeros(2), np.zeros((1, 3))):
        with pytest.raises(ValueError, match="shape"):
            buffer.append(wrong)
    with pytest.raises(ValueError, match="one each"):
        buffer.append(np.zeros((2, 2)), ["a"])
    assert len(buffer) == 0


def test_a_capacity_or_columns_below_one_are_refused():
    with pytest.raises(ConfigurationError, match="capacity"):
        RowBuffer(0, 1)
    with pytest.raises(ConfigurationError, match="columns"):
        RowBuffer(1, 0)
