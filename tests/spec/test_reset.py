"""Specification, test group 7: reset."""

from math import isnan

from batchscope import RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from spec.fakes import EOS, iteration, make, request, same


def fill(collector):
    collector.record_request_completion(request())
    collector.record_iteration(iteration(waiting_requests=1, kv_cache_usage=0.5, inter_token_latencies=[0.5]))
    collector.record_batch_utilization(0.5, request_count=4)
    collector.record_error("oom")
    collector.record_request_completion(request(tokens=-1))  # rejected
    collector.record_request_completion(request(tokens="many"))  # rejected


def test_after_a_reset_every_statistic_is_that_of_a_new_collector():
    collector, clock = make(limits=SchedulerLimits(max_running_requests=8))
    fill(collector)
    clock.advance(5.0)
    collector.reset()
    fresh = SchedulerMetricsCollector(limits=SchedulerLimits(max_running_requests=8), clock=clock)
    for read in ("get_request_statistics", "get_iteration_statistics", "get_batch_statistics", "get_error_statistics"):
        assert same(getattr(collector, read)(), getattr(fresh, read)())
    one, other = collector.read_totals(), fresh.read_totals()
    assert same(one.totals, other.totals)
    assert same(one.gauges, other.gauges)
    assert all(h.count == 0 for by_class in one.histograms.values() for h in by_class.values())


def test_a_reset_empties_the_sample_buffers():
    collector, _ = make()
    fill(collector)
    collector.reset()
    assert collector.request_samples() == collector.iteration_samples() == collector.batch_samples() == []


def test_a_reset_clears_counters_and_rates_count_from_it():
    collector, clock = make()
    clock.advance(32.0)
    fill(collector)
    collector.reset()
    clock.advance(2.0)
    collector.record_request_completion(request())
    collector.record_request_completion(request())
    assert collector.get_request_statistics().requests_per_second == 1.0
    assert collector.get_snapshot().elapsed_seconds == 2.0


def test_a_reset_clears_errors_their_last_time_and_rejections():
    collector, _ = make()
    fill(collector)
    assert collector.get_request_statistics().rejected_records == {"negative": 1, "wrong_type": 1}
    collector.reset()
    errors = collector.get_error_statistics()
    assert (errors.total_errors, errors.errors_by_type, errors.last_error_time) == (0, {}, None)
    assert isnan(errors.error_rate)
    assert collector.get_request_statistics().rejected_records == {}


def test_records_that_were_not_drained_before_a_reset_do_not_show_after_it():
    collector, _ = make()
    writer = collector.writer()
    writer.request("before", 1, EOS, 1.0)
    collector.reset()
    writer.request("after", 1, EOS, 1.0)
    assert [kept.request_id for kept in collector.request_samples()] == ["after"]


def test_a_reset_counts_generations_and_keeps_the_identity():
    collector, _ = make()
    before = collector.get_snapshot()
    collector.reset()
    collector.reset()
    after = collector.get_snapshot()
    assert (before.generation, after.generation) == (0, 2)
    assert after.instance_id == before.instance_id
    assert after.sequence > before.sequence


def test_requests_in_flight_stay_and_count_when_they_finish():
    collector, clock = make()
    tracker = RequestTracker(collector)
    slot = tracker.arrived("r", prompt_tokens=4)
    clock.advance(1.0)
    tracker.iteration([slot], started_at=1000.5, finished_at=1001.0)
    collector.reset()
    totals, gauges = collector.read_totals().totals, collector.read_totals().gauges
    assert (totals.requests_received, gauges.requests_in_flight, totals.iterations) == (1, 1, 0)
    clock.advance(1.0)
    tracker.iteration([slot], started_at=1001.0, finished_at=1002.0)
    tracker.finished(slot, EOS)
    found = collector.get_request_statistics()
    assert (found.total_requests, found.completed_requests) == (1, 1)
    assert found.total_time.p50 == 2.0  # from its arrival, before the reset
    totals, gauges = collector.read_totals().totals, collector.read_totals().gauges
    assert totals.requests_received == 1
    assert gauges.requests_in_flight == 0


def test_no_instant_is_busy_twice_across_a_reset():
    collector, clock = make()
    clock.advance(4.0)
    collector.record_iteration(iteration(started_at=1000.0, finished_at=1004.0, processing_time=4.0))
    collector.reset()
    clock.advance(2.0)
    collector.record_iteration(iteration(started_at=1002.0, finished_at=1006.0, processing_time=4.0))
    assert collector.read_totals().totals.busy_seconds == 2.0
