"""What a history keeps of a source's state: counts that add up, the buckets of five latencies, present values.

A cell of the history is the difference of two of these. Nothing in it is a mean or a percentile, so cells add up
exactly: ten of a second are one of ten seconds, and any stretch of time that somebody marks is a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.layout import bucket_layout
from batchscope.records import BatchLimiter, CompletionReason, Outcome
from batchscope.statistics.cumulative import CumulativeState
from batchscope.statistics.totals import Totals

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LIMITERS = tuple(limiter.value for limiter in BatchLimiter)
SCALE, BUCKETS = 3, 144
"""Buckets of a latency: 8 an octave, 18 octaves; a percentile within 4.3 %. The first and the last are open."""
RELATIVE_ERROR = bucket_layout(SCALE).relative_error
LATENCIES = {
    "time_to_first_token": -8,
    "inter_token_latency": -11,
    "time_per_output_token": -11,
    "total_time": -8,
    "queue_time": -8,
}
"""By the histogram's name: where its buckets begin, as a power of two seconds (3.9 ms, 0.49 ms)."""
MOST_CLASSES = 9
GPU_COLUMNS = {"busy.lowest": 2, "busy.mean": 2, "busy.highest": 2, "memory.highest": 2, "power.watts": 0}
"""Over all GPUs at the last sample, ratios and their power together; with the digits that a chart can show."""

COLUMNS = (
    "wall_seconds",  # covered by samples
    "rank_seconds",  # of the source's own clock, times its ranks
    "busy_seconds",
    "busy_seconds_reported",
    *(f"busy.{limiter}" for limiter in LIMITERS),
    *(f"lost.{limiter}" for limiter in LIMITERS),
    "slot_seconds",
    "used_slot_seconds",
    "running_request_seconds",
    "running_reported_seconds",
    "waiting_request_seconds",
    "waiting_reported_seconds",
    "iterations",
    "scheduled_prefill_tokens",
    "scheduled_decode_tokens",
    "budget_tokens",  # iterations x the budget, where it is known
    "generation_tokens",
    "prompt_tokens_computed",
    "prompt_tokens_cached",
    "preemptions",
    "recomputed_tokens",
    "requests_received",
    "completed",
    "failed",
    "cancelled",
    "errors",
    "lost_records",
    # Present values, once a cell of a second: their sum, and how many had one; ``samples``: looks that it is of.
    "samples",
    "running.sum",
    "running.count",
    "waiting.sum",
    "waiting.count",
    "kv_cache_usage.sum",
    "kv_cache_usage.count",
)
_PLACE = {name: place for place, name in enumerate(COLUMNS)}


class Read(NamedTuple):
    """Everything that a history takes of one state: cumulative, but for ``present`` and ``gpus``.

    ``slo``: met and missed by class, shape (MOST_CLASSES, 2). ``gpus``: as in GPU_COLUMNS, ``nan`` unknown.
    """

    counts: Floats
    slo: Counts
    latencies: Counts
    present: dict[str, float]
    gpus: Floats


def nothing() -> Read:
    """The state of a source that has counted nothing yet."""
    return Read(
        np.zeros(len(COLUMNS)),
        np.zeros((MOST_CLASSES, 2), dtype=np.int64),
        np.zeros((len(LATENCIES), BUCKETS), dtype=np.int64),
        {},
        np.full(len(GPU_COLUMNS), np.nan),
    )


def place(column: str) -> int:
    """Where a column is."""
    return _PLACE[column]


def read(state: CumulativeState, classes: Iterable[str]) -> Read:
    """What ``state`` says; ``classes`` are those with a place, in its order."""
    totals = state.totals
    counts = np.zeros(len(COLUMNS))
    for name, value in _counted(totals):
        counts[_PLACE[name]] = value if value is not None and math.isfinite(value) else 0.0
    slo = np.zeros((MOST_CLASSES, 2), dtype=np.int64)
    for row, name in enumerate(classes):
        results = totals.slo_requests.get(name, {})
        slo[row] = results.get("met", 0), results.get("missed", 0)
    latencies = np.stack([_buckets(state.histograms.get(name, {}), first) for name, first in LATENCIES.items()])
    return Read(counts, slo, latencies, dict(_present(state)), _gpus(state))


