"""Whether what an integration reported can be true: the identities of the glossary, applied to its records."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

from batchscope.records import IterationResult, RequestResult
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.testing import missing
from batchscope.testing.double import RecordingMetrics
from batchscope.testing.iterations import check as check_iterations
from batchscope.testing.iterations import pairs
from batchscope.testing.requests import check as check_requests
from batchscope.testing.requests import differing

_SHOWN = 20


class ConformanceWarning(UserWarning):
    """What was reported does not contradict itself, but a figure cannot be had from it."""


class ConformanceError(AssertionError):
    """What was reported contradicts itself; ``violations`` has all of it, the message the first 20."""

    def __init__(self, found: list[str]) -> None:
        more = f"\n  ... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        super().__init__(f"{_number(len(found), 'contradiction')}:\n  " + "\n  ".join(found[:_SHOWN]) + more)
        self.violations = found


def violations(reported: RecordingMetrics | MetricsSnapshot, *, drained: bool = False) -> list[str]:
    """Every contradiction, a sentence each (of what a tracker was told, a sentence a kind); none: an empty list.

    ``drained``: every request has left, so that totals of iterations and of requests must agree, too.
    """
    return list(_found(reported, drained=drained))


def assert_conforms(reported: RecordingMetrics | MetricsSnapshot, *, drained: bool = False) -> None:
    """Raise ``ConformanceError`` if anything contradicts; warn of every figure there cannot be."""
    found = violations(reported, drained=drained)
    if found:
        raise ConformanceError(found)
    for sentence in missing_figures(reported):
        warnings.warn(sentence, ConformanceWarning, stacklevel=2)


def missing_figures(reported: RecordingMetrics | MetricsSnapshot) -> list[str]:
    """What was reported is consistent, but leaves figures empty or guessed: "no figure for ...: say ...", each."""
    return list(missing.of_snapshot(reported) if isinstance(reported, MetricsSnapshot) else missing.of_double(reported))


def _found(reported: RecordingMetrics | MetricsSnapshot, *, drained: bool) -> Iterator[str]:
    if isinstance(reported, MetricsSnapshot):
        yield from _of_snapshot(reported, drained=drained)
        return
    yield from check_requests(reported.requests)
    yield from check_iterations(reported.iterations, reported.limits)
    for place, batch in enumerate(reported.batches):
        if not (math.isnan(batch.utilization) or 0 <= batch.utilization <= 1):
            yield f"batch record {place}: utilization {batch.utilization}: expected 0..1, or nan without a limit"
    yield from _of_trackers(reported, drained=drained)
    if drained:
        yield from _together(reported.iterations, reported.requests)


def _of_snapshot(snapshot: MetricsSnapshot, *, drained: bool) -> Iterator[str]:
    """Refused, dropped and lost records, and counts that do not add up, whatever was reported."""
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


def _of_trackers(recorded: RecordingMetrics, *, drained: bool) -> Iterator[str]:
    """What they were told, refused or lost: it never became a record."""
    for heard in recorded.heard.values():
        yield from heard.contradictions()
    for tracker in recorded.trackers:
        counts = tracker.counts()
        for reason, number in counts.rejected.items():
            yield f"{_number(number, 'call')} of a tracker refused as {reason}: expected none"
        if drained and counts.lost:
            yield f"{_number(counts.lost, 'request')} of a tracker lost: expected an end of each"
    received = sum(tracker.counts().received - tracker.counts().lost for tracker in recorded.trackers)
    if drained and recorded.trackers and received > len(recorded.requests):
        yield f"{_number(received, 'request')} arrived and {len(recorded.requests)} ended: expected that all have left"


def _number(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"


def _together(iterations: Sequence[IterationResult], requests: Sequence[RequestResult]) -> Iterator[str]:
    """When every request has left, tokens, preemptions and gaps add up to the same from both sides."""
    if not iterations or not requests:
        return
    yield from _counts("tokens_generated", iterations, requests)
    if all(request.preemptions is not None for request in requests):
        yield from _counts("preemptions", iterations, requests)
    yield from _told_by_both("cached_prompt_tokens", "cached_tokens", iterations, requests)
    yield from _told_by_both("recomputed_tokens", "recomputed_tokens", iterations, requests)
    decoding = [request.decode_time for request in requests if request.tokens_generated > 1]
    if any(math.isnan(duration) for duration in decoding):
        return
    for name in ("inter_token_latencies", "inter_emission_latencies"):
        gaps = [pair for iteration in iterations for pair in pairs(getattr(iteration, name))]
        if gaps:
            total = sum(gap * count for gap, count in gaps)
            yield from differing(f"the sum of {name}", total, "decode times add up to", sum(decoding))


def _counts(name: str, iterations: Sequence[IterationResult], requests: Sequence[RequestResult]) -> Iterator[str]:
    of_iterations = sum(getattr(iteration, name) or 0 for iteration in iterations)
    of_requests = sum(getattr(request, name) for request in requests)
    if of_iterations != of_requests:
        yield f"{name}: iterations say {of_iterations}, finished requests {of_requests}"


def _told_by_both(
    of_iteration: str, of_request: str, iterations: Sequence[IterationResult], requests: Sequence[RequestResult]
) -> Iterator[str]:
    """What one side never says cannot differ; who was never scheduled has nothing to say."""
    told = [getattr(iteration, of_iteration) for iteration in iterations]
    ended = [getattr(request, of_request) for request in requests if not math.isnan(request.first_scheduled_at)]
    if None in ended or set(told) == {None}:
        return
    together, apart = sum(filter(None, told)), sum(ended)
    if together != apart:
        yield (
            f"{of_iteration} of iterations add up to {together}, {of_request} of finished requests to {apart}: "
            "count a token on both sides or on neither"
        )
