"""Student's t distribution and Holm's step-down procedure: what is needed of scipy, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

_TINY = 1e-300
_STEPS = 300


def two_sided_p(t: float, freedom: float) -> float:
    """The probability that Student's t with ``freedom`` degrees of freedom lies further from 0 than ``t``."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@lru_cache(maxsize=256)
def quantile(confidence: float, freedom: float) -> float:
    """``t`` such that the share ``confidence`` lies within -t .. t; found by bisection to 1e-9."""
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > 1 - confidence:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > 1 - confidence else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (Lentz; DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    ratio, d = 1.0, 0.0
    c = 1.0
    for step in range(_STEPS):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        ratio *= c * d
        if abs(1 - c * d) < 1e-15:
            break
    return front * (ratio - 1)


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected so that any is wrongly in at most ``level`` of all cases (Holm 1979)."""
    rejected = [False] * len(p_values)
    ordered = sorted(range(len(p_values)), key=lambda index: (math.isnan(p_values[index]), p_values[index]))
    for count, index in enumerate(ordered):
        if not p_values[index] <= level / (len(p_values) - count):
            break
        rejected[index] = True
    return rejected
