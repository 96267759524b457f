"""The batch of one iteration: who takes part, with how many tokens, and what stopped it from being fuller."""

from __future__ import annotations

from typing import NamedTuple

from batchscope.records import BatchLimiter
from batchscope.simulator.requests import LiveRequest


class Chunk(NamedTuple):
    """A part of a prefill; the part that ends it emits a token."""

    request: LiveRequest
    tokens: int
    ends_prefill: bool


class Batch:
    """What the scheduler decided; the properties are aligned lists, decoding requests first."""

    __slots__ = (
        "admitted",
        "cached_prompt_tokens",
        "chunks",
        "decode_context_tokens",
        "decode_slots",
        "deferred",
        "kv_blocks_held",
        "limited_by",
        "preempted",
        "prefill_context_tokens",
        "prefill_tokens",
        "prefills_ended",
        "recomputed_tokens",
        "running",
        "unscheduled_prefill_tokens",
        "waiting",
    )

    def __init__(self) -> None:
        self.preempted: list[int] = []
        self.decode_slots: list[int] = []
        self.decode_context_tokens = 0
        self.chunks: list[Chunk] = []
        self.prefills_ended = 0
        self.admitted: list[LiveRequest] = []
        self.prefill_tokens = 0
        self.prefill_context_tokens = 0
        self.unscheduled_prefill_tokens = 0
        self.cached_prompt_tokens = 0
        self.recomputed_tokens = 0
        self.waiting = self.running = self.deferred = 0
        self.kv_blocks_held = 0
        self.limited_by = BatchLimiter.UNKNOWN

    def __len__(self) -> int:
        return len(self.decode_slots) + len(self.chunks)

    def add_chunk(self, request: LiveRequest, budget: int) -> int:
        """Take as much of ``request``'s prefill as ``budget`` tokens allow; returns how much that is."""
        start = request.computed
        missing = request.known_tokens - start
        tokens = min(missing, budget)
        self.unscheduled_prefill_tokens += missing - tokens
        if tokens:
            if start < request.ever_computed:
                recomputed = min(start + tokens, request.ever_computed) - start
                request.recomputed_tokens += recomputed
                self.recomputed_tokens += recomputed
            self.prefill_tokens += tokens
            self.prefill_context_tokens += start
            self.prefills_ended += tokens == missing
            self.chunks.append(Chunk(request, tokens, tokens == missing))
        return tokens

    def repeat(self, blocks_held: int) -> None:
        """Become the next iteration of a steady stretch: as this one, but everybody's context has grown."""
        self.admitted = []
        self.cached_prompt_tokens = self.recomputed_tokens = 0
        self.decode_context_tokens += len(self.decode_slots)
        self.kv_blocks_held = blocks_held
        if self.chunks:
            self.prefill_context_tokens += self.prefill_tokens
            self.unscheduled_prefill_tokens -= self.prefill_tokens

    @property
    def slots(self) -> list[int]:
        """The slots of the requests that take part."""
        return self.decode_slots + [chunk.request.slot for chunk in self.chunks] if self.chunks else self.decode_slots

    @property
    def tokens(self) -> list[int] | None:
        """Tokens that each emits: 0 for a chunk that does not end its prefill; ``None`` = one each."""
        if self.prefills_ended == len(self.chunks):
            return None
        return [1] * len(self.decode_slots) + [int(chunk.ends_prefill) for chunk in self.chunks]

    @property
    def scheduled_tokens(self) -> list[int] | None:
        """Tokens that are computed for each; ``None`` where all decode: one each."""
        if not self.chunks:
            return None
        return [1] * len(self.decode_slots) + [chunk.tokens for chunk in self.chunks]

    @property
    def emitted_tokens(self) -> int:
        """Output tokens of the iteration."""
        return len(self.decode_slots) + self.prefills_ended

    @property
    def kv_tokens_read(self) -> int:
        """Tokens of context that the iteration reads from the KV cache."""
        return self.decode_context_tokens + self.prefill_context_tokens
