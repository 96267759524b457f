"""The names of Hugging Face's text-generation-inference (TGI).

Source: router/src/server.rs, router/src/infer/mod.rs, backends/v3/src of 3.3 (commit db931fc) and its
docs/source/reference/metrics.md.
"""

from __future__ import annotations

from batchscope.records import CompletionReason
from batchscope.scraping.table import EngineNames, Quantity, Rule, prefixed

_FAILURES = {
    "overloaded": CompletionReason.REJECTED,
    "validation": CompletionReason.REJECTED,
    "template": CompletionReason.REJECTED,
    "dropped": CompletionReason.CANCELLED,
    "generation": CompletionReason.ERROR,
    "incomplete": CompletionReason.ERROR,
}

_RULES = (
    Rule(Quantity.REQUESTS_RUNNING, ("tgi_batch_current_size",)),
    Rule(Quantity.REQUESTS_WAITING, ("tgi_queue_size",)),
    Rule(Quantity.REQUESTS_RECEIVED, ("tgi_request_count",)),
    Rule(Quantity.REQUESTS_FINISHED, ("tgi_request_success",), reason=CompletionReason.OTHER),
    Rule(
        Quantity.REQUESTS_FINISHED,
        ("tgi_request_failure",),
        reason_of="err",
        reasons=_FAILURES,
        reason=CompletionReason.ERROR,
    ),
    Rule(Quantity.PROMPT_TOKENS, ("tgi_request_input_length",), part="_sum"),
    Rule(Quantity.GENERATION_TOKENS, ("tgi_request_generated_tokens",), part="_sum"),
    Rule(Quantity.ITERATIONS, ("tgi_batch_inference_count",)),
    Rule(Quantity.QUEUE_TIME, ("tgi_request_queue_duration",)),
    Rule(Quantity.PROCESSING_TIME, ("tgi_request_inference_duration",)),
    Rule(Quantity.TOTAL_TIME, ("tgi_request_duration",)),
    Rule(Quantity.ITERATION_DURATION, ("tgi_batch_inference_duration",)),
    Rule(Quantity.REQUEST_GENERATION_TOKENS, ("tgi_request_generated_tokens",)),
)

_DEFINITIONS = {
    "total_time": "the router's handler begins -> the whole answer is there, validation included; successful ones",
    "queue_time": "validated and queued -> taken into a batch; successful requests",
    "processing_time": "taken into a batch -> the whole answer is there; successful requests",
    "requests_finished": "TGI does not say why a request ended: successes are shown as 'other'",
    "prompt_tokens_computed": "validated requests' input; cached tokens are not told apart",
    "generation_tokens": "of successful requests, counted when they finish",
    "iterations": "prefill and decode calls together",
    "iteration_duration": "prefill and decode calls together",
}

_NOT_USED = prefixed(
    "tgi_",
    "request_mean_time_per_token_duration request_validation_duration request_max_new_tokens "
    "request_skipped_tokens batch_current_max_tokens batch_max_total_tokens batch_concat batch_concat_duration "
    "batch_decode_duration batch_filter_duration batch_forward_duration batch_inference_success "
    "batch_inference_failure batch_next_size",
)

_NO_GAPS = "TGI does not time tokens"

TGI = EngineNames(
    kind="tgi",
    title="TGI",
    prefixes=("tgi_",),
    rules=_RULES,
    definitions=_DEFINITIONS,
    not_used=_NOT_USED,
    lacks={
        Quantity.TIME_TO_FIRST_TOKEN: _NO_GAPS,
        Quantity.INTER_TOKEN_LATENCY: _NO_GAPS,
        Quantity.INTER_EMISSION_LATENCY: _NO_GAPS,
        Quantity.PREFILL_TIME: _NO_GAPS,
        Quantity.DECODE_TIME: _NO_GAPS,
        Quantity.TIME_PER_OUTPUT_TOKEN: "TGI's mean time per token includes the prefill: not the same number",
        Quantity.KV_CACHE_USAGE: "TGI does not export it",
        Quantity.PREEMPTIONS: "TGI reserves memory at admission: it does not preempt",
    },
    tokens_at_finish=True,
    source="text-generation-inference router/src/server.rs, backends/v3/src, commit db931fc",
)
