"""Several snapshots as one: what one collector would have given for the records of all of them.

Counts, sums and histograms add; every ratio, mean, rate and percentile is computed again from added parts, by
the arithmetic that a collector's own statistics use. No result depends on the order or the grouping.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import msgspec

from batchscope.aggregation.exponential_histogram import ExponentialHistogram
from batchscope.aggregation.slo import SloResult
from batchscope.configuration import SchedulerLimits
from batchscope.errors import MergeError
from batchscope.records import EngineInfo
from batchscope.statistics import summaries
from batchscope.statistics.build import WINDOWS, window_statistics
from batchscope.statistics.distributions import merged, summarize_histogram
from batchscope.statistics.iterations import batch_statistics, iteration_statistics
from batchscope.statistics.requests import PROCESSING_MEAN, QUEUE_MEAN, TOKENS_MEAN, attainment
from batchscope.statistics.snapshot import Histograms, MetricsSnapshot
from batchscope.statistics.totals import Gauges, Mean, Totals, WindowTotals

MIXED = "mixed"
"""The role of a merge of several roles, the engine of several engines."""
_LATENCIES = (
    "queue_time", "prefill_time", "time_to_first_token", "time_per_output_token", "decode_time",
    "preempted_time", "total_time", "inter_token_latency", "inter_emission_latency",
)  # fmt: skip
_ADDING_GAUGES = (
    "requests_in_flight", "requests_running", "requests_waiting", "requests_deferred", "requests_overdue",
    "memory_bytes_used",
)  # fmt: skip
_OUTCOMES = ("total_requests", "completed_requests", "failed_requests", "cancelled_requests")


def merge_snapshots(snapshots: Sequence[MetricsSnapshot]) -> MetricsSnapshot:
    """One snapshot of all: merging merges gives the same as merging all at once.

    Percentiles come from the merged histograms (``source`` says so) and cover the time since the start.
    MergeError without snapshots, for an instance that would count twice, for histograms that were left out
    and for different rate windows.
    """
    instances = _checked_instances(snapshots)
    parts = _merged_parts(snapshots)
    limits = _limits(snapshots)
    return MetricsSnapshot(
        request_stats=_request_statistics(snapshots, parts),
        iteration_stats=_iteration_statistics(parts, limits),
        batch_stats=_batch_statistics(snapshots, parts),
        error_stats=_error_statistics(snapshots),
        slo_stats=_slo_statistics(snapshots, parts.window),
        resource_stats=_resources(snapshots),
        snapshot_time=max(snapshot.snapshot_time for snapshot in snapshots),
        totals=parts.totals,
        gauges=_gauges(snapshots, limits),
        windowed={
            name: window_statistics(WINDOWS.get(name, math.nan), parts.elapsed, histograms)
            for name, histograms in parts.windowed.items()
        },
        histograms=parts.histograms,
        windowed_histograms=parts.windowed,
        engine=_engine([snapshot.engine for snapshot in snapshots]),
        definitions=_common([snapshot.definitions for snapshot in snapshots]),
        limits=limits,
        labels=_common([snapshot.labels for snapshot in snapshots]),
        role=_same([snapshot.role for snapshot in snapshots]),
        started_at=min(snapshot.started_at for snapshot in snapshots),
        elapsed_seconds=parts.elapsed,
        generation=sum(snapshot.generation for snapshot in snapshots),
        sequence=sum(snapshot.sequence for snapshot in snapshots),
        means=dict(parts.means),
        window=parts.window,
        merged_from=instances,
    )


class _Parts(NamedTuple):
    """What adds up, added up."""

    totals: Totals
    means: dict[str, Mean]
    window: WindowTotals
    histograms: Histograms
    windowed: dict[str, Histograms]
    elapsed: float

    def summary(self, name: str) -> summaries.DistributionSummary:
        """A histogram in seven numbers, its request classes together."""
        return summarize_histogram(merged(self.histograms.get(name, {}).values()), self.elapsed)


def _merged_parts(snapshots: Sequence[MetricsSnapshot]) -> _Parts:
    return _Parts(
        totals=_totals([snapshot.totals for snapshot in snapshots]),
        means=defaultdict(Mean, _added(snapshot.means for snapshot in snapshots)),
        window=_window([snapshot.window for snapshot in snapshots]),
        histograms=_added(snapshot.histograms for snapshot in snapshots),
        windowed=_added(snapshot.windowed_histograms for snapshot in snapshots),
        elapsed=max(_known(snapshot.elapsed_seconds for snapshot in snapshots), default=math.nan),
    )


def _checked_instances(snapshots: Sequence[MetricsSnapshot]) -> list[str]:
    if not snapshots:
        raise MergeError("no snapshots: expected at least one to merge")
    instances: list[str] = []
    for snapshot in snapshots:
        own = snapshot.merged_from or [name for name in (snapshot.instance_id,) if name]
        if not snapshot.histograms and _observed(snapshot):
            raise MergeError(f"no histograms of instance {own}: ask for histograms, to_json(histograms=True)")
        instances += own
    twice = sorted(instance for instance, number in Counter(instances).items() if number > 1)
    if twice:
        raise MergeError(f"instance {', '.join(twice)} would count twice: expected one snapshot of each")
    return sorted(instances)


def _observed(snapshot: MetricsSnapshot) -> bool:
    """Whether anything was counted that belongs in a histogram."""
    requests, totals = snapshot.request_stats, snapshot.totals
    gaps = requests.inter_token_latency.count + requests.inter_emission_latency.count
    return bool(requests.total_requests or totals.requests_received or totals.iterations or gaps)


def _added(values: Iterable[Any]) -> Any:
    """The sum of those numbers, means or histograms that are known, or of tables of them by key."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if not isinstance(known[0], dict):
        return _histogram(known) if isinstance(known[0], ExponentialHistogram) else reduce(add, known)
    keys = dict.fromkeys(key for table in known for key in table)
    return {key: _added(table[key] for table in known if key in table) for key in keys}


