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
    "preempted_time": "not measured",
    "preemptions": "counted when the preempted request is scheduled again: then vLLM tells",
    "running_requests": "as the scheduler counted after the step, and those that finished in it; one rank's",
    "batch_size": (
        "requests scheduled, with --enable-logging-iteration-details; else running requests: a running one that the"
        " token budget left out of a step counts too"
    ),
    "iteration_duration": (
        "vLLM's elapsed time of the step, with --enable-logging-iteration-details; else estimated: from the arrival"
        " of the step before's results at the front end to this one's, while requests were in the engine"
    ),
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

MISSING = "missing"
"""The key under which names of fields stand that this version of vLLM does not have."""
