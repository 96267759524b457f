"""What iterations and requests must agree on when every request has left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batchscope.records import IterationResult, RequestResult
from batchscope.testing.latencies import pairs
from batchscope.testing.requests import differing


def check(iterations: Sequence[IterationResult], requests: Sequence[RequestResult]) -> Iterator[str]:
    """Tokens, preemptions and gaps are seen from both sides; they add up to the same."""
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
