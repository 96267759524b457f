"""The settings of the scheduler: frozen, checked when made."""

from __future__ import annotations

import math

import msgspec

from batchscope.checks import LARGEST, check_ratio, check_whole
from batchscope.errors import ConfigurationError
from batchscope.simulator.policies import POLICIES

_ONE_EACH = " (max_running_requests: each decoding request gets its token in every iteration)"


class SchedulerOptions(msgspec.Struct, frozen=True):
    """What bounds the batch. A wrong value raises ``ConfigurationError`` with field, value and range.

    ``policy``: whose rules of admission and eviction hold: ``sarathi``, ``vllm``, ``sglang``, ``prefill-first``,
    ``transformers``.
    ``max_running_requests`` and ``max_scheduled_tokens``: places, and tokens an iteration; 256 and 2,048
    are what vLLM has long had for a GPU of this class.
    ``kv_cache_blocks`` of ``block_size`` tokens: 11,008 x 16 = 176,128 tokens is the cache that vidur's
    memory planner gave the A30 of the default cost model; the longest request of the traces at hand
    (Mooncake, 126,195 + 2,000 tokens) needs 8,013 of them.
    ``hash_block_tokens``: what one of a workload's prefix hashes stands for; 512 in Mooncake's traces.
    ``watermark_ratio`` of the blocks stays free at an admission, so that the requests which run can grow; the
    policies ``vllm``, ``sglang`` and ``transformers`` have none.
    ``max_sequence_tokens``: prompt and answer together; a longer answer is cut, a prompt as long is refused.
    ``max_prefill_requests``: an admission policy, at most so many requests are prefilled in an iteration.
    ``pauses``: (from, to) in seconds since the start, when nobody is admitted (new weights, say).
    ``kv_bytes_per_token``: 28 layers x 2 x 4 heads x 128 x 2 bytes, Qwen-2-7B.
    """

    max_running_requests: int = 256
    max_scheduled_tokens: int = 2048
    kv_cache_blocks: int = 11_008
    block_size: int = 16
    hash_block_tokens: int = 512
    prefix_caching: bool = True
    watermark_ratio: float = 0.01
    max_prefill_requests: int | None = None
    pauses: tuple[tuple[float, float], ...] = ()
    kv_bytes_per_token: int = 57_344
    policy: str = "sarathi"
    max_sequence_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigurationError("policy", self.policy, f"one of {', '.join(POLICIES)}")
        for field in ("max_running_requests", "block_size", "kv_bytes_per_token"):
            check_whole(field, getattr(self, field), 1, LARGEST)
        kept = POLICIES[self.policy].kept_blocks
        why = f" (of policy {self.policy} no request gets {kept} of them)" if kept else ""
        check_whole("kv_cache_blocks", self.kv_cache_blocks, 1 + kept, LARGEST, why)
        check_whole("max_scheduled_tokens", self.max_scheduled_tokens, self.max_running_requests, LARGEST, _ONE_EACH)
        if self.max_prefill_requests is not None:
            check_whole("max_prefill_requests", self.max_prefill_requests, 1, LARGEST, ", or None for no such policy")
        check_whole("hash_block_tokens", self.hash_block_tokens, self.block_size, LARGEST)
        if self.hash_block_tokens % self.block_size:
            allowed = f"a multiple of block_size ({self.block_size})"
            raise ConfigurationError("hash_block_tokens", self.hash_block_tokens, allowed)
        if not isinstance(self.prefix_caching, bool):
            raise ConfigurationError("prefix_caching", self.prefix_caching, "True or False")
        check_ratio("watermark_ratio", self.watermark_ratio)
        if self.max_sequence_tokens is not None:
            check_whole("max_sequence_tokens", self.max_sequence_tokens, 2, LARGEST, ", or None for no bound")
        _check_pauses(self.pauses)

    @property
    def usable_blocks(self) -> int:
        """Blocks of the KV cache that requests can get."""
        return self.kv_cache_blocks - POLICIES[self.policy].kept_blocks

    @property
    def bytes_per_block(self) -> int:
        """Memory that a block of the KV cache takes."""
        return self.block_size * self.kv_bytes_per_token

    @property
    def watermark_blocks(self) -> int:
        """Blocks that stay free when a request is admitted beside others."""
        return int(self.watermark_ratio * self.kv_cache_blocks)


def _check_pauses(pauses: tuple[tuple[float, float], ...]) -> None:
    end = 0.0
    for start, stop in pauses:
        if not end <= start < stop < math.inf:
            raise ConfigurationError("pauses", pauses, "(from, to) pairs in order, 0 <= from < to")
        end = stop
