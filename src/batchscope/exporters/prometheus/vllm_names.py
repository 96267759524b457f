"""vLLM's names: a second table, so that dashboards and autoscalers made for vLLM work with any engine.

Names, kinds and labels are those that vLLM 0.32.0 serves. Only what means the same is here; the buckets are ours,
because a histogram is exact at its own boundaries only. vLLM's ``inter_token_latency_seconds`` is one observation
an emission: our inter-emission latency. Left out, because nobody tells it: ``lora_requests_info`` (adapters are no
labels here). Never serve this beside a real vLLM's own metrics in one registry.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from batchscope.catalog import Metric, MetricKind, reader
from batchscope.exporters.prometheus.families import Table
from batchscope.exporters.prometheus.labels import own_names
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.records import CompletionReason
from batchscope.statistics.cumulative import CumulativeState
from batchscope.statistics.distributions import merged
from batchscope.statistics.merge_parts import added

VLLM_PREFIX = "vllm:"
FINISHED_REASON = {
    CompletionReason.EOS_TOKEN_REACHED: "stop",
    CompletionReason.STOP_STRING: "stop",
    CompletionReason.OTHER: "stop",
    CompletionReason.MAX_TOKENS_REACHED: "length",
    CompletionReason.LENGTH_REACHED: "length",
    CompletionReason.CANCELLED: "abort",
    CompletionReason.TIMEOUT: "abort",
    CompletionReason.ERROR: "error",
}
"""Ours -> vLLM's. A request refused at admission (``rejected``) never becomes one of vLLM's finished ones."""


def _counter(name: str, unit: str, text: str, source: str, *labels: str) -> Metric:
    return Metric(f"{VLLM_PREFIX}{name}_total", MetricKind.COUNTER, unit, text, f"totals.{source}", labels)


def _gauge(name: str, unit: str, text: str, source: str, *labels: str) -> Metric:
    return Metric(VLLM_PREFIX + name, MetricKind.GAUGE, unit, text, f"gauges.{source}", labels)


def _histogram(name: str, unit: str, text: str, source: str) -> Metric:
    return Metric(VLLM_PREFIX + name, MetricKind.HISTOGRAM, unit, text, f"histograms.{source}")


VLLM_CATALOG: tuple[Metric, ...] = (
    _gauge("num_requests_running", "requests", "Requests that hold a place.", "running"),
    _gauge("num_requests_waiting", "requests", "Requests that wait, for whatever reason.", "waiting"),
    _gauge("num_requests_waiting_by_reason", "requests", "Requests that wait, by reason.", "waiting_by", "reason"),
    _gauge("kv_cache_usage_perc", "ratio", "KV cache blocks held / usable: 1 is full.", "kv_cache_usage"),
    _gauge("cache_config_info", "", "Size of the KV cache.", "cache_config", "block_size", "num_gpu_blocks"),
    _counter("num_preemptions", "preemptions", "Requests put out of the batch before their end.", "preemptions"),
    _counter("prompt_tokens", "tokens", "Prompt tokens of finished requests.", "prompt_tokens"),
    _counter("prompt_tokens_cached", "tokens", "Prompt tokens taken from the prefix cache.", "cached_tokens"),
    _counter("prefix_cache_queries", "tokens", "Prompt tokens looked up in the prefix cache.", "cache_queries"),
    _counter("prefix_cache_hits", "tokens", "Prompt tokens found in the prefix cache.", "cached_tokens"),
    _counter("generation_tokens", "tokens", "Output tokens.", "generation_tokens"),
    _counter("request_success", "requests", "Requests that finished, by reason.", "finished", "finished_reason"),
    _histogram("iteration_tokens_total", "tokens", "Tokens of an iteration.", "iteration_scheduled_tokens"),
    _histogram("time_to_first_token_seconds", "seconds", "Arrival to first token.", "time_to_first_token"),
    _histogram(
        "inter_token_latency_seconds", "seconds", "Gap between emissions of a request.", "inter_emission_latency"
    ),
    _histogram(
        "request_time_per_output_token_seconds", "seconds", "Decode time per token after the first.",
        "time_per_output_token",
    ),
    _histogram("e2e_request_latency_seconds", "seconds", "Arrival to finish.", "total_time"),
    _histogram("request_queue_time_seconds", "seconds", "Arrival to first scheduled.", "queue_time"),
    _histogram("request_prefill_time_seconds", "seconds", "First scheduled to first token.", "prefill_time"),
    _histogram("request_decode_time_seconds", "seconds", "First token to last token.", "decode_time"),
    _histogram("request_inference_time_seconds", "seconds", "First scheduled to last token.", "inference_time"),
    _histogram("request_prompt_tokens", "tokens", "Prompt tokens of a request.", "request_prompt_tokens"),
    _histogram("request_generation_tokens", "tokens", "Output tokens of a request.", "request_generation_tokens"),
    _histogram(
        "request_prefill_kv_computed_tokens", "tokens", "Prompt tokens of a request that no cache supplied.",
        "request_computed_prompt_tokens",
    ),
)  # fmt: skip
"""What we can say under vLLM's names; ``source`` leads into ``vllm_view``."""


