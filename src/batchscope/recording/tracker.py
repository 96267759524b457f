"""RequestTracker: an engine says what happened to its requests, and every figure follows from the instants.

The engine's thread only appends what it was told to a log (a list's ``append`` is atomic, with or without
the GIL); slots, durations, gaps and rows are worked out in bulk when the collector drains.
"""

from __future__ import annotations

import itertools
import operator
import struct
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import nan
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchscope.clock import Clock
from batchscope.configuration import SchedulerLimits, SloTargets, checked_clock
from batchscope.errors import ConfigurationError, InvalidRecordError
from batchscope.recording.admission import WRONG_TYPE
from batchscope.recording.derivation import Derivation
from batchscope.recording.events import Arrival, Event, Finish, Iteration, Loss
from batchscope.recording.forward import Forward
from batchscope.recording.iteration_batch import FIELDS
from batchscope.recording.live import LiveRequests, live_requests
from batchscope.recording.packing import BAD_VALUE
from batchscope.recording.rows import LIMITER_CODES, REASON_CODES, Gaps, Rows
from batchscope.recording.slots import FREE, GENERATION
from batchscope.recording.source import Attachable, SourceCounts
from batchscope.records import BatchLimiter, CompletionReason, SchedulerMetrics

Whole: TypeAlias = "Sequence[int] | npt.NDArray[np.integer[Any]]"
_RELIEF_EVENTS = 4096
_RELIEF_BYTES = 1 << 20
_MAX_EVENTS = 1 << 17
_pack_scalars = struct.Struct(f"{2 + len(FIELDS)}d").pack


