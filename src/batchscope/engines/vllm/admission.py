"""Why vLLM's scheduler stopped admitting and whom it scheduled, said by itself; and the way of it to the front end.

vLLM has no hook for it: ``AdmissionReporter`` is what a scheduler subclass tells what it did. The scheduler lives
in the engine core's process, the stat logger in the front end's. What is reported travels in the statistics of
the very step it belongs to: as a key of ``SchedulerStats.num_kv_fetch_reqs_by_stage``, a mapping of names to
counts, with the count 0, so that whoever adds the counts up sees nothing new. Read in vLLM 0.32.0 and 0.33.0.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from batchscope.clock import Clock
from batchscope.engines.vllm.batch_changes import BatchChange, BatchTeller, Decided
from batchscope.records import BatchLimiter
from batchscope.rows import LIMITERS

logger = logging.getLogger("vllm.batchscope")
PREFIX = "batchscope/2:"
PRIORITY = "batchscope/priority:"
"""Begins a key that says a new request's priority and its id, where that is not 0."""
_LONGEST_ID = 256
_Word = TypeVar("_Word")
_NUMBERS, _DIGITS = 7, 16
_IN_FLIGHT = 64
"""Steps whose results have not come back yet: the pipeline is a few deep."""


class Admission(NamedTuple):
    """One ``schedule()``: what stopped admission, the batch, and how long its step took.

    Tokens of prefill include recomputed ones. ``ended_us`` is when the results came back, microseconds of the engine
    core's monotonic clock (0: not known); ``step_us`` the time since those of the step before, or since this one was
    scheduled where nobody was left in the engine.
    """

    limited_by: BatchLimiter
    request_count: int
    scheduled_tokens: int
    prefill_requests: int
    prefill_tokens: int
    step_us: int = 0
    ended_us: int = 0

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
    as before and its answer handed on as it is. ``clock`` gives monotonic seconds.
    """

    def __init__(self, scheduler: Any, clock: Clock = time.monotonic) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._refused = False
        self._began = 0.0
        self._ended = 0.0
        self._left = False
        self._priorities: list[str] = []
        self._batch: BatchTeller | None = BatchTeller()
        self._decided: deque[tuple[Any, float, Admission, Decided | None]] = deque(maxlen=_IN_FLIGHT)
        self._present: tuple[Admission, BatchChange | None] | None = None
        self.failures = 0
        self._guarded(self._listen)

    def scheduling(self) -> None:
        """``schedule()`` begins."""
        self._began = self._clock()

    def scheduled(self, output: Any, *, throttled: bool = False) -> None:
        """``schedule()`` gave ``output``. ``throttled``: it was asked to hold prefills back, if it can."""
        self._guarded(self._decide, output, throttled)

    def processing(self, output: Any, results: Any = None) -> None:
        """The ``results`` of ``output`` came back: the statistics made next are of that step."""
        self._guarded(self._recall, output, results)

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

    def _decide(self, output: Any, throttled: bool) -> None:
        refused, self._refused = self._refused, False
        limiter = limiter_of(self._scheduler, output, refused=refused, throttled=throttled)
        batch = None if self._batch is None else self._of_batch(self._batch.decided, self._scheduler, output)
        self._decided.append((output, self._began, Admission(limiter, *_batch(output)), batch))
        for new in getattr(output, "scheduled_new_reqs", ()):
            request = self._scheduler.requests[new.req_id]
            if request.priority != 0 and len(new.req_id) <= _LONGEST_ID:
                self._priorities.append(f"{PRIORITY}{request.priority}:{new.req_id}")

    def _recall(self, output: Any, results: Any) -> None:
        self._forget_present()
        while self._decided:  # results come back in the order of the steps
            decided, began, admission, batch = self._decided.popleft()
            if decided is output:
                change = None if batch is None else self._of_batch(batch.with_results, results)
                self._present = self._timed(admission, began), change
                return
            self._not_told()

    def _forget_present(self) -> None:
        if self._present is not None:
            self._present = None
            self._not_told()

    def _not_told(self) -> None:
        if self._batch is not None:
            self._batch.not_told()

    def _of_batch(self, work: Callable[..., _Word], *arguments: Any) -> _Word | None:
        """What goes wrong with who is in the batch does not cost the word on admission."""
        try:
            return work(*arguments)
        except Exception as error:  # noqa: BLE001
            self._batch = None
            logger.warning("batchscope: the scheduler no longer reports who is in the batch: %r", error)
            return None

    def _timed(self, admission: Admission, began: float) -> Admission:
        """Steps overlap where the next one is scheduled before the results: time counts once, from end to end."""
        now = self._clock()
        start = self._ended if self._left else max(began, self._ended)
        self._ended = now
        return admission._replace(step_us=round(max(now - start, 0.0) * 1e6), ended_us=round(now * 1e6))

    def _write(self, stats: Any) -> None:
        self._left = sum(self._scheduler.get_request_counts()) > 0
        priorities, self._priorities = self._priorities, []
        if stats is not None and self._present is not None:
            (admission, change), self._present = self._present, None
            stats.num_kv_fetch_reqs_by_stage.update(dict.fromkeys(priorities, 0))
            if change is not None:
                stats.num_kv_fetch_reqs_by_stage[change.encoded()] = 0
            stats.num_kv_fetch_reqs_by_stage[admission.encoded()] = 0


def limiter_of(scheduler: Any, output: Any, *, refused: bool, throttled: bool = False) -> BatchLimiter:
    """What stopped the last admission attempt of the ``schedule()`` that gave ``output``.

    ``refused``: an allocation of KV cache was refused on the way, for a waiting or for a running request.
    ``throttled``: the engine asked for prefills to be held back (data-parallel ranks take turns).
    """
    if scheduler._pause_state.name != "UNPAUSED":  # noqa: SLF001  (nothing public tells)
        return BatchLimiter.PAUSED
    if refused:
        return BatchLimiter.KV_CACHE
    tokens = output.num_scheduled_tokens
    running, waiting = scheduler.get_request_counts()
    deferred = len(scheduler.deferred_waiting)
    waiting -= deferred
    chunks = [request for request in scheduler.running if request.is_prefill_chunk]
    if _budget_spent(scheduler, output) and (waiting > 0 or chunks or len(tokens) < running):
        return BatchLimiter.TOKEN_BUDGET
    if waiting > 0:
        return _kept_out(scheduler, running, throttled)
    if any(request.request_id not in tokens for request in chunks):
        return BatchLimiter.POLICY  # a cadence, alignment: its prompt could go on, and stands still
    return BatchLimiter.DEFERRED if deferred else BatchLimiter.DEMAND


def _kept_out(scheduler: Any, running: int, throttled: bool) -> BatchLimiter:
    """Why the first of those who wait was not admitted, with tokens and memory free."""
    if running + scheduler.num_waiting_for_streaming_input >= scheduler.max_num_active_reqs:
        return BatchLimiter.REQUEST_SLOTS
    # A prompt that may not be cut waits for a budget of its own; what is left is a rule: a cadence, balancing.
    whole = not scheduler.scheduler_config.enable_chunked_prefill
    return BatchLimiter.TOKEN_BUDGET if whole and not (throttled or _in_cadence(scheduler)) else BatchLimiter.POLICY


def _budget_spent(scheduler: Any, output: Any) -> bool:
    """Whether no token could be added: of a step's tokens, or of its inputs, of which drafts take slots as well."""
    total = output.total_num_scheduled_tokens
    if total >= scheduler.max_num_scheduled_tokens:
        return True
    speculation = getattr(getattr(scheduler, "vllm_config", None), "speculative_config", None)
    slots = getattr(speculation, "max_num_new_slots_for_drafting", 0) or 0
    inputs = getattr(scheduler.scheduler_config, "max_num_batched_tokens", None)
    if not slots or inputs is None:
        return False
    return bool(inputs - total - slots * len(output.num_scheduled_tokens) <= slots)


def _in_cadence(scheduler: Any) -> bool:
    """Whether this step was one between two that prefill (vLLM 0.33, ``prefill_schedule_interval``)."""
    interval = getattr(scheduler, "local_prefill_interval", 1)
    if interval <= 1:
        return False
    return 0 < getattr(scheduler, "num_executed_steps", 0) - getattr(scheduler, "last_prefill_step", 0) < interval


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
