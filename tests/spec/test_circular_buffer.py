"""Specification, test group 4: the circular buffer. Properties of it stand in tests/aggregation."""

import pytest

from batchscope import CircularBuffer, ConfigurationError


def filled(capacity, items):
    buffer = CircularBuffer(capacity)
    for item in items:
        buffer.add(item)
    return buffer


def test_items_are_added_up_to_the_capacity():
    buffer = filled(3, "ab")
    assert (len(buffer), buffer.capacity, list(buffer)) == (2, 3, ["a", "b"])


def test_when_full_the_oldest_items_are_overwritten():
    assert list(filled(3, "abcde")) == ["c", "d", "e"]


def test_items_are_iterated_from_the_oldest_to_the_newest_and_can_be_again():
    buffer = filled(2, "abc")
    assert list(buffer) == list(buffer) == ["b", "c"]
    assert (buffer[0], buffer[-1]) == ("b", "c")


def test_a_cleared_buffer_is_empty_and_can_be_filled_again():
    buffer = filled(2, "abc")
    buffer.clear()
    assert (len(buffer), list(buffer)) == (0, [])
    buffer.add("z")
    assert list(buffer) == ["z"]


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(ConfigurationError, match="capacity"):
        CircularBuffer(capacity)
