"""The layout of recorded rows: float64 columns, one schema a kind of record.

A row is written raw by its producer and completed in place at the drain (durations derived, limiter
inferred), so that rings, sample buffers and subscribers all speak the same columns.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.records import BatchLimiter, CompletionReason

Floats = npt.NDArray[np.float64]


class RequestColumn(IntEnum):
    """A finished request. ``OBSERVED`` is 1 where queue time and TTFT were observed when they happened.

    ``NUMBER`` is the request's own in the run, as in ``SpanColumn``; given where a sink listens.
    """

    AT = 0
    TOKENS_GENERATED = 1
    REASON = 2
    PROCESSING_TIME = 3
    QUEUE_TIME = 4
    TOTAL_TIME = 5
    TIME_TO_FIRST_TOKEN = 6
    PREFILL_TIME = 7
    DECODE_TIME = 8
    PREEMPTED_TIME = 9
    PROMPT_TOKENS = 10
    CACHED_TOKENS = 11
    RECOMPUTED_TOKENS = 12
    PREEMPTIONS = 13
    REQUEST_CLASS = 14
    ARRIVED_AT = 15
    FIRST_SCHEDULED_AT = 16
    FIRST_TOKEN_AT = 17
    LAST_TOKEN_AT = 18
    FINISHED_AT = 19
    MAX_EMISSION_GAP = 20
    OBSERVED = 21
    TIME_PER_OUTPUT_TOKEN = 22
    NUMBER = 23


class IterationColumn(IntEnum):
    """An iteration. ``LIMITED_BY`` is reported or inferred; ``BUSY_TIME`` counts overlapping time once, a rank.

    ``DECODE_TOKENS`` are known where ``SCHEDULED_TOKENS`` may not be: a decoding request has one. The utilizations are
    those at the limits of the moment, ``nan`` without them. ``ORDINAL`` is the iteration's own in the run, as in
    ``SpanColumn``, given where a sink listens; ``ITERATION_NUMBER`` is the engine's, and may come twice.
    """

    AT = 0
    ITERATION_NUMBER = 1
    REQUEST_COUNT = 2
    TOKENS_GENERATED = 3
    REQUESTS_COMPLETED = 4
    PROCESSING_TIME = 5
    MEMORY_BYTES_USED = 6
    STARTED_AT = 7
    FINISHED_AT = 8
    RUNNING_REQUESTS = 9
    WAITING_REQUESTS = 10
    DEFERRED_REQUESTS = 11
    PREFILL_REQUESTS = 12
    SCHEDULED_TOKENS = 13
    PREFILL_TOKENS = 14
    UNSCHEDULED_PREFILL_TOKENS = 15
    CACHED_PROMPT_TOKENS = 16
    RECOMPUTED_TOKENS = 17
    DECODE_CONTEXT_TOKENS = 18
    DRAFT_TOKENS = 19
    ACCEPTED_TOKENS = 20
    KV_CACHE_USAGE = 21
    PREEMPTIONS = 22
    SCHEDULE_TIME = 23
    FORWARD_TIME = 24
    RANK = 25
    LIMITED_BY = 26
    HEAD_TOKENS = 27
    STANDING_REQUESTS = 28
    LIMITER_REPORTED = 29
    BUSY_TIME = 30
    DECODE_TOKENS = 31
    UTILIZATION = 32
    TOKEN_UTILIZATION = 33
    ORDINAL = 34


class BatchColumn(IntEnum):
    """A batch utilization record."""

    AT = 0
    UTILIZATION = 1
    BATCH_ID = 2
    REQUEST_COUNT = 3
    MEMORY_BYTES_USED = 4


class GapColumn(IntEnum):
    """Latencies between tokens: ``count`` observations of each value; ITL weighs tokens, emission weighs events."""

    AT = 0
    INTER_TOKEN_LATENCY = 1
    INTER_TOKEN_COUNT = 2
    INTER_EMISSION_LATENCY = 3
    INTER_EMISSION_COUNT = 4


class StartColumn(IntEnum):
    """What is known before a request finishes: its queue time (first scheduled) or TTFT (first token)."""

    AT = 0
    REQUEST_CLASS = 1
    QUEUE_TIME = 2
    TIME_TO_FIRST_TOKEN = 3


class ErrorColumn(IntEnum):
    """An error; its name stands in the object column."""

    AT = 0


class SpanColumn(IntEnum):
    """A request in one or several iterations in a row, as a tracker was told: for sinks only.

    The request whose ``NUMBER`` is ``REQUEST`` took part in the iterations whose ``ORDINAL`` is ``FIRST_ITERATION``,
    and the next, ``ITERATIONS`` in all. At the end of each it emitted ``TOKENS``: where there are several, 1. In the
    first ``SCHEDULED_TOKENS`` of it were scheduled (``nan``: nobody said), in each further one 1. With ``EVICTED`` = 1
    it took no part: the iteration evicted it. ``AT`` is the end of the last one. Where an ordinal has no row, that
    iteration was rejected after its tokens were counted, and its instants are not known.
    """

    AT = 0
    REQUEST = 1
    FIRST_ITERATION = 2
    ITERATIONS = 3
    TOKENS = 4
    SCHEDULED_TOKENS = 5
    EVICTED = 6


class RowKind(IntEnum):
    """The kinds of rows."""

    REQUEST = 0
    ITERATION = 1
    BATCH = 2
    GAP = 3
    START = 4
    ERROR = 5
    SPAN = 6


COLUMNS: dict[RowKind, type[IntEnum]] = {
    RowKind.REQUEST: RequestColumn,
    RowKind.ITERATION: IterationColumn,
    RowKind.BATCH: BatchColumn,
    RowKind.GAP: GapColumn,
    RowKind.START: StartColumn,
    RowKind.ERROR: ErrorColumn,
    RowKind.SPAN: SpanColumn,
}

NOT_GIVEN = 1 - (1 << 30)
"""Stands for a count that was not given where a producer packs counts as int64; ``nan`` once it is drained.

No count is negative; and an int of more than 30 bits takes 20 ns more to pack.
"""

REASONS = tuple(CompletionReason)
REASON_CODES: dict[str, float] = {reason: float(code) for code, reason in enumerate(REASONS)}
LIMITERS = tuple(BatchLimiter)
LIMITER_CODES: dict[str, float] = {limiter: float(code) for code, limiter in enumerate(LIMITERS)}


class Rows(NamedTuple):
    """Drained rows of one kind, in the order they were recorded: what subscribers of a collector receive.

    ``values`` has shape (n, number of columns), each column contiguous; ``objects`` aligns with it: request
    ids, error names, or ``None`` where the kind has none.
    """

    kind: RowKind
    values: Floats
    objects: list[Any] | None = None


class Gaps(NamedTuple):
    """Drained latencies between tokens: ``counts[i]`` observations (None: one) of ``values[i]`` at ``at[i]``.

    ``column`` says which: ``INTER_TOKEN_LATENCY`` weighs tokens, ``INTER_EMISSION_LATENCY`` weighs events.
    """

    column: GapColumn
    at: Floats
    values: Floats
    counts: npt.NDArray[np.int64] | None = None


def empty_rows(kind: RowKind, count: int) -> Floats:
    """``count`` rows in which nothing is measured yet; each column lies contiguous."""
    return np.full((len(COLUMNS[kind]), count), np.nan).T
