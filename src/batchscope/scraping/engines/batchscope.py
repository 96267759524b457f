"""batchscope's own names, for a page of ours that has no ``/snapshot`` beside it. They are those of the catalogue.

The catalogue says where in a state a metric's value is; the last part of that place is the canonical number's name.
So nearly all rules follow from it; those for values that are told apart by a label are written out.
"""

from __future__ import annotations

from batchscope.catalog import CATALOG, INFO, PREFIX, Metric, MetricKind
from batchscope.records import CompletionReason
from batchscope.scraping.table import DURATIONS, EngineNames, Quantity, Rule

_PLACES = ("totals", "gauges", "histograms")
_PLAIN: dict[str, Metric] = {
    metric.source.rpartition(".")[2]: metric
    for metric in CATALOG
    if metric.source.startswith(_PLACES) and (metric.kind is MetricKind.HISTOGRAM or not metric.labels)
}
"""Field of the state -> the metric that has its value; histograms are added up over request classes."""
_BY_SOURCE = {metric.source: metric.name for metric in CATALOG if metric.source}
_PROMPT_TOKENS = next(metric.name for metric in CATALOG if "computed" in metric.parts)

_RULES = (
    *(Rule(quantity, (_PLAIN[quantity].name,)) for quantity in Quantity if quantity in _PLAIN),
    Rule(Quantity.KV_CACHE_CAPACITY, (_PLAIN["limit_kv_cache_blocks"].name,)),
    Rule(
        Quantity.REQUESTS_FINISHED,
        (_BY_SOURCE["totals.requests_by_reason"],),
        reason_of="reason",
        reasons={reason: reason for reason in CompletionReason},
        reason=CompletionReason.OTHER,
    ),
    Rule(Quantity.PROMPT_TOKENS_COMPUTED, (_PROMPT_TOKENS,), where={"source": "computed"}),
    Rule(Quantity.PROMPT_TOKENS_CACHED, (_PROMPT_TOKENS,), where={"source": "cached"}),
    Rule(Quantity.SCHEDULED_REQUESTS, (_PLAIN["batch_size"].name,), part="_sum"),
)

_READ = frozenset(name for rule in _RULES for name in rule.names)
_LEFT_OUT = f"{PREFIX}series_left_out"  # the exposition's own: no state knows it

_NOT_TOLD = "not told at present: no iteration has said it yet, or none has for long"
_NO_LIMIT = "no such limit was set (SchedulerLimits)"

BATCHSCOPE = EngineNames(
    kind="batchscope",
    title="batchscope",
    prefixes=(PREFIX,),
    rules=_RULES,
    definitions={
        **{quantity: _PLAIN[quantity].help.rstrip(".") for quantity in DURATIONS if quantity in _PLAIN},
        Quantity.GENERATION_TOKENS: "of iterations; of finished requests as long as no iteration was reported",
        Quantity.PROMPT_TOKENS_COMPUTED: "of finished requests",
        Quantity.PROMPT_TOKENS_CACHED: "of finished requests",
        Quantity.SCHEDULED_REQUESTS: "the batch sizes of all iterations, added up",
    },
    not_used=frozenset({metric.name for metric in CATALOG} | {_LEFT_OUT}) - _READ,
    lacks={
        Quantity.PROCESSING_TIME: "queue_time and total_time are there, and /snapshot has its average",
    },
    passing={
        **dict.fromkeys(
            (
                Quantity.REQUESTS_RUNNING, Quantity.REQUESTS_WAITING, Quantity.REQUESTS_DEFERRED,
                Quantity.KV_CACHE_USAGE, Quantity.MEMORY_BYTES_USED,
            ),
            _NOT_TOLD,
        ),
        **dict.fromkeys(
            (Quantity.LIMIT_RUNNING_REQUESTS, Quantity.LIMIT_SCHEDULED_TOKENS, Quantity.LIMIT_KV_CACHE_BLOCKS),
            _NO_LIMIT,
        ),
    },
    sign=INFO.name,
    source="src/batchscope/catalog.py",
)  # fmt: skip
