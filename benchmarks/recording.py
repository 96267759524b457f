"""What recording costs beside prometheus_client, as ratios measured in one run, the drain included.

    python benchmarks/recording.py [--json FILE] [--rounds N]

"The same" is what engines do today: 6 histograms of 20 buckets and 3 counters of prometheus_client with cached
children for a finished request, a loop of observe() for gaps. Contenders are interleaved round by round; the
best round of each is compared (machines are shared), the median is shown beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram
from rich.console import Console
from rich.table import Table

from batchscope import (
    CompletionReason,
    MetricsConfiguration,
    RequestResult,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)

GAPS = [0.005 + 0.0001 * (k % 97) for k in range(256)]
EOS = CompletionReason.EOS_TOKEN_REACHED
Body = Callable[[int], None]


def the_same_request() -> Body:
    registry = CollectorRegistry()
    edges = [0.001 * 1.7**k for k in range(20)]
    histograms = [Histogram(f"h{k}", "h", ["model"], buckets=edges, registry=registry).labels("m") for k in range(6)]
    counters = [Counter(f"c{k}", "c", ["model"], registry=registry).labels("m") for k in range(3)]

    def body(count: int) -> None:
        for _ in range(count):
            for histogram in histograms:
                histogram.observe(0.3)
            for counter in counters:
                counter.inc(3)

    return body


def the_same_gaps() -> Body:
    histogram = Histogram(
        "h", "h", ["model"], buckets=[0.001 * 1.7**k for k in range(20)], registry=CollectorRegistry()
    ).labels("m")

    def body(count: int) -> None:
        for _ in range(count):
            for gap in GAPS:
                histogram.observe(gap)

    return body


def floor() -> Body:
    """A method call and one list.append."""

    class Appender:
        def __init__(self) -> None:
            self.items: list[int] = []

        def record(self, item: int) -> None:
            self.items.append(item)

    appender = Appender()

    def body(count: int) -> None:
        record = appender.record
        for item in range(count):
            record(item)
        appender.items.clear()

    return body


def drained(collector: SchedulerMetricsCollector, body: Body) -> Body:
    def whole(count: int) -> None:
        body(count)
        collector._relieve()

    return whole


def request_by_writer() -> Body:
    collector = SchedulerMetricsCollector()
    request = collector.writer().request

    def body(count: int) -> None:
        for _ in range(count):
            request("id", 100, EOS, 1.0, 0.1, 1.1, 0.2, 0.1, 0.8, 0.0, 100, 0, 0, 0, None, 1.0, 1.1, 1.2, 2.0, 2.1)

    return drained(collector, body)


def request_by_record() -> Body:
    collector = SchedulerMetricsCollector()
    record = collector.record_request_completion

    def body(count: int) -> None:
        for _ in range(count):
            record(
                RequestResult(
                    request_id="id", tokens_generated=100, reason=EOS, processing_time=1.0, queue_time=0.1,
                    time_to_first_token=0.2, prefill_time=0.1, decode_time=0.8, prompt_tokens=100, preemptions=0,
                )
            )  # fmt: skip

    return drained(collector, body)


def gaps_by_writer(latencies: Any) -> Body:
    collector = SchedulerMetricsCollector()
    writer = collector.writer()
    if isinstance(latencies, tuple):

        def body(count: int) -> None:
            record, (gap, number) = writer.inter_emission_latency, latencies
            for _ in range(count):
                record(gap, number)
    else:

        def body(count: int) -> None:
            record = writer.inter_emission_latencies
            for _ in range(count):
                record(latencies)

    return drained(collector, body)


def tracker_iterations(*, as_list: bool) -> Body:
    clock = [0.0]
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo=SloTargets(time_to_first_token=1.0)),
        limits=SchedulerLimits(256, 2048),
        clock=lambda: clock[0],
    )
    tracker = RequestTracker(collector)
    live = [tracker.arrived(k, prompt_tokens=100) for k in range(256)]
    serial = iter(range(256, 1 << 62))

    def body(count: int) -> None:
        """One request finishes and one arrives an iteration, as in real serving."""
        for k in range(count):
            started = clock[0]
            clock[0] = started + 0.03
            slots = live if as_list else np.array(live)
            tracker.iteration(slots, started_at=started, finished_at=clock[0], kv_cache_usage=0.5)
            tracker.finished(live[k % 256], EOS)
            live[k % 256] = tracker.arrived(next(serial), prompt_tokens=100)

    return drained(collector, body)


def four_threads() -> Body:
    collector = SchedulerMetricsCollector()

    def work(count: int) -> None:
        request = collector.writer().request
        for _ in range(count):
            request("id", 100, EOS, 1.0, 0.1, 1.1, 0.2, 0.1, 0.8, 0.0, 100, 0, 0, 0, None, 1.0, 1.1, 1.2, 2.0, 2.1)

    def body(count: int) -> None:
        threads = [threading.Thread(target=work, args=(count // 4,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return drained(collector, body)


CONTENDERS: dict[str, tuple[Callable[[], Body], int]] = {
    "floor": (floor, 20_000),
    "the same request": (the_same_request, 2_000),
    "the same 256 gaps": (the_same_gaps, 100),
    "request, writer()": (request_by_writer, 20_000),
    "request, record": (request_by_record, 20_000),
    "request, 4 threads": (four_threads, 20_000),
    "gaps, list": (lambda: gaps_by_writer(GAPS), 2_000),
    "gaps, ndarray": (lambda: gaps_by_writer(np.array(GAPS)), 2_000),
    "gaps, (gap, count)": (lambda: gaps_by_writer((0.03, 256)), 20_000),
    "tracker, 256 slots, list": (lambda: tracker_iterations(as_list=True), 1_000),
    "tracker, 256 slots, ndarray": (lambda: tracker_iterations(as_list=False), 1_000),
}


def measure(rounds: int) -> dict[str, tuple[float, float]]:
    """Contender -> best and median ns a call."""
    bodies = {name: (make(), count) for name, (make, count) in CONTENDERS.items()}
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for body, count in bodies.values():
        body(count)
    for _ in range(rounds):
        for name, (body, count) in bodies.items():
            gc.collect()
            start = time.perf_counter_ns()
            body(count)
            times[name].append((time.perf_counter_ns() - start) / count)
    return {name: (min(values), statistics.median(values)) for name, values in times.items()}


def full_collector() -> SchedulerMetricsCollector:
    """Default buffers, full."""
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(256, 2048))
    writer, rng = collector.writer(), np.random.default_rng(1)
    for k, value in enumerate(rng.lognormal(0, 1, 12_000).tolist()):
        writer.request(k, 100, EOS, value, value / 10, 1.1 * value, value / 5, value / 10, value / 2, 0.0, 100, 0, 0, 0)
        writer.iteration(
            k, 200, 200, 1, value / 100, 10**9, running_requests=200, waiting_requests=3, scheduled_tokens=200
        )
        writer.batch(0.8, k, 200, 10**9)
        if k % 500 == 0:
            collector._relieve()
    return collector


def snapshot_milliseconds(rounds: int) -> tuple[float, float]:
    collector = full_collector()
    times = []
    for _ in range(max(rounds, 20)):
        start = time.perf_counter_ns()
        collector.get_snapshot()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return min(times), statistics.median(times)


def tail_microseconds(records: int = 200_000) -> tuple[float, float]:
    """p99.9 and maximum of one record while snapshots run at 10 Hz."""
    collector = full_collector()
    stop = threading.Event()

    def read() -> None:
        while not stop.wait(0.1):
            collector.get_snapshot()

    reader = threading.Thread(target=read)
    reader.start()
    request, clock, times = collector.writer().request, time.perf_counter_ns, []
    for _ in range(records):
        start = clock()
        request("id", 100, EOS, 1.0, 0.1, 1.1, 0.2, 0.1, 0.8, 0.0, 100, 0, 0, 0)
        times.append(clock() - start)
    stop.set()
    reader.join()
    return float(np.percentile(times, 99.9)) / 1000, max(times) / 1000


def table(rounds: int) -> list[dict[str, Any]]:
    """The target table of docs/performance.md: what, target, measured, whether it is met."""
    found = measure(rounds)
    best = {name: pair[0] for name, pair in found.items()}
    request, gaps = best["the same request"], best["the same 256 gaps"]
    rows: list[dict[str, Any]] = []

    def add(what: str, target: str, measured: float, unit: str, *, met: bool) -> None:
        rows.append({"what": what, "target": target, "measured": round(measured, 3), "unit": unit, "met": met})

    for name, least in (("request, writer()", 15), ("request, record", 8)):
        add(name, f">= {least}x cheaper", request / best[name], "x", met=request / best[name] >= least)
    over = best["request, writer()"] / best["floor"]
    add("request, writer()", "<= 8x the floor", over, "x", met=over <= 8)
    for name, least in (("gaps, list", 40), ("gaps, ndarray", 70), ("gaps, (gap, count)", 500)):
        add(name, f">= {least}x cheaper", gaps / best[name], "x", met=gaps / best[name] >= least)
    for name in ("tracker, 256 slots, list", "tracker, 256 slots, ndarray"):
        token = best[name] / 256
        add(name, "<= 30 ns a token", token, "ns", met=token <= 30)
    threads = best["request, 4 threads"] / best["request, writer()"]
    add("request, 4 threads", "<= 1.3x one thread", threads, "x", met=threads <= 1.3)
    fastest, median = snapshot_milliseconds(rounds)
    add("snapshot, full buffers (median)", "<= 2 ms", median, "ms", met=median <= 2)
    add("snapshot, full buffers (best)", "<= 2 ms", fastest, "ms", met=fastest <= 2)
    tail, longest = tail_microseconds()
    add("a record's p99.9 at 10 Hz snapshots", "<= 10 us", tail, "us", met=tail <= 10)
    add("a record's maximum (reported)", "-", longest, "us", met=True)
    for name, (fastest, median) in found.items():
        rows.append(
            {"what": name, "target": "-", "measured": round(fastest, 1), "unit": "ns", "median": round(median, 1)}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = table(options.rounds)
    shown = Table(title=f"Recording, {platform.machine()}, CPython {platform.python_version()}, numpy {np.__version__}")
    for column in ("what", "target", "measured", ""):
        shown.add_column(column, justify="right" if column == "measured" else "left")
    for row in rows:
        mark = {True: "met", False: "NOT MET", None: ""}[row.get("met")]
        beside = f" (median {row['median']})" if "median" in row else ""
        shown.add_row(row["what"], row["target"], f"{row['measured']} {row['unit']}{beside}", mark)
    Console(width=110).print(shown)
    if options.json:
        options.json.write_text(json.dumps({"python": sys.version, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
