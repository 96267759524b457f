"""What vLLM's figures start and end at: part of every snapshot, so that engines are not compared on other meanings.

Client clock: the front end's wall clock (``time.time``). Engine clock: the engine core's monotonic clock.
"""

from __future__ import annotations

DEFINITIONS = {
    "time_to_first_token": (
        "histogram: front end's wall clock, from the request's arrival at the front end (before tokenisation) to the"
        " processing of its first output event, for every request that got one; of one request (samples, SLO):"
        " queue_time + prefill_time, engine clock, without tokenisation"
    ),
    "queue_time": "engine clock, from queued in the engine core to first scheduled; observed at the request's finish",
    "prefill_time": "engine clock, from first scheduled to the first output event; preemptions are inside",
    "decode_time": "engine clock, from the first to the last output event; preemptions are inside",
    "processing_time": "engine clock, from first scheduled to the last output event",
    "total_time": "front end's wall clock, from the request's arrival at the front end to its last output event",
    "time_per_output_token": "decode_time / (tokens - 1); undefined for one token (vLLM's own histogram has 0 there)",
    "inter_token_latency": "not measured: vLLM times output events, not tokens",
    "inter_emission_latency": (
        "engine clock, between two output events of a request: what vLLM calls inter-token latency; preemptions are"
        " inside"
    ),
    "max_emission_gap": (
        "engine clock, between the ends of two steps that emitted a token of the request; only with the scheduler"
        " subclass that reports and one API server"
    ),
    "instants": (
        "of a request that the scheduler subclass reported: arrived by the front end's clock (end less whole time),"
        " scheduled and tokens by the starts and ends of its steps; without it none, durations only"
    ),
    "preempted_time": "not measured",
    "preemptions": "counted when the preempted request is scheduled again: then vLLM tells",
    "running_requests": "as the scheduler counted after the step, and those that finished in it; one rank's",
    "batch_size": (
        "requests scheduled, where the scheduler subclass reports or with --enable-logging-iteration-details; else"
        " running requests: a running one that the token budget left out of a step counts too, and who ended by a stop"
        " token or string only as far as tokens came"
    ),
    "iteration_duration": (
        "from the step before's results to this one's, while requests were in the engine: by the engine core's clock"
        " where the scheduler subclass reports, else by their arrival at the front end; after idleness from the oldest"
        " request's arrival, or as long as vLLM says that it waited. vLLM's own elapsed time is that wait alone"
    ),
    "recomputed_tokens": (
        "tokens that preempted requests had when they came back, without those still cached and the last of each;"
        " with prefix caching only, without it vLLM does not tell"
    ),
    "prefix_cache_hit_tokens": "at admission, of requests not preempted before; device: the engine's own cache",
    "graph_tokens": "with --cudagraph-metrics; padding is what the step computed beside them to fill a captured graph",
    "limited_by": (
        "inferred from the scheduler's counts; the token budget is seen only with --enable-logging-iteration-details;"
        " reported only by the optional scheduler subclass"
    ),
    "finish_reason": "eos_token_reached also for stop strings: vLLM's statistics do not tell them apart",
    "requests_lost": (
        "at least so many: vLLM tells nothing of a request that its client gave up; one that had a first token is"
        " counted at the latest when the engine is idle, one given up in the queue only where arrivals of the same"
        " step do not hide it"
    ),
}
"""Figure -> meaning, for ``collector.definitions``."""

BY_CLASS = {
    "time_to_first_token": (
        "queue_time + prefill_time, engine clock, without tokenisation; observed at the request's finish, with its"
        " class: vLLM does not say whose a first token is"
    ),
}
"""What is otherwise where requests are told apart by class."""

MISSING = "missing"
"""The key under which names of fields stand that this version of vLLM does not have."""
