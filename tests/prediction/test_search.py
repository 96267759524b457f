"""The simplex finds the least value of what has no derivative."""

from __future__ import annotations

import numpy as np
import pytest

from batchscope.prediction.search import minimize


@pytest.mark.parametrize("target", [(0.0, 0.0), (3.0, -1.0), (-2.0, 5.0)])
def test_the_bottom_of_a_bowl_is_found(target):
    found = minimize(lambda x: float(np.sum((x - target) ** 2)), np.zeros(2), step=0.5, most_calls=400, tolerance=1e-7)
    assert np.allclose(found.point, target, atol=1e-4)


def test_steps_do_not_mislead_it():
    found = minimize(lambda x: float(np.floor(50 * np.abs(x - 1).sum())), np.zeros(3), step=0.3, most_calls=400)
    assert np.abs(found.point - 1).sum() < 0.1


def test_it_stops_when_it_has_asked_often_enough():
    calls = []
    found = minimize(lambda x: calls.append(1) or float(-x[0]), np.zeros(4), step=1.0, most_calls=30)
    assert 30 <= found.calls == len(calls) <= 36
