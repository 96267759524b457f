"""What must hold of a collector's snapshot, whatever was reported."""

from __future__ import annotations

from collections.abc import Iterator

from batchscope.statistics.snapshot import MetricsSnapshot


def check(snapshot: MetricsSnapshot, *, drained: bool) -> Iterator[str]:
    """Refused, dropped and lost records, and counts that do not add up."""
    requests, totals, gauges = snapshot.request_stats, snapshot.totals, snapshot.gauges
    for reason, number in totals.rejected_records.items():
        yield f"{number} records rejected as {reason}: expected none"
    if totals.dropped_records:
        yield f"{totals.dropped_records} records dropped: expected none"
    usage = snapshot.iteration_stats.average_kv_cache_usage
    if usage > 1:
        yield f"kv_cache_usage = {usage:.1f} on average: expected 0..1"
    accounted = requests.total_requests + gauges.requests_in_flight + totals.requests_lost
    if totals.requests_received != accounted:
        yield f"{totals.requests_received} requests received, but finished + in flight + lost = {accounted}"
    if not drained:
        return
    if gauges.requests_in_flight:
        yield f"{gauges.requests_in_flight} requests in flight: expected that all have left"
    if totals.requests_lost:
        yield f"{totals.requests_lost} requests lost: expected an end of each"
    both = (totals.generation_tokens_of_iterations, totals.generation_tokens_of_requests)
    if totals.iterations and requests.total_requests and both[0] != both[1]:
        yield f"iterations say {both[0]} output tokens, finished requests {both[1]}"
