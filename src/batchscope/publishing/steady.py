"""Sums of floats that do not fall because they were added in another order."""

from __future__ import annotations

from typing import Any

import msgspec

from batchscope.statistics.snapshot import MetricsSnapshot

_ROUNDING = 1e-9
"""Far above what adding in another order can change, far below what anybody measures."""


def steady(now: MetricsSnapshot, before: MetricsSnapshot) -> MetricsSnapshot:
    """``now``, with the sums of ``before`` where they are smaller by rounding alone.

    A process whose counts move to the archive is added at another place. A counter that falls by its last bit
    is a restart to Prometheus, which then counts all of it again. ``now``'s histograms are changed in place:
    they must be the merge's own.
    """
    for name, by_class in now.histograms.items():
        for class_name, histogram in by_class.items():
            old = before.histograms.get(name, {}).get(class_name)
            if old is not None:
                histogram.sum = _not_below(histogram.sum, old.sum)
    return msgspec.structs.replace(now, totals=_steadied(now.totals, before.totals))


def _steadied(now: Any, before: Any) -> Any:
    if isinstance(now, dict):
        return {key: _steadied(value, before[key]) if key in before else value for key, value in now.items()}
    if isinstance(now, msgspec.Struct):
        fields = now.__struct_fields__
        return type(now)(**{field: _steadied(getattr(now, field), getattr(before, field)) for field in fields})
    return _not_below(now, before) if isinstance(now, float) else now


def _not_below(now: float, before: float) -> float:
    return before if 0.0 < before - now <= _ROUNDING * before else now
