"""What follows from other columns and is therefore not stored, as expressions: ``ledger.derived`` in any engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchscope.ledger.analysis.tables import Table, import_ibis
from batchscope.sinks import RunHeader


def filled_requests(requests: Table) -> Table:
    """Requests with every duration that their instants tell."""
    ibis = import_ibis()
    t = requests
    t = t.mutate(
        at=ibis.coalesce(t.at, t.finished_at),
        queue_time=ibis.coalesce(t.queue_time, t.first_scheduled_at - t.arrived_at),
        time_to_first_token=ibis.coalesce(t.time_to_first_token, t.first_token_at - t.arrived_at),
        prefill_time=ibis.coalesce(t.prefill_time, t.first_token_at - t.first_scheduled_at),
        decode_time=ibis.coalesce(t.decode_time, t.last_token_at - t.first_token_at),
        processing_time=ibis.coalesce(t.processing_time, t.finished_at - t.first_scheduled_at),
    )
    per_token = ibis.ifelse(t.tokens_generated >= 2, t.decode_time / (t.tokens_generated - 1), ibis.null("float64"))
    return t.mutate(
        total_time=ibis.coalesce(
            t.total_time, t.finished_at - t.arrived_at, ibis.coalesce(t.queue_time, 0.0) + t.processing_time
        ),
        time_per_output_token=ibis.coalesce(t.time_per_output_token, per_token),
    )


def filled_iterations(iterations: Table, headers: Sequence[RunHeader]) -> Table:
    """Iterations with their times, and their utilization at the limits of their segment."""
    ibis = import_ibis()
    t = iterations
    duration = t.finished_at - t.started_at
    t = t.mutate(
        at=ibis.coalesce(t.at, t.finished_at),
        processing_time=ibis.coalesce(t.processing_time, duration),
        utilization=ibis.coalesce(
            t.utilization, t.request_count / of_segment(t, [header.limits.batch_places for header in headers])
        ),
        token_utilization=ibis.coalesce(
            t.token_utilization,
            t.scheduled_tokens / of_segment(t, [header.limits.max_scheduled_tokens for header in headers]),
        ),
    )
    return t.mutate(busy_time=ibis.coalesce(t.busy_time, t.processing_time))


def of_segment(table: Table, values: Sequence[float | None]) -> Any:
    """Of each row the value of its segment; null where that has none."""
    ibis = import_ibis()
    known = {value: [at for at, each in enumerate(values) if each == value] for value in values if value is not None}
    cases = [(table.segment.isin(segments), float(value)) for value, segments in known.items()]
    return ibis.cases(*cases, else_=ibis.null("float64")) if cases else ibis.null("float64")
