"""What a tracker was told, as it was told: one immutable event a call."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from batchscope.records import CompletionReason


class Arrival(NamedTuple):
    """A request entered the system."""

    at: float
    handle: int
    request_id: Any
    prompt_tokens: float
    request_class: str | None


class Iteration(NamedTuple):
    """An iteration: handles, tokens and scheduled tokens as packed int64, and the scalar fields."""

    at: float
    started_at: float
    finished_at: float
    handles: bytes
    tokens: bytes | None
    scheduled: bytes | None
    preempted: bytes
    fields: tuple[Any, ...]


class Finish(NamedTuple):
    """A request left; tokens that only the engine knows come with it."""

    at: float
    handle: int
    reason: CompletionReason
    cached_tokens: float | None
    recomputed_tokens: float | None


class Loss(NamedTuple):
    """A request is gone and nobody will say how it ended."""

    at: float
    handle: int


Event: TypeAlias = Arrival | Iteration | Finish | Loss
