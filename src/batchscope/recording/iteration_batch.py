"""The iterations of one drain as arrays: instants, scalar fields, and the elements of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.recording.events import Iteration
from batchscope.recording.rows import Floats, IterationColumn

C = IterationColumn
FIELDS = (
    C.ITERATION_NUMBER, C.REQUESTS_COMPLETED, C.MEMORY_BYTES_USED, C.RUNNING_REQUESTS, C.WAITING_REQUESTS,
    C.DEFERRED_REQUESTS, C.UNSCHEDULED_PREFILL_TOKENS, C.CACHED_PROMPT_TOKENS, C.RECOMPUTED_TOKENS,
    C.DECODE_CONTEXT_TOKENS, C.DRAFT_TOKENS, C.ACCEPTED_TOKENS, C.KV_CACHE_USAGE, C.SCHEDULE_TIME,
    C.FORWARD_TIME, C.RANK, C.LIMITED_BY,
)  # fmt: skip
"""The columns of ``Iteration.fields``, in order."""

WRONG_TYPE = "wrong_type"
NEGATIVE = "negative"
INFINITE = "infinite"
OUT_OF_ORDER = "out_of_order"
UNKNOWN_TOKENS = int(np.iinfo(np.int64).min)
_ONE = (1).to_bytes(8, "little")
_UNKNOWN = UNKNOWN_TOKENS.to_bytes(8, "little", signed=True)
Ints = npt.NDArray[np.int64]
Reject = Callable[[str, int], None]


class IterationBatch(NamedTuple):
    """``size`` iterations and their elements, flat, in the order reported.

    ``position`` is where an iteration stands in the log; ``tokens`` None = one each, ``scheduled`` None = not
    given (``UNKNOWN_TOKENS`` where only some are); ``evicted`` None = nobody was.
    """

    position: npt.NDArray[np.int64]
    started: Floats
    finished: Floats
    fields: Floats
    handles: Ints
    iteration: Ints
    tokens: Ints | None
    scheduled: Ints | None
    evicted: npt.NDArray[np.bool_] | None

    @property
    def size(self) -> int:
        """How many iterations."""
        return len(self.started)


def gather(logged: Sequence[tuple[int, Iteration]], reject: Reject) -> IterationBatch:
    """Arrays of those iterations whose values are fit; the others are given to ``reject`` by reason."""
    logged, fields = _readable(logged, reject)
    started = np.array([event.started_at for _, event in logged], dtype=np.float64)
    finished = np.array([event.finished_at for _, event in logged], dtype=np.float64)
    if len(logged):
        reasons = _unfit(started, finished, fields)
        if reasons:
            for reason in reasons.values():
                reject(reason, 1)
            return gather([entry for row, entry in enumerate(logged) if row not in reasons], reject)
    batch = _flatten(logged, started, finished, fields)
    unfit = _negative_tokens(batch)
    if len(unfit):
        reject(NEGATIVE, len(unfit))
        gone = set(unfit.tolist())
        return gather([entry for row, entry in enumerate(logged) if row not in gone], reject)
    return batch


def _readable(
    logged: Sequence[tuple[int, Iteration]], reject: Reject
) -> tuple[Sequence[tuple[int, Iteration]], Floats]:
    """The iterations whose fields are numbers, and those fields (``None`` becomes ``nan``)."""
    try:
        rows = np.array([event.fields for _, event in logged], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        kept = [entry for entry in logged if _numeric(entry[1])]
        reject(WRONG_TYPE, len(logged) - len(kept))
        return _readable(kept, reject)
    return logged, rows.reshape(len(logged), len(FIELDS))


def _numeric(event: Iteration) -> bool:
    try:
        np.array(event.fields, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _unfit(started: Floats, finished: Floats, fields: Floats) -> dict[int, str]:
    """Row -> reason for iterations with impossible instants or values."""
    reasons: dict[int, str] = {}
    checks = (
        (np.isinf(fields).any(axis=1) | ~np.isfinite(finished) | np.isinf(started), INFINITE),
        ((fields < 0).any(axis=1), NEGATIVE),
        (finished < started, OUT_OF_ORDER),
    )
    for bad, reason in checks:
        for row in np.flatnonzero(bad).tolist():
            reasons.setdefault(row, reason)
    return reasons


def _flatten(
    logged: Sequence[tuple[int, Iteration]], started: Floats, finished: Floats, fields: Floats
) -> IterationBatch:
    events = [event for _, event in logged]
    evicts = any(event.preempted for event in events)
    counts = [(len(event.handles) + len(event.preempted)) >> 3 for event in events]
    tokens = scheduled = evicted = None
    if evicts:
        parts = [part for event in events for part in (event.preempted, event.handles)]
        lengths = [len(part) >> 3 for part in parts]
        evicted = np.repeat(np.arange(len(parts)) % 2 == 0, lengths)
    else:
        parts = [event.handles for event in events]
    if evicts or any(event.tokens is not None for event in events):
        tokens = _column([(event.preempted, event.handles, event.tokens) for event in events], _ONE)
    if any(event.scheduled is not None for event in events):
        scheduled = _column([(event.preempted, event.handles, event.scheduled) for event in events], _UNKNOWN)
    return IterationBatch(
        np.array([position for position, _ in logged], dtype=np.int64), started, finished, fields,
        np.frombuffer(b"".join(parts), dtype=np.int64),
        np.repeat(np.arange(len(events)), counts), tokens, scheduled, evicted,
    )  # fmt: skip


def _column(parts: list[tuple[bytes, bytes, bytes | None]], default: bytes) -> Ints:
    """One value an element: 0 for the evicted, then what was given, or ``default`` for each handle."""
    joined = b"".join(
        bytes(len(evicted)) + (given if given is not None else default * (len(handles) >> 3))
        for evicted, handles, given in parts
    )
    return np.frombuffer(joined, dtype=np.int64)


def _negative_tokens(batch: IterationBatch) -> Ints:
    if batch.tokens is None and batch.scheduled is None:
        return batch.iteration[:0]
    bad = np.zeros(len(batch.handles), dtype=np.bool_)
    if batch.tokens is not None:
        bad |= batch.tokens < 0
    if batch.scheduled is not None:
        bad |= (batch.scheduled < 0) & (batch.scheduled != UNKNOWN_TOKENS)
    return np.unique(batch.iteration[bad]) if bad.any() else batch.iteration[:0]
