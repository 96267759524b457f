"""LMDeploy's names.

Source: lmdeploy/metrics/loggers.py and stats.py, commit 1263d5c (2026-08). Its time_per_output_token_seconds is the
gap between outputs / their tokens, one observation an output: neither our TPOT (a request) nor our ITL (a token).
"""

from __future__ import annotations

from batchscope.records import CompletionReason
from batchscope.scraping.table import EngineNames, Quantity, Rule, prefixed

_REASONS = {
    "ResponseType.FINISH": CompletionReason.OTHER,
    "ResponseType.CANCEL": CompletionReason.CANCELLED,
    "ResponseType.SUCCESS": CompletionReason.OTHER,
    "ResponseType.INPUT_LENGTH_ERROR": CompletionReason.REJECTED,
    "ResponseType.NO_QUEUE": CompletionReason.REJECTED,
}

_RULES = (
    Rule(Quantity.REQUESTS_RUNNING, ("lmdeploy:num_requests_running",)),
    Rule(Quantity.REQUESTS_WAITING, ("lmdeploy:num_requests_waiting",)),
    Rule(Quantity.REQUESTS_DEFERRED, ("lmdeploy:num_api_requests_waiting",)),
    Rule(Quantity.KV_CACHE_USAGE, ("lmdeploy:gpu_cache_usage_perc",)),
    Rule(
        Quantity.REQUESTS_FINISHED,
        ("lmdeploy:request_success_total",),
        reason_of="finished_reason",
        reasons=_REASONS,
        reason=CompletionReason.ERROR,
    ),
    Rule(Quantity.PROMPT_TOKENS, ("lmdeploy:prompt_tokens_total",)),
    Rule(Quantity.PROMPT_TOKENS_CACHED, ("lmdeploy:cached_tokens_total",)),
    Rule(Quantity.GENERATION_TOKENS, ("lmdeploy:generation_tokens_total",)),
    Rule(Quantity.DRAFT_TOKENS, ("lmdeploy:spec_decode_num_draft_tokens_total",)),
    Rule(Quantity.ACCEPTED_TOKENS, ("lmdeploy:spec_decode_num_accepted_tokens_total",)),
    Rule(Quantity.QUEUE_TIME, ("lmdeploy:request_queue_time_seconds",)),
    Rule(Quantity.PREFILL_TIME, ("lmdeploy:request_prefill_time_seconds",)),
    Rule(Quantity.TIME_TO_FIRST_TOKEN, ("lmdeploy:time_to_first_token_seconds",)),
    Rule(Quantity.DECODE_TIME, ("lmdeploy:request_decode_time_seconds",)),
    Rule(Quantity.PROCESSING_TIME, ("lmdeploy:request_inference_time_seconds",)),
    Rule(Quantity.TOTAL_TIME, ("lmdeploy:e2e_request_latency_seconds",)),
    Rule(Quantity.INTER_EMISSION_LATENCY, ("lmdeploy:iter_token_latency",)),
    Rule(Quantity.REQUEST_GENERATION_TOKENS, ("lmdeploy:request_generation_tokens",)),
)

_DEFINITIONS = {
    "time_to_first_token": "request arrives at the API server -> its first tokens are processed there; wall clock",
    "total_time": "request arrives at the API server -> its last tokens are processed there; wall clock",
    "queue_time": "queued in the engine -> first scheduled; the engine's clock",
    "prefill_time": "first scheduled -> first token, preemptions included",
    "decode_time": "first token -> finish, preemptions included",
    "processing_time": "first scheduled -> finish",
    "inter_emission_latency": "an output's token -> the next output is processed in the API server, one an output",
    "requests_deferred": "waiting in the API server for a free handle",
}

_NOT_USED = prefixed(
    "lmdeploy:",
    "time_per_output_token_seconds backend_config_info num_requests_succeeded num_requests_failed "
    "num_requests_total num_requests_completed num_requests_unfinished num_api_requests_routed "
    "prefix_cache_hit_rate spec_decode_num_drafts_total spec_decode_num_accepted_tokens_per_pos_total "
    "spec_decode_mean_accept_rate spec_decode_mean_accept_length spec_decode_per_position_accept_rate "
    "request_prompt_tokens request_cached_tokens request_cache_hit_ratio iteration_tokens_total",
)

LMDEPLOY = EngineNames(
    kind="lmdeploy",
    title="LMDeploy",
    prefixes=("lmdeploy:",),
    rules=_RULES,
    definitions=_DEFINITIONS,
    not_used=_NOT_USED,
    lacks={
        Quantity.REQUESTS_RECEIVED: "LMDeploy counts finished requests only",
        Quantity.TIME_PER_OUTPUT_TOKEN: "LMDeploy's is one observation an output, not a request: not the same number",
        Quantity.INTER_TOKEN_LATENCY: "LMDeploy's token times are one observation an output: "
        "see inter_emission_latency",
        Quantity.ITERATIONS: "its iteration_tokens_total is observed once a request and step, not once a step",
        Quantity.ITERATION_SCHEDULED_TOKENS: "its iteration_tokens_total is of one request, not of the batch",
        Quantity.PREEMPTIONS: "LMDeploy does not count them",
    },
    rank="engine",
    source="lmdeploy/metrics/loggers.py, commit 1263d5c",
)
