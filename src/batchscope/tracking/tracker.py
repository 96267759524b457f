"""RequestTracker: an engine says what happened to its requests, and every figure follows from the instants.

The engine's thread only appends what it was told to a log (a list's ``append`` is atomic, with or without
the GIL); slots, durations, gaps and rows are worked out in bulk when the collector drains.
"""

from __future__ import annotations

import itertools
import operator
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import nan
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchscope.clock import Clock
from batchscope.configuration import SchedulerLimits, SloTargets, checked_clock
from batchscope.errors import ConfigurationError, InvalidRecordError
from batchscope.reasons import RejectReason
from batchscope.recording.mistakes import WrongArgumentError, in_words
from batchscope.recording.packing import BAD_VALUE
from batchscope.recording.producer import EventLog, LiveRequests, SourceCounts
from batchscope.records import BatchLimiter, CompletionReason, SchedulerMetrics
from batchscope.rows import LIMITER_CODES, REASON_CODES, Gaps, Rows
from batchscope.tracking.derivation import Derivation
from batchscope.tracking.events import Arrival, Event, Finish, Formed, Iteration, Loss
from batchscope.tracking.forward import attached
from batchscope.tracking.iteration_batch import FIELDS, SCALARS, singles
from batchscope.tracking.slots import FIRST_HANDLE, FREE, live_requests

