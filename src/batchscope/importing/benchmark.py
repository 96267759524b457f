"""The JSON that a serving benchmark writes with its details: ``vllm bench serve --save-result --save-detailed``.

Parallel lists, one element a request in the order they were sent: ``input_lens``, ``output_lens`` (tokens), ``ttfts``
(seconds), ``itls`` (seconds between the answer's chunks), ``errors``; newer ones also have ``start_times`` (seconds of
the client's clock) and ``latencies``. All of it is what the client saw.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from batchscope.collector import SchedulerMetricsCollector
from batchscope.errors import WorkloadError
from batchscope.importing.content import Content, document
from batchscope.importing.imported import EPOCH, ImportSource, check_in_reach, only
from batchscope.records import CompletionReason, EngineInfo, RequestResult
from batchscope.simulator.virtual_clock import VirtualClock

_ROUNDING = 1e-6
"""Seconds: sums of the same gaps in another order differ by far less, and no two chunks are so close."""
_SETTINGS = ("model_id", "request_rate", "burstiness", "max_concurrency", "num_prompts", "date", "duration", "backend")


class _Lists(msgspec.Struct):
    """What of the document is one element a request."""

    input_lens: list[int]
    output_lens: list[int]
    ttfts: list[float | None]
    itls: list[list[float]]
    errors: list[str | None] = []
    start_times: list[float] = []
    latencies: list[float | None] = []


class Sent(NamedTuple):
    """A request, as its client saw it; ``sent_at`` nan where the file does not say."""

    number: int
    prompt_tokens: int
    output_tokens: int
    first_token: float
    gaps: list[float]
    latency: float
    failed: bool
    sent_at: float

    @property
    def ended_at(self) -> float:
        """When its client had all of it; of a failed one only when it was sent is known."""
        return self.sent_at if self.failed else self.sent_at + self.latency


def source(contents: dict[Path, Content]) -> ImportSource:
    """One result."""
    path = only(contents, Content.BENCHMARK)
    assert path is not None  # noqa: S101  (what leads is there)
    found = document(path)
    requests = read_requests(found, path)
    timed = not isnan(requests[0].sent_at)
    date = _date(found.get("date"))
    return ImportSource(
        format=Content.BENCHMARK.value,
        replay=lambda collector, clock: replay(requests, collector, clock),
        engine=EngineInfo(str(found.get("backend") or "")),
        labels={"model_name": str(found["model_id"])} if found.get("model_id") else {},
        definitions={
            "request_instants": "the client's: arrived when it was sent, a token is there when its chunk was read",
            **({"wall_clock": "the result's date, which names no time zone"} if date else {}),
        },
        configuration={"benchmark": {name: found[name] for name in _SETTINGS if name in found}},
        anchor_instant=min(request.sent_at for request in requests) if timed else 0.0,
        anchor_time=date or EPOCH,
        missing=[
            *(
                []
                if timed
                else ["when requests were sent (start_times, of newer vllm): durations only, rates are none"]
            ),
            "queue times, prefill times, preemptions, cached tokens",
            "iterations: batch sizes, limiters, KV-cache usage",
            "why requests ended (counted as other)",
        ],
    )


def read_requests(found: dict[str, Any], path: Path) -> list[Sent]:
    """The requests of the document; ``WorkloadError`` where its lists do not fit together."""
    try:
        lists = msgspec.convert(found, _Lists)
    except msgspec.ValidationError as error:
        raise WorkloadError(f"{path}: {error}: expected what vllm bench serve --save-detailed writes") from None
    count = len(lists.input_lens)
    lengths = {name: len(getattr(lists, name)) for name in lists.__struct_fields__}
    wrong = [name for name, length in lengths.items() if length not in {count, 0} or (length == 0 and name in _NEEDED)]
    if not count:
        raise WorkloadError(f"{path}: input_lens is empty: expected a request at least")
    if wrong:
        told = ", ".join(f"{lengths[name]} {name}" for name in wrong)
        raise WorkloadError(f"{path}: {count} input_lens, but {told}: expected one element a request in each")
    requests = [_sent(lists, number) for number in range(count)]
    for request in requests:
        check_in_reach(
            f"{path}, request {request.number}", request.sent_at, request.first_token, request.latency, request.ended_at
        )
    return requests


_NEEDED = ("input_lens", "output_lens", "ttfts", "itls")


def _sent(lists: _Lists, number: int) -> Sent:
    gaps, first = lists.itls[number], lists.ttfts[number]
    failed = bool(lists.errors and lists.errors[number]) or not lists.output_lens[number]
    first = nan if failed or first is None else first
    given = lists.latencies[number] if lists.latencies else None
    return Sent(
        number=number,
        prompt_tokens=lists.input_lens[number],
        output_tokens=lists.output_lens[number],
        first_token=first,
        gaps=gaps,
        latency=first + sum(gaps) if given is None or failed else given,
        failed=failed,
        sent_at=lists.start_times[number] if lists.start_times else nan,
    )


def replay(requests: list[Sent], collector: SchedulerMetricsCollector, clock: VirtualClock) -> Iterator[None]:
    """Record each request, in the order of their ends where these are known."""
    for request in sorted(requests, key=lambda sent: sent.ended_at):
        if not isnan(request.ended_at):
            clock.advance_to(request.ended_at)
        collector.record_request_completion(_result(request))
        yield None


def _result(request: Sent) -> RequestResult:
    decode = nan if request.failed else sum(request.gaps)
    first_token, last_token = _tokens_at(request, decode)
    return RequestResult(
        request_id=request.number,
        tokens_generated=request.output_tokens,
        reason=CompletionReason.ERROR if request.failed else CompletionReason.OTHER,
        processing_time=0.0 if request.failed else request.latency,
        total_time=nan if request.failed else request.latency,
        time_to_first_token=request.first_token,
        decode_time=decode,
        prompt_tokens=request.prompt_tokens,
        arrived_at=request.sent_at,
        first_token_at=first_token,
        last_token_at=last_token,
        finished_at=nan if request.failed else request.ended_at,
        max_emission_gap=max(request.gaps, default=nan),
    )


def _tokens_at(request: Sent, decode: float) -> tuple[float, float]:
    """When the first and the last token were there: a rounding error does not put them behind the end."""
    first, end = request.sent_at + request.first_token, request.ended_at
    last = first + decode
    return _not_behind(first, end), _not_behind(last, end)


def _not_behind(instant: float, end: float) -> float:
    return end if end < instant <= end + _ROUNDING else instant


def _date(text: object) -> dt.datetime | None:
    try:
        return dt.datetime.strptime(str(text), "%Y%m%d-%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError:
        return None
