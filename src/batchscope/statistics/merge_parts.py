"""Arithmetic of merging: sums of what is known, what all agree on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import msgspec

from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.statistics.distributions import merged
from batchscope.statistics.totals import LARGEST

MIXED = "mixed"
"""What stands for several different names: the role of a merge of several roles, the engine of several engines."""


def added(values: Iterable[Any]) -> Any:
    """The sum of those numbers, means or histograms that are known, or of tables of them by key.

    Whole ones add up to ``LARGEST`` at most: a sum that no document can hold would cost all that were added.
    """
    given = [value for value in values if value is not None]
    found = [value for value in given if not (isinstance(value, float) and math.isnan(value))]
    if not found:
        return given[0] if given else None
    if not isinstance(found[0], dict):
        return _histogram(found) if isinstance(found[0], ExponentialHistogram) else _bounded(reduce(add, found))
    keys = dict.fromkeys(key for table in found for key in table)
    return {key: added(table[key] for table in found if key in table) for key in keys}


def _bounded(total: Any) -> Any:
    return min(total, LARGEST) if type(total) is int else total


def sums(found: Sequence[msgspec.Struct], fields: Iterable[str]) -> dict[str, Any]:
    """The sum of each of ``fields`` over all parts."""
    return {field: added(getattr(part, field) for part in found) for field in fields}


def _histogram(series: Sequence[ExponentialHistogram]) -> ExponentialHistogram:
    """One of all; exact counts at thresholds survive where all have the same ones.

    Where any has observations, those without count in nothing, their scale included.
    """
    filled = [histogram for histogram in series if histogram.count]
    series = filled or series
    if len({histogram.thresholds for histogram in series}) > 1:
        return merged(series)
    whole = series[0].copy()
    for histogram in series[1:]:
        whole.merge(histogram)
    return whole


def same(names: Sequence[str]) -> str:
    """The one name, or ``mixed``."""
    distinct = set(names)
    return distinct.pop() if len(distinct) == 1 else MIXED


def common(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all agree on."""
    first, *others = tables
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def measured(values: Iterable[float]) -> list[float]:
    """Those that are not ``nan``."""
    return [value for value in values if not math.isnan(value)]
