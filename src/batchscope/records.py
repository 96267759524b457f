"""What a scheduler reports: the vocabulary of requests, iterations and reasons.

Durations are float seconds, memory is bytes, ratios are 0..1, instants are seconds of one monotonic
clock. "Not measured" is ``nan`` for a float and ``None`` elsewhere; it is never 0.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from math import nan
from typing import Any, Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

Latencies: TypeAlias = (
    Sequence[float] | Sequence[tuple[float, int]] | npt.NDArray[np.float64]  # seconds, or (seconds, how often)
)


class CompletionReason(StrEnum):
    """Why a request left the scheduler. ERROR, REJECTED and OTHER are additions to the specification."""

    EOS_TOKEN_REACHED = "eos_token_reached"  # noqa: S105  (a reason, not a password)
    MAX_TOKENS_REACHED = "max_tokens_reached"
    LENGTH_REACHED = "length_reached"
    STOP_STRING = "stop_string"
    OTHER = "other"
    TIMEOUT = "timeout"
    ERROR = "error"
    REJECTED = "rejected"
    CANCELLED = "cancelled"

    @property
    def outcome(self) -> Outcome:
        """Which of the three kinds of end this reason is."""
        return _OUTCOMES.get(self, Outcome.COMPLETED)


class Outcome(StrEnum):
    """The three ways a request ends; every finished request has exactly one."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_OUTCOMES = {
    CompletionReason.TIMEOUT: Outcome.FAILED,
    CompletionReason.ERROR: Outcome.FAILED,
    CompletionReason.REJECTED: Outcome.FAILED,
    CompletionReason.CANCELLED: Outcome.CANCELLED,
}


class BatchLimiter(StrEnum):
    """The constraint that stopped the scheduler's last admission attempt: why the batch was not fuller."""

    REQUEST_SLOTS = "request_slots"
    TOKEN_BUDGET = "token_budget"  # noqa: S105
    KV_CACHE = "kv_cache"
    DEFERRED = "deferred"
    POLICY = "policy"
    PAUSED = "paused"
    DEMAND = "demand"
    UNKNOWN = "unknown"


class EngineInfo(msgspec.Struct, frozen=True):
    """Which engine the numbers are of: ``vllm``, ``0.32.0``; empty where nobody said."""

    kind: str = ""
    version: str = ""


class RequestResult(msgspec.Struct, frozen=True, gc=False):
    """A request that left the scheduler, as ``record_request_completion`` takes it.

    Durations that are ``nan`` are derived from the instants where both ends are given. ``total_time``
    left out is ``queue_time + processing_time``, else ``processing_time``. No text is ever kept.
    """

    request_id: Any
    tokens_generated: int
    reason: CompletionReason
    processing_time: float
    queue_time: float = nan
    total_time: float = nan
    time_to_first_token: float = nan
    prefill_time: float = nan
    decode_time: float = nan
    preempted_time: float = nan
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    recomputed_tokens: int | None = None
    preemptions: int | None = None
    request_class: str | None = None
    arrived_at: float = nan
    first_scheduled_at: float = nan
    first_token_at: float = nan
    last_token_at: float = nan
    finished_at: float = nan
    max_emission_gap: float = nan


class IterationResult(msgspec.Struct, frozen=True, gc=False):
    """One scheduler iteration (engine step), as ``record_iteration`` takes it.

    ``running_requests`` and ``waiting_requests`` are counted right after the batch was formed;
    ``deferred_requests`` are held back by something else (grammar, KV transfer, adapter).
    ``prefill_tokens`` are computed now, recomputed ones included; ``unscheduled_prefill_tokens`` belong to
    running requests and were cut off by the token budget. Latencies: fill the one that is known.
    ``head_tokens``: what the first waiting request needs room for, its prompt and what it had emitted when it was
    preempted. ``standing_requests``: running ones that are in no batch; left out, running less ``request_count``.
    """

    iteration_number: int
    request_count: int
    tokens_generated: int
    requests_completed: int
    processing_time: float
    memory_bytes_used: int | None = None
    started_at: float = nan
    finished_at: float = nan
    running_requests: int | None = None
    waiting_requests: int | None = None
    deferred_requests: int | None = None
    prefill_requests: int | None = None
    scheduled_tokens: int | None = None
    prefill_tokens: int | None = None
    unscheduled_prefill_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    recomputed_tokens: int | None = None
    decode_context_tokens: int | None = None
    draft_tokens: int | None = None
    accepted_tokens: int | None = None
    kv_cache_usage: float = nan
    preemptions: int | None = None
    schedule_time: float = nan
    forward_time: float = nan
    rank: int | None = None
    limited_by: BatchLimiter | None = None
    inter_token_latencies: Latencies | None = None
    inter_emission_latencies: Latencies | None = None
    head_tokens: int | None = None
    standing_requests: int | None = None