def _counted(totals: Totals) -> Iterator[tuple[str, float | None]]:
    same = (
        "rank_seconds", "busy_seconds", "busy_seconds_reported", "slot_seconds", "used_slot_seconds",
        "running_request_seconds", "running_reported_seconds", "waiting_request_seconds", "waiting_reported_seconds",
        "iterations", "scheduled_prefill_tokens", "scheduled_decode_tokens", "generation_tokens",
        "prompt_tokens_computed", "prompt_tokens_cached", "preemptions", "recomputed_tokens", "requests_received",
    )  # fmt: skip
    for name in same:
        yield name, getattr(totals, name)
    yield from _by_limiter("busy", totals.busy_seconds_by_limiter)
    yield from _by_limiter("lost", totals.lost_slot_seconds_by_limiter)
    for outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED):
        number = sum(totals.requests_by_reason.get(one.value, 0) for one in CompletionReason if one.outcome is outcome)
        yield outcome.value, number
    yield "errors", sum(totals.errors_by_type.values())
    yield "lost_records", totals.dropped_records + sum(totals.rejected_records.values())


def _by_limiter(name: str, seconds: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Of each limiter; those of a later version are not known here."""
    for limiter in LIMITERS:
        newer = sum(value for other, value in seconds.items() if other not in LIMITERS)
        yield f"{name}.{limiter}", seconds.get(limiter, 0.0) + (newer if limiter == BatchLimiter.UNKNOWN else 0.0)


def _present(state: CumulativeState) -> Iterator[tuple[str, float]]:
    gauges = state.gauges
    known = {
        "running": gauges.requests_running,
        "waiting": gauges.requests_waiting,
        "kv_cache_usage": gauges.kv_cache_usage,
    }
    for name, value in known.items():
        if value is not None and math.isfinite(value):
            yield name, float(value)


def _buckets(by_class: Mapping[str, ExponentialHistogram], first_octave: int) -> Counts:
    """All classes' observations in our buckets; what lies beyond them in the first or the last."""
    found = np.zeros(BUCKETS, dtype=np.int64)
    first = first_octave << SCALE
    for histogram in by_class.values():
        batch = histogram.bucketed()
        by = batch.scale - SCALE
        own = batch.offset + np.arange(len(batch.counts), dtype=np.int64)
        buckets = np.clip((own >> by if by >= 0 else own << -by) - first, 0, BUCKETS - 1)
        np.add.at(found, buckets, batch.counts)
        found[0] += batch.zero_count
        found[-1] += batch.overflow_count
    return found


def _gpus(state: CumulativeState) -> Floats:
    """The present readings of all GPUs in the few numbers that a chart shows."""
    found: dict[str, list[float]] = {"utilization_ratio": [], "power_watts": []}
    memory: dict[str, dict[str, float]] = {}
    for name, one in state.resources.items():
        if one.resource == "gpu" and math.isfinite(one.last):
            if one.quantity in found:
                found[one.quantity].append(one.last)
            elif one.quantity in {"memory_used_bytes", "memory_total_bytes"}:
                memory.setdefault(name.removesuffix(one.quantity), {})[one.quantity] = one.last
    busy, power = found["utilization_ratio"], found["power_watts"]
    used = [
        one["memory_used_bytes"] / one["memory_total_bytes"]
        for one in memory.values()
        if one.get("memory_total_bytes", 0.0) > 0 and "memory_used_bytes" in one
    ]
    return np.array([
        min(busy, default=math.nan), sum(busy) / len(busy) if busy else math.nan, max(busy, default=math.nan),
        max(used, default=math.nan), sum(power) if power else math.nan,
    ])  # fmt: skip
