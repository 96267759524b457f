"""What a snapshot's figures are called when people read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from batchscope.configuration import DEFAULT_CLASS, SchedulerLimits, SloTargets
from batchscope.records import BatchLimiter
from batchscope.text import shown
from batchscope.views.board import Board, Slo, Trouble
from batchscope.views.numbers import MISSING, ROUNDING, amount, count, duration, percent

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
    "max_emission_gap": "longest gap",
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
_TROUBLES = {
    "overdue": "{count} unfinished and past their SLO",
    "lost": "{count} lost",
    "errors": "{count} errors{parts}",
    "rejected": "{count} records rejected{parts}",
    "dropped": "{count} records dropped",
    "recomputed": "{count}{share} were computed again, after {preemptions} preemptions",
    "preempted": "{count} preemptions of {of} requests",
    "waiting_in_demand": "demand was reported while requests waited ({mean} on average): say what kept them out",
    "beyond_limit": "the largest batch had {count} requests, and max_running_requests is {of}",
}
_SHOWN_NAMES = 3
REPORTED = "reported by the scheduler"
_WORTH_NAMING = 0.1
_MOST = 0.5
_LIMITS = tuple(_SETTINGS.values())
MOST_SHOWN = 20
"""Of what others name: limiters, classes, labels."""


def short_name(quantity: str) -> str:
    """What people call a latency, or a target for it: ``TTFT``; its own name where they have no other."""
    return _SHORT.get(quantity, quantity)


def targets_in_words(slo: Mapping[str, SloTargets]) -> str:
    """``TTFT 2 s, TPOT 100 ms``; by class where classes are told apart."""
    told = {
        name: ", ".join(f"{short_name(target)} {duration(limit)}" for target, limit in targets.declared.items())
        for name, targets in slo.items()
        if targets.declared
    }
    if set(told) == {DEFAULT_CLASS}:
        return told[DEFAULT_CLASS]
    return "; ".join(f"{shown(name, 60)}: {targets}" for name, targets in told.items())


def within(error: float) -> str:
    """A relative error as two digits of per cent: ``within 0.54 %``."""
    return f"within {100 * error:.2g} %" if math.isfinite(error) else f"within {MISSING}"


def trouble(of: Trouble) -> str:
    """It in words; the most frequent of its parts by name."""
    named = [f"{shown(name, 60)} {count(number)}" for name, number in list(of.parts.items())[:_SHOWN_NAMES]]
    more = ["..."] * (len(of.parts) > _SHOWN_NAMES)
    figures = {
        "count": count(of.count), "mean": amount(of.count), "of": count(of.of), "preemptions": count(of.preemptions),
        "share": f" of {count(of.of)} prefill tokens ({percent(of.count / of.of)})" if of.of else " tokens",
        "parts": f" ({', '.join([*named, *more])})" if named else "",
    }  # fmt: skip
    return _TROUBLES[of.name].format_map(figures)


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
    """The setting, or in words what is none; for what is not known the limits that would have to be."""
    missing = [field for field in _LIMITS if getattr(limits, field) is None]
    if limiter == BatchLimiter.UNKNOWN and missing:
        return f"not reported; to infer it, give SchedulerLimits: {', '.join(missing)}"
    return setting_of(limiter, limits) or holder(limiter, limits)


def holders(board: Board) -> Iterator[tuple[str, str]]:
    """What held the batch: the limiter, and in words for how much of busy time; the largest, and all from 10 % on.

    Last, for no limiter, whether that was inferred, where there is a cause at all.
    """
    who = origin(board.reported_ratio)
    caused = False
    for place, one in enumerate(board.held):
        if place and one.share < _WORTH_NAMING:
            break
        text = f"{holder(one.limiter, board.limits)}: {percent(one.share)} of busy time"
        if one.limiter == BatchLimiter.DEMAND:
            text = f"{'mostly ' if one.share >= _MOST else ''}nothing, {text}"
        yield one.limiter, text
        caused |= one.limiter not in {BatchLimiter.DEMAND, BatchLimiter.UNKNOWN}
    if caused and who != REPORTED:
        yield "", f"({who})"


def origin(reported_ratio: float) -> str:
    """Who says what limited the batch: the scheduler, or an inference from what it did."""
    if math.isnan(reported_ratio):
        return "whether reported or inferred is not known"
    if reported_ratio < ROUNDING:
        return "inferred"
    return REPORTED if reported_ratio > 1 - ROUNDING else f"{percent(reported_ratio)} reported, rest inferred"
