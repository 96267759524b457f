"""Why the batch was not fuller, inferred where the scheduler does not say; and the time it cost."""

from __future__ import annotations

import numpy as np

from batchscope.configuration import SchedulerLimits
from batchscope.recording.rows import LIMITER_CODES, Floats, IterationColumn
from batchscope.records import BatchLimiter


def infer(rows: Floats, limits: SchedulerLimits) -> Floats:
    """The code of each iteration's limiter, by the first rule that matches; what is not given matches none.

    preemptions > 0: kv_cache. Prefill cut off, or waiting with the token budget used up: token_budget.
    Waiting with every place taken: request_slots. Nothing waiting, some deferred: deferred. Nothing waiting,
    deferred or cut off: demand. Waiting with the KV cache full to less than a block: kv_cache. Else unknown,
    also when ``waiting`` is not given.
    """
    waiting = rows[:, IterationColumn.WAITING_REQUESTS]
    running = rows[:, IterationColumn.RUNNING_REQUESTS]
    running = np.where(np.isnan(running), rows[:, IterationColumn.REQUEST_COUNT], running)
    deferred = np.nan_to_num(rows[:, IterationColumn.DEFERRED_REQUESTS])
    cut_off = rows[:, IterationColumn.UNSCHEDULED_PREFILL_TOKENS] > 0
    budget_used = rows[:, IterationColumn.SCHEDULED_TOKENS] >= _or_infinite(limits.max_scheduled_tokens)
    places_taken = running >= _or_infinite(limits.max_running_requests)
    blocks = limits.kv_cache_blocks
    full = 1 - 1 / blocks if blocks else np.inf
    rules = (
        (rows[:, IterationColumn.PREEMPTIONS] > 0, BatchLimiter.KV_CACHE),
        (cut_off | ((waiting > 0) & budget_used), BatchLimiter.TOKEN_BUDGET),
        ((waiting > 0) & places_taken, BatchLimiter.REQUEST_SLOTS),
        ((waiting == 0) & (deferred > 0), BatchLimiter.DEFERRED),
        ((waiting == 0) & (deferred == 0) & ~cut_off, BatchLimiter.DEMAND),
        ((waiting > 0) & (rows[:, IterationColumn.KV_CACHE_USAGE] >= full), BatchLimiter.KV_CACHE),
    )
    conditions = [condition for condition, _ in rules]
    codes = [LIMITER_CODES[limiter] for _, limiter in rules]
    return np.select(conditions, codes, default=LIMITER_CODES[BatchLimiter.UNKNOWN])


def _or_infinite(limit: int | None) -> float:
    return np.inf if limit is None else float(limit)


class BusyClock:
    """Busy time of iterations, overlapping ones counted once: a rank's time moves on to its latest finish."""

    def __init__(self) -> None:
        self._last_finish: dict[float, float] = {}
        self._seen: set[float] = set()

    @property
    def ranks(self) -> int:
        """How many ranks have reported since the last restart."""
        return len(self._seen)

    def advance(self, rows: Floats) -> Floats:
        """finished[k] - max(started[k], latest finish before k), never negative, per rank, in order."""
        ranks = rows[:, IterationColumn.RANK]
        busy = np.empty(len(rows))
        for rank in set(ranks.tolist()):  # not numpy.unique, which imports: a drain may run while somebody forks
            of_rank = ranks == rank
            self._seen.add(rank)
            started = rows[of_rank, IterationColumn.STARTED_AT]
            finished = rows[of_rank, IterationColumn.FINISHED_AT]
            before = np.empty_like(finished)
            before[0] = self._last_finish.get(rank, -np.inf)
            np.maximum(np.maximum.accumulate(finished[:-1]), before[0], out=before[1:])
            busy[of_rank] = np.maximum(finished - np.maximum(started, before), 0.0)
            self._last_finish[rank] = float(max(before[0], finished.max()))
        return busy

    def restart(self) -> None:
        """Forget the ranks, but not where their time stands: after a reset no instant counts twice."""
        self._seen.clear()
