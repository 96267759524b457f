"""vLLM's statistics as dataclasses of ours, with the names of version 0.32.0, and a source on a clock that stands."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from batchscope import SchedulerLimits, SchedulerMetricsCollector
from batchscope.engines.vllm.source import FrontEnd, VllmSource

BOOTED = 500_000.0
"""What the engine's monotonic clock read when these tests began: an unset instant (0.0) is that far away."""


class Reason(enum.IntEnum):
    """As vLLM's FinishReason: a number that prints as a word."""

    STOP = 0
    LENGTH = 1
    ABORT = 2
    ERROR = 3
    REPETITION = 4

    def __str__(self) -> str:
        return self.name.lower()


@dataclass
class PrefixCache:
    requests: Any = 0
    queries: Any = 0
    hits: Any = 0
    preempted_requests: Any = 0
    preempted_queries: Any = 0
    preempted_hits: Any = 0
    hits_by_source: Any = field(default_factory=dict)


@dataclass
class Graph:
    num_unpadded_tokens: Any = 0
    num_padded_tokens: Any = 0
    num_paddings: Any = 0
    runtime_mode: Any = "FULL"


@dataclass
class Details:
    iteration_index: int
    num_ctx_requests: int
    num_ctx_tokens: int
    num_generation_requests: int
    num_generation_tokens: int
    elapsed_ms: float
    is_dummy: bool = False


@dataclass
class Speculation:
    num_draft_tokens: int
    num_accepted_tokens: int


@dataclass
class Scheduler:
    num_running_reqs: Any = 0
    num_waiting_reqs: Any = 0
    num_skipped_waiting_reqs: Any = 0
    kv_cache_usage: Any = 0.5
    prefix_cache_stats: Any = field(default_factory=PrefixCache)
    spec_decoding_stats: Any = None
    iteration_details: Any = None
    num_kv_fetch_reqs_by_stage: Any = field(default_factory=dict)
    connector_prefix_cache_stats: Any = None
    cudagraph_stats: Any = None
    running_lora_adapters: Any = field(default_factory=dict)
    waiting_lora_adapters: Any = field(default_factory=dict)


@dataclass
class PromptTokens:
    cached_tokens: Any = 0


@dataclass
class Outputs:
    num_generation_tokens: Any = 0
    time_to_first_tokens_iter: Any = field(default_factory=list)
    inter_token_latencies_iter: Any = field(default_factory=list)
    finished_requests: Any = field(default_factory=list)
    num_preempted_reqs: Any = 0
    prompt_token_stats: Any = field(default_factory=PromptTokens)
    num_corrupted_reqs: Any = 0


@dataclass
class Finished:
    finish_reason: Any = Reason.LENGTH
    request_id: Any = "r"
    e2e_latency: Any = 2.0
    queued_time: Any = 0.25
    prefill_time: Any = 0.25
    inference_time: Any = 1.25
    decode_time: Any = 1.0
    num_prompt_tokens: Any = 10
    num_generation_tokens: Any = 5
    num_cached_tokens: Any = 4
    num_preemptions: Any = 0
    max_tokens_param: Any = 5


def outputs(firsts=(), gaps=(), finished=(), **facts) -> Outputs:
    """A step's outputs: one token an event."""
    return Outputs(len(firsts) + len(gaps), list(firsts), list(gaps), list(finished), **facts)


class Heard:
    """A source of a collector; ``step`` lets time pass and reports."""

    def __init__(self, *, front_end: FrontEnd | None = None, limits: SchedulerLimits | None = None) -> None:
        self.now = BOOTED
        self.collector = SchedulerMetricsCollector(limits=limits or SchedulerLimits(8, 256, 64), clock=lambda: self.now)
        self.source = VllmSource(self.collector, max_model_len=512, front_end=front_end)
        self.now += 100.0

    def step(self, scheduler=None, iteration=None, *, after: float = 0.125, rank: int = 0):
        self.now += after
        self.source.record(scheduler, iteration, rank)

    @property
    def snapshot(self):
        return self.collector.get_snapshot()

    @property
    def totals(self):
        return self.snapshot.totals

    @property
    def iterations(self):
        return self.collector.iteration_samples()

    @property
    def request(self):
        (only,) = self.collector.request_samples()
        return only

    def histogram(self, name):
        """Count and sum of a histogram that knows one class."""
        (only,) = self.snapshot.histograms[name].values()
        return only.count, only.sum

    @property
    def rejected(self):
        return self.totals.rejected_records