class VllmView(NamedTuple):
    """A state in vLLM's terms: request classes together, reasons by vLLM's names."""

    gauges: dict[str, Any]
    totals: dict[str, Any]
    histograms: dict[str, dict[str, ExponentialHistogram]]


def vllm_view(state: CumulativeState) -> VllmView:
    """``state`` in vLLM's terms."""
    return VllmView(_gauges(state), _totals(state), _histograms(state))


def vllm_labels(state: CumulativeState) -> dict[str, str]:
    """The collector's labels with the two that every series of vLLM has; ``engine`` is the rank."""
    labels = dict(state.labels)
    labels["model_name"] = labels.get("model_name") or state.engine.kind or "unknown"
    labels.setdefault("engine", labels.get("rank", "0"))
    return labels


def _gauges(state: CumulativeState) -> dict[str, Any]:
    gauges = state.gauges
    waiting, deferred = gauges.requests_waiting, gauges.requests_deferred
    return {
        "running": gauges.requests_running,
        "waiting": None if waiting is None else waiting + (deferred or 0),
        "waiting_by": {"capacity": waiting, "deferred": deferred},
        "kv_cache_usage": gauges.kv_cache_usage,
        "cache_config": _cache_config(state),
    }


def _cache_config(state: CumulativeState) -> dict[str, dict[str, int]]:
    """Block size -> blocks -> 1, as an information metric has it; nothing where the blocks are not known."""
    blocks, size = state.limits.kv_cache_blocks, state.limits.kv_block_size
    return {} if blocks is None else {"" if size is None else str(size): {str(blocks): 1}}


def _totals(state: CumulativeState) -> dict[str, Any]:
    totals = state.totals
    finished = dict.fromkeys(FINISHED_REASON.values(), 0)
    for reason, name in FINISHED_REASON.items():
        finished[name] += totals.requests_by_reason.get(reason, 0)
    prompts = added((totals.prompt_tokens_computed, totals.prompt_tokens_cached))
    return {
        "preemptions": totals.preemptions,
        "prompt_tokens": prompts,
        "cached_tokens": totals.prompt_tokens_cached,
        "cache_queries": None if totals.prompt_tokens_cached is None else prompts,
        "generation_tokens": totals.generation_tokens,
        "finished": finished,
    }


def _histograms(state: CumulativeState) -> dict[str, dict[str, ExponentialHistogram]]:
    needed = {
        metric.source.removeprefix("histograms.") for metric in VLLM_CATALOG if metric.kind is MetricKind.HISTOGRAM
    }
    return {name: {"": merged(state.histograms[name].values())} for name in needed & state.histograms.keys()}


VLLM = Table(
    VLLM_CATALOG, tuple(map(reader, VLLM_CATALOG)), own_names(VLLM_CATALOG), view=vllm_view, labels=vllm_labels
)
