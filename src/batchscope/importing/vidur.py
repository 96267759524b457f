"""Runs of microsoft/vidur: its event logs (requests, batches and who was in them), or its ``request_metrics.csv``.

The time is simulated: seconds since the start. A batch in which a request's prefill is complete emitted a token of it
at its end.
"""

from __future__ import annotations

import csv
import heapq
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from math import nan
from operator import itemgetter
from pathlib import Path
from typing import Any

from batchscope.collector import SchedulerMetricsCollector
from batchscope.errors import WorkloadError
from batchscope.importing.content import Content
from batchscope.importing.imported import ImportSource, check_in_reach, only
from batchscope.records import CompletionReason, EngineInfo, RequestResult
from batchscope.simulator.trace_lines import BadRowError, read_lines
from batchscope.simulator.virtual_clock import VirtualClock
from batchscope.text import quoted
from batchscope.tracking.tracker import RequestTracker

Row = dict[str, str]
_INSTANTS = ("arrived_at", "first_scheduled_at", "first_token_at", "finished_at")
_ENGINE = EngineInfo("vidur")
_DEFINITIONS = {
    "request_instants": "simulated by vidur: seconds since its start",
    "wall_clock": "none: the time is simulated",
}


def rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV, by column; ``WorkloadError`` with the number of a line that is none."""
    columns: list[str] | None = None
    for line in read_lines(path):
        try:
            cells = next(csv.reader([line.text], strict=True))
        except (csv.Error, BadRowError) as error:
            raise WorkloadError(f"{path}, line {line.number}: not CSV ({error})") from None
        if columns is None:
            columns = cells
        elif len(cells) != len(columns):
            raise WorkloadError(f"{path}, line {line.number}: {len(cells)} values, expected {len(columns)}")
        else:
            yield dict(zip(columns, cells, strict=True))


def source(contents: dict[Path, Content]) -> ImportSource:
    """The event log: who was in which batch makes it exact; without, requests alone."""
    requests = only(contents, Content.VIDUR_REQUESTS)
    batches, members = only(contents, Content.VIDUR_BATCHES), only(contents, Content.VIDUR_MEMBERS)
    assert requests is not None  # noqa: S101  (what leads is there)
    whole = batches is not None and members is not None
    missing = [] if whole else ["iterations (batches.csv and batch_requests.csv, both)"]
    known = _requests(requests)
    ended = [row for row in known if row["completed_at"]]

    def replay(collector: SchedulerMetricsCollector, clock: VirtualClock) -> Iterator[None]:
        with _located(requests):
            if whole:
                yield from _events(requests, known, batches, members, collector, clock)
            else:
                yield from _completions(requests, map(_logged, ended), collector, clock)

    return ImportSource(
        format=Content.VIDUR_REQUESTS.value,
        replay=replay,
        engine=_ENGINE,
        definitions=_DEFINITIONS,
        configuration={"policy": "sarathi"},
        missing=[*missing, "limiters: inferred", "cached prefixes"],
        notes=[f"requests that did not end: {len(known) - len(ended):,}"] if len(ended) < len(known) else [],
    )


def _requests(path: Path) -> list[Row]:
    """The rows of the requests; ``WorkloadError`` where one comes twice."""
    found: dict[str, Row] = {}
    for row in rows(path):
        if row["request_id"] in found:
            raise WorkloadError(f"{path}: request_id {quoted(row['request_id'])} twice, expected each once")
        found[row["request_id"]] = row
    return list(found.values())


def metrics_source(contents: dict[Path, Content]) -> ImportSource:
    """The table that vidur itself writes of its requests: instants follow from the gaps between arrivals."""
    path = only(contents, Content.VIDUR_REQUEST_METRICS)
    assert path is not None  # noqa: S101  (what leads is there)

    def replay(collector: SchedulerMetricsCollector, clock: VirtualClock) -> Iterator[None]:
        with _located(path):
            yield from _completions(path, _from_metrics(rows(path)), collector, clock)

    batches = Content.VIDUR_BATCH_METRICS in contents.values()
    return ImportSource(
        format=Content.VIDUR_REQUEST_METRICS.value,
        replay=replay,
        engine=_ENGINE,
        definitions=_DEFINITIONS,
        missing=["iterations: batch sizes, limiters, KV-cache usage"],
        notes=["batch_metrics.csv has no instants, and is left out"] if batches else [],
    )


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """A value that is no number, or a column that is not there, is an error of the file."""
    try:
        yield
    except WorkloadError:  # a ValueError that says it already
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise WorkloadError(f"{path}: not as vidur writes it ({error})") from None


def _events(
    requests: Path,
    known: list[Row],
    batches: Path | None,
    members: Path | None,
    collector: SchedulerMetricsCollector,
    clock: VirtualClock,
) -> Iterator[None]:
    """Every event at its instant: arrivals, batches when they end, then the requests that ended with them."""
    assert batches is not None  # noqa: S101  (the caller looked)
    assert members is not None  # noqa: S101
    tracker, slots = RequestTracker(collector), {}
    arrivals = _timed(requests, known, "arrived_at", 0)
    ends = _timed(requests, [row for row in known if row["completed_at"]], "completed_at", 2)
    for at, kind, event in heapq.merge(arrivals, _batches(batches, members), ends, key=itemgetter(0, 1)):
        clock.advance_to(at)
        if kind == 0:
            slots[event["request_id"]] = tracker.arrived(event["request_id"], prompt_tokens=_prompt(event), at=at)
        elif kind == 1:
            batch, members_of = event
            if unknown := next((each for each in members_of if each["request_id"] not in slots), None):
                who, where = quoted(unknown["request_id"]), quoted(batch["batch_id"])
                raise WorkloadError(
                    f"{members}: request {who} is in batch {where}, and not there then by {requests.name}"
                )
            _iteration(tracker, slots, batch, members_of, at)
        else:
            tracker.finished(slots.pop(event["request_id"]), CompletionReason.EOS_TOKEN_REACHED, at=at)
        yield None


def _timed(path: Path, known: list[Row], column: str, kind: int) -> list[tuple[float, int, Any]]:
    for row in known:
        check_in_reach(f"{path}, request {row['request_id']}", float(row[column]))
    return sorted(((float(row[column]), kind, row) for row in known), key=itemgetter(0))


def _batches(batches: Path, members: Path) -> Iterator[tuple[float, int, Any]]:
    """Batches with their members, in the order of their ends."""
    of_batch = defaultdict(list)
    for member in rows(members):
        of_batch[member["batch_id"]].append(member)
    for batch in sorted(rows(batches), key=lambda row: float(row["completed_at"])):
        check_in_reach(
            f"{batches}, batch {batch['batch_id']}", float(batch["scheduled_at"]), float(batch["completed_at"])
        )
        if batch["batch_id"] not in of_batch:
            raise WorkloadError(
                f"{members}: nobody is in batch {quoted(batch['batch_id'])}, which is in {batches.name}"
            )
        yield float(batch["completed_at"]), 1, (batch, of_batch.pop(batch["batch_id"]))
    if of_batch:
        raise WorkloadError(f"{batches}: no batch {quoted(next(iter(of_batch)))}, of which {members.name} has requests")


def _iteration(tracker: RequestTracker, slots: dict[str, int], batch: Row, members: list[Row], at: float) -> None:
    usage = batch.get("memory_usage_percent_after")
    tracker.iteration(
        [slots[member["request_id"]] for member in members],
        [int(member["prefill_complete"]) for member in members],
        scheduled_tokens=[int(float(member["num_tokens"])) for member in members],
        started_at=float(batch["scheduled_at"]),
        finished_at=at,
        waiting=int(batch["num_pending_after"]) if batch.get("num_pending_after") else None,
        kv_cache_usage=float(usage) / 100 if usage else nan,
    )


def _completions(
    path: Path, results: Iterator[RequestResult], collector: SchedulerMetricsCollector, clock: VirtualClock
) -> Iterator[None]:
    for result in sorted(results, key=lambda result: result.finished_at):
        check_in_reach(f"{path}, request {result.request_id}", *(getattr(result, name) for name in _INSTANTS))
        clock.advance_to(result.finished_at)
        collector.record_request_completion(result)
        yield None


def _prompt(row: Row) -> int:
    """Vidur shifts the lengths of a request that it starts again: its own are kept beside them."""
    return int(float(row.get("orig_num_prefill_tokens") or row["num_prefill_tokens"]))


def _logged(row: Row) -> RequestResult:
    arrived, scheduled, first, ended = (
        float(row[column]) for column in ("arrived_at", "scheduled_at", "prefill_completed_at", "completed_at")
    )
    return _result(
        row["request_id"],
        arrived,
        scheduled,
        first,
        ended,
        _prompt(row),
        int(float(row.get("orig_num_decode_tokens") or row["num_decode_tokens"])),
        row.get("num_restarts"),
    )


def _from_metrics(table: Iterator[Row]) -> Iterator[RequestResult]:
    arrived = 0.0
    for row in table:
        arrived += float(row["request_inter_arrival_delay"] or 0)
        yield _result(
            row["Request Id"], arrived, arrived + float(row["request_scheduling_delay"]),
            arrived + float(row["prefill_e2e_time"]), arrived + float(row["request_e2e_time"]),
            int(float(row["request_num_prefill_tokens"])), int(float(row["request_num_decode_tokens"])),
            row.get("request_num_restarts"),
        )  # fmt: skip


def _result(
    name: str,
    arrived: float,
    scheduled: float,
    first: float,
    ended: float,
    prompt: int,
    output: int,
    restarts: str | None,
) -> RequestResult:
    return RequestResult(
        request_id=name,
        tokens_generated=output,
        reason=CompletionReason.EOS_TOKEN_REACHED,
        processing_time=ended - scheduled,
        prompt_tokens=prompt,
        preemptions=int(float(restarts)) if restarts else None,
        arrived_at=arrived,
        first_scheduled_at=scheduled,
        first_token_at=first,
        last_token_at=ended,
        finished_at=ended,
    )
