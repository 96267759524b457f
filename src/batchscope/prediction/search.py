"""The least value of a function that has no derivative: the simplex search of Nelder and Mead.

A simulated schedule jumps when a constant moves by a hair, so gradients mislead; a simplex only compares values.
Source: Nelder & Mead, "A Simplex Method for Function Minimization", The Computer Journal 7 (1965), with the usual
coefficients (reflection 1, expansion 2, contraction and shrinking 1/2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Optimum(NamedTuple):
    """The best point, its value, and how often the function was asked."""

    point: Floats
    value: float
    calls: int


def minimize(
    function: Callable[[Floats], float], start: Floats, *, step: float, most_calls: int, tolerance: float = 1e-3
) -> Optimum:
    """Search from ``start``, first ``step`` away along each axis, until the simplex is smaller than ``tolerance``.

    Ends after ``most_calls``, or a few more: a shrinking simplex is evaluated whole.
    """
    simplex = _Simplex(function, start, step)
    while simplex.calls < most_calls and simplex.size > tolerance:
        simplex.improve()
    return Optimum(simplex.points[0], simplex.values[0], simplex.calls)


class _Simplex:
    """One point more than there are dimensions; the best first."""

    def __init__(self, function: Callable[[Floats], float], start: Floats, step: float) -> None:
        self._function = function
        self.calls = 0
        axes = np.eye(len(start)) * step
        self.points = [np.array(start, np.float64), *(start + axis for axis in axes)]
        self.values = [self._at(point) for point in self.points]
        self._order()

    @property
    def size(self) -> float:
        """The farthest that a point is from the best one, along an axis."""
        return float(max(np.abs(point - self.points[0]).max() for point in self.points[1:]))

    def improve(self) -> None:
        """Replace the worst point by a better one, or draw all of them closer to the best."""
        centre = np.mean(self.points[:-1], axis=0)
        away = centre - self.points[-1]
        reflected, value = self._tried(centre + away)
        if value < self.values[0]:
            self._replace(min((reflected, value), self._tried(centre + 2 * away), key=lambda pair: pair[1]))
        elif value < self.values[-2]:
            self._replace((reflected, value))
        else:
            inward = self._tried(centre + 0.5 * away if value < self.values[-1] else centre - 0.5 * away)
            if inward[1] < min(value, self.values[-1]):
                self._replace(inward)
            else:
                self._shrink()
        self._order()

    def _at(self, point: Floats) -> float:
        self.calls += 1
        return self._function(point)

    def _tried(self, point: Floats) -> tuple[Floats, float]:
        return point, self._at(point)

    def _replace(self, better: tuple[Floats, float]) -> None:
        self.points[-1], self.values[-1] = better

    def _shrink(self) -> None:
        best = self.points[0]
        self.points[1:] = [best + 0.5 * (point - best) for point in self.points[1:]]
        self.values[1:] = [self._at(point) for point in self.points[1:]]

    def _order(self) -> None:
        order = np.argsort(self.values, kind="stable")
        self.points = [self.points[index] for index in order]
        self.values = [self.values[index] for index in order]
