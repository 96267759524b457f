"""A run, or a stretch of it, as the snapshot that a collector would have given of the same records.

Its window is all of it: rates are of the whole stretch. What only a live collector knows (present values, resources,
histograms of the last minutes, requests lost, records refused) is not in it, nor what was never recorded.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from batchscope.aggregation.slo import SloResult
from batchscope.aggregation.state import TokenSource
from batchscope.ledger.analysis import iterations as of_iterations
from batchscope.ledger.analysis import requests as of_requests
from batchscope.ledger.analysis.gaps import emission_gaps, per_emission, per_token
from batchscope.ledger.analysis.selection import Column, summarize, summarize_columns
from batchscope.ledger.analysis.tables import RunTables, Table, import_ibis
from batchscope.ledger.instants import instant_to_time
from batchscope.records import BatchLimiter, CompletionReason
from batchscope.sinks import RunHeader
from batchscope.statistics.iterations import batch_statistics, iteration_statistics
from batchscope.statistics.requests import attainment, outcomes, request_statistics
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import (
    DistributionSummary,
    ErrorStatistics,
    IterationStatistics,
    SloStatistics,
)
from batchscope.statistics.totals import Gauges, Mean, Totals, WindowTotals, counted_once, engine_name

Row = dict[str, Any]


class RunFigures(NamedTuple):
    """What the expressions gave; everything else follows from it by the collector's own arithmetic."""

    by_reason: dict[str, int]
    requests: Row
    means_of_requests: Row
    slo: dict[str, Row]
    by_limiter: dict[str, Row]
    iterations: Row
    errors: dict[str, int]
    last_error_at: float | None
    came: Row


def snapshot_of(tables: RunTables) -> MetricsSnapshot:
    """Every figure of the run; exact, but for the order in which floats are added."""
    found, header = found_in(tables), tables.header
    totals, window = _totals(found, tables), _window(found, tables)
    means = _means(found)
    times = _span(found.iterations)
    return MetricsSnapshot(
        request_stats=request_statistics(
            outcomes(found.by_reason), means, window, latencies(tables, _span(found.means_of_requests))
        ),
        iteration_stats=_iteration_statistics(tables, totals, means, window, times),
        batch_stats=batch_statistics(totals.batches, means, found.iterations["smallest"], found.iterations["largest"]),
        error_stats=_errors(found, header),
        slo_stats=_slo_statistics(found, header, window),
        totals=totals,
        gauges=Gauges(
            requests_in_flight=found.came["in_flight"] or 0,
            limit_running_requests=header.limits.max_running_requests,
            limit_scheduled_tokens=header.limits.max_scheduled_tokens,
            limit_kv_cache_blocks=header.limits.kv_cache_blocks,
        ),
        snapshot_time=instant_to_time(header, tables.ended),
        started_at=instant_to_time(header, tables.began),
        elapsed_seconds=tables.seconds,
        engine=header.engine,
        definitions=dict(header.definitions),
        limits=header.limits,
        labels=dict(header.labels),
        role=header.role,
        instance_id=header.instance_id,
        generation=header.generation,
        means=means,
        window=window,
    )


def found_in(tables: RunTables) -> RunFigures:
    """Everything that is counted and added up, in a scan or two a table."""
    slo = {name: tables.header.slo.get(name) for name in tables.header.request_classes}
    targets = {name: one for name, one in slo.items() if one is not None}
    events = rows(tables.events.group_by("kind", "name").agg(n=lambda t: t["count"].sum(), at=lambda t: t.at.max()))
    errors = [event for event in events if event["kind"] == "error"]
    return RunFigures(
        by_reason={row["reason"]: row["n"] for row in rows(of_requests.by_reason(tables.requests))},
        requests=one(of_requests.sums(tables.requests)),
        means_of_requests=one(of_requests.means(tables.requests)),
        slo={row["request_class"]: row for row in rows(of_requests.attainment(tables.requests, targets))},
        by_limiter={row["limited_by"]: row for row in rows(of_iterations.by_limiter(tables))},
        iterations=one(of_iterations.sums(tables)),
        errors={event["name"]: event["n"] for event in errors},
        last_error_at=max((event["at"] for event in errors), default=None),
        came=with_waiting(one(came(tables)), tables),
    )


def rows(expression: Table) -> list[Row]:
    """What it gives, a dict a row."""
    found: list[Row] = expression.to_pyarrow().to_pylist()
    return found


def one(expression: Table) -> Row:
    """The one row that it gives."""
    (row,) = rows(expression)
    return row


