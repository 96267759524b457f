"""A subscriber may record, fail or be slow: recording and reading go on, and its part is counted."""

from __future__ import annotations

import threading

import pytest

from batchscope import CompletionReason, MetricsConfiguration, RequestResult, SchedulerMetricsCollector
from batchscope.rows import RowKind

EOS = CompletionReason.EOS_TOKEN_REACHED


@pytest.mark.parametrize("strict", [False, True])
def test_what_a_subscriber_records_is_counted_by_the_next_read(strict):
    collector = SchedulerMetricsCollector(MetricsConfiguration(strict=strict))
    seen = []

    def listen(block):
        seen.append(block.kind)
        if block.kind is RowKind.REQUEST:
            collector.record_error("seen")
            collector.record_batch_utilization(0.5)

    collector.subscribe(listen)
    collector.record_request_completion(RequestResult("a", 1, EOS, 1.0))
    collector.get_snapshot()
    assert collector.get_error_statistics().errors_by_type == {"seen": 1}
    assert collector.get_batch_statistics().total_batches == 1
    assert sorted(seen) == [RowKind.REQUEST, RowKind.BATCH, RowKind.ERROR]


def test_a_subscriber_that_fails_while_a_writer_drains_is_dropped_and_no_record_is():
    """The error is counted in the ring that the outer record is being written to."""
    collector, heard = SchedulerMetricsCollector(), 0

    def fail(_):
        nonlocal heard
        heard += 1
        raise RuntimeError("sink")

    for _ in range(5):
        collector.subscribe(fail)
    for _ in range(20_000):
        collector.writer().error("e")
    assert collector.get_error_statistics().total_errors == 20_000 + 5
    assert collector.get_error_statistics().errors_by_type == {"e": 20_000, "sink_failed": 5}
    assert collector.get_snapshot().totals.dropped_records == 0
    assert heard == 5


def test_while_a_subscriber_is_slow_records_are_kept_and_then_dropped_and_counted_and_no_call_waits_for_it():
    collector, go_on, entered = SchedulerMetricsCollector(), threading.Event(), threading.Event()

    def wait(_):
        entered.set()
        go_on.wait(30)

    unsubscribe = collector.subscribe(wait)
    collector.writer().error("first")
    reader = threading.Thread(target=collector.get_snapshot)
    reader.start()
    assert entered.wait(30)
    for _ in range(6000):
        collector.writer().error("e")
    go_on.set()
    reader.join(30)
    unsubscribe()
    totals = collector.get_snapshot().totals
    assert sum(totals.errors_by_type.values()) + totals.dropped_records == 6001
    assert totals.errors_by_type["e"] >= 5000
