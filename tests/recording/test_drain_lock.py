"""A thread that would wait for itself is told so; all others wait their turn."""

from __future__ import annotations

import os
import threading

import pytest

from batchscope import BusyError, CompletionReason, MetricsConfiguration, RequestTracker, SchedulerMetricsCollector
from batchscope.recording.drain_lock import DrainLock

EOS = CompletionReason.EOS_TOKEN_REACHED


def test_the_owner_is_told_that_it_would_wait_for_itself_and_the_lock_stays_whole():
    lock = DrainLock()
    with lock:
        assert not lock.acquire(blocking=False)
        with pytest.raises(BusyError, match="this thread"), lock:
            pytest.fail("entered twice")
    with lock:
        pass


def test_another_thread_waits_and_then_enters():
    lock, entered = DrainLock(), threading.Event()

    def enter():
        with lock:
            entered.set()

    with lock:
        other = threading.Thread(target=enter)
        other.start()
        assert not entered.wait(0.05)
    other.join(5)
    assert entered.is_set()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("used", ["get_snapshot", "read_totals", "reset", "request_samples"])
def test_a_sink_that_reads_the_collector_is_unsubscribed_not_waited_for(used, strict):
    collector = SchedulerMetricsCollector(MetricsConfiguration(strict=strict))
    collector.subscribe(lambda _: getattr(collector, used)())
    collector.writer().request("a", 1, EOS, 1.0)
    snapshot = collector.get_snapshot()
    assert snapshot.request_stats.total_requests == 1
    assert collector.get_snapshot().totals.errors_by_type == {"sink_failed": 1}


def test_a_handler_that_reads_in_the_middle_of_a_read_gets_an_error_and_the_read_is_whole():
    """The clock stands for the handler: it runs in the middle of a drain, in the same thread."""
    refused, hooked = [], []

    def clock():
        if hooked and collector._draining.lock._held:
            try:
                collector.get_snapshot()
            except BusyError as error:
                refused.append(str(error))
        return 1.0

    collector = SchedulerMetricsCollector(clock=clock)
    collector.writer().request("a", 1, EOS, 1.0)
    hooked.append(True)
    assert collector.get_snapshot().request_stats.total_requests == 1
    assert refused


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_slot_of_the_parent_is_stale_in_a_forked_child():
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    old = tracker.arrived("parent's")
    child = os.fork()
    if not child:
        new = tracker.arrived("child's")
        tracker.finished(old, CompletionReason.CANCELLED)
        totals, gauges = collector.get_snapshot().totals, collector.get_snapshot().gauges
        good = new != old and totals.rejected_records == {"stale_slot": 1} and gauges.requests_in_flight == 1
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    tracker.iteration([old])
    tracker.finished(old, EOS)
    assert collector.get_snapshot().request_stats.completed_requests == 1
