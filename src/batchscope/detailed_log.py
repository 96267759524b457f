"""Detailed logging: one structured line every interval, from a timer's thread, never from a recording one."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import msgspec

from batchscope.background import Periodic
from batchscope.configuration import MetricsConfiguration
from batchscope.statistics.snapshot import MetricsSnapshot

logger = logging.getLogger("batchscope")


class Readable(Protocol):
    """What is logged."""

    configuration: MetricsConfiguration

    def get_snapshot(self) -> MetricsSnapshot:
        """The present snapshot."""


class DetailedLog:
    """Logs a collector's key figures as one line of JSON, every ``detailed_log_interval_seconds`` and at the end."""

    def __init__(self, collector: Readable) -> None:
        self._collector = collector
        interval = collector.configuration.detailed_log_interval_seconds
        self._periodic = Periodic(self._write, interval, "batchscope-log").start()

    def _write(self) -> None:
        logger.info("batchscope %s", line(self._collector.get_snapshot()))

    def close(self) -> None:
        """Write a last line and end the thread."""
        self._periodic.close()

    def forget(self) -> None:
        """In a forked child the thread does not exist: nothing is logged there."""
        self._periodic.forget()


def line(snapshot: MetricsSnapshot) -> str:
    """The figures of one log line as JSON; ``nan`` is null."""
    return msgspec.json.encode(figures(snapshot)).decode()


def figures(snapshot: MetricsSnapshot) -> dict[str, Any]:
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
