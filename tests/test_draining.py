"""A thread that would wait for itself is told so, and what interrupts a read leaves no lock behind."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from batchscope import BusyError, CompletionReason, MetricsConfiguration, RequestTracker, SchedulerMetricsCollector

EOS = CompletionReason.EOS_TOKEN_REACHED


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
        if hooked and collector._draining._held_here():
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


class Interrupted(BaseException):
    """What Ctrl-C raises, wherever the read is."""


def read_until_interrupted(collector, seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    while True:
        collector.get_snapshot()


def test_an_exception_anywhere_in_a_read_leaves_no_lock_behind():
    collector = SchedulerMetricsCollector()

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for microseconds in range(1, 2000, 40):
            with pytest.raises(Interrupted):
                read_until_interrupted(collector, microseconds / 1e6)
            other = threading.Thread(target=collector.get_snapshot, daemon=True)
            other.start()
            other.join(10)
            assert not other.is_alive()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
