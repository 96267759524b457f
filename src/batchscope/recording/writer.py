"""A thread's own way into the collector: raw values packed into rows of its rings."""

from __future__ import annotations

from math import nan
from typing import Any

from msgspec.structs import astuple

from batchscope.recording.block import Block, loose_code
from batchscope.recording.gap_writer import LatencyWriter
from batchscope.recording.packing import (
    BAD_VALUE,
    BATCH_BYTES,
    ERROR_BYTES,
    ITERATION_BYTES,
    NO_REST_OF_ITERATION,
    REQUEST_BYTES,
    exact_text,
    pack_batch,
    pack_error,
    pack_iteration,
    pack_loose_request,
    pack_request,
    pack_rest_of_iteration,
    packed_copy,
    type_name,
)
from batchscope.records import BatchLimiter, CompletionReason, IterationResult, Latencies, RequestResult
from batchscope.rows import (
    LIMITER_CODES,
    NOT_GIVEN,
    REASON_CODES,
    GapColumn,
)

_REQUEST_RECORD: type = RequestResult  # callers may pass anything, whatever the annotations say
_ITERATION_RECORD: type = IterationResult
# A subclass may have more fields, after these.
_REQUEST_FIELDS = len(RequestResult.__struct_fields__)
_ITERATION_FIELDS = len(IterationResult.__struct_fields__)

MAX_ERROR_NAME = 120


