"""A scraped snapshot, completed with what only batchscope's own page tells: in the fields a collector's would have."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from batchscope.engines.scraped.own import GAUGES, TOTALS, Own
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import ErrorStatistics, IterationStatistics, SloStatistics
from batchscope.statistics.totals import Totals


def completed(snapshot: MetricsSnapshot, own: Own) -> MetricsSnapshot:
    """``snapshot`` with totals and gauges as on the page, and the shares and SLO results that follow from them."""
    totals = msgspec.structs.replace(snapshot.totals, **_totals(own))
    requests = snapshot.request_stats
    return msgspec.structs.replace(
        snapshot,
        totals=totals,
        gauges=msgspec.structs.replace(snapshot.gauges, **own.fields(GAUGES)),
        iteration_stats=_iterations(snapshot.iteration_stats, totals),
        error_stats=_errors(totals, requests.total_requests),
        slo_stats=_slo(totals),
        request_stats=msgspec.structs.replace(requests, rejected_records=totals.rejected_records),
    )


def _totals(own: Own) -> dict[str, Any]:
    """Beside the fields of the page two that follow: the busy time, and by what tokens are counted."""
    fields = own.fields(TOTALS)
    tokens, iterated = fields.get("generation_tokens", 0), fields.get("iterations", 0) > 0
    return fields | {
        "busy_seconds": math.fsum(fields.get("busy_seconds_by_limiter", {}).values()),
        "generation_tokens_of_iterations": tokens if iterated else 0,
        "generation_tokens_of_requests": 0 if iterated else tokens,
    }


def _iterations(statistics: IterationStatistics, totals: Totals) -> IterationStatistics:
    """Shares of time since the start, as a collector has them."""
    busy = totals.busy_seconds
    return msgspec.structs.replace(
        statistics,
        limited_by={name: _ratio(seconds, busy) for name, seconds in totals.busy_seconds_by_limiter.items()},
        lost_slot_seconds=totals.lost_slot_seconds_by_limiter,
        busy_ratio=_ratio(busy, totals.rank_seconds),
        time_weighted_utilization=_ratio(totals.used_slot_seconds, totals.slot_seconds),
    )


def _errors(totals: Totals, finished: int) -> ErrorStatistics:
    errors = sum(totals.errors_by_type.values())
    return ErrorStatistics(errors, totals.errors_by_type, _ratio(errors, finished))


def _slo(totals: Totals) -> dict[str, SloStatistics]:
    """By request class, of the classes that have targets; the targets themselves are not on the page."""
    return {
        name: _attainment(results, totals.slo_missed_by.get(name, {}))
        for name, results in totals.slo_requests.items()
        if totals.slo_missed_by.get(name) or results.get("met") or results.get("missed")
    }


def _attainment(results: dict[str, int], missed_by: dict[str, int]) -> SloStatistics:
    met, missed = results.get("met", 0), results.get("missed", 0)
    return SloStatistics(
        evaluated=met + missed,
        met=met,
        missed=missed,
        unmeasured=results.get("unmeasured", 0),
        not_evaluated=results.get("not_evaluated", 0),
        missed_by=missed_by,
        attainment=_ratio(met, met + missed),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
