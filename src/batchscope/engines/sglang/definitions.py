"""What SGLang's figures start and end at: part of every snapshot, so that engines are not compared on other meanings.

Read in SGLang 0.5.23 (``managers/tokenizer_manager.py``, ``observability/req_time_stats.py`` and
``managers/scheduler_components/metrics_reporter.py``). The tokenizer manager is the front end: it tokenises, hands
requests to the scheduler and sees their outputs; all its instants are its own ``time.perf_counter``.
"""

from __future__ import annotations

from batchscope.engines.forward_pass import definitions_of

DEFINITIONS = {
    **definitions_of("sglang"),
    "time_to_first_token": (
        "from the request's creation in the tokenizer manager (before tokenisation) to its first output there; of a"
        " request that does not stream, to the end of its prefill on the scheduler, where that is told"
    ),
    "total_time": "from the request's creation in the tokenizer manager to its last output there; detokenising inside",
    "decode_time": (
        "time_per_output_token x (tokens - 1): SGLang's own is (last output - first token) / (tokens - 1), so that"
        " time_to_first_token = total_time - decode_time for each request; not measured where all came in one output"
    ),
    "time_per_output_token": "decode_time / (tokens - 1), as SGLang tells it; not for aborted requests",
    "processing_time": "total_time: the tokenizer manager is not told of one request's queue time; it is inside",
    "queue_time": (
        "scheduler's clock, from the first entry into its waiting queue to the first forward pass; waits after a"
        " retraction are not inside, tokenisation neither; a histogram only, not known of a single request"
    ),
    "prefill_time": "not measured",
    "preempted_time": "not measured",
    "inter_token_latency": (
        "gap between two outputs of a request in the tokenizer manager, divided by the tokens of the later one and"
        " counted once a token; outputs of a request that does not stream come every 50 tokens and are counted too"
    ),
    "inter_emission_latency": "not measured",
    "finish_reason": (
        "other = finished by stop or length: SGLang's statistics do not tell them apart; cancelled = aborted after an"
        " abort was asked for; error = aborted by the engine itself; inferred from what SGLang reports of each"
    ),
    "requests_received": "counted when they end: SGLang tells its statistics of no arrival",
    "requests_running": (
        "the scheduler's count at its last report: each prefill batch, each decode_log_interval decode batches, and"
        " when it falls idle; so are waiting and deferred requests and kv_cache_usage"
    ),
    "requests_deferred": (
        "held back for a grammar; with disaggregation also for bootstrap, allocation and KV transfer (into host memory"
        " or not); requests that a weight update paused are not among them: they run or are back in the queue"
    ),
    "kv_cache_usage": (
        "token_usage: slots that running requests hold / all, of the fullest pool; an iteration has the last reported"
    ),
    "preemptions": "retracted requests; told with the next iteration, so only with --enable-forward-pass-metrics",
    "limit_scheduled_tokens": (
        "of a prefill batch: chunked_prefill_size, or max_prefill_tokens without chunks. Prefill and decode are not"
        " mixed by default: a decode batch has a token a request, and is bounded by limit_running_requests"
    ),
    "limit_kv_cache_blocks": "num_pages: pages of page_size tokens",
}
"""Figure -> meaning; the same in the snapshots of the tokenizer manager and of the schedulers, which merge."""

DEFERRED = (
    "num_grammar_queue_reqs",
    "num_prefill_bootstrap_queue_reqs",
    "num_prefill_inflight_queue_reqs",
    "num_decode_prealloc_queue_reqs",
    "num_decode_transfer_queue_reqs",
)
"""Fields of its ``SchedulerStats``, and gauges of its page: who is in the engine and held back by something else.

A grammar, or a disaggregated engine's other half. Not among them, because they would count twice (read in 0.5.23):
``num_decode_host_receive_queue_reqs`` is a part of the transfer queue, and requests that a weight update paused
(``num_paused_reqs``, which nothing sets) go on running or are back in the queue.
"""

MISSING = "missing"
"""The key under which names of fields stand that this version of SGLang does not have."""
