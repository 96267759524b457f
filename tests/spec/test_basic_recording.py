"""Specification, test group 1: basic recording."""

import datetime as dt
from math import isnan

import pytest

from batchscope import BatchLimiter, CompletionReason, SchedulerMetrics
from spec.fakes import EOS, iteration, make, request


def test_a_recorded_iteration_is_counted_and_kept_as_it_was_given():
    collector, clock = make()
    collector.record_iteration(iteration(7, 3, 5, 1, 0.25, memory_bytes_used=4096, waiting_requests=2))
    (kept,) = collector.iteration_samples()
    assert (kept.iteration_number, kept.request_count, kept.tokens_generated, kept.requests_completed) == (7, 3, 5, 1)
    assert (kept.processing_time, kept.memory_bytes_used, kept.waiting_requests) == (0.25, 4096, 2)
    assert collector.get_iteration_statistics().total_iterations == 1


def test_a_recorded_request_is_counted_and_kept_as_it_was_given():
    collector, _ = make()
    given = request("abc", 12, CompletionReason.STOP_STRING, 2.0, queue_time=0.5, prompt_tokens=30, preemptions=1)
    collector.record_request_completion(given)
    (kept,) = collector.request_samples()
    assert (kept.request_id, kept.tokens_generated, kept.reason) == ("abc", 12, CompletionReason.STOP_STRING)
    assert (kept.queue_time, kept.processing_time, kept.total_time) == (0.5, 2.0, 2.5)
    assert (kept.prompt_tokens, kept.cached_tokens, kept.preemptions) == (30, None, 1)
    assert collector.get_request_statistics().total_requests == 1


@pytest.mark.parametrize("reason", CompletionReason)
def test_every_reason_counts_as_exactly_one_outcome(reason):
    collector, _ = make()
    collector.record_request_completion(request(reason=reason))
    statistics = collector.get_request_statistics()
    counts = (statistics.completed_requests, statistics.failed_requests, statistics.cancelled_requests)
    assert sum(counts) == statistics.total_requests == 1
    assert collector.get_snapshot().totals.requests_by_reason[str(reason)] == 1


def test_a_recorded_batch_is_counted_and_what_was_not_given_is_none():
    collector, _ = make()
    collector.record_batch_utilization(0.75)
    collector.record_batch_utilization(0.5, batch_id=9, request_count=16, memory_bytes_used=1 << 30)
    bare, full = collector.batch_samples()
    assert (bare.utilization, bare.batch_id, bare.request_count, bare.memory_bytes_used) == (0.75, None, None, None)
    assert (full.utilization, full.batch_id, full.request_count, full.memory_bytes_used) == (0.5, 9, 16, 1 << 30)
    assert collector.get_batch_statistics().total_batches == 2


def test_recorded_errors_are_counted_by_name_or_by_their_exceptions_type():
    collector, _ = make()
    collector.record_error("oom")
    collector.record_error("oom", MemoryError())
    collector.record_error("", ValueError("x"))
    assert collector.get_error_statistics().errors_by_type == {"oom": 2, "ValueError": 1}


def test_a_duration_left_out_is_derived_from_the_instants_at_its_ends():
    collector, _ = make()
    instants = {
        "arrived_at": 10.0, "first_scheduled_at": 10.5, "first_token_at": 11.5, "last_token_at": 13.5,
        "finished_at": 14.0,
    }  # fmt: skip
    collector.record_request_completion(request(tokens=5, processing_time=float("nan"), **instants))
    (kept,) = collector.request_samples()
    assert (kept.queue_time, kept.time_to_first_token, kept.prefill_time) == (0.5, 1.5, 1.0)
    assert (kept.decode_time, kept.processing_time, kept.total_time) == (2.0, 3.5, 4.0)
    assert kept.time_per_output_token == 0.5
    assert isnan(kept.preempted_time)


def test_a_given_duration_wins_over_the_instants():
    collector, _ = make()
    collector.record_request_completion(request(queue_time=0.25, arrived_at=1.0, first_scheduled_at=2.0))
    assert collector.request_samples()[0].queue_time == 0.25


def test_samples_carry_the_wall_clock_time_of_their_record_in_utc():
    collector, clock = make()
    collector.record_request_completion(request())
    clock.advance(90.0)
    collector.record_request_completion(request())
    first, second = (kept.completed_time for kept in collector.request_samples())
    assert second - first == dt.timedelta(seconds=90)
    assert first.tzinfo is dt.UTC


def test_the_buffers_hold_the_last_samples_and_the_totals_every_record():
    from batchscope import MetricsConfiguration

    collector, _ = make(MetricsConfiguration(max_request_samples=3, max_iteration_samples=2, max_batch_samples=1))
    for number in range(10):
        collector.record_request_completion(request(number))
        collector.record_iteration(iteration(number))
        collector.record_batch_utilization(0.5, batch_id=number)
    assert [kept.request_id for kept in collector.request_samples()] == [7, 8, 9]
    assert [kept.iteration_number for kept in collector.iteration_samples()] == [8, 9]
    assert [kept.batch_id for kept in collector.batch_samples()] == [9]
    snapshot = collector.get_snapshot()
    assert (snapshot.totals.iterations, snapshot.totals.batches) == (10, 10)
    assert snapshot.request_stats.total_requests == 10


def test_a_limiter_that_was_reported_is_kept_as_reported():
    collector, _ = make()
    collector.record_iteration(iteration(limited_by=BatchLimiter.POLICY))
    collector.record_iteration(iteration(waiting_requests=0))
    said, inferred = collector.iteration_samples()
    assert (said.limited_by, said.limiter_reported) == (BatchLimiter.POLICY, True)
    assert (inferred.limited_by, inferred.limiter_reported) == (BatchLimiter.DEMAND, False)


def test_the_writer_of_a_thread_takes_the_same_values_by_position():
    collector, _ = make()
    writer = collector.writer()
    assert writer is collector.writer()
    writer.request("w", 3, EOS, 1.0, 0.5)
    writer.iteration(1, 2, 2, 0, 0.125)
    writer.batch(0.25, 1, 2)
    writer.error("lost")
    snapshot = collector.get_snapshot()
    assert snapshot.request_stats.average_queue_time == 0.5
    assert snapshot.iteration_stats.average_processing_time_ms == 125.0
    assert snapshot.batch_stats.average_batch_size == 2.0
    assert snapshot.error_stats.total_errors == 1


def test_the_collector_is_all_that_a_producer_needs():
    collector, _ = make()
    assert isinstance(collector, SchedulerMetrics)


@pytest.mark.parametrize("kind", ["inter_token_latencies", "inter_emission_latencies"])
@pytest.mark.parametrize("form", ["list", "array", "pairs"])
def test_latencies_of_an_iteration_are_taken_as_list_array_or_pairs(kind, form):
    import numpy as np

    forms = {"list": [0.25, 0.25, 1.0], "array": np.array([0.25, 0.25, 1.0]), "pairs": [(0.25, 2), (1.0, 1)]}
    collector, _ = make()
    collector.record_iteration(iteration(**{kind: forms[form]}))
    statistics = collector.get_request_statistics()
    filled = statistics.inter_token_latency if kind == "inter_token_latencies" else statistics.inter_emission_latency
    empty = statistics.inter_emission_latency if kind == "inter_token_latencies" else statistics.inter_token_latency
    assert (filled.count, filled.mean, filled.max, filled.source) == (3, 0.5, 1.0, "histogram")
    assert filled.p50 == pytest.approx(0.25, rel=filled.relative_error)
    assert empty.count == 0
