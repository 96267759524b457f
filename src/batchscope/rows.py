"""The layout of recorded rows: float64 columns, one schema a kind of record.

A row is written raw by its producer and completed in place at the drain (durations derived, limiter
inferred), so that rings, sample buffers and subscribers all speak the same columns.
"""

from __future__ import annotations

from enum import Flag, IntEnum, auto
from typing import Any, NamedTuple, Self

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


class Trait(Flag):
    """What a column of iterations holds, and what is done with it."""

    INSTANT = auto()
    CODE = auto()
    SECONDS = auto()
    BYTES = auto()
    RATIO = auto()
    COUNT = auto()
    """A whole number."""
    AMOUNT = SECONDS | BYTES | RATIO | COUNT
    """A finite number >= 0."""
    DUE = auto()
    """Known of every row, once its durations are derived."""
    SUMMED = auto()
    """Added up since the last reset."""
    TOLD = auto()
    """A tracker is told it; the other fields follow from its slots."""
    DERIVED = auto()
    """Filled in at the drain, packed by nobody: these come last."""


class IterationColumn(IntEnum):
    """An iteration: the instant of its record, the fields of ``IterationResult`` in their order, what the drain adds.

    This is the one table of an iteration's fields: what writers pack, trackers are told, checks ask for, aggregates add
    up and the conformance kit looks at follows from it. ``LIMITED_BY`` is reported or inferred; ``BUSY_TIME`` counts
    overlapping time once, a rank. ``DECODE_TOKENS`` are known where ``SCHEDULED_TOKENS`` may not be: a decoding request
    has one. The utilizations are those at the limits of the moment, ``nan`` without them. ``ORDINAL`` is its own in
    the run, as in ``SpanColumn``, given where a sink listens; ``ITERATION_NUMBER`` is the engine's, and may come twice.
    """

    traits: Trait

    def __new__(cls, traits: Trait) -> Self:
        """The next column."""
        column = int.__new__(cls, len(cls.__members__))
        column._value_ = int(column)
        column.traits = traits
        return column

    @classmethod
    def having(cls, traits: Trait) -> tuple[Self, ...]:
        """The columns that have any of ``traits``, in order."""
        return tuple(column for column in cls if column.traits & traits)

    AT = Trait.INSTANT
    ITERATION_NUMBER = Trait.COUNT | Trait.DUE | Trait.TOLD
    REQUEST_COUNT = Trait.COUNT | Trait.DUE
    TOKENS_GENERATED = Trait.COUNT | Trait.DUE | Trait.SUMMED
    REQUESTS_COMPLETED = Trait.COUNT | Trait.DUE | Trait.TOLD
    PROCESSING_TIME = Trait.SECONDS | Trait.DUE
    MEMORY_BYTES_USED = Trait.BYTES | Trait.TOLD
    STARTED_AT = Trait.INSTANT
    FINISHED_AT = Trait.INSTANT
    RUNNING_REQUESTS = Trait.COUNT | Trait.TOLD
    WAITING_REQUESTS = Trait.COUNT | Trait.TOLD
    DEFERRED_REQUESTS = Trait.COUNT | Trait.TOLD
    PREFILL_REQUESTS = Trait.COUNT
    SCHEDULED_TOKENS = Trait.COUNT | Trait.SUMMED
    PREFILL_TOKENS = Trait.COUNT | Trait.SUMMED
    UNSCHEDULED_PREFILL_TOKENS = Trait.COUNT | Trait.TOLD
    CACHED_PROMPT_TOKENS = Trait.COUNT | Trait.TOLD
    RECOMPUTED_TOKENS = Trait.COUNT | Trait.SUMMED | Trait.TOLD
    DECODE_CONTEXT_TOKENS = Trait.COUNT | Trait.TOLD
    DRAFT_TOKENS = Trait.COUNT | Trait.SUMMED | Trait.TOLD
    ACCEPTED_TOKENS = Trait.COUNT | Trait.SUMMED | Trait.TOLD
    KV_CACHE_USAGE = Trait.RATIO | Trait.TOLD
    PREEMPTIONS = Trait.COUNT | Trait.SUMMED
    SCHEDULE_TIME = Trait.SECONDS | Trait.TOLD
    FORWARD_TIME = Trait.SECONDS | Trait.TOLD
    RANK = Trait.COUNT | Trait.DUE | Trait.TOLD
    LIMITED_BY = Trait.CODE | Trait.TOLD
    HEAD_TOKENS = Trait.COUNT
    STANDING_REQUESTS = Trait.COUNT
    LIMITER_REPORTED = Trait.DERIVED
    BUSY_TIME = Trait.DERIVED
    DECODE_TOKENS = Trait.DERIVED
    UTILIZATION = Trait.DERIVED
    TOKEN_UTILIZATION = Trait.DERIVED
    ORDINAL = Trait.DERIVED


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

PACKED_OF_ITERATION = len(IterationColumn) - len(IterationColumn.having(Trait.DERIVED))
PACKED_OF_REQUEST = int(RequestColumn.OBSERVED)
"""How many columns writers pack, the first ones; of the other kinds all."""

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


def distinct(values: Floats) -> list[float]:
    """The different ones, ascending. Not ``numpy.unique``, which imports: a drain may run while somebody forks."""
    ordered = np.sort(values)
    return [*ordered[:1].tolist(), *ordered[1:][ordered[1:] != ordered[:-1]].tolist()]


def empty_rows(kind: RowKind, count: int) -> Floats:
    """``count`` rows in which nothing is measured yet; each column lies contiguous."""
    return np.full((len(COLUMNS[kind]), count), np.nan).T
