"""Cumulative counts and present values: what exporters read at a scrape, and what merges by addition."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan

import msgspec

TokensByEngine = dict[str, dict[str, int]]
"""Output tokens by engine and by who told of them, ``iterations`` or ``requests``; see ``counted_once``."""
MOST_ENGINES = 1024
LARGEST = 2**63 - 1
"""What whole numbers of a document, and their sums, go up to: a larger one has no place in JSON, nor in a float."""


def engine_name(role: str, labels: Mapping[str, str]) -> str:
    """What processes of one engine have in common, and different engines should not."""
    return ascii([role, *sorted(labels.items())])


def counted_once(tokens: TokensByEngine) -> int:
    """All tokens: of each engine those of its iterations where it has any, else those of its finished requests."""
    return min(sum(sum(_chosen(told).values()) for told in tokens.values()), LARGEST)


def _chosen(told: dict[str, int]) -> dict[str, int]:
    return {"iterations": told["iterations"]} if "iterations" in told else told


def chosen(tokens: TokensByEngine) -> TokensByEngine:
    """What counts of each engine; those of more than ``MOST_ENGINES`` are one more engine's."""
    kept = {name: _chosen(told) for name, told in sorted(tokens.items())[:MOST_ENGINES]}
    further = {name: told for name, told in tokens.items() if name not in kept}
    return kept | {"others": {"iterations": counted_once(further)}} if further else kept


class Totals(msgspec.Struct, frozen=True):
    """Counts and integrals since ``reset()``; they only grow, and add up over processes.

    What nobody measured is ``None``, or ``nan`` for a float: never 0. Integrals stand beside gauges because a scrape
    every 15 s cannot see 50 ms iterations, and because ratios do not add up over a fleet while seconds do.
    ``requests_received`` = finished + in flight + lost.
    ``generation_tokens`` are those of iterations where one was recorded before a request finished, else those of
    finished requests; what was chosen stays, over ``reset()``, too. ``running_request_seconds`` covers the busy time in
    which it was said how many run, ``running_reported_seconds``; likewise waiting, which is also kept by what held the
    batch meanwhile: what those who waited waited for.
    ``slot_seconds`` = max_running_requests x busy time while that limit was known, ``used_slot_seconds`` = requests
    in the batch x the same time, ``rank_seconds`` = time since start x ranks seen. From ``prefix_cache_queried_tokens``
    on, what only an engine's own statistics tell: None (or no entry) where they never did.
    """

    requests_received: int = 0
    requests_lost: int = 0
    requests_by_reason: dict[str, int] = {}
    prompt_tokens_computed: int | None = None
    prompt_tokens_cached: int | None = None
    generation_tokens: int = 0
    generation_tokens_of_iterations: int = 0
    generation_tokens_of_requests: int = 0
    generation_tokens_by_engine: TokensByEngine = {}
    scheduled_prefill_tokens: int | None = None
    scheduled_decode_tokens: int | None = None
    recomputed_tokens: int | None = None
    draft_tokens: int | None = None
    accepted_tokens: int | None = None
    iterations: int = 0
    batches: int = 0
    preemptions: int = 0
    busy_seconds: float = 0.0
    busy_seconds_by_limiter: dict[str, float] = {}
    busy_seconds_reported: float = 0.0
    lost_slot_seconds_by_limiter: dict[str, float] = {}
    running_request_seconds: float = nan
    running_reported_seconds: float = 0.0
    waiting_request_seconds: float = nan
    waiting_reported_seconds: float = 0.0
    waiting_request_seconds_by_limiter: dict[str, float] = {}
    scheduled_request_seconds: float = 0.0
    slot_seconds: float = nan
    used_slot_seconds: float = nan
    rank_seconds: float = 0.0
    errors_by_type: dict[str, int] = {}
    rejected_records: dict[str, int] = {}
    dropped_records: int = 0
    slo_requests: dict[str, dict[str, int]] = {}
    slo_missed_by: dict[str, dict[str, int]] = {}
    prefix_cache_queried_tokens: int | None = None
    prefix_cache_hit_tokens: dict[str, int] = {}
    graph_tokens: int | None = None
    graph_padding_tokens: int | None = None
    corrupted_requests: int | None = None


class Gauges(msgspec.Struct, frozen=True):
    """Present values: 0 or gone when the engine idles, never frozen; ``None`` or ``nan`` = not known.

    ``requests_overdue`` counts unfinished requests, by class, that can no longer meet their targets.
    ``requests_by_adapter``: of each LoRA adapter the ``running`` and the ``waiting`` ones, where the engine tells: 16
    adapters by name, the others together. It is in the snapshot only, never a label.
    """

    requests_in_flight: int = 0
    requests_running: int | None = None
    requests_waiting: int | None = None
    requests_deferred: int | None = None
    requests_overdue: dict[str, int] = {}
    oldest_waiting_seconds: float = nan
    seconds_since_last_iteration: float = nan
    kv_cache_usage: float = nan
    memory_bytes_used: int | None = None
    limit_running_requests: int | None = None
    limit_scheduled_tokens: int | None = None
    limit_kv_cache_blocks: int | None = None
    requests_by_adapter: dict[str, dict[str, int]] = {}


def standing_still(gauges: Gauges) -> float:
    """Seconds for which there was work and no iteration ended; ``nan`` where there is none, or nobody knows.

    Work: requests wait or hold a place. Where they only wait, they must have waited that long as well: after an idle
    hour the first request finds an old last iteration. Requests that hold a place count where a tracker follows them;
    a last iteration's report of them says nothing about now. With deferred requests alone there is nothing to do.
    """
    holding = bool(gauges.requests_running) and gauges.requests_in_flight > 0
    if not (gauges.requests_waiting or holding):
        return nan
    ages = [gauges.seconds_since_last_iteration] + ([] if holding else [gauges.oldest_waiting_seconds])
    return min((seconds for seconds in ages if not isnan(seconds)), default=nan)


class Mean(msgspec.Struct, frozen=True):
    """A mean with what is needed to merge it: the sum of ``count`` values."""

    sum: float = 0.0
    count: int = 0

    @property
    def value(self) -> float:
        """The mean; ``nan`` of nothing."""
        return self.sum / self.count if self.count else nan

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.sum + other.sum, min(self.count + other.count, LARGEST))


class WindowTotals(msgspec.Struct, frozen=True):
    """What the rate window holds: rates are these divided by ``min(window_seconds, elapsed_seconds)``."""

    window_seconds: float = nan
    elapsed_seconds: float = nan
    requests: int = 0
    iterations: int = 0
    tokens_of_iterations: int = 0
    tokens_of_requests: int = 0
    tokens_by_engine: TokensByEngine = {}
    slo_met: dict[str, int] = {}

    def rate(self, total: float) -> float:
        """``total`` a second; ``nan`` before any time has passed."""
        seconds = min(self.window_seconds, self.elapsed_seconds)
        return total / seconds if seconds > 0 else nan
