"""Runs as they were really recorded: limits that change, a reset, requests that never finish, no spans."""

from __future__ import annotations

import msgspec
import pytest

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.ledger import open_run
from batchscope.ledger.analysis.opening import open_tables, reading
from batchscope.ledger.analysis.report import report_of
from batchscope.ledger.analysis.snapshot import snapshot_of

NARROW, WIDE = SchedulerLimits(max_running_requests=2), SchedulerLimits(max_running_requests=8)


class Engine:
    """A collector on a clock of its own, recorded."""

    def __init__(self, root, level="default"):
        self.now = 100.0
        self.collector = SchedulerMetricsCollector(limits=NARROW, clock=lambda: self.now)
        self.collector.record_to(root, level=level)
        self.tracker = RequestTracker(self.collector)

    def run(self, slots, steps):
        for _ in range(steps):
            started, self.now = self.now, self.now + 0.25
            self.tracker.iteration(slots, started_at=started, waiting=1)


@pytest.fixture
def engine(tmp_path):
    return Engine(tmp_path)


def found_in(root):
    return snapshot_of(open_tables(open_run(root)))


def test_slots_are_counted_at_the_limits_of_their_time(engine, tmp_path):
    slots = [engine.tracker.arrived(name, prompt_tokens=4) for name in "ab"]
    engine.run(slots, 4)
    engine.collector.set_limits(WIDE)
    engine.run(slots, 4)
    live = engine.collector.get_snapshot()
    engine.collector.close()
    found = found_in(tmp_path)
    assert found.totals.slot_seconds == live.totals.slot_seconds == 2 * 1.0 + 8 * 1.0
    assert found.totals.lost_slot_seconds_by_limiter == live.totals.lost_slot_seconds_by_limiter
    assert found.means["utilization"] == live.means["utilization"]
    assert found.limits == WIDE


def test_a_run_with_a_reset_in_it_has_all_of_it(engine, tmp_path):
    a = engine.tracker.arrived("a", prompt_tokens=4)
    engine.run([a], 4)
    engine.tracker.finished(a, CompletionReason.EOS_TOKEN_REACHED)
    engine.collector.record_error("out_of_memory")
    before = engine.collector.get_snapshot()
    engine.collector.reset()
    b = engine.tracker.arrived("b", prompt_tokens=4)
    engine.run([b], 6)
    engine.tracker.finished(b, CompletionReason.TIMEOUT)
    after = engine.collector.get_snapshot()
    engine.collector.close()
    found = found_in(tmp_path)
    assert found.request_stats.total_requests == 2
    assert found.elapsed_seconds == 2.5
    assert found.error_stats.errors_by_type == {"out_of_memory": 1}
    assert found.error_stats.last_error_time is not None
    for name in ("iterations", "busy_seconds", "generation_tokens", "slot_seconds"):
        assert getattr(found.totals, name) == getattr(before.totals, name) + getattr(after.totals, name)


def test_requests_that_never_finished_are_counted_as_received_and_in_flight(engine, tmp_path):
    slots = [engine.tracker.arrived(name, prompt_tokens=4) for name in "abc"]
    engine.run(slots, 5)
    engine.tracker.finished(slots[0], CompletionReason.CANCELLED)
    live = engine.collector.get_snapshot()
    engine.collector.close()
    found = found_in(tmp_path)
    assert found.totals.requests_received == live.totals.requests_received == 3
    assert found.gauges.requests_in_flight == live.gauges.requests_in_flight == 2
    assert found.request_stats.inter_token_latency.count == live.request_stats.inter_token_latency.count == 12


def test_a_lean_run_has_all_but_what_is_between_tokens(tmp_path):
    engine = Engine(tmp_path, "lean")
    a = engine.tracker.arrived("a", prompt_tokens=4)
    engine.run([a], 8)
    engine.tracker.finished(a, CompletionReason.EOS_TOKEN_REACHED)
    live = engine.collector.get_snapshot()
    engine.collector.close()
    report = report_of(open_tables(open_run(tmp_path)))
    assert report.snapshot.request_stats.inter_token_latency.count == 0
    assert msgspec.structs.replace(report.snapshot.totals, errors_by_type={}) == live.totals
    assert report.steady is None
    assert report.steady_part.missing
    assert sum(report.over_time.counts["completed"]) == 1


def test_a_run_that_is_still_recorded_is_read_as_far_as_it_was_written(engine, tmp_path):
    a = engine.tracker.arrived("a", prompt_tokens=4)
    engine.run([a], 8)
    run = open_run(tmp_path)
    assert run.state == "recording"
    engine.collector.close()
    assert found_in(tmp_path).totals.iterations == 8


def test_hours_on_the_clock_of_a_machine_are_exact_to_the_last_bit(tmp_path):
    """A monotonic clock is far from 0, and the wall clock has microseconds only."""
    engine = Engine(tmp_path)
    engine.collector.close()
    now = [987_654.321987654]
    collector = SchedulerMetricsCollector(limits=NARROW, clock=lambda: now[0])
    now[0] += 1 / 3
    collector.reset()
    collector.record_to(tmp_path / "far")
    tracker = RequestTracker(collector)
    a = tracker.arrived("a", prompt_tokens=4)
    for _ in range(10):
        now[0] += 1 / 7
        tracker.iteration([a])
    tracker.finished(a, CompletionReason.EOS_TOKEN_REACHED)
    live = collector.get_snapshot()
    collector.close()
    found = found_in(tmp_path / "far")
    assert found.elapsed_seconds == live.elapsed_seconds
    assert found.iteration_stats.busy_ratio == live.iteration_stats.busy_ratio
    assert found.started_at == live.started_at


@pytest.mark.parametrize("sign", ["InterruptException", "RuntimeError"])
def test_ctrl_c_in_the_middle_of_a_query_is_ctrl_c(engine, tmp_path, sign):
    duckdb = pytest.importorskip("duckdb")
    engine.collector.close()
    raised = getattr(duckdb, sign, RuntimeError)("Query interrupted")
    with pytest.raises(KeyboardInterrupt), reading(open_run(tmp_path)):
        raise raised
    with pytest.raises(RuntimeError, match="else"), reading(open_run(tmp_path)):
        raise RuntimeError("something else")
