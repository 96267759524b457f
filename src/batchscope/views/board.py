"""The board: the figures that people are shown, of a collector's snapshot or of a scraped page, in one plain model.

Report, ``watch`` and every other view draw on it: they choose, order and word; what is to be computed is computed here,
once. Durations are seconds, ratios 0..1, rates a second; ``nan`` or None where nothing was measured, never 0. All of it
is structs and scalars, so ``msgspec.json.encode(board)`` is its JSON document.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from math import nan

import msgspec

from batchscope.configuration import OTHER_CLASS, SchedulerLimits
from batchscope.records import BatchLimiter, CompletionReason, EngineInfo, Outcome
from batchscope.scraping.documents import Interval, IntervalSummary, RatioSpan, ScrapedSnapshot, ScrapeWindow
from batchscope.scraping.table import DURATIONS, Quantity
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import DistributionSummary, SloStatistics
from batchscope.statistics.totals import Totals

UNKNOWN_INTERVAL = (nan, nan)
_LARGE = 0.05
"""A part that is worth a note."""
_MOST_LIMITERS = 20
"""Others name them; beyond so many they are added up."""


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """What came and what became of it, since start; ``refused``, of the failed, at admission."""

    arrived: int
    finished: int
    completed: int
    failed: int
    cancelled: int
    refused: int
    in_flight: int
    failed_by_reason: dict[str, int]

    @property
    def mostly_refused(self) -> bool:
        """Then what held the batch is what was not admitted, and no other figure shows it."""
        return 2 * self.refused > self.finished


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Rates over ``seconds``; ``cached_ratio``: of prompt tokens. ``whole_run``: there was no earlier time."""

    seconds: float
    whole_run: bool
    requests: float
    output_tokens: float
    prompt_tokens: float = nan
    cached_ratio: float = nan


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """How full it was while busy, by time, by record and in tokens; ``places``: of how many requests."""

    full_by_time: float
    full_by_record: float
    full_in_tokens: float
    mean_requests: float
    largest: int | None
    running: int | None
    places: int | None
    busy_ratio: float
    iterations: int


class Held(msgspec.Struct, frozen=True):
    """A limiter: for which ``share`` of busy time it held the batch, how long that is, what it cost, who waited."""

    limiter: str
    share: float
    seconds: float = nan
    lost_slot_seconds: float = nan
    waiting_request_seconds: float = nan


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that could run and do not, and those that something else holds back."""

    now: int | None
    deferred: int | None
    mean: float
    oldest_seconds: float


class KvCache(msgspec.Struct, frozen=True, kw_only=True):
    """Use of the cache: its mean, and now from the emptiest rank to the fullest; preemptions since start."""

    mean: float
    lowest: float
    highest: float
    preemptions: int


class Percentile(msgspec.Struct, frozen=True):
    """``value``, within ``interval``; ``nan`` where buckets tell the interval and no more."""

    value: float = nan
    interval: Interval = UNKNOWN_INTERVAL


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of ``count`` observations over ``span_seconds``; count and mean are exact.

    ``relative_error``: of estimates from histograms; 0 where percentiles are exact, ``nan`` where they are intervals
    of an engine's own buckets. ``source``: as in the document that it was read from.
    """

    quantity: str
    count: int
    mean: float
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile
    max: Percentile
    span_seconds: float
    relative_error: float
    source: str


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """A request class: all targets by the same request, with the 95 % range; goodput since start and in the window.

    Left out of ``evaluated``: ``not_evaluated`` (cancelled early), ``unmeasured``.
    """

    request_class: str
    targets: dict[str, float]
    evaluated: int
    not_evaluated: int
    unmeasured: int
    attainment: float
    attainment_range: Interval
    missed_by: dict[str, int]
    goodput: float
    recent_goodput: float


