"""TensorRT-LLM's names, by server: trtllm-serve (``/prometheus/metrics``) and Triton's backend (``/metrics``).

Source: tensorrt_llm/metrics/collector.py (main, commit 050f80d) and perf_utils.py; for Triton
triton_backend/inflight_batcher_llm/src/custom_metrics_reporter of the same repository and its README.
trtllm-serve needs ``return_perf_metrics`` for request metrics and ``enable_iter_perf_stats`` for the rest.
"""

from __future__ import annotations

from batchscope.records import CompletionReason
from batchscope.scraping.table import DURATIONS, EngineNames, Quantity, Rule, prefixed

_REASONS = {
    "stop": CompletionReason.EOS_TOKEN_REACHED,
    "length": CompletionReason.MAX_TOKENS_REACHED,
    "timeout": CompletionReason.TIMEOUT,
    "cancelled": CompletionReason.CANCELLED,
}

_RULES = (
    Rule(Quantity.REQUESTS_RUNNING, ("trtllm_num_requests_running",)),
    Rule(Quantity.REQUESTS_WAITING, ("trtllm_num_requests_waiting",)),
    Rule(Quantity.KV_CACHE_USAGE, ("trtllm_kv_cache_utilization",)),
    Rule(Quantity.KV_CACHE_CAPACITY, ("trtllm_kv_cache_max_blocks",)),
    Rule(Quantity.LIMIT_KV_CACHE_BLOCKS, ("trtllm_kv_cache_max_blocks",)),
    Rule(Quantity.LIMIT_RUNNING_REQUESTS, ("trtllm_max_batch_size_runtime", "trtllm_max_batch_size_static")),
    Rule(Quantity.LIMIT_SCHEDULED_TOKENS, ("trtllm_max_num_tokens_runtime",)),
    Rule(Quantity.MEMORY_BYTES_USED, ("trtllm_gpu_memory_usage_bytes",)),
    Rule(
        Quantity.REQUESTS_FINISHED,
        ("trtllm_request_success_total",),
        reason_of="finished_reason",
        reasons=_REASONS,
        reason=CompletionReason.OTHER,
    ),
    Rule(Quantity.PROMPT_TOKENS, ("trtllm_prompt_tokens_total",)),
    Rule(Quantity.PROMPT_TOKENS_CACHED, ("trtllm_prompt_cached_tokens_total",)),
    Rule(Quantity.GENERATION_TOKENS, ("trtllm_generation_tokens_total",)),
    Rule(Quantity.DRAFT_TOKENS, ("trtllm_spec_decode_num_draft_tokens_total",)),
    Rule(Quantity.ACCEPTED_TOKENS, ("trtllm_spec_decode_num_accepted_tokens_total",)),
    Rule(Quantity.QUEUE_TIME, ("trtllm_request_queue_time_seconds",)),
    Rule(Quantity.PREFILL_TIME, ("trtllm_request_prefill_time_seconds",)),
    Rule(Quantity.TIME_TO_FIRST_TOKEN, ("trtllm_time_to_first_token_seconds",)),
    Rule(Quantity.TIME_PER_OUTPUT_TOKEN, ("trtllm_time_per_output_token_seconds",)),
    Rule(Quantity.DECODE_TIME, ("trtllm_request_decode_time_seconds",)),
    Rule(Quantity.PROCESSING_TIME, ("trtllm_request_inference_time_seconds",)),
    Rule(Quantity.TOTAL_TIME, ("trtllm_e2e_request_latency_seconds",)),
)

_DEFINITIONS = {
    "time_to_first_token": "request arrives at the executor -> first token; the executor's clock; at its finish",
    "total_time": "request arrives at the executor -> last token; the executor's clock",
    "queue_time": "request arrives at the executor -> first scheduled; the executor's clock",
    "prefill_time": "first scheduled -> first token; the executor's clock",
    "decode_time": "first -> last token; the executor's clock",
    "processing_time": "first scheduled -> last token; the executor's clock",
    "time_per_output_token": "decode time / (tokens - 1), a request each; one-token answers are left out",
    "requests_running": "active requests of the last iteration",
    "generation_tokens": "counted when a request finishes; requests for several answers are left out",
}

