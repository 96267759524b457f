"""Energy of a GPU whose driver counts none: power over time."""

from __future__ import annotations

import math

LONGEST_GAP = 10.0
"""Seconds; over a longer time without a reading nobody knows what was drawn: it is not counted."""


class EnergyIntegral:
    """Joules from readings of power, by the trapezoidal rule; time is an argument, seconds."""

    def __init__(self) -> None:
        self.joules = 0.0
        self._at = math.nan
        self._watts = math.nan

    def add(self, now: float, watts: float) -> float:
        """Joules since the first reading, including the time up to this one."""
        gap = now - self._at
        if 0 < gap <= LONGEST_GAP:
            self.joules += gap * (watts + self._watts) / 2
        self._at, self._watts = now, watts
        return self.joules
