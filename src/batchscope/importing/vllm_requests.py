"""Requests that vLLM served, with the instants of its own metrics, one JSON object a line, and the run's settings.

As casys-kaist/LLMServingSim records them: ``queued_ts``, ``scheduled_ts``, ``first_token_ts``, ``last_token_ts`` are
seconds of the engine's monotonic clock, ``arrival_time`` is the client's wall clock. ``prefix_block_ids``, where there,
name the prompt's full blocks: equal names are a prefix that a cache can have.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan, nan
from pathlib import Path
from typing import Any

import msgspec

from batchscope.clock import later
from batchscope.collector import SchedulerMetricsCollector
from batchscope.configuration import SchedulerLimits
from batchscope.errors import WorkloadError
from batchscope.importing.content import Content, document
from batchscope.importing.imported import EPOCH, ImportSource, check_in_reach, only
from batchscope.records import CompletionReason, EngineInfo, RequestResult
from batchscope.simulator.trace_lines import BadRowError, read_lines
from batchscope.simulator.virtual_clock import VirtualClock

_BLOCK_TOKENS = 16
_INSTANTS = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts", "arrival_time")
_SETTINGS = ("scheduler_config", "cache_config")


class Request(msgspec.Struct, gc=False):
    """A line of the file."""

    request_id: str
    input_toks: int
    output_toks: int
    queued_ts: float
    first_token_ts: float
    last_token_ts: float
    scheduled_ts: float = nan
    arrival_time: float = nan
    prefix_block_ids: list[int] = []


def source(contents: dict[Path, Content]) -> ImportSource:
    """What the files say; the settings may lie beside the requests as ``meta.json``."""
    path = only(contents, Content.VLLM_REQUESTS)
    assert path is not None  # noqa: S101  (what leads is there)
    requests = sorted(read_requests(path), key=lambda request: request.queued_ts)
    settings = _settings(only(contents, Content.VLLM_SETTINGS), path)
    first = requests[0]
    block_tokens = (settings.get("kv_cache") or {}).get("block_size") or _BLOCK_TOKENS
    return ImportSource(
        format=Content.VLLM_REQUESTS.value,
        replay=lambda collector, clock: replay(requests, collector, clock),
        engine=EngineInfo("vllm", str(settings.get("vllm_version", ""))),
        limits=_limits(settings),
        labels={"model_name": str(settings["model"])} if settings.get("model") else {},
        definitions={
            "request_instants": "of vLLM's own metrics: arrived when it was queued, ended with its last token",
        },
        configuration=_kept(settings),
        anchor_instant=first.queued_ts,
        anchor_time=EPOCH if isnan(first.arrival_time) else later(EPOCH, first.arrival_time),
        missing=[
            "iterations: batch sizes, limiters, KV-cache usage",
            "why requests ended (counted as other)",
            "preemptions",
            *([] if settings else ["the engine's settings (meta.json)"]),
        ],
        prefixes={request.request_id: request.prefix_block_ids for request in requests if request.prefix_block_ids},
        prefix_block_tokens=block_tokens,
    )


def read_requests(path: Path) -> list[Request]:
    """All lines; ``WorkloadError`` with the number of one that is no request, or comes twice."""
    decoder = msgspec.json.Decoder(Request)
    found: dict[str, Request] = {}
    for line in read_lines(path):
        try:
            request = decoder.decode(line.text)
        except (msgspec.MsgspecError, BadRowError) as error:
            raise WorkloadError(f"{path}, line {line.number}: no request ({error})") from None
        if request.request_id in found:
            raise WorkloadError(
                f"{path}, line {line.number}: request_id {request.request_id} twice, expected each once"
            )
        check_in_reach(f"{path}, line {line.number}", *(getattr(request, name) for name in _INSTANTS))
        found[request.request_id] = request
    return list(found.values())


def replay(requests: list[Request], collector: SchedulerMetricsCollector, clock: VirtualClock) -> Iterator[None]:
    """Record each request, in the order of their ends."""
    for request in sorted(requests, key=lambda request: request.last_token_ts):
        clock.advance_to(request.last_token_ts)
        started = request.queued_ts if isnan(request.scheduled_ts) else request.scheduled_ts
        collector.record_request_completion(
            RequestResult(
                request_id=request.request_id,
                tokens_generated=request.output_toks,
                reason=CompletionReason.OTHER,
                processing_time=request.last_token_ts - started,
                prompt_tokens=request.input_toks,
                arrived_at=request.queued_ts,
                first_scheduled_at=request.scheduled_ts,
                first_token_at=request.first_token_ts,
                last_token_at=request.last_token_ts,
                finished_at=request.last_token_ts,
            )
        )
        yield None


def _settings(given: Path | None, requests: Path) -> dict[str, Any]:
    beside = requests.with_name("meta.json")
    if given is None and beside.is_file():
        given = beside
    return document(given) if given else {}


def _limits(settings: dict[str, Any]) -> SchedulerLimits:
    engine, cache = settings.get("engine_kwargs") or {}, settings.get("kv_cache") or {}
    return SchedulerLimits(
        max_running_requests=engine.get("max_num_seqs"),
        max_scheduled_tokens=engine.get("max_num_batched_tokens"),
        kv_cache_blocks=cache.get("num_gpu_blocks"),
        kv_block_size=cache.get("block_size") or (_BLOCK_TOKENS if settings else None),
    )


def _kept(settings: dict[str, Any]) -> dict[str, Any]:
    """Of the settings what a scheduler is: no paths, nothing of the machine but its device."""
    resolved = settings.get("resolved_config") or {}
    kept = {name: resolved[name] for name in _SETTINGS if name in resolved}
    for name in ("engine_kwargs", "kv_cache"):
        if name in settings:
            kept[name] = settings[name]
    device = (settings.get("hardware") or {}).get("device_name")
    return {"policy": "vllm", **kept, **({"device": device} if device else {})}
