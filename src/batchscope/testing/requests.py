"""What must hold of each finished request, and of all of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from batchscope.records import CompletionReason, Outcome, RequestResult

TOLERANCE = 1e-6
"""Seconds that two ways to the same duration may differ by: float arithmetic, not clocks."""
_INSTANTS = ("arrived_at", "first_scheduled_at", "first_token_at", "last_token_at", "finished_at")
_DURATIONS = (
    "processing_time", "queue_time", "total_time", "time_to_first_token", "prefill_time", "decode_time",
    "preempted_time", "max_emission_gap",
)  # fmt: skip
_COUNTS = ("tokens_generated", "prompt_tokens", "cached_tokens", "recomputed_tokens", "preemptions")


def check(requests: Sequence[RequestResult]) -> Iterator[str]:
    """Each contradiction, as a sentence that names the request."""
    for request_id, times in Counter(repr(request.request_id) for request in requests).items():
        if times > 1:
            yield f"request {request_id} finished {times} times: expected once"
    for request in requests:
        for found in _of_one(request):
            yield f"request {request.request_id!r}: {found}"


def _of_one(request: RequestResult) -> Iterator[str]:
    reason: object = request.reason
    if not isinstance(reason, CompletionReason):
        yield f"reason {reason!r}: expected a CompletionReason"
        return
    yield from not_numbers(request, _DURATIONS, _COUNTS)
    yield from _order(request)
    yield from _identities(request)
    if reason.outcome is Outcome.COMPLETED and request.tokens_generated == 0:
        yield "completed without a token: say FAILED reasons or CANCELLED, or report its tokens"
    if reason.outcome is Outcome.COMPLETED and math.isnan(_processing_time(request)):
        yield "completed without a processing_time: give it, or when it was first scheduled and finished"
    if (request.cached_tokens or 0) > (request.prompt_tokens or math.inf):
        yield f"{request.cached_tokens} cached tokens of a prompt of {request.prompt_tokens}"


def _processing_time(request: RequestResult) -> float:
    given = request.processing_time
    return request.finished_at - request.first_scheduled_at if math.isnan(given) else given


def not_numbers(record: object, durations: Iterable[str], counts: Iterable[str]) -> Iterator[str]:
    """Durations that are negative or infinite, counts that are no whole number >= 0."""
    for name in durations:
        value = getattr(record, name)
        if value < 0 or math.isinf(value):
            yield f"{name} = {value}: expected seconds >= 0, or nan where it is not known"
    for name in counts:
        value = getattr(record, name)
        if value is not None and (not isinstance(value, int) or value < 0):
            yield f"{name} = {value!r}: expected a whole number >= 0, or None where it is not known"


def _order(request: RequestResult) -> Iterator[str]:
    known = [(name, getattr(request, name)) for name in _INSTANTS if not math.isnan(getattr(request, name))]
    for (earlier, before), (later, after) in pairwise(known):
        if after < before:
            yield f"{later} = {after} lies before {earlier} = {before}: expected one monotonic clock"


def _identities(request: RequestResult) -> Iterator[str]:
    """A duration that was given must be the difference of the instants that were given."""
    spans = {
        "queue_time": request.first_scheduled_at - request.arrived_at,
        "time_to_first_token": request.first_token_at - request.arrived_at,
        "prefill_time": request.first_token_at - request.first_scheduled_at,
        "decode_time": request.last_token_at - request.first_token_at,
        "processing_time": request.finished_at - request.first_scheduled_at,
        "total_time": request.finished_at - request.arrived_at,
    }
    for name, span in spans.items():
        yield from differing(name, getattr(request, name), "its instants say", span)
    together = request.queue_time + request.prefill_time
    yield from differing("time_to_first_token", request.time_to_first_token, "queue + prefill is", together)


def differing(name: str, value: float, other: str, expected: float) -> Iterator[str]:
    """A sentence if both are known and differ."""
    if not math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE) and not math.isnan(value - expected):
        yield f"{name} = {value}, but {other} {expected}"
