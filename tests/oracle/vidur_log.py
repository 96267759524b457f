"""The event log of vidur's scheduler, played to a tracker: every event at its instant."""

from __future__ import annotations

import csv
import gzip
import heapq
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from oracle_modules import TRACES

from batchscope import (
    CompletionReason,
    MetricsConfiguration,
    MetricsSnapshot,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)

FOLDER = TRACES / "vidur_conv_sarathi"
WINDOW = 30.0
PLACES, BUDGET = 128, 512


@dataclass
class Replay:
    snapshot: MetricsSnapshot
    windows: list[MetricsSnapshot]
    """Snapshots at the instants of ``expected["windows_30s"]``."""
    iterations: list


def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(FOLDER / f"{name}.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def requests() -> list[dict[str, str]]:
    with (FOLDER / "requests.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def batches() -> list[tuple[dict[str, str], list[dict[str, str]]]]:
    """Each batch with its members."""
    members = {key: list(part) for key, part in groupby(rows("batch_requests"), itemgetter("batch_id"))}
    return [(batch, members[batch["batch_id"]]) for batch in rows("batches")]


def replayed(slo: SloTargets, expected: dict, listener=None) -> Replay:
    """Every event at its instant, in order: arrivals, batches when they end, then the requests they finished."""
    now = [0.0]
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo=slo, counter_window_seconds=WINDOW),
        limits=SchedulerLimits(max_running_requests=PLACES, max_scheduled_tokens=BUDGET),
        clock=lambda: now[0],
    )
    if listener is not None:
        collector.subscribe(listener)
    tracker = RequestTracker(collector)
    slots: dict[str, int] = {}
    arrivals = ((float(r["arrived_at"]), 0, int(r["request_id"]), r) for r in requests())
    ran = ((float(b["completed_at"]), 1, int(b["batch_id"]), (b, members)) for b, members in batches())
    looks = ((window["t"], 3, number, None) for number, window in enumerate(expected["windows_30s"]))
    ends = sorted((float(r["completed_at"]), 2, int(r["request_id"]), r) for r in requests())
    windows = []
    for at, kind, _, event in heapq.merge(sorted(arrivals), ran, ends, looks, key=itemgetter(0, 1, 2)):
        now[0] = at
        if kind == 0:
            slots[event["request_id"]] = tracker.arrived(
                event["request_id"], prompt_tokens=int(event["orig_num_prefill_tokens"]), at=at
            )
        elif kind == 1:
            batch, members = event
            tracker.iteration(
                [slots[m["request_id"]] for m in members],
                [int(m["prefill_complete"]) for m in members],
                scheduled_tokens=[int(float(m["num_tokens"])) for m in members],
                started_at=float(batch["scheduled_at"]),
                finished_at=at,
                waiting=int(batch["num_pending_after"]),
                kv_cache_usage=float(batch["memory_usage_percent_after"]) / 100,
            )
        elif kind == 2:
            tracker.finished(slots.pop(event["request_id"]), CompletionReason.EOS_TOKEN_REACHED, at=at)
        else:
            windows.append(collector.get_snapshot())
    return Replay(collector.get_snapshot(), windows, collector.iteration_samples())
