"""Figures of iterations: time by what held the batch, what that cost, tokens, means."""

from __future__ import annotations

from typing import Any

from batchscope.ledger.analysis.derived import of_segment
from batchscope.ledger.analysis.tables import RunTables, Table, import_ibis

SUMMED = (
    "tokens_generated", "scheduled_tokens", "prefill_tokens", "decode_tokens", "cached_prompt_tokens",
    "recomputed_tokens", "draft_tokens", "accepted_tokens", "preemptions",
)  # fmt: skip
MEANS = {
    "requests_per_iteration": "request_count",
    "tokens_per_iteration": "tokens_generated",
    "memory_bytes_per_iteration": "memory_bytes_used",
    "iteration_processing_time": "processing_time",
    "waiting_requests": "waiting_requests",
    "kv_cache_usage": "kv_cache_usage",
    "utilization": "utilization",
    "token_utilization": "token_utilization",
}
"""Means by the snapshot's name for them, and their columns."""


def by_limiter(tables: RunTables) -> Table:
    """By ``limited_by``: busy seconds, lost slot-seconds, request-seconds of those who waited meanwhile."""
    t = with_places(tables)
    return t.group_by("limited_by").agg(
        busy=t.busy_time.sum(),
        lost=lost_slots(t).sum(),
        waited=(t.waiting_requests * t.busy_time).sum(),
    )


def sums(tables: RunTables) -> Table:
    """One row: counts, totals, integrals over busy time, and of each of ``MEANS`` the sum and the count."""
    ibis = import_ibis()
    t = with_places(tables)
    busy, size = t.busy_time, t.request_count
    parts = {column: t[column].sum() for column in SUMMED}
    parts |= {f"{column}_said": t[column].count() for column in SUMMED}
    parts |= {f"{name}_sum": t[column].cast("float64").sum() for name, column in MEANS.items()}
    parts |= {f"{name}_count": t[column].count() for name, column in MEANS.items()}
    return t.agg(
        n=t.count(),
        ranks=t["rank"].nunique(),
        first_at=t.at.min(),
        last_at=t.at.max(),
        busy=busy.sum(),
        reported=ibis.ifelse(t.limiter_reported, busy, 0.0).sum(),
        scheduled_seconds=(busy * size).sum(),
        running_total=(busy * t.running_requests).sum(),
        running_seconds=ibis.ifelse(t.running_requests.notnull(), busy, 0.0).sum(),
        waiting_total=(busy * t.waiting_requests).sum(),
        waiting_seconds=ibis.ifelse(t.waiting_requests.notnull(), busy, 0.0).sum(),
        slot_seconds=(busy * t.places).sum(),
        used_slot_seconds=ibis.ifelse(t.places.notnull(), busy * size, 0.0).sum(),
        both_said=(t.scheduled_tokens - t.prefill_tokens).count(),
        smallest=size.min(),
        largest=size.max(),
        **parts,
    )


def with_places(tables: RunTables) -> Table:
    """Iterations with the ``places`` of one batch at the limits of their segment; null without such a limit."""
    places = [header.limits.batch_places for header in tables.headers]
    return tables.iterations.mutate(places=of_segment(tables.iterations, places))


def lost_slots(table: Table) -> Any:
    """Slot-seconds that were left empty."""
    ibis = import_ibis()
    return ibis.greatest(table.places - table.request_count, 0.0) * table.busy_time
