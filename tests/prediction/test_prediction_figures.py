"""A figure is told of as many requests as it takes, and of no fewer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.prediction.figures import PERCENTILES, figure_of, worst_off

SECONDS = st.floats(0, 1e3)


@given(st.lists(SECONDS | st.just(math.nan), max_size=120))
def test_a_percentile_has_an_observation_above_it_or_is_not_told(values):
    found, known = figure_of(np.array(values)), [value for value in values if not math.isnan(value)]
    for percentile in PERCENTILES:
        told = getattr(found, f"p{percentile}")
        if len(known) * (100 - percentile) / 100 >= 1:
            assert told == pytest.approx(np.percentile(known, percentile))
        else:
            assert math.isnan(told)
    assert math.isnan(found.mean) == (not known)


def test_what_is_not_told_is_not_the_worst_figure():
    recorded, replayed = ({"queue_time": figure_of(np.arange(1.0, 20) * scale)} for scale in (1, 2))
    assert worst_off(recorded, replayed, recorded).statistic != "p99"
    assert worst_off(recorded, {"queue_time": figure_of(np.array([]))}, recorded) is None
