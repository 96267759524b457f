"""What a snapshot's figures are called when people read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from batchscope.configuration import SchedulerLimits
from batchscope.records import BatchLimiter
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.views.numbers import ROUNDING, percent

TARGETS = {
    "time_to_first_token": "TTFT",
    "time_per_output_token": "TPOT",
    "e2e_latency": "e2e",
    "max_emission_gap": "gap",
}
_SETTINGS = {
    BatchLimiter.REQUEST_SLOTS: "max_running_requests",
    BatchLimiter.TOKEN_BUDGET: "max_scheduled_tokens",
    BatchLimiter.KV_CACHE: "kv_cache_blocks",
}
_HOLDERS = {
    BatchLimiter.REQUEST_SLOTS: "the request slots",
    BatchLimiter.TOKEN_BUDGET: "the token budget",
    BatchLimiter.KV_CACHE: "the KV cache",
    BatchLimiter.DEFERRED: "what requests wait for (grammar, adapter, KV transfer)",
    BatchLimiter.POLICY: "the scheduler's admission policy",
    BatchLimiter.PAUSED: "a pause of admission",
    BatchLimiter.DEMAND: "there was no more to do",
    BatchLimiter.UNKNOWN: "nobody said, nor can it be inferred",
}
REPORTED = "reported by the scheduler"
_WORTH_NAMING = 0.1
_MOST = 0.5
_LIMITS = tuple(_SETTINGS.values())


def limiter_name(limiter: str) -> str:
    """As a column shows it."""
    return limiter.replace("_", " ").replace("kv", "KV")


def holder(limiter: str, limits: SchedulerLimits) -> str:
    """What held the batch, with its setting where there is one: ``the KV cache (kv_cache_blocks, now 500)``."""
    named = _HOLDERS.get(limiter, limiter_name(limiter))  # type: ignore[call-overload]
    setting = setting_of(limiter, limits)
    return f"{named} ({setting})" if setting else str(named)


def setting_of(limiter: str, limits: SchedulerLimits) -> str:
    """The setting that sets this limit and its present value; empty where none does."""
    field = _SETTINGS.get(limiter)  # type: ignore[call-overload]
    if field is None:
        return ""
    value = getattr(limits, field)
    return str(field) if value is None else f"{field}, now {value}"


def what_it_is(limiter: str, limits: SchedulerLimits) -> str:
    """The setting, or in words what is none; for what is not known the limits that would have to be."""
    missing = [field for field in _LIMITS if getattr(limits, field) is None]
    if limiter == BatchLimiter.UNKNOWN and missing:
        return f"not reported; to infer it, give SchedulerLimits: {', '.join(missing)}"
    return setting_of(limiter, limits) or holder(limiter, limits)


def by_share(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """The largest first, without those that never were."""
    return sorted(((name, share) for name, share in shares.items() if 0 < share < math.inf), key=lambda pair: -pair[1])


def holders(snapshot: MetricsSnapshot) -> Iterator[tuple[str, str]]:
    """What held the batch: the limiter, and in words for how much of busy time; the largest, and all from 10 % on.

    Last, for no limiter, whether that was inferred, where there is a cause at all.
    """
    statistics = snapshot.iteration_stats
    who = origin(statistics.limiter_reported_ratio)
    caused = False
    for place, (limiter, share) in enumerate(by_share(statistics.limited_by)):
        if place and share < _WORTH_NAMING:
            break
        text = f"{holder(limiter, snapshot.limits)}: {percent(share)} of busy time"
        if limiter == BatchLimiter.DEMAND:
            text = f"{'mostly ' if share >= _MOST else ''}nothing, {text}"
        yield limiter, text
        caused |= limiter not in {BatchLimiter.DEMAND, BatchLimiter.UNKNOWN}
    if caused and who != REPORTED:
        yield "", f"({who})"


def origin(reported_ratio: float) -> str:
    """Who says what limited the batch: the scheduler, or an inference from what it did."""
    if math.isnan(reported_ratio):
        return "whether reported or inferred is not known"
    if reported_ratio < ROUNDING:
        return "inferred"
    return REPORTED if reported_ratio > 1 - ROUNDING else f"{percent(reported_ratio)} reported, rest inferred"
