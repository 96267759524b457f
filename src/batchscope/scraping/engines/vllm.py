"""vLLM's names.

Source: vllm/v1/metrics/loggers.py and stats.py of 0.32.0 and 0.33.0, and a captured page of the former. Renames, from
the comments of older loggers.py: 0.9.2 gpu_cache_usage_perc -> kv_cache_usage_perc (the old name is gone in 0.12);
0.10.2 time_per_output_token_seconds -> inter_token_latency_seconds (the old one is hidden from 0.12 on); the V1 engine
gpu_prefix_cache_* -> prefix_cache_*.
"""

from __future__ import annotations

from batchscope.records import CompletionReason
from batchscope.scraping.table import Aggregation, EngineNames, Quantity, Rule, Version, prefixed

_BY_SOURCE = "vllm:prompt_tokens_by_source_total"
_WAITING_BY_REASON = "vllm:num_requests_waiting_by_reason"

_REASONS = {
    "stop": CompletionReason.EOS_TOKEN_REACHED,
    "length": CompletionReason.MAX_TOKENS_REACHED,
    "abort": CompletionReason.CANCELLED,
    "error": CompletionReason.ERROR,
    "repetition": CompletionReason.OTHER,
}

_RULES = (
    Rule(Quantity.REQUESTS_RUNNING, ("vllm:num_requests_running",)),
    Rule(Quantity.REQUESTS_WAITING, (_WAITING_BY_REASON,), where={"reason": "capacity"}),
    Rule(Quantity.REQUESTS_WAITING, ("vllm:num_requests_waiting",)),
    Rule(Quantity.REQUESTS_DEFERRED, (_WAITING_BY_REASON,), where={"reason": "deferred"}),
    Rule(Quantity.KV_CACHE_USAGE, ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")),
    Rule(Quantity.KV_CACHE_CAPACITY, ("vllm:cache_config_info",), value_of="num_gpu_blocks"),
    Rule(Quantity.LIMIT_KV_CACHE_BLOCKS, ("vllm:cache_config_info",), value_of="num_gpu_blocks"),
    Rule(
        Quantity.REQUESTS_FINISHED,
        ("vllm:request_success_total",),
        reason_of="finished_reason",
        reasons=_REASONS,
        reason=CompletionReason.OTHER,
    ),
    Rule(Quantity.REQUESTS_FINISHED, ("vllm:admission_rejections_total",), reason=CompletionReason.REJECTED),
    Rule(Quantity.PROMPT_TOKENS, ("vllm:prompt_tokens_total",)),
    Rule(Quantity.PROMPT_TOKENS_COMPUTED, (_BY_SOURCE,), where={"source": "local_compute"}),
    Rule(Quantity.PROMPT_TOKENS_CACHED, ("vllm:prompt_tokens_cached_total",)),
    Rule(Quantity.GENERATION_TOKENS, ("vllm:generation_tokens_total",)),
    Rule(Quantity.DRAFT_TOKENS, ("vllm:spec_decode_num_draft_tokens_total",)),
    Rule(Quantity.ACCEPTED_TOKENS, ("vllm:spec_decode_num_accepted_tokens_total",)),
    Rule(Quantity.ITERATIONS, ("vllm:iteration_tokens_total",), part="_count"),
    Rule(Quantity.PREEMPTIONS, ("vllm:num_preemptions_total",)),
    Rule(Quantity.QUEUE_TIME, ("vllm:request_queue_time_seconds",)),
    Rule(Quantity.PREFILL_TIME, ("vllm:request_prefill_time_seconds",)),
    Rule(Quantity.TIME_TO_FIRST_TOKEN, ("vllm:time_to_first_token_seconds",)),
    Rule(Quantity.TIME_PER_OUTPUT_TOKEN, ("vllm:request_time_per_output_token_seconds",)),
    Rule(Quantity.DECODE_TIME, ("vllm:request_decode_time_seconds",)),
    Rule(Quantity.PROCESSING_TIME, ("vllm:request_inference_time_seconds",)),
    Rule(Quantity.TOTAL_TIME, ("vllm:e2e_request_latency_seconds",)),
    Rule(
        Quantity.INTER_EMISSION_LATENCY,
        ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    ),
    Rule(Quantity.ITERATION_SCHEDULED_TOKENS, ("vllm:iteration_tokens_total",)),
    Rule(Quantity.REQUEST_GENERATION_TOKENS, ("vllm:request_generation_tokens",)),
)

_DEFINITIONS = {
    "time_to_first_token": "request arrives at the API server -> its first tokens are processed there; wall clock",
    "total_time": "request arrives at the API server -> its last tokens are processed there; wall clock",
    "queue_time": "queued in the engine core -> first scheduled; the core's monotonic clock; finished requests",
    "prefill_time": "first scheduled -> first token, preemptions included; the core's clock; finished requests",
    "decode_time": "first -> last token, preemptions included; the core's clock; finished requests",
    "processing_time": "first scheduled -> last token; the core's clock; finished requests",
    "time_per_output_token": "decode time / (tokens - 1), a request each; one-token answers are counted as 0",
    "inter_emission_latency": "gap between output events (an event may carry several tokens); the core's clock",
    "requests_waiting": "waiting for capacity; deferred ones are apart where the engine tells them apart",
    "requests_finished": "'stop' (end token or stop string) is shown as eos_token_reached; disconnected clients' "
    "requests are not counted by the engine at all",
    "iterations": "engine steps with output",
}

_NOT_USED = prefixed(
    "vllm:",
    "engine_sleep_state prefix_cache_queries_total prefix_cache_hits_total external_prefix_cache_queries_total "
    "external_prefix_cache_hits_total mm_cache_queries_total mm_cache_hits_total "
    "prompt_tokens_cached_by_source_total request_prompt_tokens request_max_num_generation_tokens "
    "request_params_n request_params_max_tokens request_params_best_of request_num_preemptions "
    "request_prefill_kv_computed_tokens estimated_flops_per_gpu_total estimated_read_bytes_per_gpu_total "
    "estimated_write_bytes_per_gpu_total corrupted_requests_total watermark_requests_total "
    "num_requests_kv_fetch_by_stage kv_block_lifetime_seconds kv_block_idle_before_evict_seconds "
    "kv_block_reuse_gap_seconds lora_requests_info spec_decode_num_drafts_total "
    "spec_decode_num_accepted_tokens_per_pos_total num_requests_swapped cpu_cache_usage_perc "
    "gpu_prefix_cache_hit_rate gpu_prefix_cache_queries_total gpu_prefix_cache_hits_total time_in_queue_requests "
    "model_forward_time_milliseconds model_execute_time_milliseconds tokens_total",
)

VLLM = EngineNames(
    kind="vllm",
    title="vLLM",
    prefixes=("vllm:",),
    rules=_RULES,
    definitions=_DEFINITIONS,
    not_used=_NOT_USED,
    lacks={
        Quantity.REQUESTS_RECEIVED: "vLLM counts finished requests only",
        Quantity.INTER_TOKEN_LATENCY: "vLLM's inter-token latency is one observation an output event: "
        "see inter_emission_latency",
        Quantity.ITERATION_DURATION: "vLLM does not export the duration of a step",
        Quantity.SCHEDULED_REQUESTS: "vLLM does not export batch sizes",
        Quantity.LIMIT_RUNNING_REQUESTS: "max_num_seqs is not exported",
        Quantity.LIMIT_SCHEDULED_TOKENS: "max_num_batched_tokens is not exported",
        Quantity.MEMORY_BYTES_USED: "vLLM does not export it",
        Quantity.DRAFT_TOKENS: "given with speculative decoding only",
        Quantity.ACCEPTED_TOKENS: "given with speculative decoding only",
    },
    versions=(
        Version(
            "0.12 or newer",
            has=("vllm:kv_cache_usage_perc", "vllm:inter_token_latency_seconds"),
            lacks=("vllm:time_per_output_token_seconds", "vllm:gpu_cache_usage_perc"),
        ),
        Version("0.10.2 or 0.11", has=("vllm:kv_cache_usage_perc", "vllm:inter_token_latency_seconds")),
        Version("0.9.2 to 0.10.1", has=("vllm:kv_cache_usage_perc",)),
        Version("0.9.1 or older", has=("vllm:gpu_cache_usage_perc",)),
    ),
    rank="engine",
    unused={
        **dict.fromkeys(("vllm:kv_offload_", "vllm:simple_kv_offload_"), "KV cache offload: tiers, loads, stores"),
        "vllm:nixl_": "KV transfer over NIXL",
        "vllm:mooncake_": "KV transfer and store over Mooncake",
        "vllm:umbp_": "KV transfer over UMBP",
        "vllm:hf3fs_": "KV store on 3FS",
        "vllm:hisparse_": "host memory of sparse attention",
        "vllm:diffusion_": "diffusion models",
        "vllm:sleep_mode_": "sleep mode",
        "vllm:rl_weight_update_": "weight updates of reinforcement learning",
        "vllm:tool_call_parser_": "the API server's tool parser",
        "vllm:websocket_": "the API server's websockets",
    },
    source="vllm/v1/metrics/loggers.py, 0.33.0",
)


def _under_ray(name: str) -> str:
    return f"ray_{name.replace(':', '_')}"


def _both(name: str) -> tuple[str, ...]:
    """Newer Rays end a counter's name in ``_total``, as vLLM does; older ones leave it as it was given."""
    return tuple(dict.fromkeys((_under_ray(name), _under_ray(name).removesuffix("_total"))))


RAY_VLLM = VLLM._replace(
    kind="ray-vllm",
    title="vLLM under Ray Serve",
    prefixes=("ray_vllm_",),
    rules=tuple(
        rule._replace(
            names=tuple(
                ray
                for name in rule.names
                for ray in (
                    _both(name) if rule.quantity.kind is Aggregation.COUNTER and not rule.part else [_under_ray(name)]
                )
            )
        )
        for rule in _RULES
    ),
    not_used=frozenset(ray for name in _NOT_USED for ray in _both(name)),
    unused={_under_ray(beginning): about for beginning, about in VLLM.unused.items()},
    versions=(),
    rank="WorkerId",
    source="vllm/v1/metrics/ray_wrappers.py, 0.33.0: ray_ before the name, _ for the colon",
)
"""vLLM's numbers on the metrics page of a Ray node: those of every replica there, told apart by ``WorkerId``."""
