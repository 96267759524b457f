"""The names of Modular's MAX (``max serve``).

Source: max/serve/telemetry/metrics.py of modular/modular as stored in November 2026. They are OpenTelemetry instruments
(``maxserve.time_to_first_token``, unit ms), which its exporter spells with underscores, the unit and ``_total``; older
exporters left the unit out. Inter-token latency, batch sizes and the KV cache come with the detailed level only.
"""

from __future__ import annotations

from batchscope.scraping.table import DURATIONS, EngineNames, Quantity, Rule

_PREFIX = "maxserve_"
_MILLISECOND = 1e-3


def _milliseconds(quantity: Quantity, name: str) -> Rule:
    return Rule(quantity, (f"{_PREFIX}{name}_milliseconds", f"{_PREFIX}{name}"), unit=_MILLISECOND)


_RULES = (
    Rule(Quantity.REQUESTS_RUNNING, (f"{_PREFIX}num_requests_running",), less=f"{_PREFIX}num_requests_queued"),
    Rule(Quantity.REQUESTS_WAITING, (f"{_PREFIX}num_requests_queued",)),
    Rule(Quantity.LIMIT_KV_CACHE_BLOCKS, (f"{_PREFIX}cache_num_total_blocks",)),
    Rule(Quantity.PROMPT_TOKENS_COMPUTED, (f"{_PREFIX}cache_misses_tokens_total", f"{_PREFIX}cache_misses_total")),
    Rule(Quantity.PROMPT_TOKENS, (f"{_PREFIX}num_input_tokens_total",)),
    Rule(Quantity.GENERATION_TOKENS, (f"{_PREFIX}num_output_tokens_total",)),
    Rule(Quantity.PREEMPTIONS, (f"{_PREFIX}cache_preemption_count_total",)),
    _milliseconds(Quantity.TIME_TO_FIRST_TOKEN, "time_to_first_token"),
    _milliseconds(Quantity.TIME_PER_OUTPUT_TOKEN, "time_per_output_token"),
    Rule(
        Quantity.REQUEST_GENERATION_TOKENS,
        (f"{_PREFIX}output_tokens_per_request_tokens", f"{_PREFIX}output_tokens_per_request"),
    ),
)
_GIVEN = {rule.quantity for rule in _RULES}

MAX = EngineNames(
    kind="max",
    title="MAX",
    prefixes=(_PREFIX,),
    rules=_RULES,
    definitions={
        "requests_running": "in the API server, less those in the scheduler's prefill queue",
        "requests_waiting": "in the scheduler's prefill queue",
        "time_to_first_token": "request received by the API server -> its first token; parsing and tokenisation inside",
        "time_per_output_token": "decode time / (tokens - 1), a request each",
    },
    lacks={
        **dict.fromkeys((q for q in DURATIONS if q not in _GIVEN), "MAX does not export it"),
        Quantity.REQUESTS_FINISHED: "MAX counts HTTP requests of every path, health checks included",
        Quantity.TOTAL_TIME: "MAX times HTTP requests of every path, health checks included",
        Quantity.INTER_TOKEN_LATENCY: "its itl does not say whether it is a token's or an output's",
        Quantity.INTER_EMISSION_LATENCY: "its itl does not say whether it is a token's or an output's",
        Quantity.KV_CACHE_USAGE: "used and total blocks are there, not their ratio",
        Quantity.PROMPT_TOKENS_CACHED: "hits are told in all and by tier at once, which does not add up",
    },
    unused={
        f"{_PREFIX}cache_": "KV cache: blocks, hits and transfers by tier",
        f"{_PREFIX}di_": "disaggregated inference: dispatch and transfer",
        **dict.fromkeys((f"{_PREFIX}request_count", f"{_PREFIX}request_time"), "HTTP requests of every path"),
        **dict.fromkeys(
            (
                f"{_PREFIX}input_processing_time",
                f"{_PREFIX}output_processing_time",
                f"{_PREFIX}num_requests_awaiting_",
                f"{_PREFIX}requests_awaiting_",
                f"{_PREFIX}num_responses_",
                f"{_PREFIX}response",
            ),
            "the API server's own queues and work",
        ),
        **dict.fromkeys((f"{_PREFIX}batch_", f"{_PREFIX}itl"), "batches and gaps, of the detailed level"),
        **dict.fromkeys((f"{_PREFIX}model_load_", f"{_PREFIX}pipeline_load"), "loading of models"),
        **dict.fromkeys((f"{_PREFIX}input_tokens_per_", f"{_PREFIX}num_input_characters"), "sizes of inputs"),
    },
    source="modular/modular max/serve/telemetry/metrics.py, November 2026",
)
