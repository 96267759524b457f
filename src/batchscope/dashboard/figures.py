"""The present figures of the page: each a place in ``/snapshot``, and the text that people read.

A place is a JSON pointer (RFC 6901): ``/slo_stats/interactive/attainment``. The page writes it beside the text, so a
reader, or a test, finds the number behind it. All texts are made here, by the words and numbers of the other views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

from batchscope.dashboard.counts import LATENCIES
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.views.numbers import MISSING, amount, count, duration, per_second, percent
from batchscope.views.samples import MAX, tells

Format = Callable[[Any], str]

WINDOW = "1m"
"""Of ``windowed``: the time that latencies are shown of."""
MOST_ERRORS, MOST_GPUS = 100, 8


def memory(value: float | None) -> str:
    """Bytes in the unit that suits."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{amount(value / size)} {unit}"
    return f"{value:,.0f} B"


_PLAIN: tuple[tuple[tuple[str, ...], Format], ...] = (
    (("iteration_stats", "time_weighted_utilization"), percent),
    (("iteration_stats", "busy_ratio"), percent),
    (("iteration_stats", "token_utilization"), percent),
    (("iteration_stats", "limiter_reported_ratio"), percent),
    (("iteration_stats", "average_requests_per_iteration"), amount),
    (("iteration_stats", "average_waiting_requests"), amount),
    (("iteration_stats", "average_kv_cache_usage"), percent),
    (("gauges", "requests_running"), count),
    (("gauges", "requests_waiting"), count),
    (("gauges", "requests_deferred"), count),
    (("gauges", "requests_in_flight"), count),
    (("gauges", "oldest_waiting_seconds"), duration),
    (("gauges", "kv_cache_usage"), percent),
    (("limits", "max_running_requests"), count),
    (("limits", "max_scheduled_tokens"), count),
    (("limits", "kv_cache_blocks"), count),
    (("totals", "requests_received"), count),
    (("request_stats", "completed_requests"), count),
    (("request_stats", "failed_requests"), count),
    (("request_stats", "cancelled_requests"), count),
    (("totals", "requests_lost"), count),
    (("totals", "dropped_records"), count),
    (("request_stats", "requests_per_second"), per_second),
    (("request_stats", "tokens_per_second"), per_second),
    (("totals", "generation_tokens"), count),
    (("totals", "prompt_tokens_computed"), count),
    (("totals", "prompt_tokens_cached"), count),
    (("totals", "preemptions"), count),
    (("totals", "recomputed_tokens"), count),
    (("error_stats", "total_errors"), count),
)
_SLO: tuple[tuple[str, Format], ...] = (
    ("attainment", percent),
    ("attainment_low", percent),
    ("attainment_high", percent),
    ("evaluated", count),
    ("goodput_per_second", per_second),
)
_GPU: tuple[tuple[str, Format], ...] = (
    ("utilization_ratio", percent),
    ("memory_used_bytes", memory),
    ("memory_total_bytes", memory),
    ("power_watts", amount),
    ("temperature_celsius", amount),
)


def figures(snapshot: MetricsSnapshot) -> dict[str, str]:
    """Place -> text, in a fixed order: what is always there first."""
    found = {pointer(*path): form(value_at(snapshot, path)) for path, form in _PLAIN}
    found |= dict(_latencies(snapshot))
    for name, one in snapshot.slo_stats.items():
        found |= {pointer("slo_stats", name, field): form(getattr(one, field)) for field, form in _SLO}
    for name, number in islice(snapshot.error_stats.errors_by_type.items(), MOST_ERRORS):
        found[pointer("error_stats", "errors_by_type", name)] = count(number)
    return found | dict(_resources(snapshot))


def _latencies(snapshot: MetricsSnapshot) -> Iterator[tuple[str, str]]:
    """Of the last minute; a percentile of too few observations is empty: the page then shows the maximum."""
    window = snapshot.windowed.get(WINDOW)
    for name in LATENCIES:
        summary = window.summaries.get(name) if window else None
        path = ("windowed", WINDOW, "summaries", name)
        number = summary.count if summary else 0
        yield pointer(*path, "count"), count(number)
        for field in ("p50", "p95", "p99", MAX):
            told = summary is not None and (field == MAX or tells(field, number))
            yield pointer(*path, field), duration(getattr(summary, field)) if told else ""


def _resources(snapshot: MetricsSnapshot) -> Iterator[tuple[str, str]]:
    forms = dict(_GPU)
    found = [(name, one) for name, one in snapshot.resource_stats.items() if one.resource == "gpu"]
    for name, one in found[: MOST_GPUS * len(forms) * 4]:
        if one.quantity in forms:
            yield pointer("resource_stats", name, "last"), forms[one.quantity](one.last)


def pointer(*path: str) -> str:
    """The JSON pointer of a path."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def value_at(value: Any, path: tuple[str, ...]) -> Any:
    """What is there in a snapshot."""
    for part in path:
        value = getattr(value, part) if isinstance(value, msgspec.Struct) else value[part]
    return value