def came(tables: RunTables) -> Table:
    """One row: ``received`` requests, and ``in_flight`` at the end.

    They arrived, or were first scheduled if they never finished: who neither finished nor ran has no row.
    """
    run, ibis = tables.run, import_ibis()
    finished = run.requests.select(came=ibis.coalesce(run.requests.arrived_at, run.requests.at), left=run.requests.at)
    ran = run.spans.select(request=run.spans.request.cast("int64"), iteration=run.spans.first_iteration)
    ran = ran.anti_join(run.requests, "request").left_join(run.iterations, "iteration")
    ran = ran.group_by("request").agg(came=ran.started_at.min())
    t = finished.union(ran.select(came=ran.came, left=ibis.literal(math.inf)))
    if tables.cut_of is None:
        return t.agg(received=t.count(), in_flight=(t.left == math.inf).sum())
    before_the_end = t.came <= tables.ended
    before_it = t.came <= tables.began if tables.began > run.began else ibis.literal(False)
    return t.agg(
        received=(before_the_end & ~before_it).sum(),
        in_flight=(before_the_end & (t.left > tables.ended)).sum(),
    )


def with_waiting(came: Row, tables: RunTables) -> Row:
    """With those that had never run at the end: they have no row, but the run says how many were in flight.

    When they came nobody says: in a stretch that begins later than the run they are in flight alone. Where more seem to
    be in flight than were, rows of requests that ended are missing: those are not counted, as the run's problems say.
    """
    seen = came["in_flight"] or 0
    beside = 0 if tables.in_flight is None else tables.in_flight - seen
    names = ("received", "in_flight") if beside < 0 or tables.began <= tables.run.began else ("in_flight",)
    return {**came, **{name: (came[name] or 0) + beside for name in names}}


def _totals(found: RunFigures, tables: RunTables) -> Totals:
    requests, iterations = found.requests, found.iterations
    finished = sum(found.by_reason.values())
    computed, cached = _prompts(found, finished)
    limited = any(header.limits.max_running_requests for header in tables.headers)
    recomputed = iterations["recomputed_tokens"] or requests["recomputed_tokens"] or iterations["recomputed_tokens"]
    header = tables.header
    waited = iterations["waiting_total"] is not None
    return Totals(
        requests_received=found.came["received"] or 0,
        requests_by_reason={str(reason): found.by_reason.get(reason, 0) for reason in CompletionReason},
        prompt_tokens_computed=computed,
        prompt_tokens_cached=cached,
        generation_tokens=counted_once({"": _tokens(found)}),
        generation_tokens_of_iterations=iterations["tokens_generated"] or 0,
        generation_tokens_of_requests=requests["tokens_generated"] or 0,
        generation_tokens_by_engine={engine_name(header.role, header.labels): _tokens(found)},
        scheduled_prefill_tokens=_prefill(iterations),
        scheduled_decode_tokens=_decode(iterations),
        recomputed_tokens=recomputed,
        draft_tokens=iterations["draft_tokens"],
        accepted_tokens=iterations["accepted_tokens"],
        iterations=iterations["n"],
        batches=iterations["n"],
        preemptions=iterations["preemptions"] or 0,
        busy_seconds=iterations["busy"] or 0.0,
        busy_seconds_by_limiter=_by_limiter(found, "busy"),
        busy_seconds_reported=iterations["reported"] or 0.0,
        lost_slot_seconds_by_limiter=_by_limiter(found, "lost") if limited else {},
        running_request_seconds=_or_nan(iterations["running_total"]),
        running_reported_seconds=iterations["running_seconds"] or 0.0,
        waiting_request_seconds=_or_nan(iterations["waiting_total"]),
        waiting_reported_seconds=iterations["waiting_seconds"] or 0.0,
        waiting_request_seconds_by_limiter=_by_limiter(found, "waited") if waited else {},
        scheduled_request_seconds=iterations["scheduled_seconds"] or 0.0,
        slot_seconds=iterations["slot_seconds"] or 0.0 if limited else math.nan,
        used_slot_seconds=iterations["used_slot_seconds"] or 0.0 if limited else math.nan,
        rank_seconds=tables.seconds * iterations["ranks"],
        errors_by_type=found.errors,
        slo_requests={name: _results(found.slo.get(name)) for name in header.request_classes},
        slo_missed_by={name: _missed(found.slo.get(name), header, name) for name in header.request_classes},
    )


def _prompts(found: RunFigures, finished: int) -> tuple[int | None, int | None]:
    """Prompt tokens of finished requests: computed, and from a cache, as they or as iterations said it."""
    requests, said = found.requests, found.iterations["cached_prompt_tokens"]
    total, cached = requests["prompt_tokens"] or 0, requests["cached_tokens"] or 0
    cached += min(max((said or 0) - cached, 0), requests["unclaimed_prompts"] or 0)
    known = bool(requests["cached_said"]) or said is not None
    return (
        total - cached if requests["prompts_said"] or not finished else None,
        cached if known or not finished else None,
    )


