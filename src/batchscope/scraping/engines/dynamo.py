"""The names of Dynamo's HTTP frontend. Its workers serve their engine's own page beside a few ``dynamo_component_*``.

Source: lib/llm/src/http/service/metrics.rs of ai-dynamo/dynamo (commit 0014908a). ``DYN_METRICS_PREFIX`` renames them
all: then the page is not recognised.
"""

from __future__ import annotations

from batchscope.records import CompletionReason
from batchscope.scraping.table import DURATIONS, EngineNames, Quantity, Rule

_FRONTEND = "dynamo_frontend_"
_REQUESTS = f"{_FRONTEND}requests_total"
_INPUT, _OUTPUT = f"{_FRONTEND}input_sequence_tokens", f"{_FRONTEND}output_sequence_tokens"
_QUEUED = f"{_FRONTEND}queued_requests"

_FAILURES = {
    "cancelled": CompletionReason.CANCELLED,
    "response_timeout": CompletionReason.TIMEOUT,
    **dict.fromkeys(("validation", "not_found", "overload", "not_implemented"), CompletionReason.REJECTED),
}

_RULES = (
    Rule(
        Quantity.REQUESTS_RUNNING,
        (f"{_FRONTEND}active_requests", f"{_FRONTEND}inflight_requests"),
        less=_QUEUED,
    ),
    Rule(Quantity.REQUESTS_WAITING, (_QUEUED,)),
    Rule(Quantity.REQUESTS_RECEIVED, (f"{_FRONTEND}requests_started_total",)),
    Rule(Quantity.REQUESTS_FINISHED, (_REQUESTS,), where={"status": "success"}, reason=CompletionReason.OTHER),
    Rule(
        Quantity.REQUESTS_FINISHED,
        (_REQUESTS,),
        where={"status": "error"},
        reason_of="error_type",
        reasons=_FAILURES,
        reason=CompletionReason.ERROR,
    ),
    Rule(Quantity.PROMPT_TOKENS, (_INPUT,), part="_sum"),
    Rule(Quantity.PROMPT_TOKENS_CACHED, (f"{_FRONTEND}cached_tokens",), part="_sum"),
    Rule(Quantity.GENERATION_TOKENS, (f"{_FRONTEND}output_tokens_total",)),
    Rule(Quantity.TIME_TO_FIRST_TOKEN, (f"{_FRONTEND}time_to_first_token_seconds",)),
    Rule(Quantity.TOTAL_TIME, (f"{_FRONTEND}request_duration_seconds",)),
    Rule(Quantity.INTER_TOKEN_LATENCY, (f"{_FRONTEND}inter_token_latency_seconds",)),
    Rule(Quantity.REQUEST_GENERATION_TOKENS, (_OUTPUT,)),
)

_WORKERS = "a frontend does not know it: watch the workers' own pages"
_GIVEN = {rule.quantity for rule in _RULES}

DYNAMO = EngineNames(
    kind="dynamo",
    title="Dynamo's frontend",
    prefixes=("dynamo_",),
    rules=_RULES,
    definitions={
        "requests_running": "answering: from the first token to the end of the answer",
        "requests_waiting": "from the HTTP handler to the first token, prefill included",
        "requests_finished": "'success' is shown as other: the frontend does not tell stop from length",
        "prompt_tokens_computed": "of requests that got a first token, cached tokens taken off",
        "time_to_first_token": "request in the frontend's HTTP handler -> its first output there; the network included",
        "total_time": "request in the frontend's HTTP handler -> the end of its answer",
        "inter_token_latency": "gap between outputs seen by the frontend / tokens in it, once a token",
    },
    not_used=frozenset({f"{_FRONTEND}disconnected_clients"}),
    lacks={
        **{quantity: _WORKERS for quantity in DURATIONS if quantity not in _GIVEN},
        Quantity.KV_CACHE_USAGE: _WORKERS,
        Quantity.PREEMPTIONS: _WORKERS,
        Quantity.ITERATIONS: _WORKERS,
    },
    unused={
        f"{_FRONTEND}model_": "settings of the model, migrations, cancellations",
        f"{_FRONTEND}worker_": "a worker's last values",
        f"{_FRONTEND}lora_": "LoRA adapters",
        **dict.fromkeys((f"{_FRONTEND}router_", f"{_FRONTEND}stage_"), "stages of a request in the frontend"),
        **dict.fromkeys(
            (f"{_FRONTEND}{name}" for name in ("tokenize", "detokenize", "template_", "event_loop_")),
            "what the frontend itself costs: tokenizer, templates, event loop",
        ),
        **dict.fromkeys(
            (f"{_FRONTEND}{name}" for name in ("images_", "image_", "videos_", "audio_", "embedding_")),
            "images, videos, audio, embeddings",
        ),
        "dynamo_component_": "a worker's or router's component",
        "dynamo_planner_": "the planner",
        "dynamo_": "Dynamo's runtime: request plane, router, work handlers, tokio",
    },
    source="ai-dynamo/dynamo lib/llm/src/http/service/metrics.rs, commit 0014908a",
)
