"""batchscope's ways of recording, the drain included; each checks at its end that nothing was lost or refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from batchscope import (
    CompletionReason,
    IterationResult,
    MetricsSnapshot,
    RequestResult,
    SchedulerLimits,
    SchedulerMetricsCollector,
)
from harness.contender import GAP_COUNT, GAP_VALUES, GAPS, ITERATION, REQUEST, Body, Contender, Prepared, values

EOS = CompletionReason.EOS_TOKEN_REACHED
WRITER, RECORD, THREADS = "batchscope, writer()", "batchscope, record_request_completion", "batchscope, 4 threads"
FLOOR = "floor: a method call and list.append"
FOUR = 4


def drain(collector: SchedulerMetricsCollector) -> Callable[[], None]:
    """Count what was recorded, without a snapshot: what subscribing and unsubscribing does."""

    def settle() -> None:
        collector.subscribe(_ignore)()

    return settle


def _ignore(block: object) -> None:
    pass


def whole(snapshot: MetricsSnapshot, what: str, counted: int, recorded: int) -> None:
    """Raise unless everything recorded was counted: a benchmark that loses records measures nothing."""
    rejected, dropped = snapshot.totals.rejected_records, snapshot.totals.dropped_records
    if counted != recorded or rejected or dropped:
        raise RuntimeError(f"{recorded} {what} recorded, {counted} counted, rejected: {rejected}, dropped: {dropped}")


def prepared(
    collector: SchedulerMetricsCollector, body: Body, what: str, count: Callable[[MetricsSnapshot], int], each: int = 1
) -> Prepared:
    """``each``: how many of ``what`` one call of the body records."""

    def verify(calls: int) -> None:
        snapshot = collector.get_snapshot()
        whole(snapshot, what, count(snapshot), calls * each)

    return Prepared(body, drain(collector), verify)


def requests(snapshot: MetricsSnapshot) -> int:
    return snapshot.request_stats.total_requests


def iterations(snapshot: MetricsSnapshot) -> int:
    return snapshot.totals.iterations


def emissions(snapshot: MetricsSnapshot) -> int:
    return snapshot.request_stats.inter_emission_latency.count


def floor() -> Prepared:
    """Over a range, as when the target was set: each item is an object of its own, like a record."""

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

    return Prepared(body)


def nothing() -> Prepared:
    """What a cold body costs that does nothing: the clock, the call, the loop. It is subtracted."""

    def body(count: int) -> None:
        for _ in values(count):
            pass

    return Prepared(body)


def request_loop(collector: SchedulerMetricsCollector) -> Body:
    def body(count: int) -> None:
        request = collector.writer().request
        for value in values(count):
            request("id", 100, EOS, value, value, value, value, value, value, 0.0, 100, 0, 0, 0)

    return body


def request_by_writer() -> Prepared:
    collector = SchedulerMetricsCollector()
    request = collector.writer().request

    def body(count: int) -> None:
        for value in values(count):
            request("id", 100, EOS, value, value, value, value, value, value, 0.0, 100, 0, 0, 0)

    return prepared(collector, body, "requests", requests)


def request_by_record() -> Prepared:
    collector = SchedulerMetricsCollector()
    record = collector.record_request_completion

    def body(count: int) -> None:
        for value in values(count):
            record(
                RequestResult(
                    request_id="id", tokens_generated=100, reason=EOS, processing_time=value, queue_time=value,
                    time_to_first_token=value, prefill_time=value, decode_time=value, prompt_tokens=100, preemptions=0,
                )
            )  # fmt: skip

    return prepared(collector, body, "requests", requests)


def four_threads() -> Prepared:
    collector = SchedulerMetricsCollector()
    work = request_loop(collector)

    def body(count: int) -> None:
        shares = [count // FOUR + (k < count % FOUR) for k in range(FOUR)]
        threads = [threading.Thread(target=work, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return prepared(collector, body, "requests", requests)


def gaps_one_call(latencies: Any) -> Prepared:
    collector = SchedulerMetricsCollector()
    record = collector.writer().inter_emission_latencies

    def body(count: int) -> None:
        for _ in range(count):
            record(latencies)

    return prepared(collector, body, "gaps", emissions, GAP_COUNT)


def gaps_as_pair() -> Prepared:
    """All slots of a steady batch waited equally long: one gap, 256 times."""
    collector = SchedulerMetricsCollector()
    record = collector.writer().inter_emission_latency

    def body(count: int) -> None:
        for gap in values(count):
            record(gap, GAP_COUNT)

    return prepared(collector, body, "gaps", emissions, GAP_COUNT)


def iteration_by_record(latencies: Callable[[float], Any]) -> Prepared:
    """As an engine without a tracker reports it; ``latencies`` makes the gaps of an iteration that took so long."""
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(GAP_COUNT, 2048))
    record = collector.record_iteration

    def body(count: int) -> None:
        for value in values(count):
            record(
                IterationResult(
                    iteration_number=1, request_count=GAP_COUNT, tokens_generated=GAP_COUNT, requests_completed=0,
                    processing_time=value, running_requests=GAP_COUNT, waiting_requests=3, scheduled_tokens=GAP_COUNT,
                    kv_cache_usage=0.5, inter_emission_latencies=latencies(value),
                )
            )  # fmt: skip

    def recorded(snapshot: MetricsSnapshot) -> int:
        return min(iterations(snapshot) * GAP_COUNT, emissions(snapshot))

    return prepared(collector, body, "gaps of iterations", recorded, GAP_COUNT)


def _iteration(name: str, calls: int, latencies: Callable[[float], Any]) -> Contender:
    return Contender(ITERATION, name, calls, lambda: iteration_by_record(latencies))


GAP_ARRAY = np.array(GAP_VALUES)
GAPS_LIST, GAPS_ARRAY, GAPS_PAIR = "batchscope, list", "batchscope, ndarray", "batchscope, (gap, count)"
OURS = (
    Contender(REQUEST, FLOOR, 20_000, floor),
    Contender(REQUEST, WRITER, 20_000, request_by_writer),
    Contender(REQUEST, RECORD, 20_000, request_by_record),
    Contender(REQUEST, THREADS, 20_000, four_threads),
    Contender(GAPS, GAPS_LIST, 4000, lambda: gaps_one_call(GAP_VALUES)),
    Contender(GAPS, GAPS_ARRAY, 4000, lambda: gaps_one_call(GAP_ARRAY)),
    Contender(GAPS, GAPS_PAIR, 20_000, gaps_as_pair),
    _iteration(GAPS_LIST, 2000, lambda _: GAP_VALUES),
    _iteration(GAPS_ARRAY, 2000, lambda _: GAP_ARRAY),
    _iteration(GAPS_PAIR, 4000, lambda value: [(value, GAP_COUNT)]),
)
