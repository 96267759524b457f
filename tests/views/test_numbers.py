"""Figures as people read them: little is not nothing, nearly all is not all, a row has one unit."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.aggregation.slo import wilson_interval
from batchscope.views.numbers import amount, in_one_unit, per_second, percent, percent_range

DURATIONS = st.floats(1e-7, 1e6) | st.just(0.0) | st.just(math.nan)


def zero_if_read(text):
    return float(re.sub(r"[<>,% ]", "", text)) == 0 and "<" not in text


@given(st.floats(1e-12, 1e12))
def test_what_is_more_than_nothing_never_reads_as_nothing(value):
    assert not zero_if_read(amount(value))
    assert not zero_if_read(per_second(value))
    assert not zero_if_read(percent(min(value, 1.0)))


@given(st.lists(DURATIONS, min_size=1, max_size=7))
def test_durations_of_a_row_have_one_unit_and_at_most_seven_characters(seconds):
    unit, texts = in_one_unit(seconds)
    assert len(texts) == len(seconds)
    size = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "": math.nan}[unit]
    for value, text in zip(seconds, texts, strict=True):
        assert len(text) <= 7
        if math.isnan(value):
            assert text == "-"
        elif text == "<0.001":
            assert 0 < value < 0.001 * size
        else:
            assert float(text.replace(",", "")) * size == pytest.approx(value, rel=0.051, abs=size * 0.00051)


def test_the_unit_of_a_row_suits_its_middle():
    assert in_one_unit([0.0318, 0.054, 10.46]) == ("ms", ["31.8", "54.0", "10,460"])
    assert in_one_unit([475.0, 804.0]) == ("s", ["475", "804"])
    assert in_one_unit([0.0, 0.0]) == ("s", ["0", "0"])
    assert in_one_unit([math.nan]) == ("", ["-"])


@given(st.integers(1, 10_000_000), st.data())
def test_a_range_tells_its_ends_apart_and_from_none_and_all(evaluated, data):
    met = data.draw(st.integers(0, evaluated))
    low, high = wilson_interval(met, evaluated)
    left, right = percent_range(low, high).removesuffix(" %").split("..")
    assert left != right
    assert (float(left) == 0) == (low < 1e-9)
    assert (float(right) == 100) == (high > 1 - 1e-9)


def test_a_range_of_nothing_is_a_dash_and_one_near_all_has_digits_enough():
    assert percent_range(math.nan, math.nan) == "-"
    assert percent_range(0.99988, 0.99998) == "99.988..99.998 %"
    assert percent_range(0.68, 0.718) == "68.0..71.8 %"
    assert percent_range(0.5, 0.5) == "50.0..50.0 %"


def test_ten_met_requests_of_a_long_run_are_a_rate():
    assert per_second(10 / 4200) == "0.0024"
    assert [amount(0.4), amount(0), amount(1.5), amount(12.34), amount(9925)] == ["0.400", "0", "1.50", "12.3", "9,925"]