Whole: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
_MAX_EVENTS = 1 << 17
_pack_scalars, _unpack_scalars = SCALARS.pack, SCALARS.unpack
_NOTHING = (nan,) * (2 + len(FIELDS))
_MAX_RANKS = 1 << 16
_NAN = struct.pack("d", nan)
_BYTES_A_REPEAT = 64
"""Of an iteration told with others: so that a drain has a bounded number of rows, 16,384 of such ones."""


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
        self._log: EventLog[Event] = EventLog(_MAX_EVENTS)  # its bytes are those of slots
        self._shared = attached(collector, self)
        self._log.relieved_by(self._shared)
        self._clock = self._shared.clock if clock is None else checked_clock(clock)
        self._limits = self._shared.limits
        self._handles = itertools.count(FIRST_HANDLE)  # goes on in a child process: a slot of the parent is stale there
        self._forget()

    @property
    def clock(self) -> Clock:
        """What says "now" where an instant is left out."""
        return self._clock

    def _forget(self) -> None:
        self._log.forget()
        self._stops: dict[float, Formed] = {}
        self._formed: dict[float, Formed] = {}  # by rank: the last one
        self._ahead = False  # whether anything was ever told before its iteration: most engines never do
        self._derivation = Derivation(
            self._shared.class_codes, self._shared.other_class, self._limits, self._shared.mistakes,
            self._shared.numbering,
        )  # fmt: skip

    def arrived(
        self,
        request_id: Any,
        *,
        prompt_tokens: int = 0,
        request_class: str | None = None,
        at: float | None = None,
        rank: int | None = None,
    ) -> int:
        """A request entered the system. Returns its slot: an opaque integer, valid until it finishes.

        ``rank``: whose queue it joins; left out, it waits for any until an iteration took it in. A ``request_id``
        that is in flight already is rejected; its new slot is then void.
        """
        handle = next(self._handles)
        try:
            now = self._clock() if at is None else at
            event = Arrival(now, handle, request_id, prompt_tokens, request_class, rank)
        except BAD_VALUE as error:
            self._misuse(error)
            return handle
        self._log.append(event)
        return handle

    def stopped(self, limiter: BatchLimiter, *, slot: int | None = None, rank: int | None = None) -> None:
        """Why the scheduler stopped admitting: call it where it does, at its ``break``. ``slot``: whom it refused.

        It holds for the next iteration of the rank that is formed or reported, unless that says ``limited_by``; of
        several calls the last. Where the queue ran empty, say ``DEMAND``: a call before an empty batch is replaced.
        """
        try:
            self._stops[_rank(rank)] = Formed(
                None, (*_NOTHING[:-1], LIMITER_CODES[limiter]), head=FREE if slot is None else _whole(slot)
            )
        except BAD_VALUE as error:
            self._misuse(error)
            return
        self._ahead = True

    def forming(
        self,
        slots: Whole,
        *,
        started_at: float | None = None,
        scheduled_tokens: Whole | None = None,
        preempted: Whole | None = (),
        waiting: int | None = None,
        running_requests: int | None = None,
        deferred_requests: int | None = None,
        iteration_number: int | None = None,
        memory_bytes_used: int | None = None,
        unscheduled_prefill_tokens: int | None = None,
        cached_prompt_tokens: int | None = None,
        recomputed_tokens: int | None = None,
        decode_context_tokens: int | None = None,
        kv_cache_usage: float | None = None,
        schedule_time: float | None = None,
        rank: int | None = None,
        limited_by: BatchLimiter | None = None,
    ) -> Formed:
        """A batch was formed, with what is true at that moment; nothing is recorded yet.

        Give what it returns to ``iteration`` in the place of the slots, once the results are there; what is said
        there again replaces what was said here. ``started_at`` left out is now. A slot that has left when the
        iteration is reported was wasted: it is left out of the batch, and not rejected.
        """
        self._ahead = True
        try:
            started = self._clock() if started_at is None else started_at
            handles = _packed(slots)
            said = (
                started, None, iteration_number, None, memory_bytes_used, running_requests, waiting, deferred_requests,
                unscheduled_prefill_tokens, cached_prompt_tokens, recomputed_tokens, decode_context_tokens, None, None,
                kv_cache_usage, schedule_time, None, rank, None if limited_by is None else LIMITER_CODES[limited_by],
            )  # fmt: skip
            formed = Formed(
                handles,
                tuple([nan if value is None else float(value) for value in said]),
                None if scheduled_tokens is None else _aligned("scheduled_tokens", scheduled_tokens, handles),
                b"" if preempted is None or not len(preempted) else _packed(preempted),
            )
            stop = self._stops.pop(_rank(rank), None)
        except BAD_VALUE as error:
            self._misuse(error)
            return Formed(b"", (), told=True)
        if stop is not None:
            formed.scalars, formed.head = _overlaid(formed.scalars, stop.scalars), stop.head
        self._formed[_rank(rank)] = formed
        return formed

    def iteration(
        self,
        slots: Whole | Formed,
        tokens: Whole | None = None,
        *,
        started_at: float | None = None,
        finished_at: float | None = None,
        scheduled_tokens: Whole | None = None,
        preempted: Whole | None = (),
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
        or its first request arrived. The other fields are those of ``IterationResult``. In the place of the slots
        stands what ``forming`` returned, where that was called.
        """
        said = self._said_ahead(slots, rank) if self._ahead or type(slots) is Formed else None
        if said is not None and said.told:
            self._misuse_formed(said)
            return
        try:
            finished = self._clock() if finished_at is None else finished_at
            handles = _packed(slots) if said is None or said.handles is None else said.handles  # type: ignore[arg-type]
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
                None if tokens is None else _aligned("tokens", tokens, handles),
                None if scheduled_tokens is None else _aligned("scheduled_tokens", scheduled_tokens, handles),
                b"" if preempted is None or not len(preempted) else _packed(preempted),
            )  # fmt: skip
        except BAD_VALUE as error:
            if said is not None and said.handles is None:
                self._stops.setdefault(_rank(rank), said)  # it holds for the next iteration that is taken
            self._misuse(error)
            return
        if said is not None:
            event = _joined(event, said)
        self._log.append(event, len(handles) + len(event.preempted))

    def repeated(
        self,
        slots: Whole,
        tokens: Whole | None = None,
        *,
        finished_at: Sequence[float],
        started_at: float | None = None,
        scheduled_tokens: Whole | None = None,
        waiting: int | None = None,
        running_requests: int | None = None,
        deferred_requests: int | None = None,
        memory_bytes_used: Sequence[float] | None = None,
        unscheduled_prefill_tokens: Sequence[float] | None = None,
        cached_prompt_tokens: int | None = None,
        recomputed_tokens: int | None = None,
        decode_context_tokens: Sequence[float] | None = None,
        kv_cache_usage: Sequence[float] | None = None,
        rank: int | None = None,
        limited_by: BatchLimiter | None = None,
    ) -> None:
        """Iterations in a row with one batch: as ``iteration`` for each of ``finished_at``, in one call.

        For engines that decode several steps before they look at their queue again, and for replays. The first began at
        ``started_at``, each further one when the one before it ended. What is a sequence has a value for each; the
        rest, each one's slots, tokens and counts, is the same for all.
        """
        ahead = self._said_ahead(slots, rank) if self._ahead else None
        try:
            count = len(finished_at)
            handles = _packed(slots)
            said = (
                started_at, None, None, None, None, running_requests, waiting, deferred_requests, None,
                cached_prompt_tokens, recomputed_tokens, None, None, None, None, None, None, rank,
                None if limited_by is None else LIMITER_CODES[limited_by],
            )  # fmt: skip
            event = Iteration(
                _pack_scalars(*[nan if value is None else value for value in said]),
                handles,
                None if tokens is None else _aligned("tokens", tokens, handles),
                None if scheduled_tokens is None else _aligned("scheduled_tokens", scheduled_tokens, handles),
                b"",
                repeats=count,
                each=(
                    _floats("finished_at", finished_at, count),
                    _floats("memory_bytes_used", memory_bytes_used, count),
                    _floats("unscheduled_prefill_tokens", unscheduled_prefill_tokens, count),
                    _floats("decode_context_tokens", decode_context_tokens, count),
                    _floats("kv_cache_usage", kv_cache_usage, count),
                ),
            )
        except BAD_VALUE as error:
            if ahead is not None:
                self._stops.setdefault(_rank(rank), ahead)
            self._misuse(error)
            return
        if not count and ahead is not None:
            self._stops.setdefault(_rank(rank), ahead)
        if ahead is None and count > 1:
            self._log.append(event, len(handles) + _BYTES_A_REPEAT * count, count)
            return
        for place, one in enumerate(singles(event)):
            self._log.append(one if place or ahead is None else _joined(one, ahead), len(handles))

    def _said_ahead(self, slots: Whole | Formed, rank: int | None) -> Formed | None:
        """What was told of this iteration before: its batch, or only why admission stopped."""
        if isinstance(slots, Formed):
            return slots
        try:
            of = _rank(rank)
        except BAD_VALUE:
            return None  # a rank that is none: the row's check says so
        formed = self._formed.pop(of, None)
        if formed is not None and not formed.told:
            text = "forming(...): iteration was called with slots after it; give iteration what forming returned"
            self._misuse(ValueError(text), RejectReason.NOT_TOLD)
        return self._stops.pop(of, None)

    def _misuse_formed(self, said: Formed) -> None:
        """One iteration counts once; where forming it was a mistake, that was counted then."""
        if said.scalars:
            self._misuse(
                ValueError("iteration(formed): this batch was reported before; form each anew"), RejectReason.TOLD_TWICE
            )

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
        try:
            event = Finish(
                float(self._clock() if at is None else at),
                _whole(slot),
                REASON_CODES[reason],
                nan if cached_tokens is None else float(operator.index(cached_tokens)),
                nan if recomputed_tokens is None else float(operator.index(recomputed_tokens)),
            )
        except BAD_VALUE as error:
            self._misuse(error)
            return
        self._log.append(event)

    def lost(self, slot: int, *, at: float | None = None) -> None:
        """A request is gone without an end that anybody saw: counted in ``requests_lost``, not as finished."""
        try:
            event = Loss(float(self._clock() if at is None else at), _whole(slot))
        except BAD_VALUE as error:
            self._misuse(error)
            return
        self._log.append(event)

    def _misuse(self, error: Exception, reason: str = RejectReason.WRONG_TYPE) -> None:
        self._log.misused.add(reason)
        if self._shared.mistakes is not None:
            self._shared.mistakes.note_call(reason, "RequestTracker", error)
        if self._shared.strict:
            raise InvalidRecordError(in_words(reason, "RequestTracker", error)) from error

    # What the collector asks for, under the drain's lock.

    def undrained(self) -> list[Event]:
        """What was reported and not drained yet, as it was said."""
        return self._log.undrained()

    def drain(self) -> list[Rows | Gaps]:
        """Rows of everything reported so far; see ``Source.drain``."""
        return self._log.drain(self._derivation)

    def live(self, now: float, targets: Sequence[SloTargets]) -> LiveRequests:
        """Who is in flight now, as far as drained."""
        return live_requests(self._derivation.table, now, targets)

    def counts(self) -> SourceCounts:
        """Counts since the last reset."""
        derivation = self._derivation
        return SourceCounts(derivation.received, derivation.lost, *self._log.counts(derivation.rejected))

    def set_limits(self, limits: SchedulerLimits) -> None:
        """Utilization is measured against these from now on."""
        self._limits = self._derivation.limits = limits

    def reset(self) -> None:
        """Count anew; requests in flight stay."""
        self._derivation.reset()
        self._log.misused.clear()

    def after_fork(self) -> None:
        """In a child process: empty. The parent's requests are the parent's."""
        self._forget()


def _rank(rank: int | None) -> float:
    """The rank as rows have it; what is kept of each rank is bounded."""
    if rank is None:
        return 0.0
    if not 0 <= operator.index(rank) < _MAX_RANKS:
        raise ValueError(f"rank = {rank}: expected 0..{_MAX_RANKS - 1}")
    return float(rank)


def _overlaid(own: tuple[float, ...], said: tuple[float, ...]) -> tuple[float, ...]:
    """The own values, and what was said before where there is none."""
    return tuple([value if value == value else before for value, before in zip(own, said, strict=True)])  # noqa: PLR0124


def _joined(event: Iteration, said: Formed) -> Iteration:
    """An iteration with what was said of it before; its own values hold where it has some."""
    said.told = True
    return Iteration(
        _pack_scalars(*_overlaid(_unpack_scalars(event.scalars), said.scalars)),
        event.handles,
        event.tokens,
        said.scheduled if event.scheduled is None else event.scheduled,
        event.preempted or said.preempted,
        said.handles is not None,
        said.head,
    )


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


def _aligned(name: str, values: Whole, handles: bytes) -> bytes:
    packed = _packed(values)
    if len(packed) != len(handles):
        raise WrongArgumentError(name, f"{len(packed) // 8} values for {_slots(len(handles) // 8)}")
    return packed


def _floats(name: str, values: Sequence[float] | None, count: int) -> bytes:
    if values is None:
        return _NAN * count
    if len(values) != count:
        raise WrongArgumentError(name, f"{len(values)} values for {count} of finished_at")
    return _packer(count, "d")(*values)


def _slots(count: int) -> str:
    return "1 slot" if count == 1 else f"{count} slots"


@lru_cache(maxsize=4096)
def _packer(count: int, kind: str = "q") -> Callable[..., bytes]:
    return struct.Struct(f"{count}{kind}").pack
