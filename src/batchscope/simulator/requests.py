"""A request between its arrival and its end."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from batchscope.simulator.kv_cache import Holding
from batchscope.simulator.workload import RequestSpec


class LiveRequest:
    """What the scheduler remembers of a request; two are equal only if they are the same object.

    ``prefix``: the hashes of the prompt's full hash blocks. ``computed`` tokens are in the KV cache now,
    ``ever_computed`` were at some time: a token below that is recomputed when it is scheduled again.
    While a request decodes, ``computed``, ``emitted`` and its private blocks stand still (see ``DecodingGroup``).
    """

    __slots__ = (
        "admission",
        "blocks",
        "cached_tokens",
        "computed",
        "cut",
        "emitted",
        "ended",
        "ever_computed",
        "number",
        "prefix",
        "rank",
        "recomputed_tokens",
        "slot",
        "spec",
    )

    def __init__(self, spec: RequestSpec, slot: int, number: int, prefix: Sequence[Hashable] = ()) -> None:
        self.spec = spec
        self.slot = slot
        self.number = number
        self.rank = (-spec.priority, number)  # the smallest is served first
        self.admission = 0  # a running number of the latest one
        self.prefix = prefix
        self.blocks = Holding()
        self.computed = 0
        self.ever_computed = 0
        self.emitted = 0
        self.cached_tokens = 0
        self.recomputed_tokens = 0
        self.ended = False
        self.cut = False  # its answer ends at the longest sequence

    @property
    def known_tokens(self) -> int:
        """The prompt and what was emitted: what a prefill computes, once more after an eviction."""
        return self.spec.prompt_tokens + self.emitted

    @property
    def longest_context(self) -> int:
        """Tokens in the KV cache at the end."""
        return self.spec.longest_context


def rank(request: LiveRequest) -> tuple[int, int]:
    """The order of service: by priority, then by arrival."""
    return request.rank
