"""Specification, test group 2: statistics are the values one computes by hand."""

import datetime as dt
from math import isnan

import pytest

from batchscope import CompletionReason, MetricsConfiguration, SchedulerLimits
from spec.fakes import iteration, make, request


def test_request_statistics_of_three_requests_are_their_hand_computed_values():
    collector, clock = make()
    collector.record_request_completion(request("a", 10, processing_time=1.0, queue_time=0.5))
    collector.record_request_completion(request("b", 20, processing_time=3.0, queue_time=1.5))
    collector.record_request_completion(request("c", 99, CompletionReason.TIMEOUT, 50.0, queue_time=9.0))
    collector.record_request_completion(request("d", 7, CompletionReason.CANCELLED, 50.0))
    clock.advance(8.0)
    found = collector.get_request_statistics()
    assert (found.total_requests, found.completed_requests) == (4, 2)
    assert (found.failed_requests, found.cancelled_requests) == (1, 1)
    assert found.average_tokens_per_request == 15.0
    assert (found.average_queue_time, found.average_processing_time) == (1.0, 2.0)
    assert found.p50_latency == 3.0  # of 1.5 and 4.5, the completed ones
    assert found.total_time.max == 4.5
    assert found.requests_per_second == 4 / 8
    assert found.tokens_per_second == 136 / 8


def test_iteration_statistics_of_two_iterations_are_their_hand_computed_values():
    limits = SchedulerLimits(max_running_requests=8, max_scheduled_tokens=100)
    collector, clock = make(limits=limits)
    collector.record_iteration(
        iteration(1, 4, 4, 0, 1.0, memory_bytes_used=100, started_at=1000.0, finished_at=1001.0,
                  scheduled_tokens=100, waiting_requests=3, kv_cache_usage=0.5, preemptions=0)
    )  # fmt: skip
    collector.record_iteration(
        iteration(2, 8, 10, 2, 3.0, memory_bytes_used=300, started_at=1001.0, finished_at=1004.0,
                  scheduled_tokens=50, waiting_requests=1, kv_cache_usage=1.0, preemptions=2)
    )  # fmt: skip
    clock.advance(8.0)
    found = collector.get_iteration_statistics()
    assert found.total_iterations == 2
    assert (found.average_requests_per_iteration, found.average_tokens_per_iteration) == (6.0, 7.0)
    assert found.average_memory_bytes_per_iteration == 200.0
    assert found.average_processing_time_ms == 2000.0
    assert found.iterations_per_second == 2 / 8
    assert found.average_utilization == 0.75  # (0.5 + 1) / 2
    assert found.time_weighted_utilization == (4 * 1 + 8 * 3) / (8 * 4)
    assert found.token_utilization == 0.75
    assert (found.average_waiting_requests, found.average_kv_cache_usage) == (2.0, 0.75)
    assert found.busy_ratio == 0.5
    assert found.preemptions == 2


def test_what_some_iterations_did_not_measure_is_not_averaged_in():
    collector, _ = make()
    collector.record_iteration(iteration(1, memory_bytes_used=100))
    collector.record_iteration(iteration(2))
    found = collector.get_iteration_statistics()
    assert found.average_memory_bytes_per_iteration == 100.0
    assert isnan(found.average_waiting_requests)


def test_batch_statistics_are_hand_computed_values_of_what_was_given():
    collector, _ = make()
    collector.record_batch_utilization(0.25, request_count=8, memory_bytes_used=1000)
    collector.record_batch_utilization(0.75, request_count=24)
    collector.record_batch_utilization(0.5)
    found = collector.get_batch_statistics()
    assert (found.total_batches, found.average_batch_size, found.average_utilization) == (3, 16.0, 0.5)
    assert (found.min_batch_size, found.max_batch_size) == (8, 24)
    assert found.average_memory_bytes_per_batch == 1000.0


def test_error_statistics_are_counts_by_type_the_rate_and_the_last_time():
    collector, clock = make()
    for _ in range(4):
        collector.record_request_completion(request())
    collector.record_error("oom")
    clock.advance(10.0)
    collector.record_error("cuda")
    collector.record_error("oom")
    found = collector.get_error_statistics()
    assert found.total_errors == 3
    assert found.errors_by_type == {"oom": 2, "cuda": 1}
    assert found.error_rate == 0.75
    snapshot = collector.get_snapshot()
    assert snapshot.snapshot_time - found.last_error_time == dt.timedelta(0)


def test_of_nothing_every_average_is_nan_and_every_count_zero():
    collector, clock = make()
    clock.advance(1.0)
    requests, iterations = collector.get_request_statistics(), collector.get_iteration_statistics()
    batches, errors = collector.get_batch_statistics(), collector.get_error_statistics()
    assert (requests.total_requests, iterations.total_iterations, batches.total_batches, errors.total_errors) == (
        0,
    ) * 4
    for value in (
        requests.average_tokens_per_request, requests.p50_latency, requests.p99_latency, requests.average_queue_time,
        iterations.average_requests_per_iteration, iterations.average_processing_time_ms,
        iterations.time_weighted_utilization, batches.average_batch_size, batches.average_utilization,
        errors.error_rate,
    ):  # fmt: skip
        assert isnan(value)
    assert (requests.requests_per_second, iterations.iterations_per_second) == (0.0, 0.0)
    assert (batches.max_batch_size, batches.min_batch_size, errors.last_error_time) == (None, None, None)


def test_a_rate_is_of_the_window_once_more_time_than_that_has_passed():
    collector, clock = make(MetricsConfiguration(counter_window_seconds=16))
    for _ in range(32):
        collector.record_request_completion(request())
    clock.advance(8.0)
    assert collector.get_request_statistics().requests_per_second == 4.0
    clock.advance(64.0)
    collector.record_request_completion(request())
    found = collector.get_request_statistics()
    assert found.requests_per_second == 1 / 16
    assert found.total_requests == 33


def test_time_per_output_token_leaves_out_requests_of_fewer_than_two_tokens():
    collector, _ = make()
    collector.record_request_completion(request(tokens=1, decode_time=0.0))
    collector.record_request_completion(request(tokens=0, decode_time=0.0))
    collector.record_request_completion(request(tokens=5, decode_time=2.0))
    found = collector.get_request_statistics().time_per_output_token
    assert (found.count, found.mean) == (1, 0.5)


def test_a_summary_says_over_how_many_values_and_which_span_of_time_it_is():
    collector, clock = make(MetricsConfiguration(max_request_samples=2))
    for _ in range(3):
        collector.record_request_completion(request())
        clock.advance(4.0)
    found = collector.get_request_statistics().total_time
    assert (found.count, found.span_seconds, found.source, found.relative_error) == (2, 4.0, "samples", 0.0)


@pytest.mark.parametrize(("precision", "error"), [(1, 0.0865), (2, 0.0055), (3, 0.00068), (4, 0.000085)])
def test_the_histograms_guarantee_the_digits_that_were_asked_for(precision, error):
    collector, _ = make(MetricsConfiguration(percentile_precision=precision))
    collector.record_iteration(iteration(inter_token_latencies=[0.1, 0.2, 0.3]))
    found = collector.get_request_statistics().inter_token_latency
    assert found.relative_error <= error
    assert found.p50 == pytest.approx(0.2, rel=error)