def _sums(found: Sequence[msgspec.Struct], fields: Iterable[str]) -> dict[str, Any]:
    return {field: _added(getattr(part, field) for part in found) for field in fields}


def _totals(found: Sequence[Totals]) -> Totals:
    summed = Totals(**_sums(found, Totals.__struct_fields__))
    of_iterations, of_requests = summed.generation_tokens_of_iterations, summed.generation_tokens_of_requests
    return msgspec.structs.replace(summed, generation_tokens=of_iterations if summed.iterations else of_requests)


def _window(found: Sequence[WindowTotals]) -> WindowTotals:
    lengths = sorted(set(_known(window.window_seconds for window in found)))
    if len(lengths) > 1:
        raise MergeError(f"rates over windows of {lengths} s do not add up: expected one counter_window_seconds")
    return WindowTotals(
        window_seconds=lengths[0] if lengths else math.nan,
        elapsed_seconds=max(_known(window.elapsed_seconds for window in found), default=math.nan),
        **_sums(found, [field for field in WindowTotals.__struct_fields__ if not field.endswith("_seconds")]),
    )


def _histogram(series: Sequence[ExponentialHistogram]) -> ExponentialHistogram:
    """One of all; exact counts at thresholds survive where all have the same ones."""
    if len({histogram.thresholds for histogram in series}) > 1:
        return merged(series)
    whole = series[0].copy()
    for histogram in series[1:]:
        whole.merge(histogram)
    return whole


def _request_statistics(snapshots: Sequence[MetricsSnapshot], parts: _Parts) -> summaries.RequestStatistics:
    means, window, totals = parts.means, parts.window, parts.totals
    latencies: dict[str, Any] = {name: parts.summary(name) for name in _LATENCIES}
    total_time = latencies["total_time"]
    in_window = window.tokens_of_iterations if totals.iterations else window.tokens_of_requests
    return summaries.RequestStatistics(
        **_sums([snapshot.request_stats for snapshot in snapshots], _OUTCOMES),
        average_tokens_per_request=means[TOKENS_MEAN].value,
        p50_latency=total_time.p50,
        p95_latency=total_time.p95,
        p99_latency=total_time.p99,
        requests_per_second=window.rate(window.requests),
        tokens_per_second=window.rate(in_window),
        average_queue_time=means[QUEUE_MEAN].value,
        average_processing_time=means[PROCESSING_MEAN].value,
        rejected_records=dict(totals.rejected_records),
        **latencies,
    )


