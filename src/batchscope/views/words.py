"""What a snapshot's figures are called when people read them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from batchscope.configuration import SchedulerLimits
from batchscope.records import BatchLimiter
from batchscope.views.board import Board, Slo
from batchscope.views.numbers import MISSING, ROUNDING, count, percent

_SHORT = {
    "queue_time": "queue",
    "time_to_first_token": "TTFT",
    "time_per_output_token": "TPOT",
    "inter_token_latency": "ITL",
    "inter_emission_latency": "gap",
    "prefill_time": "prefill",
    "decode_time": "decode",
    "preempted_time": "preempted",
    "total_time": "e2e",
    "iteration_duration": "iteration",
    "processing_time": "processing",
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
TROUBLES = {
    "overdue": "unfinished and past their SLO",
    "lost": "lost",
    "errors": "errors",
    "rejected": "records rejected",
    "dropped": "records dropped",
}
REPORTED = "reported by the scheduler"
_WORTH_NAMING = 0.1


def short_name(quantity: str) -> str:
    """What people call a latency, or a target for it: ``TTFT``; its own name where they have no other."""
    return _SHORT.get(quantity, quantity)


def within(error: float) -> str:
    """A relative error as two digits of per cent: ``within 0.54 %``."""
    return f"within {100 * error:.2g} %" if math.isfinite(error) else f"within {MISSING}"


def missed_by(slo: Slo) -> list[str]:
    """The targets that were missed, each with how often."""
    return [f"{short_name(name)} {count(number)}" for name, number in slo.missed_by.items()]


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
    """The setting, or in words what is none."""
    return setting_of(limiter, limits) or holder(limiter, limits)


def holders(board: Board) -> Iterator[tuple[str, str]]:
    """What held the batch most: the limiter, and in words for how much of busy time.

    Behind what is nothing to change, demand that was the largest or what is not known, comes the first that is.
    """
    who = origin(board.reported_ratio)
    for one in board.held:
        largest = one is board.held[0]
        if one.share < _WORTH_NAMING and not largest:
            return
        text = f"{holder(one.limiter, board.limits)}: {percent(one.share)} of busy time"
        if one.limiter == BatchLimiter.UNKNOWN:
            yield one.limiter, text
        elif one.limiter != BatchLimiter.DEMAND:
            yield one.limiter, text if who == REPORTED else f"{text} ({who})"
            return
        elif largest:
            yield one.limiter, f"mostly nothing, {text}"


def origin(reported_ratio: float) -> str:
    """Who says what limited the batch: the scheduler, or an inference from what it did."""
    if math.isnan(reported_ratio):
        return "whether reported or inferred is not known"
    if reported_ratio < ROUNDING:
        return "inferred"
    return REPORTED if reported_ratio > 1 - ROUNDING else f"{percent(reported_ratio)} reported, rest inferred"