_NOT_USED = prefixed(
    "trtllm_",
    "prompt_cache_hit_tokens_total prompt_cached_tokens_per_request spec_decode_drafted_tokens_total "
    "spec_decode_accepted_tokens_total prefill_perplexity generation_perplexity request_error_total "
    "scheduled_batch_size kv_cache_hit_rate kv_cache_host_utilization kv_cache_iter_reuse_rate "
    "kv_cache_reused_blocks_total kv_cache_missed_blocks_total kv_cache_iter_reused_blocks_total "
    "kv_cache_iter_full_reused_blocks_total kv_cache_iter_partial_reused_blocks_total "
    "kv_cache_iter_missed_blocks_total kv_cache_gen_alloc_blocks_total kv_cache_onboard_bytes_total "
    "kv_cache_offload_bytes_total kv_cache_disk_prefetch_blocks_total kv_cache_intra_device_copy_bytes_total "
    "num_requests_completed_total max_num_active_requests iteration_latency_seconds cpu_memory_usage_bytes "
    "pinned_memory_usage_bytes kv_cache_free_blocks kv_cache_used_blocks kv_cache_tokens_per_block "
    "num_context_requests num_generation_requests num_paused_requests num_scheduled_requests "
    "total_context_tokens avg_decoded_tokens_per_iter spec_decode_acceptance_length spec_decode_draft_overhead "
    "prefill_batch_occupancy prefill_batch_tokens model_config_info parallel_config_info "
    "speculative_config_info kv_cache_config_info cache_config_info",
)

_NO_GAPS = "TensorRT-LLM does not export gaps between tokens"

TRTLLM_SERVE = EngineNames(
    kind="tensorrt-llm",
    title="TensorRT-LLM (trtllm-serve)",
    prefixes=("trtllm_",),
    rules=_RULES,
    definitions=_DEFINITIONS,
    not_used=_NOT_USED,
    lacks={
        Quantity.REQUESTS_RECEIVED: "TensorRT-LLM counts finished requests only",
        Quantity.INTER_TOKEN_LATENCY: _NO_GAPS,
        Quantity.INTER_EMISSION_LATENCY: _NO_GAPS,
        Quantity.ITERATIONS: "the last iteration is exported, not their number",
        Quantity.ITERATION_DURATION: "the last iteration's is exported, not their distribution",
        Quantity.PREEMPTIONS: "TensorRT-LLM does not count them",
    },
    tokens_at_finish=True,
    source="TensorRT-LLM tensorrt_llm/metrics/collector.py, commit 050f80d",
)

_REQUESTS = "nv_trt_llm_request_metrics"
_BLOCKS = "nv_trt_llm_kv_cache_block_metrics"

TRITON_TENSORRT_LLM = EngineNames(
    kind="tensorrt-llm-triton",
    title="TensorRT-LLM (Triton)",
    prefixes=("nv_trt_llm_", "nv_llm_"),
    rules=(
        Rule(Quantity.REQUESTS_RUNNING, (_REQUESTS,), where={"request_type": "scheduled"}),
        Rule(Quantity.REQUESTS_WAITING, (_REQUESTS,), where={"request_type": "waiting"}),
        Rule(Quantity.LIMIT_RUNNING_REQUESTS, (_REQUESTS,), where={"request_type": "max"}),
        Rule(Quantity.KV_CACHE_USAGE, (_BLOCKS,), where={"kv_cache_block_type": "fraction"}),
        Rule(Quantity.KV_CACHE_CAPACITY, (_BLOCKS,), where={"kv_cache_block_type": "max"}),
        Rule(Quantity.LIMIT_KV_CACHE_BLOCKS, (_BLOCKS,), where={"kv_cache_block_type": "max"}),
        Rule(Quantity.MEMORY_BYTES_USED, ("nv_trt_llm_runtime_memory_metrics",), where={"memory_type": "gpu"}),
        Rule(
            Quantity.PROMPT_TOKENS,
            ("nv_llm_input_token_len",),
            where={"response_metric_type": "total_input_tokens"},
            part="_sum",
        ),
        Rule(
            Quantity.GENERATION_TOKENS,
            ("nv_llm_output_token_len",),
            where={"response_metric_type": "total_output_tokens"},
            part="_sum",
        ),
        Rule(
            Quantity.REQUEST_GENERATION_TOKENS,
            ("nv_llm_output_token_len",),
            where={"response_metric_type": "total_output_tokens"},
        ),
    ),
    definitions={
        "requests_running": "scheduled in the last iteration",
        "generation_tokens": "counted when a request finishes",
    },
    not_used=frozenset(
        {
            "nv_trt_llm_inflight_batcher_metrics",
            "nv_trt_llm_v1_metrics",
            "nv_trt_llm_general_metrics",
            "nv_trt_llm_disaggregated_serving_metrics",
        }
    ),
    lacks={
        Quantity.REQUESTS_FINISHED: "Triton's nv_inference_* count a request once for each model of an ensemble",
        **dict.fromkeys(DURATIONS, "Triton's backend exports no latencies"),
    },
    rank="model",
    tokens_at_finish=True,
    source="TensorRT-LLM triton_backend/inflight_batcher_llm/src/custom_metrics_reporter",
)
