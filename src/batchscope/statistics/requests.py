"""RequestStatistics and SloStatistics from what was aggregated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from batchscope.aggregation.request_histograms import AT_FINISH, AT_START
from batchscope.aggregation.requests import RequestAggregate
from batchscope.aggregation.slo import COMPLETED, OUTCOME_OF_REASON, SloResult, wilson_interval
from batchscope.aggregation.state import State
from batchscope.configuration import SloTargets
from batchscope.records import CompletionReason, Outcome
from batchscope.rows import RequestColumn
from batchscope.statistics.distributions import mean_of, span_of, summarize, summarize_histogram
from batchscope.statistics.merge_parts import added
from batchscope.statistics.summaries import DistributionSummary, RequestStatistics, SloStatistics
from batchscope.statistics.totals import Mean, WindowTotals, counted_once

TOKENS_MEAN = "tokens_per_request"
PROCESSING_MEAN = "processing_time"
QUEUE_MEAN = "queue_time"
_OUTCOME_OF: Mapping[str, Outcome] = {reason: reason.outcome for reason in CompletionReason}


def request_statistics(
    counts: Mapping[str, int],
    means: Mapping[str, Mean],
    window: WindowTotals,
    summaries: Mapping[str, DistributionSummary],
    rejected: Mapping[str, int] = {},
) -> RequestStatistics:
    """The statistics from their parts, wherever those are from; ``counts``: see ``outcomes``."""
    total_time = summaries["total_time"]
    as_they_are: dict[str, Any] = {**counts, **summaries}
    return RequestStatistics(
        average_tokens_per_request=means[TOKENS_MEAN].value,
        p50_latency=total_time.p50,
        p95_latency=total_time.p95,
        p99_latency=total_time.p99,
        requests_per_second=window.rate(window.requests),
        tokens_per_second=window.rate(counted_once(window.tokens_by_engine)),
        average_queue_time=means[QUEUE_MEAN].value,
        average_processing_time=means[PROCESSING_MEAN].value,
        rejected_records=dict(rejected),
        **as_they_are,
    )


def outcomes(by_reason: Mapping[str, int]) -> dict[str, int]:
    """Finished requests, all and by outcome, as the statistics call them."""
    counts = dict.fromkeys(Outcome, 0)
    for reason, count in by_reason.items():
        counts[_OUTCOME_OF[reason]] += count
    return {"total_requests": sum(counts.values())} | {f"{one}_requests": count for one, count in counts.items()}


def samples_of_completed(state: State, elapsed: float) -> tuple[dict[str, DistributionSummary], dict[str, Mean]]:
    """Distributions and means over the last completed requests; of latencies between tokens over all, as estimates."""
    samples = state.requests.samples
    completed = OUTCOME_OF_REASON[samples.column(RequestColumn.REASON).astype(np.int64)] == COMPLETED
    span = span_of(samples.column(RequestColumn.AT)[completed])
    summaries = {
        name: summarize(samples.column(column)[completed], span) for name, column in {**AT_START, **AT_FINISH}.items()
    }
    means = {
        TOKENS_MEAN: mean_of(samples.column(RequestColumn.TOKENS_GENERATED)[completed]),
        PROCESSING_MEAN: mean_of(samples.column(RequestColumn.PROCESSING_TIME)[completed]),
        QUEUE_MEAN: mean_of(samples.column(RequestColumn.QUEUE_TIME)[completed]),
    }
    summaries["inter_token_latency"] = summarize_histogram(state.inter_token_latency.lifetime, elapsed)
    summaries["inter_emission_latency"] = summarize_histogram(state.inter_emission_latency.lifetime, elapsed)
    return summaries, means


def slo_statistics(
    requests: RequestAggregate, targets: Mapping[str, SloTargets], window: WindowTotals
) -> dict[str, SloStatistics]:
    """Attainment by request class, of the classes that have targets."""
    statistics = {}
    for code, (name, wanted) in enumerate(targets.items()):
        if wanted.declared:
            results = dict(zip(SloResult, requests.slo_results[code].tolist(), strict=True))
            statistics[name] = attainment(
                wanted.declared, results, requests.missed_by[code], window.rate(window.slo_met.get(name, 0))
            )
    return statistics


def attainment(
    targets: Mapping[str, float], results: Mapping[SloResult, int], missed_by: Mapping[str, int], goodput: float
) -> SloStatistics:
    """The statistics of one class from its counts."""
    met, missed = results[SloResult.MET], results[SloResult.MISSED]
    low, high = wilson_interval(met, met + missed)
    return SloStatistics(
        targets=dict(targets),
        evaluated=added((met, missed)),
        met=met,
        missed=missed,
        unmeasured=results[SloResult.UNMEASURED],
        not_evaluated=results[SloResult.NOT_EVALUATED],
        missed_by=dict(missed_by),
        attainment=met / (met + missed) if met + missed else float("nan"),
        attainment_low=low,
        attainment_high=high,
        goodput_per_second=goodput,
    )
