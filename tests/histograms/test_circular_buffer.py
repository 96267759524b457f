import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError
from batchscope.histograms.circular_buffer import CircularBuffer


class Item:
    pass


@given(capacity=st.integers(1, 20), items=st.lists(st.integers()))
def test_it_holds_the_last_items_oldest_first(capacity, items):
    buffer = CircularBuffer(capacity)
    for item in items:
        buffer.add(item)
    assert list(buffer) == items[-capacity:]
    assert len(buffer) == min(len(items), capacity)
    assert buffer.capacity == capacity


@given(capacity=st.integers(1, 20), items=st.lists(st.integers()))
def test_extend_is_adding_one_after_the_other(capacity, items):
    one, many = CircularBuffer(capacity), CircularBuffer(capacity)
    for item in items:
        one.add(item)
    many.extend(items)
    assert list(one) == list(many)


def test_indices_count_from_the_oldest_and_negative_ones_from_the_newest():
    buffer = CircularBuffer(3)
    buffer.extend("abcd")
    assert [buffer[index] for index in (0, 1, 2, -1, -3)] == ["b", "c", "d", "d", "b"]
    for index in (3, -4):
        with pytest.raises(IndexError):
            buffer[index]


@pytest.mark.parametrize("forget", ["overwrite", "clear"])
def test_overwritten_and_cleared_items_are_not_kept_alive(forget):
    buffer = CircularBuffer(1)
    item = Item()
    alive = weakref.ref(item)
    buffer.add(item)
    del item
    assert alive() is not None
    if forget == "clear":
        buffer.clear()
        assert len(buffer) == 0
    else:
        buffer.add(Item())
    assert alive() is None


def test_a_cleared_buffer_is_used_again():
    buffer = CircularBuffer(2)
    buffer.extend([1, 2, 3])
    buffer.clear()
    buffer.add(4)
    assert list(buffer) == [4]
    assert repr(buffer) == "CircularBuffer(1 of 2)"


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, None])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(ConfigurationError, match="capacity"):
        CircularBuffer(capacity)
