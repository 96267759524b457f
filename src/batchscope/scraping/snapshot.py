"""From figures to the document: which field of a ``MetricsSnapshot`` says what, and what stays unsaid."""

from __future__ import annotations

import datetime as dt
import math
from typing import NamedTuple

from batchscope.configuration import SchedulerLimits
from batchscope.records import CompletionReason, EngineInfo, Outcome
from batchscope.scraping.documents import (
    BUCKETS,
    BUCKETS_SINCE_START,
    IntervalSummary,
    RatioSpan,
    ScrapedSnapshot,
    ScrapeWindow,
)
from batchscope.scraping.intervals import Buckets
from batchscope.scraping.sums import TargetSums, over_reasons
from batchscope.scraping.table import NUMBERS, Quantity
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import (
    BatchStatistics,
    DistributionSummary,
    ErrorStatistics,
    IterationStatistics,
    RequestStatistics,
)
from batchscope.statistics.totals import LARGEST, Gauges, Totals, WindowTotals

_SUMMARIES = (
    Quantity.QUEUE_TIME, Quantity.PREFILL_TIME, Quantity.TIME_TO_FIRST_TOKEN, Quantity.TIME_PER_OUTPUT_TOKEN,
    Quantity.DECODE_TIME, Quantity.PREEMPTED_TIME, Quantity.TOTAL_TIME, Quantity.INTER_TOKEN_LATENCY,
    Quantity.INTER_EMISSION_LATENCY,
)  # fmt: skip
_PER_ITERATION = {Quantity.ITERATIONS, Quantity.SCHEDULED_REQUESTS, Quantity.GENERATION_TOKENS}
_NO_SAMPLE_YET = "announced, without a value yet"
_NOT_ON_THE_PAGE = "not on the page"


class ScrapeIdentity(NamedTuple):
    """Which snapshot it is: of whom, after how many restarts seen, the how-manieth, and when."""

    instance: str
    generation: int
    sequence: int
    time: dt.datetime


def scraped_snapshot(
    figures: TargetSums, identity: ScrapeIdentity, announced: frozenset[Quantity] = frozenset()
) -> ScrapedSnapshot:
    """The document of one target or fleet."""
    return ScrapedSnapshot(
        snapshot=_snapshot(figures, identity),
        intervals={quantity: _intervals(figures, quantity) for quantity in figures.histograms},
        ratios=_ratios(figures),
        window=ScrapeWindow(figures.seconds, figures.since_start, figures.restarted),
        sources={quantity: figures.sources[quantity] for quantity in NUMBERS if quantity in figures.sources},
        not_given=not_given(figures, announced),
        not_merged=list(figures.not_merged),
        partial={quantity: figures.partial[quantity] for quantity in NUMBERS if quantity in figures.partial},
    )


def not_given(figures: TargetSums, announced: frozenset[Quantity] = frozenset()) -> dict[str, str]:
    """Canonical name -> why there is no value."""
    reasons = {**figures.engine.passing, **figures.engine.lacks}
    return {
        quantity: _NO_SAMPLE_YET if quantity in announced else reasons.get(quantity, _NOT_ON_THE_PAGE)
        for quantity in NUMBERS
        if quantity not in figures.given
    }


def _snapshot(figures: TargetSums, identity: ScrapeIdentity) -> MetricsSnapshot:
    started = figures.started if not math.isnan(figures.started) else identity.time.timestamp()
    limits = _limits(figures)
    return MetricsSnapshot(
        request_stats=_request_statistics(figures),
        iteration_stats=_iteration_statistics(figures),
        batch_stats=BatchStatistics(),
        error_stats=ErrorStatistics(),
        snapshot_time=identity.time,
        totals=_totals(figures),
        gauges=_gauges(figures, limits),
        engine=EngineInfo(figures.engine.kind, figures.version),
        definitions=figures.definitions,
        limits=limits,
        labels=figures.labels,
        started_at=dt.datetime.fromtimestamp(started, dt.UTC),
        elapsed_seconds=identity.time.timestamp() - figures.started,
        instance_id=identity.instance,
        generation=identity.generation,
        sequence=identity.sequence,
        window=_window(figures),
    )


