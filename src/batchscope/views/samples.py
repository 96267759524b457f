"""How many observations a percentile needs before anybody is shown it: below that there is only the maximum.

Of 20 observations one lies above p95, of 100 one above p99: with fewer, what is printed as a percentile is the maximum
under another name. So it is called that. Every figure is shown with the count of exactly its own observations.
"""

from __future__ import annotations

import math

from batchscope.views.board import UNKNOWN_INTERVAL, Latency, Percentile

FEWEST = {"p50": 1, "p90": 10, "p95": 20, "p99": 100}
"""Observations from which on each percentile is shown."""
MAX = "max"


def tells(percentile: str, count: int) -> bool:
    """Whether ``count`` observations are enough for it."""
    return count >= FEWEST[percentile]


def shown_percentiles(
    latency: Latency, wanted: tuple[str, ...] = ("p50", "p95", "p99")
) -> list[tuple[str, Percentile]]:
    """Those of ``wanted`` that the observations tell; in place of the first other the maximum, called max.

    Nothing of what was never observed; no maximum where nobody knows it.
    """
    told = [(name, getattr(latency, name)) for name in wanted if tells(name, latency.count)]
    if len(told) == len(wanted) or not latency.count:
        return told
    return told + [(MAX, latency.max)] * (latency.max.interval != UNKNOWN_INTERVAL and _known(latency.max))


def _known(percentile: Percentile) -> bool:
    return not (math.isnan(percentile.value) and math.isnan(percentile.interval[0]))
