"""What a workload is: requests in order of arrival, with their lengths known beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from batchscope.errors import WorkloadError

MAX_TOKENS = 2**31 - 1
"""The longest prompt or answer a workload may name: counts stay far inside 64 bits."""


class RequestSpec(msgspec.Struct, frozen=True, gc=False):
    """A request as its workload knows it.

    ``arrival`` is seconds since the start of the workload. ``output_tokens`` 0 is a request that its
    service failed (so traces write it): it arrives, ends with an error and is never scheduled.
    ``prefix_hashes`` name the prompt's 512-token blocks; equal names have equal content and equal
    content before them. Of two priorities the larger is served first.
    ``cached_tokens`` of the prompt need not be computed at the first admission: what an engine found in its prefix
    cache when the request was recorded, where the prefixes themselves are not known. They take blocks of their own.
    """

    request_id: str | int
    arrival: float
    prompt_tokens: int
    output_tokens: int
    prefix_hashes: tuple[int, ...] = ()
    request_class: str | None = None
    priority: int = 0
    cached_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.arrival < math.inf:
            raise WorkloadError(f"request {self.request_id}: arrival = {self.arrival}: expected seconds >= 0")
        if not 0 <= self.output_tokens <= MAX_TOKENS:
            raise WorkloadError(self._wrong("output_tokens", self.output_tokens, 0))
        least = 1 if self.output_tokens else 0
        if not least <= self.prompt_tokens <= MAX_TOKENS:
            raise WorkloadError(self._wrong("prompt_tokens", self.prompt_tokens, least))
        if not 0 <= self.cached_tokens <= max(0, self.prompt_tokens - 1):
            allowed = f"0..{self.prompt_tokens - 1}, less than its prompt"
            raise WorkloadError(f"request {self.request_id}: cached_tokens = {self.cached_tokens}: expected {allowed}")

    @property
    def longest_context(self) -> int:
        """Tokens in the KV cache at the end; the last output token is never put there."""
        return self.prompt_tokens + self.output_tokens - 1

    def _wrong(self, field: str, value: int, least: int) -> str:
        return f"request {self.request_id}: {field} = {value}: expected {least}..{MAX_TOKENS}"


Workload: TypeAlias = Iterable[RequestSpec]
"""Requests in order of arrival; read one at a time, never as a whole."""