class RequestTracker:
    """Follows requests from arrival to finish; one call an iteration. Yields every number of the glossary.

    ``collector`` is a ``SchedulerMetricsCollector``, or anything with the ``SchedulerMetrics`` methods (then
    each call reports at once, without bulk). Calls may come from any thread, never raise (unless the
    collector is strict), never block: what is wrong (a slot of a request that is gone, a request id twice,
    time going back) is counted in ``rejected_records``. Instants left out are now.
    """

    def __init__(self, collector: SchedulerMetrics, *, clock: Clock | None = None) -> None:
        if isinstance(collector, type) or not isinstance(collector, SchedulerMetrics):
            raise ConfigurationError(
                "collector", collector,
                "a SchedulerMetricsCollector, or an object with its record_iteration, record_request_completion,"
                " record_batch_utilization and record_error",
            )  # fmt: skip
        attachable = collector if isinstance(collector, Attachable) else Forward(collector)
        self._shared = attachable.attach(self)
        self._clock = self._shared.clock if clock is None else checked_clock(clock)
        self._limits = self._shared.limits
        self._fresh = itertools.count()  # goes on in a child process: a slot of the parent is stale there
        self._forget()

    @property
    def clock(self) -> Clock:
        """What says "now" where an instant is left out."""
        return self._clock

    def _forget(self) -> None:
        self._log: list[Event] = []
        self._pending_bytes = 0
        self._free: deque[int] = deque()
        self._misused: dict[str, int] = {}
        self._dropped = 0
        self._derivation = Derivation(
            self._shared.class_codes, self._shared.other_class, self._limits, self._shared.mistakes
        )

    def arrived(
        self,
        request_id: Any,
        *,
        prompt_tokens: int = 0,
        request_class: str | None = None,
        at: float | None = None,
    ) -> int:
        """A request entered the system. Returns its slot: an opaque integer, valid until it finishes.

        A ``request_id`` that is in flight already is rejected; its new slot is then void.
        """
        handle = self._handle()
        now = self._clock() if at is None else at
        self._append(Arrival(now, handle, request_id, prompt_tokens, request_class))
        return handle

    def iteration(
        self,
        slots: Whole,
        tokens: Whole | None = None,
        *,
        started_at: float | None = None,
        finished_at: float | None = None,
        scheduled_tokens: Whole | None = None,
        preempted: Whole = (),
        waiting: int | None = None,
        running_requests: int | None = None,
        deferred_requests: int | None = None,
        iteration_number: int | None = None,
        requests_completed: int | None = None,
        memory_bytes_used: int | None = None,
        unscheduled_prefill_tokens: int | None = None,
        cached_prompt_tokens: int | None = None,
        recomputed_tokens: int | None = None,
        decode_context_tokens: int | None = None,
        draft_tokens: int | None = None,
        accepted_tokens: int | None = None,
        kv_cache_usage: float | None = None,
        schedule_time: float | None = None,
        forward_time: float | None = None,
        rank: int | None = None,
        limited_by: BatchLimiter | None = None,
    ) -> None:
        """One iteration, after it ended: who was in the batch and how many tokens each emitted at its end.

        ``slots``, ``tokens`` and ``scheduled_tokens`` are aligned lists or arrays, copied. ``tokens`` None is
        one each; 0 is a prefill chunk. ``scheduled_tokens`` None is one for a decoding slot, unknown for
        prefill. ``preempted`` slots were evicted by this iteration. ``waiting`` and ``running_requests`` left
        out are derived from the slots. ``started_at`` left out is estimated: when the iteration before ended,
        or its first request arrived. The other fields are those of ``IterationResult``.
        """
        finished = self._clock() if finished_at is None else finished_at
        try:
            handles = _packed(slots)
            event = Iteration(
                _pack_scalars(
                    nan if started_at is None else started_at, finished,
                    nan if iteration_number is None else iteration_number,
                    nan if requests_completed is None else requests_completed,
                    nan if memory_bytes_used is None else memory_bytes_used,
                    nan if running_requests is None else running_requests,
                    nan if waiting is None else waiting,
                    nan if deferred_requests is None else deferred_requests,
                    nan if unscheduled_prefill_tokens is None else unscheduled_prefill_tokens,
                    nan if cached_prompt_tokens is None else cached_prompt_tokens,
                    nan if recomputed_tokens is None else recomputed_tokens,
                    nan if decode_context_tokens is None else decode_context_tokens,
                    nan if draft_tokens is None else draft_tokens,
                    nan if accepted_tokens is None else accepted_tokens,
                    nan if kv_cache_usage is None else kv_cache_usage,
                    nan if schedule_time is None else schedule_time,
                    nan if forward_time is None else forward_time,
                    nan if rank is None else rank,
                    nan if limited_by is None else LIMITER_CODES[limited_by],
                ),
                handles,
                None if tokens is None else _aligned(tokens, handles),
                None if scheduled_tokens is None else _aligned(scheduled_tokens, handles),
                _packed(preempted) if len(preempted) else b"",
            )  # fmt: skip
        except BAD_VALUE as error:
            self._misuse(error)
            return
        self._pending_bytes += len(handles)
        self._append(event)

    def finished(
        self,
        slot: int,
        reason: CompletionReason,
        *,
        at: float | None = None,
        cached_tokens: int | None = None,
        recomputed_tokens: int | None = None,
    ) -> None:
        """A request left, for whatever reason; its slot is no longer valid."""
        now = self._clock() if at is None else at
        try:
            event = Finish(
                float(now),
                _whole(slot),
                REASON_CODES[reason],
                nan if cached_tokens is None else float(operator.index(cached_tokens)),
                nan if recomputed_tokens is None else float(operator.index(recomputed_tokens)),
            )
        except BAD_VALUE as error:
            self._misuse(error)
            return
        self._append(event)

    def lost(self, slot: int, *, at: float | None = None) -> None:
        """A request is gone without an end that anybody saw: counted in ``requests_lost``, not as finished."""
        try:
            event = Loss(float(self._clock() if at is None else at), _whole(slot))
        except BAD_VALUE as error:
            self._misuse(error)
            return
        self._append(event)

    def _handle(self) -> int:
        try:
            return self._free.popleft()
        except IndexError:
            return GENERATION + next(self._fresh)

    def _append(self, event: Event) -> None:
        log = self._log
        if len(log) >= _RELIEF_EVENTS or self._pending_bytes >= _RELIEF_BYTES:
            self._pending_bytes = 0  # ask again only after as much more
            self._shared.relieve()
            if len(log) >= _MAX_EVENTS:
                self._dropped += 1
                return
        log.append(event)
        if self._shared.eager:
            self._shared.relieve()

    def _misuse(self, error: Exception) -> None:
        self._misused[WRONG_TYPE] = self._misused.get(WRONG_TYPE, 0) + 1
        if self._shared.mistakes is not None:
            self._shared.mistakes.note_call(WRONG_TYPE, "RequestTracker", error)
        if self._shared.strict:
            raise InvalidRecordError(f"record not taken: {error}; see the method's docstring") from error

    # What the collector asks for, under the drain's lock.

    def drain(self) -> list[Rows | Gaps]:
        """Rows of everything reported so far."""
        events = self._log[:]
        del self._log[: len(events)]
        if not events:
            return []
        self._pending_bytes = 0
        out = self._derivation.derive(events)
        self._free.extend(self._derivation.freed)
        self._derivation.freed.clear()
        return out

    def live(self, now: float, targets: Sequence[SloTargets]) -> LiveRequests:
        """Who is in flight now, as far as drained."""
        return live_requests(self._derivation.table, now, targets)

    def counts(self) -> SourceCounts:
        """Counts since the last reset."""
        derivation = self._derivation
        rejected = dict(derivation.rejected)
        for reason, count in list(self._misused.items()):
            rejected[reason] = rejected.get(reason, 0) + count
        return SourceCounts(derivation.received, derivation.lost, rejected, self._dropped)

    def set_limits(self, limits: SchedulerLimits) -> None:
        """Utilization is measured against these from now on."""
        self._limits = self._derivation.limits = limits

    def reset(self) -> None:
        """Count anew; requests in flight stay."""
        self._derivation.reset()
        self._misused.clear()
        self._dropped = 0

    def after_fork(self) -> None:
        """In a child process: empty. The parent's requests are the parent's."""
        self._forget()


def _whole(slot: int) -> int:
    handle = operator.index(slot)
    return handle if handle.bit_length() < 64 else FREE  # no slot is that large: stale


def _packed(values: Whole) -> bytes:
    """A copy of whole numbers as int64 bytes."""
    if type(values) is list:  # nearly always: looked at first
        return _packer(len(values))(*values)
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iu" or values.ndim != 1:
            raise TypeError(f"array of {values.dtype}, shape {values.shape}: expected whole numbers, one dimension")
        return values.astype(np.int64, copy=False).tobytes()
    if isinstance(values, set | frozenset):
        raise TypeError("a set has no order: tokens could belong to anybody")
    return _packer(len(values))(*values)


def _aligned(values: Whole, handles: bytes) -> bytes:
    packed = _packed(values)
    if len(packed) != len(handles):
        raise ValueError(f"{len(packed) // 8} values for {len(handles) // 8} slots: expected one a slot")
    return packed


@lru_cache(maxsize=4096)
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"{count}q").pack
