"""SGLang's names (served with ``--enable-metrics``).

Source: sglang/srt/observability/metrics_collector.py and managers/tokenizer_manager.py of 0.5.23, and a captured
page of it. The older time_per_output_token_seconds was the whole request's time / its tokens: neither our TPOT
nor our ITL, so it is not read.
"""

from __future__ import annotations

from batchscope.engines.sglang.definitions import DEFERRED
from batchscope.records import CompletionReason
from batchscope.scraping.table import EngineNames, Quantity, Rule, Version, prefixed

_ALL_PRIORITIES = {"priority": ""}
"""With priority scheduling a queue has a series a priority beside the one of all, whose priority is empty."""

_RULES = (
    Rule(Quantity.REQUESTS_RUNNING, ("sglang:num_running_reqs",), where=_ALL_PRIORITIES),
    Rule(Quantity.REQUESTS_WAITING, ("sglang:num_queue_reqs",), where=_ALL_PRIORITIES),
    Rule(Quantity.REQUESTS_DEFERRED, tuple(f"sglang:{name}" for name in DEFERRED), where=_ALL_PRIORITIES, adds=True),
    Rule(Quantity.KV_CACHE_USAGE, ("sglang:token_usage",)),
    Rule(Quantity.KV_CACHE_CAPACITY, ("sglang:max_total_num_tokens",)),
    Rule(Quantity.LIMIT_KV_CACHE_BLOCKS, ("sglang:num_pages",)),
    Rule(Quantity.REQUESTS_FINISHED, ("sglang:num_requests_total",), reason=CompletionReason.OTHER),
    Rule(Quantity.PROMPT_TOKENS, ("sglang:prompt_tokens_total",)),
    Rule(Quantity.PROMPT_TOKENS_CACHED, ("sglang:cached_tokens_total",)),
    Rule(Quantity.GENERATION_TOKENS, ("sglang:generation_tokens_total",)),
    Rule(Quantity.PREEMPTIONS, ("sglang:num_retracted_requests_total",)),
    Rule(Quantity.QUEUE_TIME, ("sglang:queue_time_seconds",)),
    Rule(Quantity.TIME_TO_FIRST_TOKEN, ("sglang:time_to_first_token_seconds",)),
    Rule(Quantity.TIME_PER_OUTPUT_TOKEN, ("sglang:request_time_per_output_token_seconds",)),
    Rule(Quantity.TOTAL_TIME, ("sglang:e2e_request_latency_seconds",)),
    Rule(Quantity.INTER_TOKEN_LATENCY, ("sglang:inter_token_latency_seconds",)),
    Rule(Quantity.REQUEST_GENERATION_TOKENS, ("sglang:generation_tokens_histogram",)),
)

_DEFINITIONS = {
    "time_to_first_token": "request created in the tokenizer manager -> its first output seen there; requests that "
    "do not stream included; the first bucket ends at 100 ms",
    "total_time": "request created in the tokenizer manager -> its last output seen there",
    "queue_time": "entered the scheduler's waiting queue -> first scheduled; the scheduler's clock",
    "time_per_output_token": "(last - first token) / (tokens - 1), a request each; aborted ones left out",
    "inter_token_latency": "gap between outputs seen by the tokenizer manager / tokens in it, once a token",
    "requests_deferred": "held back for a grammar; with disaggregation also for bootstrap, allocation and KV transfer",
    "requests_finished": "finished for any reason, aborts included: the engine does not tell reasons apart",
    "generation_tokens": "counted when a request finishes",
    "preemptions": "retracted requests",
}