def _tokens(found: RunFigures) -> dict[str, int]:
    """Output tokens by who told of them: iterations where there are any."""
    if found.iterations["n"]:
        return {TokenSource.ITERATIONS.value: found.iterations["tokens_generated"] or 0}
    told = found.requests["tokens_generated"]
    return {TokenSource.REQUESTS.value: told} if told else {}


def _prefill(iterations: Row) -> int | None:
    """None where none said it, or prefills may have happened of which nobody told the tokens."""
    total: int | None = iterations["prefill_tokens"]
    return total if total or iterations["prefill_tokens_said"] == iterations["n"] else None


def _decode(iterations: Row) -> int | None:
    total: int = iterations["decode_tokens"] or 0
    return total if total or iterations["both_said"] else None


def _by_limiter(found: RunFigures, what: str) -> dict[str, float]:
    return {str(limiter): float(found.by_limiter.get(limiter, {}).get(what) or 0.0) for limiter in BatchLimiter}


def _results(row: Row | None) -> dict[str, int]:
    return {result.name.lower(): row[result.name.lower()] if row else 0 for result in SloResult}


def _missed(row: Row | None, header: RunHeader, name: str) -> dict[str, int]:
    """By target; of a class of which nobody came, nothing."""
    targets = header.slo[name].declared if name in header.slo else {}
    return {target: row[f"missed_{target}"] or 0 for target in ("failed", *targets)} if row and targets else {}


def _means(found: RunFigures) -> dict[str, Mean]:
    requests, iterations = found.means_of_requests, found.iterations
    means = {name: _mean(requests, name) for name in of_requests.MEANS}
    means |= {name: _mean(iterations, name) for name in of_iterations.MEANS}
    same = {"batch_size": "requests_per_iteration", "batch_utilization": "utilization",
            "memory_bytes_per_batch": "memory_bytes_per_iteration"}  # fmt: skip
    return means | {name: means[of] for name, of in same.items()}


def _mean(row: Row, name: str) -> Mean:
    return Mean(float(row[f"{name}_sum"] or 0.0), row[f"{name}_count"])


def _window(found: RunFigures, tables: RunTables) -> WindowTotals:
    """All of the stretch."""
    return WindowTotals(
        window_seconds=tables.seconds,
        elapsed_seconds=tables.seconds,
        requests=sum(found.by_reason.values()),
        iterations=found.iterations["n"],
        tokens_of_iterations=found.iterations["tokens_generated"] or 0,
        tokens_of_requests=found.requests["tokens_generated"] or 0,
        tokens_by_engine={engine_name(tables.header.role, tables.header.labels): _tokens(found)},
        slo_met={name: found.slo[name]["met"] if name in found.slo else 0 for name in tables.header.request_classes},
    )


def latencies(tables: RunTables, span_seconds: float) -> dict[str, DistributionSummary]:
    """Of completed requests, and of all tokens: exact percentiles, two scans each."""
    chosen = of_requests.completed(tables.requests)
    found = summarize_columns(chosen, of_requests.LATENCIES, span_seconds)
    kept = emission_gaps(tables)
    for name, gaps in (("inter_token_latency", per_token(kept)), ("inter_emission_latency", per_emission(kept))):
        found[name] = msgspec.structs.replace(summarize(Column(gaps, "value", "weight")), span_seconds=tables.seconds)
    return found


def _iteration_statistics(
    tables: RunTables, totals: Totals, means: dict[str, Mean], window: WindowTotals, span_seconds: float
) -> IterationStatistics:
    durations = summarize(Column(tables.iterations, "processing_time"), span_seconds)
    return iteration_statistics(totals, means, window, durations)


def _slo_statistics(found: RunFigures, header: RunHeader, window: WindowTotals) -> dict[str, SloStatistics]:
    statistics = {}
    for name in header.request_classes:
        targets = header.slo[name].declared if name in header.slo else {}
        if targets:
            row = found.slo.get(name)
            results = dict(zip(SloResult, _results(row).values(), strict=True))
            goodput = window.rate(window.slo_met[name])
            statistics[name] = attainment(targets, results, _missed(row, header, name), goodput)
    return statistics


def _errors(found: RunFigures, header: RunHeader) -> ErrorStatistics:
    total, finished = sum(found.errors.values()), sum(found.by_reason.values())
    return ErrorStatistics(
        total_errors=total,
        errors_by_type=found.errors,
        error_rate=total / finished if finished else math.nan,
        last_error_time=None if found.last_error_at is None else instant_to_time(header, found.last_error_at),
    )


def _span(row: Row) -> float:
    return math.nan if row["first_at"] is None else float(row["last_at"] - row["first_at"])


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
