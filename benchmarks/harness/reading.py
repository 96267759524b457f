"""What reading costs, and what it does to a writer: snapshot, exposition, the tail of a record's time."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope import (
    BatchLimiter,
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.sinks import HandOver
from harness.contender import EDGES
from harness.listening import Counting, begun
from harness.ours import drain
from harness.rounds import Times
from harness.runner import PAUSE

EXPORTER = "batchscope.exporters.prometheus"
SAMPLES = 12_000
READS_PER_SECOND = 10.0
_CHUNK, _PACED_CHUNK = 50_000, 100


def full_collector(samples: int = SAMPLES) -> SchedulerMetricsCollector:
    """Every default buffer full, and something in every metric of the catalogue."""
    target = SloTargets(time_to_first_token=1.0, time_per_output_token=0.05, e2e_latency=10.0)
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo={"interactive": target, "batch": SloTargets(e2e_latency=60.0)}),
        limits=SchedulerLimits(256, 2048, 8192),
        labels={"model_name": "m"},
    )
    tracker = RequestTracker(collector)
    for k in range(64):
        tracker.arrived(k, prompt_tokens=100, request_class="interactive")
    collector.writer().batch(-1.0)  # rejected, and counted so
    settle = drain(collector)
    seconds = np.random.default_rng(1).lognormal(-1, 1, samples).tolist()
    for start in range(0, samples, 500):
        record_all(collector, start, seconds[start : start + 500])
        settle()
    return collector


def record_all(collector: SchedulerMetricsCollector, first: int, seconds: list[float]) -> None:
    """A request, an iteration with gaps and a batch for each value; every reason, limiter and class in turn."""
    writer = collector.writer()
    reasons, limiters = list(CompletionReason), list(BatchLimiter)
    for k, value in enumerate(seconds, first):
        writer.request(
            k, 100, reasons[k % len(reasons)], value, value / 10, 1.1 * value, value / 5, value / 10, value / 2,
            0.01 * value, 100, 20, 5, 1, "interactive" if k % 3 else "batch",
        )  # fmt: skip
        writer.iteration(
            k, 200, 200, 1, value / 100, 10**9, running_requests=200, waiting_requests=3, deferred_requests=1,
            prefill_requests=2, scheduled_tokens=220, prefill_tokens=20, kv_cache_usage=0.7,
            recomputed_tokens=4, draft_tokens=20, accepted_tokens=10,
            preemptions=1, limited_by=limiters[k % len(limiters)],
        )  # fmt: skip
        writer.batch(0.8, k, 200, 10**9)
        writer.inter_token_latency(value / 20, 20)
        writer.inter_emission_latency(value / 10, 10)
    writer.error("timeout")


def timed(action: Callable[[], object], before: Callable[[], object], times: int) -> Times:
    """Nanoseconds of ``action``, after ``before``, which is not timed."""
    taken = []
    for _ in range(times + 1):
        before()
        start = time.perf_counter_ns()
        action()
        taken.append(float(time.perf_counter_ns() - start))
    return Times(taken[1:])


class ReadTimes(NamedTuple):
    """None: there is no exporter here. ``text_bytes``: how long the exposition is."""

    snapshot: Times
    totals: Times
    exposition: Times | None
    scrape: Times | None
    theirs: Times | None
    text_bytes: int | None


def read_times(collector: SchedulerMetricsCollector, times: int) -> ReadTimes:
    """Snapshot, ``read_totals``, text from it, and the last two together; new records before each, drained.

    And ``generate_latest`` of a registry of histograms with as many samples, after as many new values.
    """
    settle = drain(collector)
    state: list[Any] = []

    def before() -> None:
        record_all(collector, SAMPLES, [0.1, 0.2, 0.3] * 30)
        settle()
        state[:] = [collector.read_totals()]

    snapshot = timed(collector.get_snapshot, before, times)
    totals = timed(collector.read_totals, before, times)
    render = exporter()
    if render is None:
        return ReadTimes(snapshot, totals, None, None, None, None)
    exposition = timed(lambda: render(state[0]), before, times)
    scrape = timed(lambda: render(collector.read_totals()), before, times)
    text = render(state[0])
    theirs = generated(sum(not line.startswith(b"#") for line in text.splitlines()), before, times)
    return ReadTimes(snapshot, totals, exposition, scrape, theirs, len(text))


def generated(samples: int, before: Callable[[], None], times: int) -> Times:
    """``generate_latest`` of histograms of 20 buckets that come to so many samples, or a few more."""
    from prometheus_client import CollectorRegistry, Histogram, generate_latest

    registry = CollectorRegistry()
    histogram = Histogram("h", "h", ["model", "kind"], buckets=EDGES, registry=registry)
    children: list[Any] = []
    while len(generate_latest(registry).splitlines()) < samples:
        children.append(histogram.labels("m", str(len(children))))

    def observed() -> None:
        before()
        for child in children:
            child.observe(0.3)

    return timed(lambda: generate_latest(registry), observed, times)


def exporter() -> Callable[[Any], bytes] | None:
    """The text exposition, where this version has one."""
    try:
        module = importlib.import_module(EXPORTER)
    except ModuleNotFoundError:
        return None
    return getattr(module, "render_text", None)


class Tail(NamedTuple):
    """Of one ``writer().request(...)``, microseconds; ``reads``: snapshots taken meanwhile."""

    p50: float
    p99: float
    p999: float
    p9999: float
    longest: float
    records: int
    reads: int


def tail(seconds: float, *, paced: bool, control: bool = False, listened: bool = False) -> Tail:
    """The times of single records while another thread takes 10 snapshots a second.

    ``paced`` sleeps 200 us before each; else records follow each other as fast as they can, a million a second,
    so that the writer outruns the reader and has to drain itself too. ``control`` calls a function that does
    nothing instead: what is left is the machine's and the interpreter's. ``listened``: a HandOver is subscribed.
    """
    collector = full_collector()
    hand_over = HandOver(Counting()) if listened else None
    if hand_over:
        collector.subscribe(hand_over)
    stop, reads = threading.Event(), [0]

    def read() -> None:
        while not stop.wait(1 / READS_PER_SECOND):
            collector.get_snapshot()
            reads[0] += 1

    record = _nothing if control else collector.writer().request
    reader = threading.Thread(target=read)
    reader.start()
    try:
        taken = single_times(record, seconds, paced=paced)
    finally:
        stop.set()
        reader.join()
        collector.close()
    if hand_over and not hand_over.close():
        raise RuntimeError(f"the sink lacks {hand_over.lost} rows")
    return _tail(taken, reads[0])


def hand_over_tail(seconds: float) -> Tail:
    """The times of single ``HandOver.take`` calls, 200 us between them, while its thread takes what waits."""
    hand_over, block, _ = begun()
    taken = single_times(hand_over.take, seconds, paced=True, arguments=(block,))
    if not hand_over.close():
        raise RuntimeError(f"the sink lacks {hand_over.lost} rows")
    return _tail(taken, 0)


def _tail(taken: npt.NDArray[np.int64], reads: int) -> Tail:
    p50, p99, p999, p9999 = np.percentile(taken, (50, 99, 99.9, 99.99)) / 1000
    return Tail(float(p50), float(p99), float(p999), float(p9999), float(taken.max()) / 1000, len(taken), reads)


def _nothing(*facts: object) -> None:
    pass


_ARGUMENTS = ("id", 100, CompletionReason.EOS_TOKEN_REACHED, 1.0, 0.1, 1.1, 0.2, 0.1, 0.8, 0.0, 100, 0, 0, 0)


def single_times(
    record: Callable[..., object], seconds: float, *, paced: bool, arguments: tuple[Any, ...] = _ARGUMENTS
) -> npt.NDArray[np.int64]:
    """Nanoseconds of each call, one after the other for so many seconds."""
    clock, sleep, chunks = time.perf_counter_ns, time.sleep, []
    end = clock() + int(seconds * 1e9)
    while clock() < end:
        taken = []
        for _ in range(_PACED_CHUNK if paced else _CHUNK):
            if paced:
                sleep(PAUSE)
            start = clock()
            record(*arguments)
            taken.append(clock() - start)
        chunks.append(np.array(taken))
    return np.concatenate(chunks)
