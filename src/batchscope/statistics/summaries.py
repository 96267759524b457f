"""The statistics of the specification, and ours: what each figure covers is said beside it.

Counts and totals: since ``reset()``. Averages, min, max and percentiles: the last ``max_*_samples``
records. Rates and goodput: the window. ``nan`` where nothing was measured, never 0.
"""

from __future__ import annotations

import datetime as dt
from math import nan

import msgspec


class DistributionSummary(msgspec.Struct, frozen=True):
    """A distribution in seven numbers.

    ``source`` is ``samples`` (exact, linear interpolation, over the last samples; ``span_seconds`` is the
    time from the oldest of them to the newest) or ``histogram`` (estimates within ``relative_error`` of the
    nearest-rank value; ``span_seconds`` is the time observed).
    """

    count: int = 0
    mean: float = nan
    p50: float = nan
    p90: float = nan
    p95: float = nan
    p99: float = nan
    max: float = nan
    span_seconds: float = nan
    source: str = "samples"
    relative_error: float = 0.0


EMPTY = DistributionSummary()


class RequestStatistics(msgspec.Struct, frozen=True):
    """Requests: counts since ``reset()``, latencies of the completed among the last samples, rates of the window.

    ``total_requests`` = completed + failed + cancelled. ``p50_latency`` ... are of ``total_time``.
    ``tokens_per_second`` comes from iterations as soon as one was recorded, else from completions.
    """

    total_requests: int = 0
    completed_requests: int = 0
    failed_requests: int = 0
    cancelled_requests: int = 0
    average_tokens_per_request: float = nan
    p50_latency: float = nan
    p95_latency: float = nan
    p99_latency: float = nan
    requests_per_second: float = nan
    tokens_per_second: float = nan
    average_queue_time: float = nan
    average_processing_time: float = nan
    queue_time: DistributionSummary = EMPTY
    prefill_time: DistributionSummary = EMPTY
    time_to_first_token: DistributionSummary = EMPTY
    time_per_output_token: DistributionSummary = EMPTY
    decode_time: DistributionSummary = EMPTY
    preempted_time: DistributionSummary = EMPTY
    total_time: DistributionSummary = EMPTY
    inter_token_latency: DistributionSummary = EMPTY
    inter_emission_latency: DistributionSummary = EMPTY
    rejected_records: dict[str, int] = {}


class IterationStatistics(msgspec.Struct, frozen=True):
    """Iterations: averages over the last samples; shares, ratios and lost slot-seconds of time since ``reset()``.

    ``average_utilization`` = mean of request_count / max_running_requests, ``token_utilization`` = mean of
    scheduled_tokens / max_scheduled_tokens, a record each; ``time_weighted_utilization`` weighs by time.
    ``limited_by``: share of busy time by limiter; ``lost_slot_seconds``: (max_running_requests -
    request_count) x time by limiter; ``busy_ratio``: busy time / time since start, a rank;
    ``limiter_reported_ratio``: share of busy time whose limiter the scheduler itself reported.
    """

    total_iterations: int = 0
    average_requests_per_iteration: float = nan
    average_tokens_per_iteration: float = nan
    average_memory_bytes_per_iteration: float = nan
    average_processing_time_ms: float = nan
    iterations_per_second: float = nan
    average_utilization: float = nan
    limited_by: dict[str, float] = {}
    lost_slot_seconds: dict[str, float] = {}
    busy_ratio: float = nan
    time_weighted_utilization: float = nan
    token_utilization: float = nan
    average_waiting_requests: float = nan
    average_kv_cache_usage: float = nan
    preemptions: int = 0
    limiter_reported_ratio: float = nan
    processing_time: DistributionSummary = EMPTY


class BatchStatistics(msgspec.Struct, frozen=True):
    """Batch utilization records: what was not given is not averaged in."""

    total_batches: int = 0
    average_batch_size: float = nan
    average_utilization: float = nan
    average_memory_bytes_per_batch: float = nan
    max_batch_size: int | None = None
    min_batch_size: int | None = None


class ErrorStatistics(msgspec.Struct, frozen=True):
    """Errors since ``reset()``; ``error_rate`` = errors / finished requests, ``nan`` with none finished."""

    total_errors: int = 0
    errors_by_type: dict[str, int] = {}
    error_rate: float = nan
    last_error_time: dt.datetime | None = None


class SloStatistics(msgspec.Struct, frozen=True):
    """Attainment of one request class: all targets by the same request, since ``reset()``; goodput of the window.

    ``evaluated`` = met + missed. ``missed_by`` counts by target, and ``failed`` for requests that failed; one
    request can miss several. ``attainment_low`` and ``_high`` are the 95 % Wilson score interval, which
    assumes independent requests (Wilson 1927, JASA 22:209); ``unmeasured`` requests are counted apart.
    """

    targets: dict[str, float] = {}
    evaluated: int = 0
    met: int = 0
    missed: int = 0
    unmeasured: int = 0
    not_evaluated: int = 0
    missed_by: dict[str, int] = {}
    attainment: float = nan
    attainment_low: float = nan
    attainment_high: float = nan
    goodput_per_second: float = nan


class ResourceStatistics(msgspec.Struct, frozen=True):
    """One quantity of one device: the last value and its distribution over the last samples.

    ``resource`` is ``gpu`` or ``process``, ``device`` which one of them, ``quantity`` what was sampled, its unit in
    its name (``power_watts``). A ``last`` that is older than three sampling intervals is ``nan``: not present.
    ``energy_joules`` and ``cpu_seconds`` only grow: their ``last`` is the growth since sampling began or
    ``reset()``, however old, and they have no distribution. ``identity`` is the device's own name (a GPU's UUID).
    """

    resource: str = ""
    device: str = ""
    quantity: str = ""
    unit: str = ""
    last: float = nan
    last_sampled_seconds_ago: float = nan
    summary: DistributionSummary = EMPTY
    identity: str = ""


class EnergyStatistics(msgspec.Struct, frozen=True):
    """What an output token costs: the GPUs' energy over the tokens generated in the same span.

    The span goes from the first reading of energy since ``reset()`` to the last. ``joules_by_gpu`` is by UUID
    (``instance_id/gpu.0.energy_joules`` without one), so that a GPU which several processes sample counts once in
    a merge. Tokens are those of iterations as soon as one was recorded, else of finished requests.
    ``joules`` is ``nan`` without a GPU, ``joules_per_token`` without tokens, too.
    """

    joules_by_gpu: dict[str, float] = {}
    joules: float = nan
    tokens_of_iterations: int = 0
    tokens_of_requests: int = 0
    tokens_by_engine: dict[str, dict[str, int]] = {}
    joules_per_token: float = nan


class WindowStatistics(msgspec.Struct, frozen=True):
    """The same distributions over the last ``window_seconds`` alone: what a live view shows."""

    window_seconds: float = nan
    span_seconds: float = nan
    summaries: dict[str, DistributionSummary] = {}