_NOT_USED = prefixed(
    "sglang:",
    "time_per_output_token_seconds func_latency_seconds startup_time_seconds startup_cuda_graph_time_seconds "
    "engine_startup_time engine_load_weights_time spec_verify_calls_total prompt_tokens_histogram "
    "uncached_prompt_tokens_histogram get_loads_duration_seconds num_so_requests_total num_aborted_requests_total "
    "gen_throughput cache_hit_rate decode_sum_seq_lens full_token_usage swa_token_usage mamba_usage "
    "num_used_tokens kv_available_tokens kv_evictable_tokens kv_used_tokens swa_available_tokens "
    "swa_evictable_tokens swa_used_tokens mamba_available_tokens mamba_evictable_tokens mamba_used_tokens "
    "weight_load_duration_seconds spec_accept_length spec_accept_rate spec_cap_length spec_block_accept_length "
    "spec_num_steps spec_num_draft_tokens num_retracted_reqs num_retracted_input_tokens_total "
    "num_retracted_output_tokens_total num_paused_reqs num_decode_host_receive_queue_reqs "
    "num_decode_host_receive_reqs_total num_decode_deferred_kv_release_reqs "
    "decode_deferred_kv_release_seconds decode_deferred_kv_release_total kv_transfer_speed_gb_s "
    "kv_transfer_latency_ms pending_prealloc_token_usage prealloc_full_token_usage prealloc_swa_token_usage "
    "num_bootstrap_failed_reqs_total num_transfer_failed_reqs_total num_prefill_retries_total "
    "kv_transfer_bootstrap_ms kv_transfer_alloc_ms kv_transfer_total_mb utilization fwd_occupancy "
    "new_token_ratio is_cuda_graph cuda_graph_passes_total num_unique_running_routing_keys "
    "routing_key_running_req_count routing_key_all_req_count per_stage_req_latency_seconds "
    "grammar_compilation_time_seconds num_grammar_cache_hit_total num_grammar_aborted_total "
    "num_grammar_timeout_total num_grammar_total grammar_schema_count grammar_ebnf_size "
    "grammar_tree_traversal_time_avg grammar_tree_traversal_time_max realtime_tokens_total "
    "prefill_effective_tokens_total forward_execution_seconds_total scheduler_idle_seconds_total "
    "scheduler_process_cpu_seconds_total scheduler_stage_seconds_total estimated_flops_per_gpu_total "
    "estimated_read_bytes_per_gpu_total estimated_write_bytes_per_gpu_total dp_cooperation_realtime_tokens_total "
    "dp_cooperation_forward_execution_seconds_total dp_attention_tokens_total dp_attention_steps_total "
    "dp_attention_pairs_total dp_attention_token_imbalance_ratio dp_attention_sync_wait_seconds "
    "prefill_delayer_wait_forward_passes prefill_delayer_wait_seconds prefill_delayer_outcomes_total "
    "max_total_num_tokens_swa weight_memory_usage_gb kv_cache_memory_usage_gb graph_memory_usage_gb "
    "max_running_requests_under_SLO page_size context_len startup_available_gpu_memory_gb",
)

SGLANG = EngineNames(
    kind="sglang",
    title="SGLang",
    prefixes=("sglang:",),
    rules=_RULES,
    definitions=_DEFINITIONS,
    not_used=_NOT_USED,
    lacks={
        Quantity.REQUESTS_RECEIVED: "SGLang counts finished requests only",
        Quantity.INTER_EMISSION_LATENCY: "SGLang's inter-token latency is weighted by tokens: see inter_token_latency",
        Quantity.PREFILL_TIME: "SGLang has stages of its own (per_stage_req_latency_seconds), with other bounds",
        Quantity.DECODE_TIME: "SGLang has stages of its own (per_stage_req_latency_seconds), with other bounds",
        Quantity.PROCESSING_TIME: "SGLang does not export it",
        Quantity.ITERATIONS: "SGLang does not count them",
        Quantity.ITERATION_DURATION: "SGLang does not export it; its forward-pass metrics do",
        Quantity.ITERATION_SCHEDULED_TOKENS: "SGLang does not export it; its forward-pass metrics do",
        Quantity.SCHEDULED_REQUESTS: "SGLang does not export batch sizes",
        Quantity.LIMIT_RUNNING_REQUESTS: "max_running_requests is not exported",
        Quantity.LIMIT_SCHEDULED_TOKENS: "SGLang has a budget a phase, and exports neither",
        Quantity.DRAFT_TOKENS: "SGLang exports rates of speculative decoding, which do not add up",
        Quantity.ACCEPTED_TOKENS: "SGLang exports rates of speculative decoding, which do not add up",
        Quantity.MEMORY_BYTES_USED: "SGLang exports parts of it, in GB",
    },
    versions=(
        Version("0.5.23, or near it", has=("sglang:request_time_per_output_token_seconds",)),
        Version("before 0.5.23", has=("sglang:num_running_reqs",)),
    ),
    # --enable-metrics-for-all-schedulers: the schedulers of all ranks then record the same requests.
    copies=frozenset({"tp_rank", "pp_rank", "moe_ep_rank"}),
    rank="dp_rank",
    tokens_at_finish=True,
    unused={
        "sglang:encoder_": "the multimodal encoder: cache, queue, transfer",
        "sglang:hicache_": "the hierarchical KV cache",
        **dict.fromkeys(
            (
                "sglang:backup",
                "sglang:prefetch",
                "sglang:load_back_",
                "sglang:storage_prefetch_",
                "sglang:evicted_",
                "sglang:eviction_",
            ),
            "KV cache tiers: eviction, backup, prefetch, load back",
        ),
        "sglang:lora_pool_": "LoRA adapters in memory",
        "sglang:eplb_": "expert load balancing",
        "sglang:diffusion_": "diffusion models",
        "sglang:http_": "the web server",
        "sglang:num_streaming_sessions": "streaming sessions",
        "sglang:streaming_session_": "streaming sessions",
        "sglang:failed_session_": "streaming sessions",
        "sglang:routing_keys_": "requests by routing key",
        "sglang:startup_": "start-up",
        "sglang:process_": "the process",
    },
    source="sglang/srt/observability/metrics_collector.py, 0.5.23",
)
