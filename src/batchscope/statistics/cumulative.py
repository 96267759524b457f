"""Totals, gauges and window totals from what was aggregated."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from batchscope.aggregation.slo import SloResult
from batchscope.aggregation.state import State
from batchscope.configuration import MetricsConfiguration, SchedulerLimits, SloTargets
from batchscope.recording.live import LiveRequests
from batchscope.recording.rows import LIMITERS, REASONS, Floats, IterationColumn
from batchscope.records import EngineInfo
from batchscope.statistics.adding import added
from batchscope.statistics.counted import Counted
from batchscope.statistics.snapshot import Histograms, MetricsSnapshot
from batchscope.statistics.summaries import ResourceStatistics
from batchscope.statistics.totals import Gauges, Totals, WindowTotals

C = IterationColumn


class CumulativeState(NamedTuple):
    """What an exporter reads at a scrape: no percentile is computed.

    ``started_at`` is when counting began (UTC), new after a ``reset()``, as is ``generation``.
    """

    totals: Totals
    gauges: Gauges
    histograms: Histograms
    resources: dict[str, ResourceStatistics]
    labels: dict[str, str]
    role: str
    engine: EngineInfo
    started_at: dt.datetime
    instance_id: str
    generation: int


class StateSource(Protocol):
    """What exporters and servers read: a collector, or the merge of many processes."""

    def read_totals(self) -> CumulativeState:
        """Everything cumulative, present values, histograms."""

    def get_snapshot(self) -> MetricsSnapshot:
        """Everything, percentiles included."""

    @property
    def closed(self) -> bool:
        """Whether it was closed: what it says no longer changes."""


def cumulative_of(snapshot: MetricsSnapshot) -> CumulativeState:
    """The cumulative part of a snapshot with histograms."""
    return CumulativeState(
        **{field: getattr(snapshot, field) for field in CumulativeState._fields if field != "resources"},
        resources=snapshot.resource_stats,
    )


def totals(state: State, limits: SchedulerLimits, classes: Sequence[str], counted: Counted, elapsed: float) -> Totals:
    """Everything cumulative; ``counted`` is what producers counted."""
    requests, iterations = state.requests, state.iterations
    sums, busy = iterations.sums, iterations.busy_seconds
    of_iterations, of_requests = sums["tokens_generated"], requests.tokens_generated
    return Totals(
        requests_by_reason=dict(zip(map(str, REASONS), requests.by_reason.tolist(), strict=True)),
        prompt_tokens_computed=requests.prompt_tokens_computed,
        prompt_tokens_cached=requests.prompt_tokens_cached,
        generation_tokens=of_iterations if iterations.count else of_requests,
        generation_tokens_of_iterations=of_iterations,
        generation_tokens_of_requests=of_requests,
        scheduled_prefill_tokens=sums["prefill_tokens"],
        scheduled_decode_tokens=iterations.decode_tokens,
        recomputed_tokens=sums["recomputed_tokens"] or requests.recomputed_tokens,
        draft_tokens=sums["draft_tokens"],
        accepted_tokens=sums["accepted_tokens"],
        iterations=iterations.count,
        batches=state.batches.count,
        preemptions=sums["preemptions"],
        busy_seconds=busy,
        busy_seconds_by_limiter=_by_limiter(iterations.busy_by_limiter),
        busy_seconds_reported=iterations.busy_reported,
        lost_slot_seconds_by_limiter=(
            _by_limiter(iterations.lost_slots_by_limiter) if limits.max_running_requests else {}
        ),
        running_request_seconds=iterations.running_seconds,
        waiting_request_seconds=iterations.waiting_seconds,
        scheduled_request_seconds=iterations.scheduled_seconds,
        slot_seconds=iterations.slot_seconds,
        used_slot_seconds=iterations.used_slot_seconds,
        rank_seconds=elapsed * iterations.clock.ranks,
        errors_by_type=dict(state.errors.by_type),
        slo_requests={
            name: {result.name.lower(): int(requests.slo_results[code][result]) for result in SloResult}
            for code, name in enumerate(classes)
        },
        slo_missed_by={name: dict(requests.missed_by[code]) for code, name in enumerate(classes)},
        requests_received=counted.received,
        requests_lost=counted.lost,
        rejected_records=dict(counted.rejected),
        dropped_records=counted.dropped,
        **counted.engine._asdict(),
    )


def _by_limiter(values: Floats) -> dict[str, float]:
    return {str(limiter): float(value) for limiter, value in zip(LIMITERS, values, strict=True)}


def window_totals(
    state: State, configuration: MetricsConfiguration, classes: Sequence[str], now: float
) -> WindowTotals:
    """What the rate window holds at ``now``."""
    requests, iterations = state.requests, state.iterations
    return WindowTotals(
        window_seconds=float(configuration.counter_window_seconds),
        elapsed_seconds=now - state.started,
        requests=requests.finished_in_window.total(now),
        iterations=iterations.in_window.total(now),
        tokens_of_iterations=iterations.tokens_in_window.total(now),
        tokens_of_requests=requests.tokens_in_window.total(now),
        slo_met={name: counter.total(now) for name, counter in zip(classes, requests.met_in_window, strict=True)},
    )


def gauges(
    state: State,
    limits: SchedulerLimits,
    targets: Mapping[str, SloTargets],
    live: Iterable[LiveRequests],
    now: float,
    stale_after: float,
) -> Gauges:
    """Present values. With trackers they follow the slots; else the last iteration's, until it is too old."""
    live = [part for part in live if part.running is not None]
    last = state.iterations.last
    age = now - float(last[C.FINISHED_AT]) if last is not None else math.nan
    fresh = last is not None and age <= stale_after

    def said(column: C) -> float:
        return float(last[column]) if fresh and last is not None else math.nan

    running, waiting = _whole(said(C.RUNNING_REQUESTS)), _whole(said(C.WAITING_REQUESTS))
    kv_cache_usage, deferred = said(C.KV_CACHE_USAGE), _whole(said(C.DEFERRED_REQUESTS))
    in_flight = sum(part.in_flight for part in live)
    if live:
        told = [part.deferred for part in live if part.deferred is not None]
        deferred = sum(told) if told else deferred
        running = sum(part.running or 0 for part in live)
        waiting = max(in_flight - running - (deferred or 0), 0)
        if in_flight == 0 and last is not None and not math.isnan(last[C.KV_CACHE_USAGE]):
            kv_cache_usage = 0.0
        usages = [part.kv_cache_usage for part in live if not math.isnan(part.kv_cache_usage)]
        kv_cache_usage = usages[0] if len(usages) == 1 else kv_cache_usage
    # A source that does not know who waits says nan: then nobody knows for all.
    tells = bool(live) and not any(math.isnan(part.oldest_waiting) for part in live)
    oldest = min((part.oldest_waiting for part in live), default=math.inf)
    return Gauges(
        requests_in_flight=in_flight,
        requests_running=running,
        requests_waiting=waiting,
        requests_deferred=deferred,
        requests_overdue={
            name: sum(part.overdue[code] for part in live)
            for code, (name, wanted) in enumerate(targets.items())
            if wanted.declared and tells
        },
        oldest_waiting_seconds=(max(now - oldest, 0.0) if math.isfinite(oldest) else 0.0) if tells else math.nan,
        seconds_since_last_iteration=max(age, 0.0),
        kv_cache_usage=kv_cache_usage,
        memory_bytes_used=_whole(said(C.MEMORY_BYTES_USED)),
        limit_running_requests=limits.max_running_requests,
        limit_scheduled_tokens=limits.max_scheduled_tokens,
        limit_kv_cache_blocks=limits.kv_cache_blocks,
        requests_by_adapter=added(part.by_adapter for part in live) or {},
    )


def _whole(value: float) -> int | None:
    return None if math.isnan(value) else int(value)