def _outcomes(figures: TargetSums) -> dict[Outcome, int]:
    counts = dict.fromkeys(Outcome, 0)
    for key, value in figures.totals.items():
        if key.quantity is Quantity.REQUESTS_FINISHED:
            counts[CompletionReason(key.reason).outcome] += _whole(value)
    return counts


def _request_statistics(figures: TargetSums) -> RequestStatistics:
    outcomes = _outcomes(figures)
    means = {quantity: buckets.mean for quantity, buckets in figures.histograms.items()}
    return RequestStatistics(
        total_requests=sum(outcomes.values()),
        completed_requests=outcomes[Outcome.COMPLETED],
        failed_requests=outcomes[Outcome.FAILED],
        cancelled_requests=outcomes[Outcome.CANCELLED],
        average_tokens_per_request=means.get(Quantity.REQUEST_GENERATION_TOKENS, math.nan),
        requests_per_second=over_reasons(figures.rates, Quantity.REQUESTS_FINISHED),
        tokens_per_second=over_reasons(figures.rates, Quantity.GENERATION_TOKENS),
        average_queue_time=means.get(Quantity.QUEUE_TIME, math.nan),
        average_processing_time=means.get(Quantity.PROCESSING_TIME, math.nan),
        **{quantity.value: _summary(figures, quantity) for quantity in _SUMMARIES},  # type: ignore[arg-type]
    )


def _iteration_statistics(figures: TargetSums) -> IterationStatistics:
    """Utilization is left out: a page does not tell how many schedulers share the places that it counts."""
    iterations = over_reasons(figures.gains, Quantity.ITERATIONS)
    if not figures.partial.keys().isdisjoint(_PER_ITERATION):
        iterations = math.nan  # iterations of one engine do not divide what another one scheduled
    batch = _ratio(over_reasons(figures.gains, Quantity.SCHEDULED_REQUESTS), iterations)
    tokens = math.nan if figures.engine.tokens_at_finish else over_reasons(figures.gains, Quantity.GENERATION_TOKENS)
    duration = _summary(figures, Quantity.ITERATION_DURATION)
    return IterationStatistics(
        total_iterations=_whole(figures.total(Quantity.ITERATIONS)),
        average_requests_per_iteration=batch,
        average_tokens_per_iteration=_ratio(tokens, iterations),
        average_processing_time_ms=1e3 * duration.mean,
        iterations_per_second=over_reasons(figures.rates, Quantity.ITERATIONS),
        preemptions=_whole(figures.total(Quantity.PREEMPTIONS)),
        processing_time=duration,
    )


def _summary(figures: TargetSums, quantity: Quantity) -> DistributionSummary:
    """Count and mean; the percentiles are not numbers here: see the intervals."""
    source = BUCKETS_SINCE_START if figures.since_start else BUCKETS
    buckets = figures.histograms.get(quantity)
    if buckets is None:
        return DistributionSummary()
    return DistributionSummary(
        count=_whole(buckets.count), mean=buckets.mean, span_seconds=figures.seconds, source=source,
        relative_error=math.nan,
    )  # fmt: skip


def _intervals(figures: TargetSums, quantity: Quantity) -> IntervalSummary:
    buckets: Buckets = figures.histograms[quantity]
    return IntervalSummary(
        count=_whole(buckets.count),
        mean=buckets.mean,
        p50=buckets.quantile(50),
        p90=buckets.quantile(90),
        p95=buckets.quantile(95),
        p99=buckets.quantile(99),
        max=buckets.quantile(100),
        span_seconds=figures.seconds,
        since_start=figures.since_start,
        source=figures.sources.get(quantity, ""),
    )


