"""Several snapshots as one: what one collector would have given for the records of all of them.

Counts, sums and histograms add; every ratio, mean, rate and percentile is computed again from added parts, by
the arithmetic that a collector's own statistics use. No result depends on the order or the grouping.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from batchscope.aggregation.slo import SloResult
from batchscope.configuration import SchedulerLimits
from batchscope.errors import MergeError
from batchscope.records import EngineInfo
from batchscope.statistics import summaries
from batchscope.statistics.build import WINDOWS, window_statistics
from batchscope.statistics.distributions import merged, summarize_histogram
from batchscope.statistics.iterations import batch_statistics, iteration_statistics
from batchscope.statistics.merge_gauges import merge_gauges, merge_limits
from batchscope.statistics.merge_parts import added, common, measured, same, sums
from batchscope.statistics.requests import attainment, request_statistics
from batchscope.statistics.resources import merge_energy, merge_facts, merge_resources
from batchscope.statistics.snapshot import Histograms, MetricsSnapshot
from batchscope.statistics.totals import Mean, Totals, WindowTotals, chosen, counted_once, engine_name

_LATENCIES = (
    "queue_time", "prefill_time", "time_to_first_token", "time_per_output_token", "decode_time",
    "preempted_time", "total_time", "inter_token_latency", "inter_emission_latency",
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
    limits = merge_limits(snapshots)
    return MetricsSnapshot(
        request_stats=_request_statistics(snapshots, parts),
        iteration_stats=_iteration_statistics(parts, limits),
        batch_stats=_batch_statistics(snapshots, parts),
        error_stats=_error_statistics(snapshots),
        slo_stats=_slo_statistics(snapshots, parts.window),
        resource_stats=merge_resources(snapshots),
        resource_facts=merge_facts(snapshots),
        energy_stats=merge_energy(snapshots),
        snapshot_time=max(snapshot.snapshot_time for snapshot in snapshots),
        totals=parts.totals,
        gauges=merge_gauges(snapshots, limits),
        windowed={
            name: window_statistics(WINDOWS.get(name, math.nan), parts.elapsed, histograms)
            for name, histograms in parts.windowed.items()
        },
        histograms=parts.histograms,
        windowed_histograms=parts.windowed,
        engine=_engine([snapshot.engine for snapshot in snapshots]),
        definitions=common([snapshot.definitions for snapshot in snapshots]),
        limits=limits,
        labels=common([snapshot.labels for snapshot in snapshots]),
        role=same([snapshot.role for snapshot in snapshots]),
        started_at=min(snapshot.started_at for snapshot in snapshots),
        elapsed_seconds=parts.elapsed,
        generation=added(snapshot.generation for snapshot in snapshots),
        sequence=added(snapshot.sequence for snapshot in snapshots),
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
        totals=_totals([_totals_by_engine(snapshot) for snapshot in snapshots]),
        means=defaultdict(Mean, added(snapshot.means for snapshot in snapshots)),
        window=_window([_window_by_engine(snapshot) for snapshot in snapshots]),
        histograms=added(snapshot.histograms for snapshot in snapshots),
        windowed=added(snapshot.windowed_histograms for snapshot in snapshots),
        elapsed=max(measured(snapshot.elapsed_seconds for snapshot in snapshots), default=math.nan),
    )


def _checked_instances(snapshots: Sequence[MetricsSnapshot]) -> list[str]:
    if not snapshots:
        raise MergeError("no snapshots: expected at least one to merge")
    for snapshot in snapshots:
        if not isinstance(snapshot, MetricsSnapshot):
            raise MergeError(f"cannot merge a {type(snapshot).__name__}: expected snapshots, merge(one, other, ...)")
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


def _totals(found: Sequence[Totals]) -> Totals:
    """Tokens are chosen by engine before they are added: two processes of one engine tell of the same ones."""
    summed = Totals(**sums(found, Totals.__struct_fields__))
    by_engine = chosen(summed.generation_tokens_by_engine)
    return msgspec.structs.replace(
        summed, generation_tokens=counted_once(by_engine), generation_tokens_by_engine=by_engine
    )


def _totals_by_engine(snapshot: MetricsSnapshot) -> Totals:
    """The totals; of a document that does not say whose its tokens are, they are those of its labels."""
    totals = snapshot.totals
    if totals.generation_tokens_by_engine or not totals.generation_tokens:
        return totals
    told = {"iterations" if totals.iterations else "requests": totals.generation_tokens}
    name = engine_name(snapshot.role, snapshot.labels)
    return msgspec.structs.replace(totals, generation_tokens_by_engine={name: told})


def _window_by_engine(snapshot: MetricsSnapshot) -> WindowTotals:
    """The window, likewise."""
    window = snapshot.window
    if window.tokens_by_engine or not (window.tokens_of_iterations or window.tokens_of_requests):
        return window
    iterated = snapshot.totals.iterations > 0
    told = {"iterations": window.tokens_of_iterations} if iterated else {"requests": window.tokens_of_requests}
    return msgspec.structs.replace(window, tokens_by_engine={engine_name(snapshot.role, snapshot.labels): told})


def _window(found: Sequence[WindowTotals]) -> WindowTotals:
    lengths = sorted(set(measured(window.window_seconds for window in found)))
    if len(lengths) > 1:
        raise MergeError(f"rates over windows of {lengths} s do not add up: expected one counter_window_seconds")
    summed = sums(found, [field for field in WindowTotals.__struct_fields__ if not field.endswith("_seconds")])
    return WindowTotals(
        window_seconds=lengths[0] if lengths else math.nan,
        elapsed_seconds=max(measured(window.elapsed_seconds for window in found), default=math.nan),
        **summed | {"tokens_by_engine": chosen(summed["tokens_by_engine"])},
    )


def _request_statistics(snapshots: Sequence[MetricsSnapshot], parts: _Parts) -> summaries.RequestStatistics:
    counts = sums([snapshot.request_stats for snapshot in snapshots], _OUTCOMES)
    latencies = {name: parts.summary(name) for name in _LATENCIES}
    return request_statistics(counts, parts.means, parts.window, latencies, parts.totals.rejected_records)


def _iteration_statistics(parts: _Parts, limits: SchedulerLimits) -> summaries.IterationStatistics:
    duration = parts.summary("iteration_duration")
    statistics = iteration_statistics(parts.totals, parts.means, parts.window, duration)
    unknown: dict[str, float] = {}
    if limits.max_running_requests is None:  # then they are of some engines only
        unknown |= {"average_utilization": math.nan, "time_weighted_utilization": math.nan}
    if limits.max_scheduled_tokens is None:
        unknown |= {"token_utilization": math.nan}
    return msgspec.structs.replace(statistics, **unknown)


def _batch_statistics(snapshots: Sequence[MetricsSnapshot], parts: _Parts) -> summaries.BatchStatistics:
    found = [snapshot.batch_stats for snapshot in snapshots]
    smallest = [batches.min_batch_size for batches in found if batches.min_batch_size is not None]
    largest = [batches.max_batch_size for batches in found if batches.max_batch_size is not None]
    total: int = added(batches.total_batches for batches in found)
    return batch_statistics(total, parts.means, min(smallest, default=None), max(largest, default=None))


def _error_statistics(snapshots: Sequence[MetricsSnapshot]) -> summaries.ErrorStatistics:
    found = [snapshot.error_stats for snapshot in snapshots]
    total: int = added(errors.total_errors for errors in found)
    finished = sum(snapshot.request_stats.total_requests for snapshot in snapshots)
    times = [errors.last_error_time for errors in found if errors.last_error_time is not None]
    return summaries.ErrorStatistics(
        total_errors=total,
        errors_by_type=added(errors.errors_by_type for errors in found),
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
            common([statistics.targets for statistics in found]),
            {result: added(getattr(part, result.name.lower()) for part in found) for result in SloResult},
            added(statistics.missed_by for statistics in found),
            window.rate(window.slo_met.get(name, 0)),
        )
        for name, found in by_class.items()
    }


def _engine(found: Sequence[EngineInfo]) -> EngineInfo:
    return EngineInfo(same([engine.kind for engine in found]), same([engine.version for engine in found]))
