"""The sample buffers as the records of the specification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from batchscope.aggregation.row_buffer import RowBuffer
from batchscope.clock import WallClock
from batchscope.recording.rows import (
    LIMITERS,
    REASONS,
    BatchColumn,
    IterationColumn,
    RequestColumn,
)
from batchscope.records import BatchMetrics, IterationMetrics, RequestMetrics


def _whole(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


def request_metrics(samples: RowBuffer, classes: Sequence[str], wall: WallClock) -> list[RequestMetrics]:
    """Finished requests, oldest first."""
    c = RequestColumn
    return [
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
        )
        for row, request_id in zip(samples.rows(), samples.objects(), strict=True)
    ]


def iteration_metrics(samples: RowBuffer, wall: WallClock) -> list[IterationMetrics]:
    """Iterations, oldest first."""
    c = IterationColumn
    return [
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
        )
        for row in samples.rows()
    ]


def batch_metrics(samples: RowBuffer, wall: WallClock) -> list[BatchMetrics]:
    """Batch utilization records, oldest first."""
    c = BatchColumn
    return [
        BatchMetrics(
            batch_id=_whole(row[c.BATCH_ID]),
            request_count=_whole(row[c.REQUEST_COUNT]),
            utilization=float(row[c.UTILIZATION]),
            memory_bytes_used=_whole(row[c.MEMORY_BYTES_USED]),
            timestamp=wall.at(row[c.AT]),
        )
        for row in samples.rows()
    ]
