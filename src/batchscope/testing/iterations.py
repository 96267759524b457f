"""What must hold of each iteration, and of their order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from batchscope.configuration import SchedulerLimits
from batchscope.records import BatchLimiter, IterationResult, Latencies
from batchscope.testing.requests import not_numbers

_DURATIONS = ("processing_time", "schedule_time", "forward_time")
_COUNTS = (
    "iteration_number", "request_count", "tokens_generated", "requests_completed", "running_requests",
    "waiting_requests", "deferred_requests", "prefill_requests", "scheduled_tokens", "prefill_tokens",
    "unscheduled_prefill_tokens", "preemptions", "draft_tokens", "accepted_tokens",
)  # fmt: skip
_NOT_MORE_THAN = (
    ("request_count", "running_requests"),
    ("prefill_requests", "request_count"),
    ("prefill_tokens", "scheduled_tokens"),
    ("accepted_tokens", "draft_tokens"),
)


def check(iterations: Sequence[IterationResult], limits: SchedulerLimits) -> Iterator[str]:
    """Each contradiction, as a sentence that names the iteration."""
    last: dict[int | None, IterationResult] = {}
    for iteration in iterations:
        for found in (*_of_one(iteration, limits), *_after(iteration, last.get(iteration.rank))):
            yield f"iteration {iteration.iteration_number}: {found}"
        last[iteration.rank] = iteration


def _of_one(iteration: IterationResult, limits: SchedulerLimits) -> Iterator[str]:
    yield from not_numbers(iteration, _DURATIONS, _COUNTS)
    if iteration.finished_at < iteration.started_at:
        yield f"finished_at = {iteration.finished_at} lies before started_at = {iteration.started_at}"
    if not (math.isnan(iteration.kv_cache_usage) or 0 <= iteration.kv_cache_usage <= 1):
        yield f"kv_cache_usage = {iteration.kv_cache_usage}: expected 0..1"
    for smaller, larger in _NOT_MORE_THAN:
        few, many = getattr(iteration, smaller), getattr(iteration, larger)
        if few is not None and many is not None and few > many:
            yield f"{smaller} = {few} exceeds {larger} = {many}"
    yield from _beyond(iteration, "request_count", "max_running_requests", limits.max_running_requests)
    yield from _beyond(iteration, "scheduled_tokens", "max_scheduled_tokens", limits.max_scheduled_tokens)
    if iteration.limited_by is BatchLimiter.DEMAND and iteration.waiting_requests:
        yield f"limited by demand while {iteration.waiting_requests} requests wait: say what kept them out"
    gaps = sum(count for _, count in pairs(iteration.inter_token_latencies))
    if gaps > iteration.tokens_generated:
        yield f"{gaps} inter-token latencies for {iteration.tokens_generated} tokens"


def _beyond(iteration: IterationResult, name: str, limit_name: str, limit: int | None) -> Iterator[str]:
    value = getattr(iteration, name)
    if limit is not None and value is not None and value > limit:
        yield f"{name} = {value} exceeds {limit_name} = {limit}"


def _after(iteration: IterationResult, before: IterationResult | None) -> Iterator[str]:
    """An iteration and the one before it on the same rank."""
    if before is None:
        return
    if iteration.iteration_number <= before.iteration_number:
        yield f"comes after {before.iteration_number}: expected growing numbers on a rank"
    if iteration.finished_at < before.finished_at:
        yield f"ended at {iteration.finished_at}, before the one before it at {before.finished_at}"


def pairs(latencies: Latencies | None) -> list[tuple[float, int]]:
    """(seconds, how often) of a list, an array, or of pairs."""
    if latencies is None:
        return []
    values: list[Any] = latencies.tolist() if isinstance(latencies, np.ndarray) else list(latencies)
    return [value if isinstance(value, tuple) else (float(value), 1) for value in values]
