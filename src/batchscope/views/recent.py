"""The time between two looks at one engine, as a snapshot of its own: what live views show of the last minute.

Totals only grow, so their differences are exact, over any two looks; shares, losses and attainment follow from them by
the arithmetic of the snapshot itself. Distributions are those that the engine keeps of its last minute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from math import nan
from typing import Any

import msgspec

from batchscope.aggregation.slo import SloResult
from batchscope.scraping.remote import WINDOW
from batchscope.statistics.requests import attainment
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import (
    ErrorStatistics,
    IterationStatistics,
    RequestStatistics,
    SloStatistics,
    WindowStatistics,
)
from batchscope.statistics.totals import Totals

_NUMBERS = (float, int)
_OUTCOMES = ("total_requests", "completed_requests", "failed_requests", "cancelled_requests")


def since(before: MetricsSnapshot, now: MetricsSnapshot, window: str = WINDOW) -> MetricsSnapshot | None:
    """``now`` as if its engine had begun at ``before``; None where that is not of the same life.

    ``elapsed_seconds`` is the time between them; distributions are of ``window``, 1m or 5m. Means over samples are left
    as they are: they know no instants.
    """
    seconds = now.elapsed_seconds - before.elapsed_seconds
    if not same_life(before, now) or not seconds > 0:
        return None
    totals = _less(now.totals, before.totals)
    if _falls(totals):
        return None
    return msgspec.structs.replace(
        now,
        totals=totals,
        elapsed_seconds=seconds,
        started_at=before.snapshot_time,
        request_stats=_requests(before.request_stats, now, window),
        iteration_stats=_iterations(now.iteration_stats, totals),
        error_stats=_errors(totals, now, before),
        slo_stats={name: _slo(slo, name, totals, seconds) for name, slo in now.slo_stats.items()},
    )


def same_life(before: MetricsSnapshot, now: MetricsSnapshot) -> bool:
    """Whether both count from the same beginning: the same instances, none of them reset."""
    then, these = (set(one.merged_from or [one.instance_id]) for one in (before, now))
    return then == these and before.generation == now.generation


def _less(now: Any, before: Any) -> Any:
    """What is more in ``now``: of numbers the difference, of tables that of each entry, of structs each field's."""
    if isinstance(now, _NUMBERS):  # first: they are most, and 200 engines are compared at a key
        return now if before is None or (isinstance(before, float) and math.isnan(before)) else now - before
    if isinstance(now, Totals):
        return Totals(**{name: _less(getattr(now, name), getattr(before, name)) for name in now.__struct_fields__})
    if isinstance(now, Mapping):
        earlier = before if isinstance(before, Mapping) else {}
        return {key: _less(value, earlier.get(key)) for key, value in now.items()}
    return now


def _falls(value: Any) -> bool:
    if isinstance(value, _NUMBERS):
        return value < -1e-6  # seconds are floats: their sums may end differently
    if isinstance(value, Totals):
        return any(_falls(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, Mapping):
        return any(map(_falls, value.values()))
    return False


def _requests(before: RequestStatistics, now: MetricsSnapshot, window: str) -> RequestStatistics:
    found = now.windowed.get(window, WindowStatistics()).summaries
    names = RequestStatistics.__struct_fields__
    counts = {name: max(0, getattr(now.request_stats, name) - getattr(before, name)) for name in _OUTCOMES}
    recent: dict[str, Any] = {name: summary for name, summary in found.items() if name in names}
    return msgspec.structs.replace(now.request_stats, **counts, **recent)


def _iterations(now: IterationStatistics, totals: Totals) -> IterationStatistics:
    busy = totals.busy_seconds
    by_limiter = totals.busy_seconds_by_limiter
    return msgspec.structs.replace(
        now,
        total_iterations=totals.iterations,
        preemptions=totals.preemptions,
        limited_by={name: _ratio(seconds, busy) for name, seconds in by_limiter.items()},
        lost_slot_seconds=dict(totals.lost_slot_seconds_by_limiter),
        busy_ratio=min(_ratio(busy, totals.rank_seconds), 1.0),  # one that began before counts whole at its end
        time_weighted_utilization=_ratio(totals.used_slot_seconds, totals.slot_seconds),
        average_waiting_requests=_ratio(totals.waiting_request_seconds, totals.waiting_reported_seconds),
        limiter_reported_ratio=_ratio(totals.busy_seconds_reported, busy),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else nan


def _errors(totals: Totals, now: MetricsSnapshot, before: MetricsSnapshot) -> ErrorStatistics:
    total = now.error_stats.total_errors - before.error_stats.total_errors
    finished = now.request_stats.total_requests - before.request_stats.total_requests
    return ErrorStatistics(
        total_errors=max(0, total),
        errors_by_type={name: number for name, number in totals.errors_by_type.items() if number},
        error_rate=_ratio(max(0, total), finished),
        last_error_time=now.error_stats.last_error_time,
    )


def _slo(slo: SloStatistics, name: str, totals: Totals, seconds: float) -> SloStatistics:
    counted = totals.slo_requests.get(name, {})
    results = {result: counted.get(result.name.lower(), 0) for result in SloResult}
    missed_by = totals.slo_missed_by.get(name, {})
    return attainment(slo.targets, results, missed_by, results[SloResult.MET] / seconds)
