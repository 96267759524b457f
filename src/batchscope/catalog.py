"""Every exported metric, once: name, kind, unit, labels, help, and where in the state its value is.

Exporters are derived from this table, and docs/metrics.md is generated from it. Values that are not known
(``None``, ``nan``) have no series: a gauge disappears, it never freezes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

from batchscope.version import __version__

PREFIX = "batchscope_"


class MetricKind(StrEnum):
    """What the value does: only grow, come and go, be distributed, or name things."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Metric(NamedTuple):
    """One exported metric; ``name`` is complete: prefix, unit, ``_total`` on a counter.

    ``source`` is a path of fields from a ``CumulativeState``; with ``labels`` it leads to a table whose keys are
    the label's values, a level a label. ``parts`` instead gathers single fields, by the value of the one label.
    """

    name: str
    kind: MetricKind
    unit: str
    help: str
    source: str = ""
    labels: tuple[str, ...] = ()
    parts: Mapping[str, str] = {}


Value = tuple[tuple[str, ...], Any]
"""One series of a metric: its own label values, in the metric's order, and its value or histogram."""


Reader = Callable[[Any], list[Value]]
"""Gives the series of one metric in a ``CumulativeState`` that are known."""


def values(metric: Metric, state: Any) -> list[Value]:
    """The series of ``metric`` in a ``CumulativeState`` that are known."""
    return reader(metric)(state)


def reader(metric: Metric) -> Reader:
    """What reads ``metric``: keep it where many states are read, since where to look is found out here."""
    if metric.kind is MetricKind.INFO:
        return _info
    if metric.parts:
        return partial(_parts, [((label,), *_steps(path)) for label, path in metric.parts.items()])
    if metric.source.startswith(_RESOURCES):
        return partial(_resources, metric, *metric.source.removeprefix(_RESOURCES).split("."))
    part, field = _steps(metric.source)
    if metric.labels:
        return partial(_table, part, field, len(metric.labels))
    return partial(_of_all_classes if metric.kind is MetricKind.HISTOGRAM else _single, part, field)


def _info(state: Any) -> list[Value]:
    return [((state.engine.kind, state.engine.version, state.role, __version__), 1)]


def _parts(paths: Iterable[tuple[tuple[str], str, str]], state: Any) -> list[Value]:
    found = [(labels, _at(part, field, state)) for labels, part, field in paths]
    return [row for row in found if _known(row[1])]


def _single(part: str, field: str, state: Any) -> list[Value]:
    found = _at(part, field, state)
    return [((), found)] if _known(found) else []


def _of_all_classes(part: str, field: str, state: Any) -> list[Value]:
    found = _at(part, field, state).get("")
    return [] if found is None else [((), found)]


def _table(part: str, field: str, levels: int, state: Any) -> list[Value]:
    """The rows of a table in so many levels of tables."""
    tables: list[Value] = [((), _at(part, field, state))]
    for _ in range(levels - 1):
        tables = [((*labels, key), inner) for labels, table in tables for key, inner in table.items()]
    return [((*labels, key), value) for labels, table in tables for key, value in table.items() if _known(value)]


def _at(part: str, field: str, state: Any) -> Any:
    """A part's field; an empty table where a table lacks the key."""
    held = getattr(state, part)
    return held.get(field, {}) if type(held) is dict else getattr(held, field)


def _steps(path: str) -> tuple[str, str]:
    part, field = path.split(".")
    return part, field


def _known(value: Any) -> bool:
    return value is not None and (type(value) is not float or value == value)  # noqa: PLR0124  (not nan)


def _resources(metric: Metric, resource: str, quantity: str, state: Any) -> list[Value]:
    """The last value of each device; a ``quantity`` that ends in ``*`` stands for all that begin so, by their rest."""
    start = quantity.removesuffix("*")
    named = [
        (name, one)
        for name, one in state.resources.items()
        if one.resource == resource and not math.isnan(one.last)
        and (one.quantity == quantity or (start != quantity and one.quantity.startswith(start)))
    ]  # fmt: skip
    return _of_gpus(named, metric, start) if "gpu" in metric.labels else _of_processes(named)