class Trouble(msgspec.Struct, frozen=True):
    """What should be 0 and is not, work without a result, or figures that cannot both be right.

    ``parts``: of which kinds, the most frequent first. ``of``: of how many, or beside which figure. ``preemptions``:
    behind what was computed again.
    """

    name: str
    count: float
    parts: dict[str, int] = {}
    of: int | None = None
    preemptions: int | None = None


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """Whose figures, of when, over what time, and the figures.

    ``recent`` and ``latencies`` of a watch are of ``over``, ``held`` is of ``held_over``: the time since the look
    before, where there was one. ``exact``: of a collector, else of an engine's page. ``partial``: how many targets of
    a fleet give a number, where not all do; ``not_merged``: what they mean different things by. ``held``: the largest
    share first, without those that never were. ``reported_ratio``: of busy time, how much the scheduler itself said
    what held it. ``latencies``: by quantity; of a snapshot those that were not measured, too.
    """

    engine: EngineInfo
    labels: dict[str, str]
    processes: int
    time: dt.datetime
    started_at: dt.datetime
    elapsed_seconds: float
    over: ScrapeWindow
    held_over: ScrapeWindow
    exact: bool = True
    partial: dict[str, int] = {}
    not_merged: list[str] = []
    notes: list[str] = []
    limits: SchedulerLimits
    requests: Requests
    throughput: Throughput
    recent: Throughput
    batch: Batch
    held: list[Held]
    reported_ratio: float
    waiting: Waiting
    kv_cache: KvCache
    latencies: dict[str, Latency]
    slo: list[Slo]
    troubles: list[Trouble]


def board(source: MetricsSnapshot | ScrapedSnapshot) -> Board:
    """The figures of a collector's snapshot, or of a page that was scraped: its percentiles are then intervals."""
    if isinstance(source, MetricsSnapshot):
        usage, life = source.gauges.kv_cache_usage, ScrapeWindow(source.elapsed_seconds, since_start=True)
        return _board(source, _held(source), (usage, usage), _latencies(source), life)
    held = [Held(limiter, share) for limiter, share in _by_share(source.limited_by)]
    span = source.ratios.get(Quantity.KV_CACHE_USAGE, RatioSpan(nan, nan, 0))
    latencies = {name: _of_intervals(name, summary) for name, summary in source.intervals.items()}
    return msgspec.structs.replace(
        _board(source.snapshot, held, (span.low, span.high), latencies, source.window),
        held_over=source.limited_over,
        exact=source.exact,
        partial=source.partial,
        not_merged=source.not_merged,
        notes=source.notes,
    )


def _board(
    snapshot: MetricsSnapshot, held: list[Held], usage: Interval, latencies: dict[str, Latency], over: ScrapeWindow
) -> Board:
    iterations, gauges = snapshot.iteration_stats, snapshot.gauges
    return Board(
        engine=snapshot.engine,
        labels=snapshot.labels,
        processes=max(1, len(snapshot.merged_from)),
        time=snapshot.snapshot_time,
        started_at=snapshot.started_at,
        elapsed_seconds=snapshot.elapsed_seconds,
        over=over,
        held_over=over,
        limits=snapshot.limits,
        requests=_requests(snapshot),
        throughput=_throughput(snapshot),
        recent=_recent(snapshot),
        batch=_batch(snapshot),
        held=held,
        reported_ratio=iterations.limiter_reported_ratio,
        waiting=Waiting(
            now=gauges.requests_waiting,
            deferred=gauges.requests_deferred,
            mean=iterations.average_waiting_requests,
            oldest_seconds=gauges.oldest_waiting_seconds,
        ),
        kv_cache=KvCache(
            mean=iterations.average_kv_cache_usage,
            lowest=usage[0],
            highest=usage[1],
            preemptions=snapshot.totals.preemptions,
        ),
        latencies=latencies,
        slo=[_slo(name, slo, snapshot.elapsed_seconds) for name, slo in snapshot.slo_stats.items() if _told(name, slo)],
        troubles=list(_troubles(snapshot)),
    )