class Writer(LatencyWriter):
    """Records from one thread, positionally: for the tightest loops. Get it by ``collector.writer()``.

    It belongs to the thread that uses it; two threads need two writers. Calls never log or raise (unless the
    collector is strict): a value of a wrong type is counted in ``rejected_records``. They wait only
    while somebody else drains: 0.5 ms a block when a ring is nearly full, 50 ms at most when one is full; then the
    record is dropped and counted in ``dropped_records``.
    """

    __slots__ = ()

    def request(
        self,
        request_id: Any,
        tokens_generated: float,
        reason: CompletionReason,
        processing_time: float,
        queue_time: float = nan,
        total_time: float = nan,
        time_to_first_token: float = nan,
        prefill_time: float = nan,
        decode_time: float = nan,
        preempted_time: float = nan,
        prompt_tokens: float | None = None,
        cached_tokens: float | None = None,
        recomputed_tokens: float | None = None,
        preemptions: float | None = None,
        request_class: str | None = None,
        arrived_at: float = nan,
        first_scheduled_at: float = nan,
        first_token_at: float = nan,
        last_token_at: float = nan,
        finished_at: float = nan,
        max_emission_gap: float = nan,
    ) -> None:
        """A finished request: the fields of ``RequestResult``, in its order."""
        ring = self._requests
        try:
            self._requests = ring.aside
            block = ring.block
            row = block.head
            if row == block.size:
                fresh = ring.next_block()
                if fresh is None:
                    return
                block, row = fresh, fresh.head
            try:
                at = finished_at if finished_at == finished_at else self._clock()  # noqa: PLR0124  (not nan)
                pack_request(
                    block.buffer, row * REQUEST_BYTES, at,
                    tokens_generated, REASON_CODES[reason], processing_time, queue_time, total_time,
                    time_to_first_token, prefill_time, decode_time, preempted_time,
                    NOT_GIVEN if prompt_tokens is None else prompt_tokens,
                    NOT_GIVEN if cached_tokens is None else cached_tokens,
                    NOT_GIVEN if recomputed_tokens is None else recomputed_tokens,
                    NOT_GIVEN if preemptions is None else preemptions,
                    self._default if request_class is None else self._codes[request_class],
                    arrived_at, first_scheduled_at, first_token_at, last_token_at, finished_at, max_emission_gap,
                )  # fmt: skip
            except BAD_VALUE:
                fields = (
                    tokens_generated, reason, processing_time, queue_time, total_time, time_to_first_token,
                    prefill_time, decode_time, preempted_time, prompt_tokens, cached_tokens, recomputed_tokens,
                    preemptions, request_class, arrived_at, first_scheduled_at, first_token_at, last_token_at,
                    finished_at, max_emission_gap,
                )  # fmt: skip
                self._request_loosely(block, row, fields)
            block.objects[row] = request_id
            block.head = row + 1
        except BAD_VALUE as error:
            self._reject(error)
        finally:
            self._requests = ring

    def request_result(self, result: RequestResult) -> None:
        """``request`` from a record; written out again, since a call of 21 arguments takes as long as packing.

        Fields are read one by one: that is half of what ``astuple`` and taking its tuple apart cost.
        """
        if type(result) is not _REQUEST_RECORD and not issubclass(type(result), _REQUEST_RECORD):
            self._reject(TypeError(f"a {type_name(result)}: expected a RequestResult"))
            return
        ring = self._requests
        try:
            self._requests = ring.aside
            block = ring.block
            row = block.head
            if row == block.size:
                fresh = ring.next_block()
                if fresh is None:
                    return
                block, row = fresh, fresh.head
            try:
                finished_at, request_class = result.finished_at, result.request_class
                prompt, cached = result.prompt_tokens, result.cached_tokens
                recomputed, preemptions = result.recomputed_tokens, result.preemptions
                pack_request(
                    block.buffer, row * REQUEST_BYTES,
                    finished_at if finished_at == finished_at else self._clock(),  # noqa: PLR0124  (not nan)
                    result.tokens_generated, REASON_CODES[result.reason], result.processing_time, result.queue_time,
                    result.total_time, result.time_to_first_token, result.prefill_time, result.decode_time,
                    result.preempted_time,
                    NOT_GIVEN if prompt is None else prompt,
                    NOT_GIVEN if cached is None else cached,
                    NOT_GIVEN if recomputed is None else recomputed,
                    NOT_GIVEN if preemptions is None else preemptions,
                    self._default if request_class is None else self._codes[request_class],
                    result.arrived_at, result.first_scheduled_at, result.first_token_at, result.last_token_at,
                    finished_at, result.max_emission_gap,
                )  # fmt: skip
            except BAD_VALUE:
                self._request_loosely(block, row, astuple(result)[1:_REQUEST_FIELDS])
            block.objects[row] = result.request_id
            block.head = row + 1
        except BAD_VALUE as error:
            self._reject(error)
        finally:
            self._requests = ring

    def _request_loosely(self, block: Block, row: int, fields: tuple[Any, ...]) -> None:
        """A request whose counts are not all integers; raises what packing raises where one cannot be packed at all."""
        tokens, reason, *durations = fields[:9]
        *counts, request_class = fields[9:14]
        finished_at = fields[18]
        block.loose = True
        pack_loose_request(
            block.buffer, row * REQUEST_BYTES,
            finished_at if finished_at == finished_at else self._clock(),  # noqa: PLR0124  (not nan)
            tokens, loose_code(REASON_CODES[reason]), *durations,
            *[nan if count is None else count for count in counts],
            self._codes[request_class], *fields[14:],
        )  # fmt: skip

    def iteration(
        self,
        iteration_number: float,
        request_count: float,
        tokens_generated: float,
        requests_completed: float,
        processing_time: float,
        memory_bytes_used: float | None = None,
        started_at: float = nan,
        finished_at: float = nan,
        running_requests: float | None = None,
        waiting_requests: float | None = None,
        deferred_requests: float | None = None,
        prefill_requests: float | None = None,
        scheduled_tokens: float | None = None,
        prefill_tokens: float | None = None,
        unscheduled_prefill_tokens: float | None = None,
        cached_prompt_tokens: float | None = None,
        recomputed_tokens: float | None = None,
        decode_context_tokens: float | None = None,
        draft_tokens: float | None = None,
        accepted_tokens: float | None = None,
        kv_cache_usage: float = nan,
        preemptions: float | None = None,
        schedule_time: float = nan,
        forward_time: float = nan,
        rank: float | None = None,
        limited_by: BatchLimiter | None = None,
        inter_token_latencies: Latencies | None = None,
        inter_emission_latencies: Latencies | None = None,
        head_tokens: float | None = None,
        standing_requests: float | None = None,
    ) -> None:
        """One iteration: the fields of ``IterationResult``, in its order."""
        ring = self._iterations
        try:
            self._iterations = ring.aside
            block = ring.block
            row = block.head
            if row == block.size:
                fresh = ring.next_block()
                if fresh is None:
                    return
                block, row = fresh, fresh.head
            at = finished_at if finished_at == finished_at else self._clock()  # noqa: PLR0124  (not nan)
            pack_iteration(
                block.buffer, row * ITERATION_BYTES, at,
                iteration_number, request_count, tokens_generated, requests_completed, processing_time,
                nan if memory_bytes_used is None else memory_bytes_used, started_at, finished_at,
                nan if running_requests is None else running_requests,
                nan if waiting_requests is None else waiting_requests,
                nan if deferred_requests is None else deferred_requests,
                nan if prefill_requests is None else prefill_requests,
                nan if scheduled_tokens is None else scheduled_tokens,
                nan if prefill_tokens is None else prefill_tokens,
                nan if unscheduled_prefill_tokens is None else unscheduled_prefill_tokens,
                nan if cached_prompt_tokens is None else cached_prompt_tokens,
                nan if recomputed_tokens is None else recomputed_tokens,
                nan if decode_context_tokens is None else decode_context_tokens,
                nan if draft_tokens is None else draft_tokens,
                nan if accepted_tokens is None else accepted_tokens, kv_cache_usage,
                nan if preemptions is None else preemptions, schedule_time, forward_time,
                0.0 if rank is None else rank,
                nan if limited_by is None else LIMITER_CODES[limited_by],
                NO_REST_OF_ITERATION if head_tokens is None and standing_requests is None
                else pack_rest_of_iteration(
                    nan if head_tokens is None else head_tokens,
                    nan if standing_requests is None else standing_requests,
                ),
            )  # fmt: skip
            # Both are read before either is taken: a record counts whole or not at all.
            tokens = None if inter_token_latencies is None else packed_copy(inter_token_latencies)
            emissions = None if inter_emission_latencies is None else packed_copy(inter_emission_latencies)
            if tokens is not None:
                self._take(at, GapColumn.INTER_TOKEN_LATENCY, tokens)
            if emissions is not None:
                self._take(at, GapColumn.INTER_EMISSION_LATENCY, emissions)
            block.head = row + 1
        except BAD_VALUE as error:
            self._reject(error)
        finally:
            self._iterations = ring

    def batch(
        self,
        utilization: float,
        batch_id: float | None = None,
        request_count: float | None = None,
        memory_bytes_used: float | None = None,
    ) -> None:
        """A batch utilization record."""
        ring = self._batches
        try:
            self._batches = ring.aside
            block = ring.block
            row = block.head
            if row == block.size:
                fresh = ring.next_block()
                if fresh is None:
                    return
                block, row = fresh, fresh.head
            pack_batch(
                block.buffer, row * BATCH_BYTES, self._clock(), utilization,
                nan if batch_id is None else batch_id,
                nan if request_count is None else request_count,
                nan if memory_bytes_used is None else memory_bytes_used,
            )  # fmt: skip
            block.head = row + 1
        except BAD_VALUE as error:
            self._reject(error)
        finally:
            self._batches = ring

    def error(self, error_type: str, exception: BaseException | None = None) -> None:
        """An error by name; without one, the exception's type is the name. The exception is not kept."""
        ring = self._errors
        try:
            self._errors = ring.aside
            name = exact_text(error_type, MAX_ERROR_NAME)
            if name == "" and exception is not None:
                name = type_name(exception)[:MAX_ERROR_NAME]
            if not name:
                raise TypeError(f"error_type of type {type_name(error_type)}: expected a name")
            block = ring.block
            row = block.head
            if row == block.size:
                fresh = ring.next_block()
                if fresh is None:
                    return
                block, row = fresh, fresh.head
            pack_error(block.buffer, row * ERROR_BYTES, self._clock())
            block.objects[row] = name
            block.head = row + 1
        except BAD_VALUE as error:
            self._reject(error)
        finally:
            self._errors = ring

    def iteration_result(self, result: IterationResult) -> None:
        """``iteration`` from a record."""
        try:
            if type(result) is not _ITERATION_RECORD and not issubclass(type(result), _ITERATION_RECORD):
                raise TypeError(f"a {type_name(result)}: expected an IterationResult")
            fields = astuple(result)[:_ITERATION_FIELDS]
        except BAD_VALUE as error:
            self._reject(error)
        else:
            self.iteration(*fields)