def _of_gpus(named: list[tuple[str, Any]], metric: Metric, start: str) -> list[Value]:
    """By GPU: its index, in a merged state its UUID; one that several processes sampled shows once."""
    best: dict[tuple[str, ...], tuple[float, float]] = {}
    for name, one in named:
        owner, merged, _ = name.rpartition("/")
        gpu = (one.identity or f"{owner}/{one.device}") if merged else one.device
        labels = (gpu, one.quantity.removeprefix(start))[: len(metric.labels)]
        rank = one.last if metric.kind is MetricKind.COUNTER else -one.last_sampled_seconds_ago
        if labels not in best or rank > best[labels][0]:
            best[labels] = rank, one.last
    return [(labels, value) for labels, (_, value) in best.items()]


def _of_processes(named: list[tuple[str, Any]]) -> list[Value]:
    """Without a label: memory and CPU time of processes add up."""
    return [((), sum(one.last for _, one in named))] if named else []


_RESOURCES = "resources."


def _counter(name: str, unit: str, text: str, source: str, *labels: str) -> Metric:
    return Metric(f"{PREFIX}{name}_total", MetricKind.COUNTER, unit, text, source, labels)


def _parted(name: str, unit: str, text: str, label: str, **parts: str) -> Metric:
    return Metric(f"{PREFIX}{name}_total", MetricKind.COUNTER, unit, text, "", (label,), parts)


def _gauge(name: str, unit: str, text: str, source: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, MetricKind.GAUGE, unit, text, source, labels)


def _histogram(name: str, unit: str, text: str, source: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, MetricKind.HISTOGRAM, unit, text, f"histograms.{source}", labels)