def _iteration_statistics(parts: _Parts, limits: SchedulerLimits) -> summaries.IterationStatistics:
    duration = parts.summary("iteration_duration")
    statistics = iteration_statistics(parts.totals, parts.means, parts.window, duration)
    if limits.max_running_requests is None:  # then slot_seconds are those of some engines only
        return msgspec.structs.replace(statistics, time_weighted_utilization=math.nan)
    return statistics


def _batch_statistics(snapshots: Sequence[MetricsSnapshot], parts: _Parts) -> summaries.BatchStatistics:
    found = [snapshot.batch_stats for snapshot in snapshots]
    smallest = [batches.min_batch_size for batches in found if batches.min_batch_size is not None]
    largest = [batches.max_batch_size for batches in found if batches.max_batch_size is not None]
    total = sum(batches.total_batches for batches in found)
    return batch_statistics(total, parts.means, min(smallest, default=None), max(largest, default=None))


def _error_statistics(snapshots: Sequence[MetricsSnapshot]) -> summaries.ErrorStatistics:
    found = [snapshot.error_stats for snapshot in snapshots]
    total = sum(errors.total_errors for errors in found)
    finished = sum(snapshot.request_stats.total_requests for snapshot in snapshots)
    times = [errors.last_error_time for errors in found if errors.last_error_time is not None]
    return summaries.ErrorStatistics(
        total_errors=total,
        errors_by_type=_added(errors.errors_by_type for errors in found),
        error_rate=total / finished if finished else math.nan,
        last_error_time=max(times, default=None),
    )


def _slo_statistics(snapshots: Sequence[MetricsSnapshot], window: WindowTotals) -> dict[str, summaries.SloStatistics]:
    """Each request was judged by its own engine's targets; those shown are the ones that all agree on."""
    by_class: dict[str, list[summaries.SloStatistics]] = {}
    for snapshot in snapshots:
        for name, statistics in snapshot.slo_stats.items():
            by_class.setdefault(name, []).append(statistics)
    return {
        name: attainment(
            _common([statistics.targets for statistics in found]),
            {result: _added(getattr(part, result.name.lower()) for part in found) for result in SloResult},
            _added(statistics.missed_by for statistics in found),
            window.rate(window.slo_met.get(name, 0)),
        )
        for name, found in by_class.items()
    }


def _gauges(snapshots: Sequence[MetricsSnapshot], limits: SchedulerLimits) -> Gauges:
    found = [snapshot.gauges for snapshot in snapshots]
    waits = _known(gauges.oldest_waiting_seconds for gauges in found)
    ages = _known(gauges.seconds_since_last_iteration for gauges in found)
    return Gauges(
        **_sums(found, _ADDING_GAUGES),
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


def _limits(snapshots: Sequence[MetricsSnapshot]) -> SchedulerLimits:
    """The capacity of all together; not known where an engine that ran does not say its own."""
    ran = [snapshot.limits for snapshot in snapshots if snapshot.totals.iterations]
    fields = SchedulerLimits.__struct_fields__
    known = [field for field in fields if all(getattr(limits, field) is not None for limits in ran)]
    return SchedulerLimits(**_sums([snapshot.limits for snapshot in snapshots], known))


def _resources(snapshots: Sequence[MetricsSnapshot]) -> dict[str, summaries.ResourceStatistics]:
    """All resources, as ``instance_id/name``: a name does not depend on who else is merged."""
    resources: dict[str, summaries.ResourceStatistics] = {}
    for snapshot in snapshots:
        prefix = "" if snapshot.merged_from or not snapshot.instance_id else f"{snapshot.instance_id}/"
        for name, statistics in snapshot.resource_stats.items():
            if prefix + name in resources:
                raise MergeError(f"resource {prefix + name!r} comes twice: expected snapshots with an instance_id")
            resources[prefix + name] = statistics
    return resources


def _engine(found: Sequence[EngineInfo]) -> EngineInfo:
    return EngineInfo(_same([engine.kind for engine in found]), _same([engine.version for engine in found]))


def _same(names: Sequence[str]) -> str:
    """The one name, or ``mixed``."""
    distinct = set(names)
    return distinct.pop() if len(distinct) == 1 else MIXED


def _common(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all agree on."""
    first, *others = tables
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]
