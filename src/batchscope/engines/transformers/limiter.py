"""Why transformers' scheduler stopped admitting, from what it looks at itself: reported, not guessed.

The order is that of its candidate loop (transformers 5.23, Scheduler._process_candidates): whichever budget ends the
loop is the limiter; where requests wait and none did, allocations were refused.
"""

from __future__ import annotations

from typing import Any

from batchscope.records import BatchLimiter


def limiter(scheduler: Any, result: Any, token_budget: int, cache_budget: int, free: float) -> BatchLimiter:
    """The limiter of a batch just formed; ``free`` is the free share of the KV cache after it."""
    requests, fast_path, query_tokens, keys_read = result
    waiting = bool(scheduler.waiting_requests)
    cut_off = any(future.state.remaining_prefill_tokens for future in requests)
    rules = (
        (bool(scheduler.starved_requests), BatchLimiter.KV_CACHE),
        (query_tokens >= token_budget and (waiting or cut_off), BatchLimiter.TOKEN_BUDGET),
        (not waiting and cut_off, BatchLimiter.TOKEN_BUDGET),
        (not waiting, BatchLimiter.DEMAND),
        (len(requests) >= scheduler.max_requests_per_batch, BatchLimiter.REQUEST_SLOTS),
        # After a preemption nobody is admitted until one finishes; a share of the cache is kept as a margin.
        (scheduler.block_new_requests or free < scheduler.safety_margin, BatchLimiter.KV_CACHE),
        # A cap on the keys and values read in one batch.
        (not fast_path and keys_read >= cache_budget, BatchLimiter.POLICY),
    )
    return next((limited_by for holds, limited_by in rules if holds), BatchLimiter.KV_CACHE)
