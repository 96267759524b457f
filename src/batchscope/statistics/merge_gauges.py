"""Present values and limits of several engines together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchscope.configuration import SchedulerLimits
from batchscope.statistics.merge_parts import common, measured, sums
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.totals import Gauges

_ADDING_GAUGES = (
    "requests_in_flight", "requests_running", "requests_waiting", "requests_deferred", "requests_overdue",
    "memory_bytes_used", "requests_by_adapter",
)  # fmt: skip
_CAPACITIES = ("max_running_requests", "max_scheduled_tokens", "kv_cache_blocks")
_SHAPE = ("kv_block_size", "pipeline_stages")


def merge_gauges(snapshots: Sequence[MetricsSnapshot], limits: SchedulerLimits) -> Gauges:
    """Counts add; ages are the worst wait and the last sign of life; ``limits`` are those of all together."""
    found = [snapshot.gauges for snapshot in snapshots]
    waits = measured(gauges.oldest_waiting_seconds for gauges in found)
    ages = measured(gauges.seconds_since_last_iteration for gauges in found)
    return Gauges(
        **sums(found, _ADDING_GAUGES),
        oldest_waiting_seconds=max(waits, default=math.nan),
        seconds_since_last_iteration=min(ages, default=math.nan),
        kv_cache_usage=_kv_cache_usage(snapshots, limits.kv_cache_blocks),
        limit_running_requests=limits.max_running_requests,
        limit_scheduled_tokens=limits.max_scheduled_tokens,
        limit_kv_cache_blocks=limits.kv_cache_blocks,
    )


def _kv_cache_usage(snapshots: Sequence[MetricsSnapshot], blocks: int | None) -> float:
    """Used blocks / all ``blocks``; ``nan`` where an engine's is not known: one engine's is not the fleet's."""
    engines = [
        (snapshot.gauges.kv_cache_usage, snapshot.limits.kv_cache_blocks)
        for snapshot in snapshots
        if snapshot.totals.iterations
        or snapshot.limits.kv_cache_blocks is not None
        or not math.isnan(snapshot.gauges.kv_cache_usage)
    ]
    if len(engines) == 1:
        return engines[0][0]
    if not engines or blocks is None:
        return math.nan
    return sum(usage * own if own is not None else math.nan for usage, own in engines) / blocks


def merge_limits(snapshots: Sequence[MetricsSnapshot]) -> SchedulerLimits:
    """The capacity of all together; not known where an engine that ran does not say its own.

    What is no capacity, block size and stages, is what those that ran agree on.
    """
    ran = [snapshot.limits for snapshot in snapshots if snapshot.totals.iterations]
    told = [field for field in _CAPACITIES if all(getattr(limits, field) is not None for limits in ran)]
    shape = common([{field: getattr(limits, field) for field in _SHAPE} for limits in ran] or [{}])
    return SchedulerLimits(**sums([snapshot.limits for snapshot in snapshots], told), **shape)