class RequestMetrics(msgspec.Struct, frozen=True):
    """A finished request as the sample buffer holds it: every duration derived, ``nan`` where unknown.

    Instants are seconds of the collector's clock, as they were given; ``finished_at`` is known of all.
    """

    request_id: Any
    tokens_generated: int
    reason: CompletionReason
    queue_time: float
    processing_time: float
    total_time: float
    completed_time: dt.datetime
    time_to_first_token: float = nan
    time_per_output_token: float = nan
    prefill_time: float = nan
    decode_time: float = nan
    preempted_time: float = nan
    max_emission_gap: float = nan
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    recomputed_tokens: int | None = None
    preemptions: int | None = None
    request_class: str | None = None
    arrived_at: float = nan
    first_scheduled_at: float = nan
    first_token_at: float = nan
    last_token_at: float = nan
    finished_at: float = nan


class IterationMetrics(msgspec.Struct, frozen=True):
    """An iteration as the sample buffer holds it; ``started_at`` and ``finished_at`` are instants as a request's are.

    ``busy_time`` is the part of its time that no iteration of its rank before it had: these add up.
    """

    iteration_number: int
    request_count: int
    tokens_generated: int
    requests_completed: int
    processing_time: float
    memory_bytes_used: int | None
    timestamp: dt.datetime
    limited_by: BatchLimiter = BatchLimiter.UNKNOWN
    limiter_reported: bool = False
    running_requests: int | None = None
    waiting_requests: int | None = None
    scheduled_tokens: int | None = None
    kv_cache_usage: float = nan
    started_at: float = nan
    finished_at: float = nan
    busy_time: float = nan
    rank: int = 0


class BatchMetrics(msgspec.Struct, frozen=True):
    """A batch utilization record as the sample buffer holds it; ``None`` where it was not given."""

    batch_id: int | None
    request_count: int | None
    utilization: float
    memory_bytes_used: int | None
    timestamp: dt.datetime


class ResourceSample(msgspec.Struct, frozen=True):
    """One reading of one quantity: GPU 0 draws 350 W.

    ``resource`` is ``gpu`` or ``process``; ``device`` which of them (``0``; nothing for the process);
    ``quantity`` names its unit (``power_watts``). ``energy_joules`` and ``cpu_seconds`` are readings of counters
    that only grow, from any start. ``identity`` names the device itself, whoever samples it (a GPU's UUID).
    """

    resource: str
    device: str
    quantity: str
    value: float
    unit: str = ""
    identity: str = ""


class ResourceMetrics(Protocol):
    """All that a sampler of resources needs. A bad sample is counted; it raises only if the collector is ``strict``."""

    def record_resources(
        self, samples: Iterable[ResourceSample], *, facts: Mapping[str, str] | None = None, interval: float = 10.0
    ) -> None:
        """Report what was sampled now, and every ``interval`` seconds."""


@runtime_checkable
class SchedulerMetrics(Protocol):
    """All that a producer needs. Calls never raise, block or log, unless the collector is ``strict``."""

    def record_iteration(self, result: IterationResult) -> None:
        """Report one iteration of the scheduler."""

    def record_request_completion(self, result: RequestResult) -> None:
        """Report a request that left the scheduler, whatever the reason."""

    def record_batch_utilization(
        self,
        utilization: float,
        *,
        batch_id: int | None = None,
        request_count: int | None = None,
        memory_bytes_used: int | None = None,
    ) -> None:
        """Report how full one batch was, 0..1."""

    def record_error(self, error_type: str, exception: BaseException | None = None) -> None:
        """Report an error by name; the exception's type is its name where ``error_type`` is empty."""
