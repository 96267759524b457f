"""Totals, gauges and window totals from what was aggregated."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from batchscope.aggregation.resources import Tokens
from batchscope.aggregation.slo import SloResult
from batchscope.aggregation.state import State
from batchscope.configuration import MetricsConfiguration, SchedulerLimits, SloTargets
from batchscope.recording.producer import LiveRequests
from batchscope.records import EngineInfo
from batchscope.rows import LIMITERS, REASONS, Floats, IterationColumn
from batchscope.statistics.merge_parts import added
from batchscope.statistics.producer_counts import Counted
from batchscope.statistics.snapshot import Histograms, MetricsSnapshot
from batchscope.statistics.summaries import ResourceStatistics
from batchscope.statistics.totals import Gauges, Totals, WindowTotals

C = IterationColumn
_REASONS, _LIMITERS = tuple(map(str, REASONS)), tuple(map(str, LIMITERS))
_SLO_RESULTS = tuple(result.name.lower() for result in SloResult)


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
    limits: SchedulerLimits = SchedulerLimits()


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


def totals(
    state: State, limits: SchedulerLimits, classes: Sequence[str], counted: Counted, elapsed: float, engine: str
) -> Totals:
    """Everything cumulative; ``counted`` is what producers counted, ``engine`` whose it is."""
    requests, iterations = state.requests, state.iterations
    sums = iterations.sums
    limited = bool(limits.max_running_requests or iterations.slot_seconds)
    return Totals(
        requests_by_reason=dict(zip(_REASONS, requests.by_reason.tolist(), strict=True)),
        prompt_tokens_computed=requests.prompt_tokens_computed,
        prompt_tokens_cached=requests.prompt_tokens_cached,
        generation_tokens=sum(state.generation_tokens.values()),
        generation_tokens_of_iterations=sums["tokens_generated"],
        generation_tokens_of_requests=requests.tokens_generated,
        generation_tokens_by_engine={engine: state.generation_tokens},
        scheduled_prefill_tokens=iterations.told("prefill_tokens"),
        scheduled_decode_tokens=iterations.told("decode_tokens"),
        recomputed_tokens=state.recomputed_tokens,
        draft_tokens=iterations.told("draft_tokens"),
        accepted_tokens=iterations.told("accepted_tokens"),
        iterations=iterations.count,
        batches=state.batches.count,
        preemptions=sums["preemptions"],
        busy_seconds=iterations.busy_seconds,
        busy_seconds_by_limiter=_by_limiter(iterations.busy_by_limiter),
        busy_seconds_reported=iterations.busy_reported,
        lost_slot_seconds_by_limiter=_by_limiter(iterations.lost_slots_by_limiter) if limited else {},
        running_request_seconds=iterations.running.total,
        running_reported_seconds=iterations.running.seconds,
        waiting_request_seconds=iterations.waiting.total,
        waiting_reported_seconds=iterations.waiting.seconds,
        waiting_request_seconds_by_limiter=(
            {} if math.isnan(iterations.waiting.total) else _by_limiter(iterations.waiting_by_limiter)
        ),
        scheduled_request_seconds=iterations.scheduled_seconds,
        slot_seconds=iterations.slot_seconds if limited else math.nan,
        used_slot_seconds=iterations.used_slot_seconds if limited else math.nan,
        rank_seconds=elapsed * iterations.clock.ranks,
        errors_by_type=dict(state.errors.by_type),
        slo_requests={
            name: dict(zip(_SLO_RESULTS, of_class, strict=True))
            for name, of_class in zip(classes, requests.slo_results.tolist(), strict=True)
        },
        slo_missed_by={name: dict(requests.missed_by[code]) for code, name in enumerate(classes)},
        requests_received=counted.received,
        requests_lost=counted.lost,
        rejected_records=dict(counted.rejected),
        dropped_records=counted.dropped,
        **counted.engine._asdict(),
    )


def _by_limiter(values: Floats) -> dict[str, float]:
    return dict(zip(_LIMITERS, values.tolist(), strict=True))


def window_totals(
    state: State, configuration: MetricsConfiguration, classes: Sequence[str], now: float, engine: str
) -> WindowTotals:
    """What the rate window holds at ``now``."""
    requests, iterations = state.requests, state.iterations
    tokens = Tokens(iterations.tokens_in_window.total(now), requests.tokens_in_window.total(now))
    return WindowTotals(
        window_seconds=float(configuration.counter_window_seconds),
        elapsed_seconds=now - state.started,
        requests=requests.finished_in_window.total(now),
        iterations=iterations.in_window.total(now),
        tokens_of_iterations=tokens.of_iterations,
        tokens_of_requests=tokens.of_requests,
        tokens_by_engine={engine: state.recent_tokens(tokens)},
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
        running = sum(part.running or 0 for part in live)
        deferred = _deferred(live, last, in_flight - running)
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


def _deferred(live: Iterable[LiveRequests], last: Floats | None, without_place: int) -> int | None:
    """How many are held back: whom the last iteration said stays so, however old it is, while it is in flight."""
    told = [part.deferred for part in live if part.deferred is not None]
    said = _whole(float(last[C.DEFERRED_REQUESTS])) if last is not None else None
    if told:
        return sum(told)
    return None if said is None else min(said, without_place)


def _whole(value: float) -> int | None:
    return None if math.isnan(value) else int(value)
