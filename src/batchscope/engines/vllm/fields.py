"""Which attributes of vLLM's statistics are read, and how: by name, one tuple an object, what is not there is None.

vLLM documents these classes (``vllm.v1.metrics.stats``) as unstable, so no attribute is taken for granted: one
that another version lacks or calls otherwise costs one number, and its name is kept to be shown. Names with a
dot are attributes of attributes. Read in vLLM 0.32.0.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

SCHEDULER = (
    "num_running_reqs",
    "num_waiting_reqs",  # without the deferred ones (vllm#53130)
    "num_skipped_waiting_reqs",  # those: held back by LoRA, KV transfer, grammar
    "kv_cache_usage",
    "prefix_cache_stats.requests",  # new requests admitted since the last statistics
    "prefix_cache_stats.queries",  # their tokens, and those of them that were found
    "prefix_cache_stats.hits",
    "prefix_cache_stats.preempted_requests",  # the same of requests that come back after a preemption
    "prefix_cache_stats.preempted_queries",
    "prefix_cache_stats.preempted_hits",
    "connector_prefix_cache_stats",  # of a KV connector, None without one
    "cudagraph_stats",  # only with --cudagraph-metrics
    "running_lora_adapters",
    "waiting_lora_adapters",
    "spec_decoding_stats",
    "num_kv_fetch_reqs_by_stage",  # carries what a scheduler subclass of ours reports
    "iteration_details",  # only with --enable-logging-iteration-details
)
CONNECTOR = ("hits", "hits_by_source", "preempted_hits")
GRAPH = ("num_unpadded_tokens", "num_paddings")
SPECULATION = ("num_draft_tokens", "num_accepted_tokens")
DETAILS = (
    "iteration_index",
    "num_ctx_requests",
    "num_ctx_tokens",
    "num_generation_requests",
    "num_generation_tokens",
    "elapsed_ms",
    "is_dummy",  # a data-parallel rank that keeps step with the others and serves nobody
)
ITERATION = (
    "num_generation_tokens",
    "num_preempted_reqs",
    "prompt_token_stats.cached_tokens",
    "num_corrupted_reqs",
    "time_to_first_tokens_iter",
    "inter_token_latencies_iter",
    "finished_requests",
)
FINISHED = (
    "finish_reason",
    "request_id",
    "e2e_latency",
    "queued_time",
    "prefill_time",
    "inference_time",
    "decode_time",
    "num_prompt_tokens",
    "num_generation_tokens",
    "num_cached_tokens",  # negative where unknown
    "num_preemptions",
    "max_tokens_param",
)


class Fields:
    """Reads the same ``names`` of many objects; those that are missing are None, and told to ``note`` once each."""

    __slots__ = ("_getters", "_kind", "_note", "_noted", "_read")

    def __init__(self, kind: str, names: tuple[str, ...], note: Callable[[str], object]) -> None:
        self._kind = kind
        self._read: Callable[[Any], tuple[Any, ...]] = attrgetter(*names)
        self._getters = [(name, attrgetter(name)) for name in names]
        self._note = note
        self._noted: set[str] = set()

    def __call__(self, thing: Any) -> tuple[Any, ...]:
        """The values, in the order of the names."""
        try:
            return self._read(thing)
        except AttributeError:
            return tuple(self._one(name, getter, thing) for name, getter in self._getters)

    def _one(self, name: str, getter: Callable[[Any], Any], thing: Any) -> Any:
        try:
            return getter(thing)
        except AttributeError:
            if name not in self._noted:
                self._noted.add(name)
                self._note(f"{self._kind}.{name}")
            return None
