"""The key figures of a snapshot, and the log line that says them."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from batchscope.statistics.cumulative import StateSource
from batchscope.statistics.snapshot import MetricsSnapshot


def log_key_figures(source: StateSource, logger: logging.Logger, level: int) -> None:
    """Log the present figures of ``source``: ``batchscope`` and them as JSON, where ``nan`` is null.

    Formatters for structured logs find them as the record's attribute ``batchscope``, a dict of JSON values. Where
    ``level`` is off nothing is read.
    """
    if logger.isEnabledFor(level):
        document = msgspec.json.encode(key_figures(source.get_snapshot()))
        logger.log(level, "batchscope %s", document.decode(), extra={"batchscope": msgspec.json.decode(document)})


def key_figures(snapshot: MetricsSnapshot) -> dict[str, Any]:
    """What a log line says of a snapshot."""
    requests, iterations = snapshot.request_stats, snapshot.iteration_stats
    return {
        "labels": snapshot.labels,
        "requests_total": requests.total_requests,
        "requests_completed": requests.completed_requests,
        "requests_failed": requests.failed_requests,
        "requests_cancelled": requests.cancelled_requests,
        "requests_in_flight": snapshot.gauges.requests_in_flight,
        "requests_waiting": snapshot.gauges.requests_waiting,
        "requests_per_second": requests.requests_per_second,
        "tokens_per_second": requests.tokens_per_second,
        "p50_latency": requests.p50_latency,
        "p95_latency": requests.p95_latency,
        "p99_latency": requests.p99_latency,
        "ttft_p99": requests.time_to_first_token.p99,
        "itl_p99": requests.inter_token_latency.p99,
        "time_weighted_utilization": iterations.time_weighted_utilization,
        "limited_by": {limiter: share for limiter, share in iterations.limited_by.items() if share > 0},
        "preemptions": iterations.preemptions,
        "errors_total": snapshot.error_stats.total_errors,
        "slo_attainment": {name: slo.attainment for name, slo in snapshot.slo_stats.items()},
        "rejected_records": requests.rejected_records,
        "dropped_records": snapshot.totals.dropped_records,
    }
