"""Why vLLM's scheduler stopped admitting, said by the scheduler itself; and the way of that word to the front end.

vLLM has no hook for it: ``AdmissionReporter`` is what a scheduler subclass tells what it did. The scheduler lives
in the engine core's process, the stat logger in the front end's. What is reported travels in the statistics of
the very step it belongs to: as a key of ``SchedulerStats.num_kv_fetch_reqs_by_stage``, a mapping of names to
counts, with the count 0, so that whoever adds the counts up sees nothing new. Read in vLLM 0.32.0.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from batchscope.recording.rows import LIMITERS
from batchscope.records import BatchLimiter

logger = logging.getLogger("vllm.batchscope")
PREFIX = "batchscope/1:"
_NUMBERS, _DIGITS = 5, 16
_IN_FLIGHT = 64
"""Steps whose results have not come back yet: the pipeline is a few deep."""


class Admission(NamedTuple):
    """One ``schedule()``: what stopped admission, and the batch. Tokens of prefill include recomputed ones."""

    limited_by: BatchLimiter
    request_count: int
    scheduled_tokens: int
    prefill_requests: int
    prefill_tokens: int

    def encoded(self) -> str:
        """A key for the mapping."""
        return PREFIX + ":".join(str(number) for number in (LIMITERS.index(self.limited_by), *self[1:]))


def decoded(stages: Any) -> Admission | None:
    """What a mapping of stages carries, in its last key; None where that is not ours, or not ours to read."""
    if not isinstance(stages, dict) or not stages:
        return None
    key = next(reversed(stages))
    if not isinstance(key, str) or not key.startswith(PREFIX):
        return None
    numbers = key.removeprefix(PREFIX).split(":")
    if len(numbers) != _NUMBERS or not all(number.isdecimal() and len(number) < _DIGITS for number in numbers):
        return None
    limiter, *counts = map(int, numbers)
    return Admission(LIMITERS[limiter], *counts) if limiter < len(LIMITERS) else None


class AdmissionReporter:
    """Hears a scheduler's steps and tells of them in its statistics. Never raises: at the first failure it ends.

    ``scheduler`` is vLLM's. Its KV cache manager's ``allocate_slots`` is wrapped to hear of refusals: it is called
    as before and its answer handed on as it is.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._refused = False
        self._decided: deque[tuple[Any, Admission]] = deque(maxlen=_IN_FLIGHT)
        self._present: Admission | None = None
        self.failures = 0
        self._guarded(self._listen)

    def scheduled(self, output: Any) -> None:
        """``schedule()`` gave ``output``."""
        self._guarded(self._decide, output)

    def processing(self, output: Any) -> None:
        """The results of ``output`` came back: the statistics made next are of that step."""
        self._guarded(self._recall, output)

    def tell(self, stats: Any) -> None:
        """Put into ``stats`` what is known of their step; None is left alone."""
        self._guarded(self._write, stats)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        if self.failures:
            return
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001  (the scheduler's own result stands, whatever happens here)
            self.failures += 1
            self._decided.clear()
            with contextlib.suppress(Exception):
                logger.warning(
                    "batchscope: the scheduler no longer reports why admission stopped: %r; it is not affected", error
                )

    def _listen(self) -> None:
        manager = self._scheduler.kv_cache_manager
        allocate = manager.allocate_slots

        def allocate_slots(*arguments: Any, **options: Any) -> Any:
            blocks = allocate(*arguments, **options)
            if blocks is None:
                self._refused = True
            return blocks

        manager.allocate_slots = allocate_slots

    def _decide(self, output: Any) -> None:
        refused, self._refused = self._refused, False
        self._decided.append((output, Admission(limiter_of(self._scheduler, output, refused=refused), *_batch(output))))

    def _recall(self, output: Any) -> None:
        self._present = None
        while self._decided:  # results come back in the order of the steps
            decided, admission = self._decided.popleft()
            if decided is output:
                self._present = admission
                return

    def _write(self, stats: Any) -> None:
        if stats is not None and self._present is not None:
            stats.num_kv_fetch_reqs_by_stage[self._present.encoded()] = 0
            self._present = None


def limiter_of(scheduler: Any, output: Any, *, refused: bool) -> BatchLimiter:
    """What stopped the last admission attempt of the ``schedule()`` that gave ``output``.

    ``refused``: an allocation of KV cache was refused on the way, for a waiting or for a running request.
    """
    if scheduler._pause_state.name != "UNPAUSED":  # noqa: SLF001  (nothing public tells)
        return BatchLimiter.PAUSED
    if refused:
        return BatchLimiter.KV_CACHE
    running, waiting = scheduler.get_request_counts()
    deferred = len(scheduler.deferred_waiting)
    waiting -= deferred
    if output.total_num_scheduled_tokens >= scheduler.max_num_scheduled_tokens and (
        waiting > 0 or any(request.is_prefill_chunk for request in scheduler.running)
    ):
        return BatchLimiter.TOKEN_BUDGET
    if waiting <= 0:
        return BatchLimiter.DEFERRED if deferred else BatchLimiter.DEMAND
    if running + scheduler.num_waiting_for_streaming_input >= scheduler.max_num_active_reqs:
        return BatchLimiter.REQUEST_SLOTS
    # A prompt that may not be cut waits for a budget of its own; what is left is a rule: alignment, balancing.
    whole = not scheduler.scheduler_config.enable_chunked_prefill
    return BatchLimiter.TOKEN_BUDGET if whole else BatchLimiter.POLICY


def _batch(output: Any) -> tuple[int, int, int, int]:
    """Requests and tokens, all and of prefill: whoever computes more than one token besides its drafts prefills."""
    tokens = output.num_scheduled_tokens
    drafts = output.scheduled_spec_decode_tokens
    total = output.total_num_scheduled_tokens
    if not drafts:  # the common case, without a loop of ours
        decoding = list(tokens.values()).count(1)
        return len(tokens), total, len(tokens) - decoding, total - decoding
    prefill = [count for name, count in tokens.items() if count - len(drafts.get(name, ())) > 1]
    return len(tokens), total, len(prefill), sum(prefill)
