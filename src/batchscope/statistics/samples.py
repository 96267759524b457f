"""The sample buffers as the records of the specification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from batchscope.checks import check_whole
from batchscope.clock import WallClock
from batchscope.errors import ConfigurationError
from batchscope.histograms.row_buffer import RowBuffer
from batchscope.records import BatchMetrics, IterationMetrics, RequestMetrics
from batchscope.rows import (
    LIMITERS,
    REASONS,
    BatchColumn,
    IterationColumn,
    RequestColumn,
)
from batchscope.statistics.sample_list import Samples

Places = npt.NDArray[np.intp]
DURATIONS = {
    name: RequestColumn[name.upper()]
    for name in (
        "time_to_first_token", "total_time", "queue_time", "processing_time", "prefill_time", "decode_time",
        "time_per_output_token", "max_emission_gap", "preempted_time",
    )
}  # fmt: skip
"""What requests can be ordered by."""


def _whole(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


def request_metrics(
    samples: RowBuffer, classes: Sequence[str], wall: WallClock, places: Places | None = None
) -> Samples[RequestMetrics]:
    """Finished requests, oldest first; or those at ``places``, in that order."""
    c = RequestColumn
    places = np.arange(len(samples)) if places is None else places
    held = samples.objects()
    objects = [held[place] for place in places]
    records = (
        RequestMetrics(
            request_id=request_id,
            tokens_generated=int(row[c.TOKENS_GENERATED]),
            reason=REASONS[int(row[c.REASON])],
            queue_time=float(row[c.QUEUE_TIME]),
            processing_time=float(row[c.PROCESSING_TIME]),
            total_time=float(row[c.TOTAL_TIME]),
            completed_time=wall.at(row[c.AT]),
            time_to_first_token=float(row[c.TIME_TO_FIRST_TOKEN]),
            time_per_output_token=float(row[c.TIME_PER_OUTPUT_TOKEN]),
            prefill_time=float(row[c.PREFILL_TIME]),
            decode_time=float(row[c.DECODE_TIME]),
            preempted_time=float(row[c.PREEMPTED_TIME]),
            max_emission_gap=float(row[c.MAX_EMISSION_GAP]),
            prompt_tokens=_whole(row[c.PROMPT_TOKENS]),
            cached_tokens=_whole(row[c.CACHED_TOKENS]),
            recomputed_tokens=_whole(row[c.RECOMPUTED_TOKENS]),
            preemptions=_whole(row[c.PREEMPTIONS]),
            request_class=classes[int(row[c.REQUEST_CLASS])],
            arrived_at=float(row[c.ARRIVED_AT]),
            first_scheduled_at=float(row[c.FIRST_SCHEDULED_AT]),
            first_token_at=float(row[c.FIRST_TOKEN_AT]),
            last_token_at=float(row[c.LAST_TOKEN_AT]),
            finished_at=float(row[c.AT]),
        )
        for row, request_id in zip(samples.rows()[places], objects, strict=True)
    )
    return Samples(RequestMetrics, records)


def slowest(samples: RowBuffer, by: str, most: int) -> Places:
    """Where the ``most`` largest values of ``by`` are, the largest first; those not measured are left out."""
    if by not in DURATIONS:
        raise ConfigurationError("by", by, f"one of {', '.join(DURATIONS)}")
    check_whole("n", most, 0)
    values = samples.column(DURATIONS[by])
    order = np.argsort(-values, kind="stable")
    return order[: min(most, int(np.count_nonzero(~np.isnan(values))))]


def iteration_metrics(samples: RowBuffer, wall: WallClock) -> Samples[IterationMetrics]:
    """Iterations, oldest first."""
    c = IterationColumn
    records = (
        IterationMetrics(
            iteration_number=int(row[c.ITERATION_NUMBER]),
            request_count=int(row[c.REQUEST_COUNT]),
            tokens_generated=int(row[c.TOKENS_GENERATED]),
            requests_completed=int(row[c.REQUESTS_COMPLETED]),
            processing_time=float(row[c.PROCESSING_TIME]),
            memory_bytes_used=_whole(row[c.MEMORY_BYTES_USED]),
            timestamp=wall.at(row[c.AT]),
            limited_by=LIMITERS[int(row[c.LIMITED_BY])],
            limiter_reported=bool(row[c.LIMITER_REPORTED]),
            running_requests=_whole(row[c.RUNNING_REQUESTS]),
            waiting_requests=_whole(row[c.WAITING_REQUESTS]),
            scheduled_tokens=_whole(row[c.SCHEDULED_TOKENS]),
            kv_cache_usage=float(row[c.KV_CACHE_USAGE]),
            started_at=float(row[c.STARTED_AT]),
            finished_at=float(row[c.FINISHED_AT]),
            busy_time=float(row[c.BUSY_TIME]),
            rank=int(row[c.RANK]),
        )
        for row in samples.rows()
    )
    return Samples(IterationMetrics, records)


def batch_metrics(samples: RowBuffer, wall: WallClock) -> Samples[BatchMetrics]:
    """Batch utilization records, oldest first."""
    c = BatchColumn
    records = (
        BatchMetrics(
            batch_id=_whole(row[c.BATCH_ID]),
            request_count=_whole(row[c.REQUEST_COUNT]),
            utilization=float(row[c.UTILIZATION]),
            memory_bytes_used=_whole(row[c.MEMORY_BYTES_USED]),
            timestamp=wall.at(row[c.AT]),
        )
        for row in samples.rows()
    )
    return Samples(BatchMetrics, records)
