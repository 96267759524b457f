"""Figures that cannot be had from what was reported, although nothing in it is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from batchscope.records import BatchLimiter
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.testing.double import RecordingMetrics

_TOKENS = "no figure for token utilization, prefill and decode tokens: say scheduled_tokens, one number a slot"
_PROMPTS = "no figure for prompt tokens, computed or cached: say prompt_tokens when a request arrives"
_GUESSED = "no figure for what limited the batch, only a guess: say limited_by where your scheduler stops admitting"
_UNKNOWN = (
    "no figure for what limited the batch: limited_by is always UNKNOWN; say the reason, or leave it out to have it "
    "inferred"
)


def of_double(recorded: RecordingMetrics) -> Iterator[str]:
    """Of the records of a run."""
    iterations, requests = recorded.iterations, recorded.requests
    prefills = [iteration for iteration in iterations if iteration.prefill_requests != 0]
    if prefills and all(iteration.scheduled_tokens is None for iteration in prefills):
        yield _TOKENS
    if requests and not any(request.prompt_tokens for request in requests):
        yield _PROMPTS
    if iterations:
        yield from _limiter({iteration.limited_by for iteration in iterations} - {None})


def of_snapshot(snapshot: MetricsSnapshot) -> Iterator[str]:
    """Of a collector's figures."""
    totals = snapshot.totals
    if totals.iterations and not totals.scheduled_prefill_tokens:
        yield _TOKENS
    if snapshot.request_stats.completed_requests and not (totals.prompt_tokens_computed or totals.prompt_tokens_cached):
        yield _PROMPTS
    if totals.busy_seconds:
        known = {BatchLimiter(name) for name, seconds in totals.busy_seconds_by_limiter.items() if seconds}
        yield from _limiter(known if totals.busy_seconds_reported else ())


def _limiter(said: Collection[BatchLimiter | None]) -> Iterator[str]:
    if not said:
        yield _GUESSED
    elif all(limiter is BatchLimiter.UNKNOWN for limiter in said):
        yield _UNKNOWN
