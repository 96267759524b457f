"""Ctrl-C in a read, anywhere: nothing is lost without being counted, nothing counts twice, and the next read works."""

from __future__ import annotations

import os

import pytest
from interruptions import PACKAGE, act_at, interrupt
from test_reentrance import accounted

from batchscope import CompletionReason, MetricsConfiguration, RequestTracker, SchedulerMetricsCollector, SloTargets
from batchscope.rows import IterationColumn, RequestColumn, RowKind, Rows, SpanColumn
from batchscope.testing import RecordingSink

EOS = CompletionReason.EOS_TOKEN_REACHED
STEP = 23 if os.environ.get("BATCHSCOPE_SOAK") else 1009


class Workload:
    """A collector with records of each kind unread, and a tracker with some in flight and some at their end."""

    def __init__(self) -> None:
        self.collector = SchedulerMetricsCollector(MetricsConfiguration(slo=SloTargets(e2e_latency=1.0)))
        self.tracker = RequestTracker(self.collector)
        self.recorded = 0
        self.iterations = 0
        self.arrived = 0
        self.slots = [self._arrive() for _ in range(3)]
        self.add()
        self.collector.get_snapshot()

    def _arrive(self) -> int:
        self.arrived += 1
        return self.tracker.arrived(("request", self.arrived))

    def add(self) -> None:
        writer, tracker = self.collector.writer(), self.tracker
        for _ in range(3):
            writer.request("a", 3, EOS, 2.0)
            writer.iteration(1, 1, 1, 0, 0.5)
            writer.batch(0.5)
            writer.error("e")
            self.slots.append(self._arrive())
            tracker.iteration(self.slots[1:], preempted=self.slots[:1])
            tracker.iteration(self.slots)
            tracker.finished(self.slots.pop(0), EOS)
        tracker.lost(self.slots.pop(0))
        self.slots.append(self._arrive())
        self.recorded += 12
        self.iterations += 6

    def check(self) -> None:
        totals, gauges = self.collector.get_snapshot().totals, self.collector.get_snapshot().gauges
        finished = sum(totals.requests_by_reason.values())
        assert totals.requests_received == finished + gauges.requests_in_flight + totals.requests_lost
        untracked = finished - self.tracked()
        counted = untracked + totals.iterations + totals.batches + sum(totals.errors_by_type.values())
        interrupted = totals.rejected_records.pop("interrupted", 0)
        # An iteration of a tracker is two rows: a batch record comes with it. Interrupted before, it counts once.
        assert counted <= self.recorded + 2 * self.iterations
        assert self.recorded + self.iterations <= counted + interrupted
        assert counted + interrupted <= self.recorded + 2 * self.iterations + self.arrived
        assert totals.rejected_records.keys() <= {"stale_slot", "not_running"}
        assert totals.dropped_records == 0

    def tracked(self) -> int:
        return self.collector._draining.state.requests.tracked


def after_an_interruption(workload: Workload) -> None:
    """It counts on, exactly."""
    workload.check()
    before = accounted(workload.collector)
    workload.recorded, workload.iterations, workload.arrived = (
        workload.recorded + 30, workload.iterations + 1, workload.arrived + 1
    )  # fmt: skip
    for _ in range(30):
        workload.collector.record_error("e")
    assert accounted(workload.collector) == before + 30
    slot = workload.tracker.arrived("new")
    workload.tracker.iteration([slot])
    workload.tracker.finished(slot, EOS)
    tracked = workload.tracked()
    workload.check()
    assert workload.tracked() == tracked + 1


@pytest.mark.parametrize("read", ["get_snapshot", "read_totals"])
def test_a_read_ended_anywhere_loses_nothing_uncounted(read):
    workload, number = Workload(), 0
    while act_at(number, getattr(workload.collector, read), interrupt, within=PACKAGE):
        after_an_interruption(workload)
        workload.add()
        number += STEP
    assert number > 2000


def test_a_reset_ended_anywhere_has_happened_or_has_not():
    workload, number = Workload(), 0
    while act_at(number, workload.collector.reset, interrupt, within=PACKAGE):
        totals, gauges = workload.collector.get_snapshot().totals, workload.collector.get_snapshot().gauges
        finished = sum(totals.requests_by_reason.values())
        assert totals.requests_received == finished + gauges.requests_in_flight + totals.requests_lost
        workload.add()
        number += STEP
    assert number > 2000


@pytest.mark.parametrize("file", ["tracker.py", "derivation.py"])
def test_a_read_ended_at_any_bytecode_of_a_trackers_drain_keeps_the_identity_and_no_counter_falls(file):
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    open_requests = [tracker.arrived(("open", number)) for number in range(5)]
    collector.get_snapshot()
    number, arrived, received, interrupted = 0, 5, 5, 0

    def serve():
        slot = tracker.arrived(("served", number))
        tracker.iteration([*open_requests, slot])
        tracker.finished(slot, EOS)

    serve()
    while act_at(number, collector.read_totals, interrupt, within=(PACKAGE / "tracking" / file,)):
        state = collector.read_totals()
        totals, gauges = state.totals, state.gauges
        arrived += 1
        finished = sum(totals.requests_by_reason.values())
        assert totals.requests_received == finished + gauges.requests_in_flight + totals.requests_lost
        assert gauges.requests_in_flight == 5
        assert (totals.requests_lost, totals.requests_received >= received) == (0, True)
        assert totals.rejected_records.get("interrupted", 0) >= interrupted
        received, interrupted = totals.requests_received, totals.rejected_records.get("interrupted", 0)
        assert received + interrupted >= arrived
        number += 1
        serve()
    assert number > 20


def test_what_a_sink_lacks_after_a_drain_that_was_ended_anywhere_is_an_error_that_it_is_told():
    workload, number = Workload(), 0
    sink, before = RecordingSink(), workload.collector.read_totals().totals.iterations
    workload.collector.subscribe(sink)
    workload.add()
    while act_at(number, workload.collector.drain, interrupt, within=PACKAGE):
        workload.collector.drain()
        totals = workload.collector.read_totals()
        (run,) = sink.runs
        iterations, requests, spans = (run.rows(kind) for kind in (RowKind.ITERATION, RowKind.REQUEST, RowKind.SPAN))
        interrupted = totals.totals.errors_by_type.get("sink_interrupted", 0)
        told = sum(
            block.objects.count("sink_interrupted")
            for block in run.blocks
            if isinstance(block, Rows) and block.kind is RowKind.ERROR
        )
        assert told == interrupted
        assert interrupted or totals.totals.iterations - before == len(iterations)
        assert len(set(iterations[:, IterationColumn.ORDINAL].tolist())) == len(iterations)
        assert len(set(requests[:, RequestColumn.NUMBER].tolist())) == len(requests)
        keys = spans[:, (SpanColumn.REQUEST, SpanColumn.FIRST_ITERATION)].tolist()
        assert len(set(map(tuple, keys))) == len(keys)
        workload.add()
        number += STEP
    assert number > 2 * STEP
