"""Errors by name, in bounded memory."""

import numpy as np

from batchscope.aggregation.batches import ErrorAggregate


def test_the_first_names_seen_are_told_apart_and_the_rest_are_other():
    errors = ErrorAggregate(2)
    errors.consume(np.arange(5.0), ["a", "b", "c", "a", "d"])
    assert errors.by_type == {"a": 2, "b": 1, "other": 2}
    assert errors.total == 5


def test_a_name_once_admitted_stays_admitted():
    errors = ErrorAggregate(1)
    for name in ("b", "z", "b"):
        errors.consume(np.array([1.0]), [name])
    assert errors.by_type == {"b": 2, "other": 1}


def test_an_error_called_other_is_counted_with_the_rest():
    errors = ErrorAggregate(1)
    errors.consume(np.arange(3.0), ["other", "x", "y"])
    assert errors.by_type == {"other": 3}


def test_the_last_instant_is_the_latest_in_whatever_order_blocks_come():
    errors = ErrorAggregate(9)
    assert errors.last_at is None
    errors.consume(np.array([3.0, 7.0]), ["a", "a"])
    errors.consume(np.array([5.0]), ["a"])
    errors.consume(np.array([]), [])
    assert errors.last_at == 7.0