def _requests(snapshot: MetricsSnapshot) -> Requests:
    requests, by_reason = snapshot.request_stats, snapshot.totals.requests_by_reason
    return Requests(
        arrived=snapshot.totals.requests_received,
        finished=requests.total_requests,
        completed=requests.completed_requests,
        failed=requests.failed_requests,
        cancelled=requests.cancelled_requests,
        refused=by_reason.get(CompletionReason.REJECTED, 0),
        in_flight=snapshot.gauges.requests_in_flight,
        failed_by_reason={
            reason.value: by_reason[reason]
            for reason in CompletionReason
            if reason.outcome is Outcome.FAILED and by_reason.get(reason)
        },
    )


def _throughput(snapshot: MetricsSnapshot) -> Throughput:
    totals, seconds = snapshot.totals, snapshot.elapsed_seconds
    cached = totals.prompt_tokens_cached or 0
    prompt = (totals.prompt_tokens_computed or 0) + cached
    return Throughput(
        seconds=seconds,
        whole_run=True,
        requests=_a_second(snapshot.request_stats.total_requests, seconds),
        output_tokens=_a_second(totals.generation_tokens, seconds),
        prompt_tokens=_a_second(prompt, seconds),
        cached_ratio=cached / prompt if cached else nan,
    )


def _recent(snapshot: MetricsSnapshot) -> Throughput:
    window, requests = snapshot.window, snapshot.request_stats
    return Throughput(
        seconds=window.window_seconds,
        whole_run=not window.window_seconds < window.elapsed_seconds,
        requests=requests.requests_per_second,
        output_tokens=requests.tokens_per_second,
    )


def _batch(snapshot: MetricsSnapshot) -> Batch:
    iterations = snapshot.iteration_stats
    return Batch(
        full_by_time=iterations.time_weighted_utilization,
        full_by_record=iterations.average_utilization,
        full_in_tokens=iterations.token_utilization,
        mean_requests=iterations.average_requests_per_iteration,
        largest=snapshot.batch_stats.max_batch_size,
        running=snapshot.gauges.requests_running,
        places=snapshot.limits.max_running_requests,
        busy_ratio=iterations.busy_ratio,
        iterations=snapshot.totals.iterations,
    )


def _held(snapshot: MetricsSnapshot) -> list[Held]:
    seconds, lost = snapshot.totals.busy_seconds_by_limiter, snapshot.iteration_stats.lost_slot_seconds
    waited = snapshot.totals.waiting_request_seconds_by_limiter
    return [
        Held(limiter, share, seconds.get(limiter, nan), lost.get(limiter, nan), waited.get(limiter, nan))
        for limiter, share in _by_share(snapshot.iteration_stats.limited_by)
    ]


