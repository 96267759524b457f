"""Why the batch was not fuller, inferred where the scheduler does not say; and the time it cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SchedulerLimits
from batchscope.records import BatchLimiter
from batchscope.rows import LIMITER_CODES, Floats, IterationColumn, distinct

C = IterationColumn

_FULL = 1e-6  # of a block: usage is a quotient of floats


def infer(rows: Floats, limits: SchedulerLimits, elsewhere: Floats | float = 0.0) -> Floats:
    """The code of each iteration's limiter, by the first rule that matches; what is not given matches none.

    ``elsewhere``: requests in batches of other pipeline stages. The rules, in their order: preemptions; prefill cut
    off, or the token budget used up; every place taken; the head of the queue does not fit the free blocks, or
    none is free; running requests stand still, which is a policy unless the head of the queue is known and what
    refused it follows; nobody waits, but some are deferred; nobody waits; and by elimination the KV cache, where
    every limit is given and none of the others is reached. Else unknown.
    """
    facts = _Facts(rows, limits, elsewhere)
    waits, nobody_waits = facts.waiting > 0, facts.waiting == 0
    only_room_is_left = waits & ~facts.some_deferred & facts.others_free
    refused = waits & facts.stand_still  # from a batch of prefills: decodes make way for it
    rules = (
        (rows[:, C.PREEMPTIONS] > 0, BatchLimiter.KV_CACHE),
        (facts.cut_off | (waits & facts.budget_used), BatchLimiter.TOKEN_BUDGET),
        (waits & facts.places_taken, BatchLimiter.REQUEST_SLOTS),
        (waits & facts.blocks_taken, BatchLimiter.KV_CACHE),
        (refused & facts.head_exceeds_budget, BatchLimiter.TOKEN_BUDGET),
        (refused & facts.head_known & only_room_is_left, BatchLimiter.KV_CACHE),
        (facts.stand_still & facts.batch_full, BatchLimiter.REQUEST_SLOTS),
        (facts.stand_still, BatchLimiter.POLICY),
        (nobody_waits & facts.some_deferred, BatchLimiter.DEFERRED),
        (nobody_waits, BatchLimiter.DEMAND),
        (only_room_is_left, BatchLimiter.KV_CACHE),
    )
    found = np.full(len(rows), LIMITER_CODES[BatchLimiter.UNKNOWN])
    for condition, limiter in reversed(rules):  # numpy.select does the same, three times as slowly
        np.putmask(found, condition, LIMITER_CODES[limiter])
    return found


class _Facts:
    """What the rules ask of each iteration; ``nan`` compares as False, so what is not given is no fact."""

    def __init__(self, rows: Floats, limits: SchedulerLimits, elsewhere: Floats | float) -> None:
        size = rows[:, C.REQUEST_COUNT]
        scheduled = rows[:, C.SCHEDULED_TOKENS]
        running = _known(rows[:, C.RUNNING_REQUESTS], size)
        places, budget = _or_infinite(limits.max_running_requests), _or_infinite(limits.max_scheduled_tokens)
        self.waiting = rows[:, C.WAITING_REQUESTS]
        self.some_deferred = rows[:, C.DEFERRED_REQUESTS] > 0
        self.cut_off = rows[:, C.UNSCHEDULED_PREFILL_TOKENS] > 0
        self.budget_used = scheduled >= budget
        self.batch_full = size >= max(np.floor(places / limits.pipeline_stages), 1)
        self.places_taken = (running >= places) | (self.batch_full & (limits.pipeline_stages > 1))
        self.blocks_taken = _blocks_taken(rows, limits)
        stood = _known(rows[:, C.STANDING_REQUESTS], running - size - elsewhere)
        self.stand_still = (stood > 0) & ~np.isnan(self.waiting)  # else the last attempt is not known at all
        known = limits.max_running_requests and limits.max_scheduled_tokens and limits.kv_cache_blocks
        self.others_free = (scheduled < budget) & ~self.batch_full & bool(known)
        head = rows[:, C.HEAD_TOKENS]
        self.head_known = ~np.isnan(head)
        self.head_exceeds_budget = head > budget - scheduled


def _blocks_taken(rows: Floats, limits: SchedulerLimits) -> npt.NDArray[np.bool_]:
    """Where what the head of the queue needs is more than is free, or no block is: usage >= 1 - 1 / blocks."""
    if limits.kv_cache_blocks is None:
        return np.zeros(len(rows), dtype=np.bool_)
    free = (1 - rows[:, C.KV_CACHE_USAGE]) * limits.kv_cache_blocks
    taken: npt.NDArray[np.bool_] = free <= 1 + _FULL
    if limits.kv_block_size is not None:
        taken |= np.ceil(rows[:, C.HEAD_TOKENS] / limits.kv_block_size) > free + _FULL
    return taken


def _known(values: Floats, otherwise: Floats) -> Floats:
    return np.where(np.isnan(values), otherwise, values)


def _or_infinite(limit: int | None) -> float:
    return np.inf if limit is None else float(limit)


class OtherStages:
    """Of each iteration, the requests in batches that other pipeline stages worked on when it was formed.

    A rank's batches end in the order in which they were formed: those before it that ended after it started.
    """

    def __init__(self) -> None:
        self._last: dict[float, tuple[Floats, Floats]] = {}  # rank: ends and sizes of its last batches

    def advance(self, rows: Floats, stages: int) -> Floats:
        """How many requests they were, for each of ``rows``, in order."""
        found = np.zeros(len(rows))
        for rank in distinct(rows[:, C.RANK]):
            mine = np.flatnonzero(rows[:, C.RANK] == rank)
            ends, sizes = self._last.get(rank, (np.empty(0), np.empty(0)))
            before = len(ends)
            ends = np.maximum.accumulate(np.concatenate((ends, rows[mine, C.FINISHED_AT])))
            sizes = np.concatenate((sizes, rows[mine, C.REQUEST_COUNT]))
            here = np.arange(before, len(ends))
            first = np.maximum(ends.searchsorted(rows[mine, C.STARTED_AT], side="right"), here - (stages - 1))
            until = np.concatenate(((0.0,), np.cumsum(sizes)))
            found[mine] = until[here] - until[np.minimum(first, here)]
            self._last[rank] = ends[-stages:], sizes[-stages:]
        return found


class BusyClock:
    """Busy time of iterations, overlapping ones counted once: a rank's time moves on to its latest finish.

    An iteration that is reported after a later one was counted takes what it can of the idle spans before: so the
    sum does not depend on who looked in between. The last ``_SPANS`` of each rank are remembered.
    """

    def __init__(self) -> None:
        self._last_finish: dict[float, float] = {}
        self._idle: dict[float, list[Span]] = {}
        self._seen: set[float] = set()

    @property
    def ranks(self) -> int:
        """How many ranks have reported since the last restart."""
        return len(self._seen)

    def advance(self, rows: Floats, only: float | None = None) -> Floats:
        """finished[k] - max(started[k], latest finish before k), never negative, per rank, in order.

        ``only``: the rank that all rows have, where somebody knows.
        """
        if only is not None:
            return self._advance(only, rows[:, C.STARTED_AT], rows[:, C.FINISHED_AT])
        ranks = rows[:, C.RANK]
        busy = np.empty(len(rows))
        for rank in distinct(ranks):
            of_rank = ranks == rank
            busy[of_rank] = self._advance(rank, rows[of_rank, C.STARTED_AT], rows[of_rank, C.FINISHED_AT])
        return busy

    def _advance(self, rank: float, started: Floats, finished: Floats) -> Floats:
        self._seen.add(rank)
        last = self._last_finish.get(rank, -np.inf)
        before = np.empty_like(finished)
        before[0] = last
        np.maximum(np.maximum.accumulate(finished[:-1]), last, out=before[1:])
        busy: Floats = np.maximum(finished - np.maximum(started, before), 0.0)
        idle = self._idle.setdefault(rank, [])
        for row in np.flatnonzero(finished < last).tolist():
            busy[row] = _taken(idle, float(started[row]), float(finished[row]))
        rested = np.flatnonzero(started > before)[-_SPANS:]
        idle += zip(before[rested].tolist(), started[rested].tolist(), strict=True)
        del idle[:-_SPANS]
        self._last_finish[rank] = float(max(last, finished.max()))
        return busy

    def restart(self) -> None:
        """Forget the ranks, but not where their time stands: after a reset no instant counts twice."""
        self._seen.clear()
        self._idle.clear()


Span = tuple[float, float]
_SPANS = 64


def _taken(idle: list[Span], start: float, end: float) -> float:
    """How much of start..end is idle; it no longer is."""
    found = 0.0
    for place in range(len(idle) - 1, -1, -1):
        low, high = idle[place]
        if low < end and high > start:
            found += min(high, end) - max(low, start)
            idle[place : place + 1] = [(one, other) for one, other in ((low, start), (end, high)) if one < other]
        if high <= start:
            break
    return found
