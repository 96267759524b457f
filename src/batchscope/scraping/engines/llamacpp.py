"""llama.cpp's names (its server, started with ``--metrics``).

Source: tools/server of llama.cpp as built into xllamacpp 2026.10, and a captured page of it; kv_cache_usage_ratio
and tokens_drafted_* are older builds'. prompt_tokens_cached_total came with commit decaf508b (2026-08-13).
"""

from __future__ import annotations

from batchscope.scraping.table import EngineNames, Quantity, Rule, Version, prefixed

_DECODES = "llamacpp:n_decode_total"

_RULES = (
    Rule(Quantity.REQUESTS_RUNNING, ("llamacpp:requests_processing",)),
    Rule(Quantity.REQUESTS_WAITING, ("llamacpp:requests_deferred",)),
    Rule(Quantity.KV_CACHE_USAGE, ("llamacpp:kv_cache_usage_ratio",)),
    Rule(Quantity.PROMPT_TOKENS_COMPUTED, ("llamacpp:prompt_tokens_total",)),
    Rule(Quantity.PROMPT_TOKENS_CACHED, ("llamacpp:prompt_tokens_cached_total",)),
    Rule(Quantity.GENERATION_TOKENS, ("llamacpp:tokens_predicted_total",)),
    Rule(
        Quantity.DRAFT_TOKENS,
        ("llamacpp:spec_decode_num_draft_tokens_total", "llamacpp:tokens_drafted_total"),
    ),
    Rule(
        Quantity.ACCEPTED_TOKENS,
        ("llamacpp:spec_decode_num_accepted_tokens_total", "llamacpp:tokens_drafted_accepted_total"),
    ),
    Rule(Quantity.ITERATIONS, (_DECODES,)),
    Rule(Quantity.SCHEDULED_REQUESTS, ("llamacpp:n_busy_slots_per_decode",), times=_DECODES),
)

_DEFINITIONS = {
    "requests_running": "busy slots",
    "requests_waiting": "what llama.cpp calls deferred: waiting for a slot",
    "prompt_tokens_computed": "without those reused from the cache",
    "generation_tokens": "counted when a request finishes",
    "iterations": "llama_decode calls, speculative and multimodal ones left out",
    "scheduled_requests": "busy slots a llama_decode call; from an average of six digits",
}

_NOT_USED = prefixed(
    "llamacpp:",
    "prompt_seconds_total tokens_predicted_seconds_total n_tokens_max n_past_max spec_decode_num_drafts_total "
    "prompt_tokens_seconds predicted_tokens_seconds kv_cache_tokens",
)

_NO_HISTOGRAMS = "llama.cpp exports counters and averages, no distributions; each response carries its timings"

LLAMACPP = EngineNames(
    kind="llama.cpp",
    title="llama.cpp",
    prefixes=("llamacpp:",),
    rules=_RULES,
    definitions=_DEFINITIONS,
    not_used=_NOT_USED,
    lacks={
        **{quantity: _NO_HISTOGRAMS for quantity in Quantity if quantity.kind == "histogram"},
        Quantity.REQUESTS_RECEIVED: "llama.cpp does not count requests",
        Quantity.REQUESTS_FINISHED: "llama.cpp does not count requests",
        Quantity.REQUESTS_DEFERRED: "its 'deferred' means waiting for a slot: see requests_waiting",
        Quantity.KV_CACHE_USAGE: "gone since the cache became one; /slots has it a slot",
        Quantity.LIMIT_RUNNING_REQUESTS: "the number of slots is in /props, not here",
        Quantity.PREEMPTIONS: "llama.cpp does not preempt",
    },
    versions=(
        Version("since 2026-08 (commit decaf508b)", has=("llamacpp:prompt_tokens_cached_total",)),
        Version("with kv_cache_usage_ratio: before 2025-08", has=("llamacpp:kv_cache_usage_ratio",)),
    ),
    tokens_at_finish=True,
    source="llama.cpp tools/server, as in xllamacpp 2026.10",
)
