"""IterationStatistics and BatchStatistics from what was aggregated."""

from __future__ import annotations

import numpy as np

from batchscope.aggregation.batches import BatchAggregate
from batchscope.aggregation.iterations import IterationAggregate
from batchscope.rows import BatchColumn, Floats, IterationColumn
from batchscope.statistics.distributions import mean_of, span_of, summarize
from batchscope.statistics.summaries import BatchStatistics, DistributionSummary, IterationStatistics
from batchscope.statistics.totals import Mean, Totals, WindowTotals

C = IterationColumn


def iteration_means(iterations: IterationAggregate) -> dict[str, Mean]:
    """Means over the last samples, by name; a utilization is that of each record at the limits of its time."""
    column = iterations.samples.column
    return {
        "requests_per_iteration": mean_of(column(C.REQUEST_COUNT)),
        "tokens_per_iteration": mean_of(column(C.TOKENS_GENERATED)),
        "memory_bytes_per_iteration": mean_of(column(C.MEMORY_BYTES_USED)),
        "iteration_processing_time": mean_of(column(C.PROCESSING_TIME)),
        "waiting_requests": mean_of(column(C.WAITING_REQUESTS)),
        "kv_cache_usage": mean_of(column(C.KV_CACHE_USAGE)),
        "utilization": mean_of(column(C.UTILIZATION)),
        "token_utilization": mean_of(column(C.TOKEN_UTILIZATION)),
    }


def iteration_statistics(
    totals: Totals, means: dict[str, Mean], window: WindowTotals, processing_time: DistributionSummary
) -> IterationStatistics:
    """The statistics from their parts; a merged snapshot's come from merged parts by the same arithmetic."""
    busy = totals.busy_seconds
    return IterationStatistics(
        total_iterations=totals.iterations,
        average_requests_per_iteration=means["requests_per_iteration"].value,
        average_tokens_per_iteration=means["tokens_per_iteration"].value,
        average_memory_bytes_per_iteration=means["memory_bytes_per_iteration"].value,
        average_processing_time_ms=means["iteration_processing_time"].value * 1000,
        iterations_per_second=window.rate(window.iterations),
        average_utilization=means["utilization"].value,
        limited_by={limiter: _ratio(time, busy) for limiter, time in totals.busy_seconds_by_limiter.items()},
        lost_slot_seconds=dict(totals.lost_slot_seconds_by_limiter),
        busy_ratio=_ratio(busy, totals.rank_seconds),
        time_weighted_utilization=_ratio(totals.used_slot_seconds, totals.slot_seconds),
        token_utilization=means["token_utilization"].value,
        average_waiting_requests=means["waiting_requests"].value,
        average_kv_cache_usage=means["kv_cache_usage"].value,
        preemptions=totals.preemptions,
        limiter_reported_ratio=_ratio(totals.busy_seconds_reported, busy),
        processing_time=processing_time,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def processing_times(iterations: IterationAggregate) -> DistributionSummary:
    """How long the last iterations took."""
    samples = iterations.samples
    return summarize(samples.column(C.PROCESSING_TIME), span_of(samples.column(C.AT)))


def batch_means(batches: BatchAggregate) -> dict[str, Mean]:
    """Means over the last samples, by name."""
    column = batches.samples.column
    return {
        "batch_size": mean_of(column(BatchColumn.REQUEST_COUNT)),
        "batch_utilization": mean_of(column(BatchColumn.UTILIZATION)),
        "memory_bytes_per_batch": mean_of(column(BatchColumn.MEMORY_BYTES_USED)),
    }


def batch_sizes(batches: BatchAggregate) -> tuple[int | None, int | None]:
    """The smallest and the largest batch of the last samples."""
    sizes: Floats = batches.samples.column(BatchColumn.REQUEST_COUNT)
    known = sizes[~np.isnan(sizes)]
    return (int(known.min()), int(known.max())) if len(known) else (None, None)


def batch_statistics(total: int, means: dict[str, Mean], smallest: int | None, largest: int | None) -> BatchStatistics:
    """The statistics from their parts."""
    return BatchStatistics(
        total_batches=total,
        average_batch_size=means["batch_size"].value,
        average_utilization=means["batch_utilization"].value,
        average_memory_bytes_per_batch=means["memory_bytes_per_batch"].value,
        max_batch_size=largest,
        min_batch_size=smallest,
    )
