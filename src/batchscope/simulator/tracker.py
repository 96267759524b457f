"""What the simulator needs of a tracker: the part of ``RequestTracker`` that any engine would call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from batchscope.records import BatchLimiter, CompletionReason


class Tracker(Protocol):
    """``RequestTracker`` is one; so is the recorder in the tests. Slots are opaque integers."""

    def arrived(
        self,
        request_id: str | int,
        *,
        prompt_tokens: int = 0,
        request_class: str | None = None,
        at: float | None = None,
    ) -> int:
        """A request has arrived; the slot that stands for it from now on."""

    def iteration(
        self,
        slots: list[int],
        tokens: list[int] | None = None,
        *,
        started_at: float | None = None,
        finished_at: float | None = None,
        scheduled_tokens: list[int] | None = None,
        preempted: list[int] = ...,
        waiting: int | None = None,
        running_requests: int | None = None,
        deferred_requests: int | None = None,
        unscheduled_prefill_tokens: int | None = None,
        cached_prompt_tokens: int | None = None,
        recomputed_tokens: int | None = None,
        decode_context_tokens: int | None = None,
        kv_cache_usage: float = ...,
        memory_bytes_used: int | None = None,
        limited_by: BatchLimiter | None = None,
    ) -> None:
        """An iteration took place; each slot emitted so many tokens at ``finished_at``."""

    def finished(
        self,
        slot: int,
        reason: CompletionReason,
        *,
        at: float | None = None,
        cached_tokens: int | None = None,
        recomputed_tokens: int | None = None,
    ) -> None:
        """A request has left the scheduler."""


@runtime_checkable
class TakesRepeated(Protocol):
    """A tracker that may be told iterations with one batch in one call, as ``RequestTracker`` may."""

    @property
    def repeated(self) -> Callable[..., None]:
        """As ``Tracker.iteration``, for each of a sequence ``finished_at``; each began when the one before ended.

        Sequences, too, are ``memory_bytes_used``, ``kv_cache_usage``, ``unscheduled_prefill_tokens`` and
        ``decode_context_tokens``; the rest is the same for all. Nobody is evicted.
        """