def _ratios(figures: TargetSums) -> dict[str, RatioSpan]:
    ratios = [usage.ratio for usage in figures.usages]
    return {Quantity.KV_CACHE_USAGE: RatioSpan(min(ratios), max(ratios), len(ratios))} if ratios else {}


def _totals(figures: TargetSums) -> Totals:
    tokens = _whole(figures.total(Quantity.GENERATION_TOKENS))
    at_finish = figures.engine.tokens_at_finish
    return Totals(
        requests_received=_whole(figures.total(Quantity.REQUESTS_RECEIVED)),
        requests_by_reason={
            key.reason: _whole(value)
            for key, value in sorted(figures.totals.items())
            if key.quantity is Quantity.REQUESTS_FINISHED
        },
        prompt_tokens_computed=_known(figures.total(Quantity.PROMPT_TOKENS_COMPUTED)),
        prompt_tokens_cached=_known(figures.total(Quantity.PROMPT_TOKENS_CACHED)),
        generation_tokens=tokens,
        generation_tokens_of_iterations=0 if at_finish else tokens,
        generation_tokens_of_requests=tokens if at_finish else 0,
        draft_tokens=_known(figures.total(Quantity.DRAFT_TOKENS)),
        accepted_tokens=_known(figures.total(Quantity.ACCEPTED_TOKENS)),
        iterations=_whole(figures.total(Quantity.ITERATIONS)),
        preemptions=_whole(figures.total(Quantity.PREEMPTIONS)),
    )


def _gauges(figures: TargetSums, limits: SchedulerLimits) -> Gauges:
    running, waiting, deferred, memory = (
        _optional(figures, quantity)
        for quantity in (
            Quantity.REQUESTS_RUNNING, Quantity.REQUESTS_WAITING, Quantity.REQUESTS_DEFERRED,
            Quantity.MEMORY_BYTES_USED,
        )
    )  # fmt: skip
    return Gauges(
        requests_in_flight=sum(number or 0 for number in (running, waiting, deferred)),
        requests_running=running,
        requests_waiting=waiting,
        requests_deferred=deferred,
        kv_cache_usage=figures.usage,
        memory_bytes_used=memory,
        limit_running_requests=limits.max_running_requests,
        limit_scheduled_tokens=limits.max_scheduled_tokens,
        limit_kv_cache_blocks=limits.kv_cache_blocks,
    )


def _limits(figures: TargetSums) -> SchedulerLimits:
    """A limit of 0 is an engine's "not set yet"."""
    running, tokens, blocks = (
        _optional(figures, quantity) or None
        for quantity in (
            Quantity.LIMIT_RUNNING_REQUESTS, Quantity.LIMIT_SCHEDULED_TOKENS, Quantity.LIMIT_KV_CACHE_BLOCKS,
        )
    )  # fmt: skip
    return SchedulerLimits(running, tokens, blocks)


def _window(figures: TargetSums) -> WindowTotals:
    tokens = _whole(over_reasons(figures.gains, Quantity.GENERATION_TOKENS))
    at_finish = figures.engine.tokens_at_finish
    return WindowTotals(
        window_seconds=figures.seconds,
        elapsed_seconds=figures.seconds,
        requests=_whole(over_reasons(figures.gains, Quantity.REQUESTS_FINISHED)),
        iterations=_whole(over_reasons(figures.gains, Quantity.ITERATIONS)),
        tokens_of_iterations=0 if at_finish else tokens,
        tokens_of_requests=tokens if at_finish else 0,
    )


def _optional(figures: TargetSums, quantity: Quantity) -> int | None:
    value = figures.gauges.get(quantity)
    return None if value is None else max(0, _whole(value))


def _whole(value: float) -> int:
    """A count; 0 where it is not given. What no page can mean in earnest still fits a JSON number."""
    return 0 if math.isnan(value) else round(max(-LARGEST, min(value, LARGEST)))


def _known(value: float) -> int | None:
    """A count that an engine may not give."""
    return None if math.isnan(value) else _whole(value)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