_COUNTERS = (
    _counter("requests_received", "requests", "Requests that arrived.", "totals.requests_received"),
    _counter("requests", "requests", "Requests that finished, by reason.", "totals.requests_by_reason", "reason"),
    _counter("requests_lost", "requests", "Requests that vanished without an end.", "totals.requests_lost"),
    _parted(
        "prompt_tokens", "tokens", "Prompt tokens of finished requests, computed or taken from the prefix cache.",
        "source", computed="totals.prompt_tokens_computed", cached="totals.prompt_tokens_cached",
    ),
    _counter("generation_tokens", "tokens", "Output tokens.", "totals.generation_tokens"),
    _parted(
        "scheduled_tokens", "tokens", "Tokens that iterations computed, by phase.",
        "phase", prefill="totals.scheduled_prefill_tokens", decode="totals.scheduled_decode_tokens",
    ),
    _counter("recomputed_tokens", "tokens", "Tokens computed again after a preemption.", "totals.recomputed_tokens"),
    _counter("draft_tokens", "tokens", "Speculated tokens proposed.", "totals.draft_tokens"),
    _counter("accepted_tokens", "tokens", "Speculated tokens accepted.", "totals.accepted_tokens"),
    _counter("iterations", "iterations", "Scheduler iterations.", "totals.iterations"),
    _counter(
        "iteration_busy_seconds", "seconds", "Time spent in iterations, by what kept the batch from being fuller.",
        "totals.busy_seconds_by_limiter", "limited_by",
    ),
    _counter(
        "lost_slot_seconds", "seconds", "Request slots left empty x time, by what kept them empty.",
        "totals.lost_slot_seconds_by_limiter", "limited_by",
    ),
    _counter("slot_seconds", "seconds", "Request slots x time in iterations: the capacity.", "totals.slot_seconds"),
    _counter("used_slot_seconds", "seconds", "Request slots taken x time in iterations.", "totals.used_slot_seconds"),
    _counter(
        "scheduled_request_seconds", "seconds", "Requests in the batch x time in iterations.",
        "totals.scheduled_request_seconds",
    ),
    _counter(
        "running_request_seconds", "seconds", "Requests that hold a place x time in iterations.",
        "totals.running_request_seconds",
    ),
    _counter(
        "running_reported_seconds", "seconds", "Time in iterations that say how many requests hold a place.",
        "totals.running_reported_seconds",
    ),
    _counter(
        "waiting_request_seconds", "seconds", "Requests that could run and do not x time in iterations.",
        "totals.waiting_request_seconds",
    ),
    _counter(
        "waiting_reported_seconds", "seconds", "Time in iterations that say how many requests wait.",
        "totals.waiting_reported_seconds",
    ),
    _counter("rank_seconds", "seconds", "Time since the start x ranks seen.", "totals.rank_seconds"),
    _counter("preemptions", "preemptions", "Requests put out of the batch before their end.", "totals.preemptions"),
    _counter("errors", "errors", "Errors reported, by type.", "totals.errors_by_type", "type"),
    _counter("rejected_records", "records", "Records refused, by reason.", "totals.rejected_records", "reason"),
    _counter("dropped_records", "records", "Records lost for lack of memory.", "totals.dropped_records"),
    _counter(
        "slo_requests", "requests", "Finished requests by class and whether they met all their targets.",
        "totals.slo_requests", "class", "result",
    ),
    _counter(
        "slo_missed_targets", "requests", "Targets missed, by class; one request can miss several.",
        "totals.slo_missed_by", "class", "target",
    ),
    _counter(
        "prefix_cache_queried_tokens", "tokens", "Tokens of new requests that were looked up in the prefix cache.",
        "totals.prefix_cache_queried_tokens",
    ),
    _counter(
        "prefix_cache_hit_tokens", "tokens", "Of those, the ones that were found, by where: device, host, disk, ...",
        "totals.prefix_cache_hit_tokens", "source",
    ),
    _parted(
        "graph_tokens", "tokens", "Tokens of steps sized for captured graphs: scheduled, and padding to the next size.",
        "kind", scheduled="totals.graph_tokens", padding="totals.graph_padding_tokens",
    ),
    _counter(
        "corrupted_requests", "requests", "Finished requests whose logits had NaNs, where the engine looks.",
        "totals.corrupted_requests",
    ),
    Metric(
        f"{PREFIX}gpu_energy_joules_total", MetricKind.COUNTER, "joules", "Energy used since sampling began.",
        "resources.gpu.energy_joules", ("gpu",),
    ),
    Metric(
        f"{PREFIX}process_cpu_seconds_total", MetricKind.COUNTER, "seconds", "CPU time of the process.",
        "resources.process.cpu_seconds",
    ),
)  # fmt: skip

_HISTOGRAMS = (
    _histogram("request_queue_time_seconds", "seconds", "Arrival to first scheduled.", "queue_time", "class"),
    _histogram(
        "time_to_first_token_seconds", "seconds", "Arrival to first token (TTFT).", "time_to_first_token", "class"
    ),
    _histogram("e2e_request_latency_seconds", "seconds", "Arrival to finish.", "total_time", "class"),
    _histogram(
        "request_time_per_output_token_seconds", "seconds", "Decode time per token after the first, one a request.",
        "time_per_output_token", "class",
    ),
    _histogram("request_prefill_time_seconds", "seconds", "First scheduled to first token.", "prefill_time"),
    _histogram("request_decode_time_seconds", "seconds", "First token to last token.", "decode_time"),
    _histogram("request_preempted_time_seconds", "seconds", "Time spent preempted, a request.", "preempted_time"),
    _histogram(
        "request_inference_time_seconds", "seconds", "First scheduled to last token: prefill and decode time.",
        "inference_time",
    ),
    _histogram("request_prompt_tokens", "tokens", "Prompt tokens of a completed request.", "request_prompt_tokens"),
    _histogram(
        "request_computed_prompt_tokens", "tokens", "Prompt tokens of a completed request that no cache supplied.",
        "request_computed_prompt_tokens",
    ),
    _histogram(
        "request_generation_tokens", "tokens", "Output tokens of a completed request.", "request_generation_tokens"
    ),
    _histogram(
        "inter_token_latency_seconds", "seconds", "Gap between emissions over their tokens, one a token.",
        "inter_token_latency",
    ),
    _histogram(
        "inter_emission_latency_seconds", "seconds", "Gap between emissions of a request, one an emission.",
        "inter_emission_latency",
    ),
    _histogram("iteration_duration_seconds", "seconds", "Time of an iteration.", "iteration_duration"),
    _histogram("iteration_scheduled_tokens", "tokens", "Tokens of an iteration.", "iteration_scheduled_tokens"),
    _histogram("batch_size_requests", "requests", "Requests of an iteration.", "batch_size"),
)  # fmt: skip