def _by_share(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """The largest first, without those that never were; beyond ``_MOST_LIMITERS`` what the others have together."""
    found = sorted(((name, share) for name, share in shares.items() if 0 < share < math.inf), key=lambda pair: -pair[1])
    rest = found[_MOST_LIMITERS:]
    return found[:_MOST_LIMITERS] + [(f"{len(rest):,} more", sum(share for _, share in rest))] * bool(rest)


def _latencies(snapshot: MetricsSnapshot) -> dict[str, Latency]:
    """Of requests by the names of their fields, and the iteration's."""
    requests = snapshot.request_stats
    found = {name: getattr(requests, name) for name in DURATIONS if name in requests.__struct_fields__}
    found[Quantity.ITERATION_DURATION] = snapshot.iteration_stats.processing_time
    return {name: of_summary(name, summary) for name, summary in found.items()}


def of_summary(name: str, summary: DistributionSummary) -> Latency:
    error = summary.relative_error

    def estimate(value: float) -> Percentile:
        return Percentile(value, (value * (1 - error), value * (1 + error)))

    return Latency(
        quantity=name,
        count=summary.count,
        mean=summary.mean,
        p50=estimate(summary.p50),
        p90=estimate(summary.p90),
        p95=estimate(summary.p95),
        p99=estimate(summary.p99),
        max=Percentile(summary.max, (summary.max, summary.max)),
        span_seconds=summary.span_seconds,
        relative_error=error,
        source=summary.source,
    )


def _of_intervals(name: str, summary: IntervalSummary) -> Latency:
    """The value of a percentile is not invented: it stays ``nan``."""
    low, high = summary.p50
    return Latency(
        quantity=name,
        count=summary.count,
        mean=summary.mean,
        p50=Percentile(interval=summary.p50),
        p90=Percentile(interval=summary.p90),
        p95=Percentile(interval=summary.p95),
        p99=Percentile(interval=summary.p99),
        max=Percentile(interval=summary.max),
        span_seconds=summary.span_seconds,
        relative_error=(high - low) / (high + low) if summary.count and high > 0 else nan,
        source=summary.source,
    )


def _told(name: str, slo: SloStatistics) -> bool:
    """A class without targets has nothing to meet; the one that undeclared ones fold into only once somebody came."""
    return slo.evaluated > 0 or bool(slo.targets and name != OTHER_CLASS)


def _slo(name: str, slo: SloStatistics, seconds: float) -> Slo:
    return Slo(
        request_class=name,
        targets=slo.targets,
        evaluated=slo.evaluated,
        not_evaluated=slo.not_evaluated,
        unmeasured=slo.unmeasured,
        attainment=slo.attainment,
        attainment_range=(slo.attainment_low, slo.attainment_high),
        missed_by={target: number for target, number in slo.missed_by.items() if number},
        goodput=_a_second(slo.met, seconds),
        recent_goodput=slo.goodput_per_second,
    )


def _troubles(snapshot: MetricsSnapshot) -> Iterator[Trouble]:
    requests, totals = snapshot.request_stats, snapshot.totals
    found = (
        ("overdue", snapshot.gauges.requests_overdue),
        ("lost", totals.requests_lost),
        ("errors", snapshot.error_stats.errors_by_type),
        ("rejected", requests.rejected_records),
        ("dropped", totals.dropped_records),
    )
    for name, counts in found:
        if isinstance(counts, int):
            trouble = Trouble(name, counts)
        else:
            parts = dict(sorted(counts.items(), key=lambda pair: -pair[1]))
            trouble = Trouble(name, sum(parts.values()), parts)
        if trouble.count:
            yield trouble
    yield from _thrash(totals)
    yield from _contradictions(snapshot)


def _thrash(totals: Totals) -> Iterator[Trouble]:
    """Preempted requests are computed again: work without a result."""
    again, prefill = totals.recomputed_tokens or 0, totals.scheduled_prefill_tokens or 0
    if again and again >= _LARGE * prefill:
        yield Trouble("recomputed", again, of=prefill, preemptions=totals.preemptions)
    elif totals.preemptions > _LARGE * totals.requests_received:
        yield Trouble("preempted", totals.preemptions, of=totals.requests_received)


def _contradictions(snapshot: MetricsSnapshot) -> Iterator[Trouble]:
    """What an integration said that cannot be."""
    totals, places = snapshot.totals, snapshot.limits.max_running_requests
    idle = totals.busy_seconds_by_limiter.get(BatchLimiter.DEMAND, 0.0)
    waited = totals.waiting_request_seconds_by_limiter.get(BatchLimiter.DEMAND, 0.0)
    if waited > _LARGE * idle > 0:
        yield Trouble("waiting_in_demand", waited / idle)
    largest = snapshot.batch_stats.max_batch_size or 0
    if places is not None and largest > places:
        yield Trouble("beyond_limit", largest, of=places)


def _a_second(total: float, seconds: float) -> float:
    return total / seconds if seconds > 0 else nan
