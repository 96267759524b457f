"""Which rows are fit to count."""

from enum import IntEnum
from math import inf, nan

import numpy as np
import pytest

from batchscope.aggregation.checks import Rejections, Verdict, acceptable


class Column(IntEnum):
    AMOUNT = 0
    COUNT = 1
    BEGIN = 2
    MIDDLE = 3
    END = 4


def judged(*rows):
    rejections = Rejections()
    verdict = Verdict(np.array(rows, dtype=float), rejections)
    with np.errstate(invalid="ignore"):
        verdict.instants((Column.BEGIN, Column.MIDDLE, Column.END))
        verdict.amounts((Column.AMOUNT, Column.COUNT), due=(Column.COUNT,), whole=(Column.COUNT,))
    return verdict, rejections


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((1, 1, 1, 2, 3), None),
        ((nan, 0, nan, nan, nan), None),
        ((1, 1, 2, 2, 2), None),
        ((1, 1, 1, nan, 3), None),
        ((1.5, 2.0**53, 1, 2, 3), None),
        ((-1, 1, 1, 2, 3), "negative"),
        ((inf, 1, 1, 2, 3), "infinite"),
        ((-inf, 1, 1, 2, 3), "infinite"),
        ((1, inf, 1, 2, 3), "infinite"),
        ((1, nan, 1, 2, 3), "not_a_number"),
        ((1, 0.5, 1, 2, 3), "not_whole"),
        ((1, 2.0**54, 1, 2, 3), "too_large"),
        ((1, 1, inf, inf, inf), "infinite"),
        ((1, 1, 2, 1, 3), "out_of_order"),
        ((1, 1, 3, nan, 2), "out_of_order"),
        ((1, 1, 1, 3, 2), "out_of_order"),
    ],
)
def test_a_row_is_good_or_refused_for_one_reason(row, reason):
    verdict, rejections = judged(row)
    assert verdict.good.tolist() == [reason is None]
    assert rejections.counts == ({} if reason is None else {reason: 1})


def test_a_row_that_fails_several_checks_counts_under_the_first():
    _, rejections = judged((-1, nan, 3, 2, inf))
    assert rejections.total == 1


def test_the_good_rows_are_kept_with_their_objects_in_order():
    verdict, rejections = judged((1, 1, 1, 2, 3), (-1, 1, 1, 2, 3), (3, 1, 1, 2, 3), (-3, 1, 1, 2, 3))
    rows, objects = verdict.keep(["a", "b", "c", "d"])
    assert (rows[:, Column.AMOUNT].tolist(), objects) == ([1.0, 3.0], ["a", "c"])
    assert rejections.counts == {"negative": 2}
    assert rejections.last == ("negative", "A record", "amount = -1")


def test_of_latencies_the_bad_ones_are_counted_each_by_its_reason():
    rejections = Rejections()
    with np.errstate(invalid="ignore"):
        good = acceptable(np.array([0.0, 0.5, -1.0, nan, inf, -inf]), rejections)
    assert good.tolist() == [True, True, False, False, False, False]
    assert rejections.counts == {"negative": 1, "not_a_number": 1, "infinite": 2}