_GAUGES = (
    _gauge("requests_in_flight", "requests", "Requests received and not finished.", "gauges.requests_in_flight"),
    _gauge("requests_running", "requests", "Requests that hold a place.", "gauges.requests_running"),
    _gauge("requests_waiting", "requests", "Requests that could run and do not.", "gauges.requests_waiting"),
    _gauge("requests_deferred", "requests", "Requests held back by something else.", "gauges.requests_deferred"),
    _gauge(
        "requests_overdue", "requests", "Unfinished requests that can no longer meet their targets.",
        "gauges.requests_overdue", "class",
    ),
    _gauge("oldest_waiting_seconds", "seconds", "Age of the oldest waiting request.", "gauges.oldest_waiting_seconds"),
    _gauge(
        "seconds_since_last_iteration", "seconds", "How long no iteration has ended.",
        "gauges.seconds_since_last_iteration",
    ),
    _gauge("kv_cache_usage_ratio", "ratio", "KV cache blocks held / usable.", "gauges.kv_cache_usage"),
    _gauge("memory_used_bytes", "bytes", "Memory as the last iteration said.", "gauges.memory_bytes_used"),
    _gauge("limit_running_requests", "requests", "Most requests in a batch.", "gauges.limit_running_requests"),
    _gauge("limit_scheduled_tokens", "tokens", "Most tokens in an iteration.", "gauges.limit_scheduled_tokens"),
    _gauge("limit_kv_cache_blocks", "blocks", "Usable KV cache blocks.", "gauges.limit_kv_cache_blocks"),
    _gauge("gpu_utilization_ratio", "ratio", "Time with a kernel running.", "resources.gpu.utilization_ratio", "gpu"),
    _gauge("gpu_memory_used_bytes", "bytes", "GPU memory used.", "resources.gpu.memory_used_bytes", "gpu"),
    _gauge("gpu_memory_total_bytes", "bytes", "GPU memory there is.", "resources.gpu.memory_total_bytes", "gpu"),
    _gauge("gpu_power_watts", "watts", "Power drawn.", "resources.gpu.power_watts", "gpu"),
    _gauge("gpu_temperature_celsius", "celsius", "Temperature.", "resources.gpu.temperature_celsius", "gpu"),
    _gauge("gpu_sm_clock_hertz", "hertz", "Clock of the SMs.", "resources.gpu.sm_clock_hertz", "gpu"),
    _gauge("gpu_throttled", "", "1 while the clock is held down.", "resources.gpu.throttled", "gpu"),
    _gauge(
        "gpu_throttle_reason", "", "1 while the clock is held down for this reason.", "resources.gpu.throttle_*",
        "gpu", "reason",
    ),
    _gauge(
        "process_resident_memory_bytes", "bytes", "Memory of the process.", "resources.process.resident_memory_bytes"
    ),
)  # fmt: skip

INFO = Metric(
    f"{PREFIX}info", MetricKind.INFO, "", "What is measured, and by which batchscope.",
    labels=("engine_kind", "engine_version", "role", "version"),
)  # fmt: skip

CATALOG: tuple[Metric, ...] = (INFO, *_COUNTERS, *_HISTOGRAMS, *_GAUGES)
"""All of them, in the order they are exported."""
