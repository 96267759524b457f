"""SchedulerMetricsCollector: bad records, listeners, life, fork, and the design's answers to the draft's contradictions."""

import datetime as dt
import gc
import os
import pickle
import weakref
from math import inf, isnan, nan

import numpy as np
import pytest

from batchscope import (
    BatchLimiter,
    CompletionReason,
    ConfigurationError,
    InvalidRecordError,
    MetricsConfiguration,
    MetricsSnapshot,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.errors import MergeError
from batchscope.records import EngineInfo
from batchscope.rows import Gaps, RowKind, Rows
from spec.fakes import EOS, iteration, make, request

LIMITS = SchedulerLimits(max_running_requests=8, max_scheduled_tokens=100, kv_cache_blocks=10)


def record_of_each(collector):
    collector.record_request_completion(request(queue_time=0.5))
    collector.record_iteration(iteration(waiting_requests=1, inter_token_latencies=[0.25]))
    collector.record_batch_utilization(0.5, request_count=4)
    collector.record_error("oom")


# Bad records.

REQUESTS = [
    *(("negative", request(**{field: -1.0}))
      for field in ("processing_time", "queue_time", "total_time", "time_to_first_token", "prefill_time",
                    "decode_time", "preempted_time", "max_emission_gap")),
    *(("negative", request(**{field: -1}))
      for field in ("tokens", "prompt_tokens", "cached_tokens", "recomputed_tokens", "preemptions")),
    *(("infinite", request(**{field: value}))
      for field in ("processing_time", "queue_time", "total_time", "arrived_at", "first_token_at", "finished_at")
      for value in (inf, -inf)),
    ("infinite", request(tokens=inf)),
    ("not_a_number", request(tokens=nan)),
    ("not_a_number", request(processing_time=nan)),
    ("not_whole", request(tokens=1.5)),
    ("not_whole", request(prompt_tokens=0.5)),
    ("wrong_type", request(tokens="many")),
    ("wrong_type", request(tokens=None)),
    ("wrong_type", request(processing_time=[1.0])),
    ("wrong_type", request(queue_time=None)),
    ("wrong_type", request(reason="finished")),
    ("wrong_type", request(reason=None)),
    ("wrong_type", request(request_class=["chat"])),
    ("wrong_type", request(tokens=10**400)),
    ("wrong_type", "not a record"),
    ("wrong_type", None),
    ("wrong_type", iteration()),
    ("out_of_order", request(arrived_at=5.0, first_scheduled_at=4.0)),
    ("out_of_order", request(arrived_at=5.0, finished_at=4.0)),
    ("out_of_order", request(first_token_at=5.0, last_token_at=4.0)),
    ("out_of_order", request(first_scheduled_at=5.0, first_token_at=6.0, last_token_at=4.5, finished_at=9.0)),
]  # fmt: skip
ITERATIONS = [
    *(("negative", iteration(**{field: -1}))
      for field in ("requests", "tokens", "completed", "processing_time", "memory_bytes_used", "waiting_requests",
                    "running_requests", "scheduled_tokens", "preemptions", "rank", "kv_cache_usage")),
    ("infinite", iteration(processing_time=inf)),
    ("infinite", iteration(kv_cache_usage=inf)),
    ("infinite", iteration(started_at=-inf)),
    ("infinite", iteration(finished_at=inf)),
    ("not_a_number", iteration(processing_time=nan)),
    ("not_a_number", iteration(requests=nan)),
    ("not_a_number", iteration(tokens=nan)),
    ("not_a_number", iteration(rank=nan)),
    ("not_whole", iteration(requests=2.5)),
    ("not_whole", iteration(waiting_requests=0.5)),
    ("wrong_type", iteration(requests="four")),
    ("wrong_type", iteration(processing_time=None)),
    ("wrong_type", iteration(limited_by="the weather")),
    ("wrong_type", iteration(inter_token_latencies="fast")),
    ("wrong_type", iteration(inter_token_latencies=["fast"])),
    ("wrong_type", iteration(inter_token_latencies=0.5)),
    ("wrong_type", iteration(inter_emission_latencies=np.ones((2, 2)))),
    ("wrong_type", request()),
    ("out_of_order", iteration(started_at=5.0, finished_at=4.0)),
]  # fmt: skip
BATCHES = [
    ("negative", {"utilization": -0.5}),
    ("negative", {"utilization": 0.5, "request_count": -1}),
    ("negative", {"utilization": 0.5, "memory_bytes_used": -1}),
    ("infinite", {"utilization": inf}),
    ("infinite", {"utilization": 0.5, "batch_id": inf}),
    ("not_a_number", {"utilization": nan}),
    ("not_whole", {"utilization": 0.5, "request_count": 1.5}),
    ("wrong_type", {"utilization": "half"}),
    ("wrong_type", {"utilization": None}),
    ("wrong_type", {"utilization": 0.5, "batch_id": "b"}),
]
ERRORS = [("wrong_type", name) for name in ("", None, 7, ["oom"])]
BAD = [
    *((reason, "record_request_completion", (record,), {}) for reason, record in REQUESTS),
    *((reason, "record_iteration", (record,), {}) for reason, record in ITERATIONS),
    *((reason, "record_batch_utilization", (), fields) for reason, fields in BATCHES),
    *((reason, "record_error", (name,), {}) for reason, name in ERRORS),
]


@pytest.mark.parametrize(("reason", "method", "arguments", "fields"), BAD)
def test_a_bad_record_is_counted_by_reason_and_leaves_every_statistic_as_it_was(reason, method, arguments, fields):
    touched, untouched = make(limits=LIMITS)[0], make(limits=LIMITS)[0]
    for collector in (touched, untouched):
        record_of_each(collector)
    getattr(touched, method)(*arguments, **fields)
    found, expected = touched.get_snapshot(), untouched.get_snapshot()
    assert found.request_stats.rejected_records == found.totals.rejected_records == {reason: 1}
    for part in ("iteration_stats", "batch_stats", "slo_stats", "gauges", "windowed", "histograms", "means", "window"):
        assert repr(getattr(found, part)) == repr(getattr(expected, part)), part
    assert found.error_stats.errors_by_type == expected.error_stats.errors_by_type
    for part in ("request_stats", "totals"):
        text = repr(getattr(found, part)).replace(f"rejected_records={{{reason!r}: 1}}", "rejected_records={}")
        assert text == repr(getattr(expected, part)), part
    assert len(touched.request_samples()) == len(touched.iteration_samples()) == len(touched.batch_samples()) == 1


@pytest.mark.parametrize(("reason", "method", "arguments", "fields"), BAD)
def test_a_strict_collector_raises_at_once_and_goes_on(reason, method, arguments, fields):
    collector, _ = make(MetricsConfiguration(strict=True))
    with pytest.raises(InvalidRecordError):
        getattr(collector, method)(*arguments, **fields)
    assert collector.get_request_statistics().rejected_records == {reason: 1}
    record_of_each(collector)
    assert collector.get_request_statistics().total_requests == 1


def test_the_error_of_a_strict_collector_names_field_and_value():
    collector, _ = make(MetricsConfiguration(strict=True))
    with pytest.raises(
        InvalidRecordError, match=r"A finished request.*\(negative\): queue_time = -2; expected values >= 0"
    ):
        collector.record_request_completion(request(queue_time=-2.0))
    with pytest.raises(InvalidRecordError, match=r"\(out_of_order\): .*started_at = 5, finished_at = 4"):
        collector.record_iteration(iteration(started_at=5.0, finished_at=4.0))


def test_a_record_with_two_faults_is_one_rejected_record():
    collector, _ = make()
    collector.record_request_completion(request(tokens=-1, processing_time=inf, queue_time=-3.0))
    assert sum(collector.get_request_statistics().rejected_records.values()) == 1


def test_good_records_around_a_bad_one_all_count():
    collector, _ = make()
    for processing_time in (1.0, -1.0, 2.0, nan, 3.0):
        collector.record_request_completion(request(processing_time=processing_time))
    found = collector.get_request_statistics()
    assert (found.total_requests, found.average_processing_time) == (3, 2.0)
    assert found.rejected_records == {"negative": 1, "not_a_number": 1}


def test_bad_latencies_of_an_iteration_are_rejected_one_by_one():
    collector, _ = make()
    collector.record_iteration(iteration(inter_token_latencies=[0.25, -1.0, nan, inf, 0.75]))
    collector.record_iteration(iteration(inter_emission_latencies=[(0.5, 2), (0.5, -1), (0.5, 1.5), (-1.0, 1)]))
    found = collector.get_request_statistics()
    assert (found.inter_token_latency.count, found.inter_token_latency.mean) == (2, 0.5)
    assert (found.inter_emission_latency.count, found.inter_emission_latency.mean) == (2, 0.5)
    assert found.rejected_records == {"negative": 2, "not_a_number": 1, "infinite": 1, "not_whole": 2}


@pytest.mark.parametrize("tokens", [10**19, 1e300])
def test_a_count_beyond_what_can_be_counted_is_rejected(tokens):
    collector, _ = make()
    collector.record_request_completion(request(tokens=tokens))
    collector.record_iteration(iteration(tokens=tokens))
    collector.record_iteration(iteration(memory_bytes_used=tokens))
    found = collector.get_snapshot()
    assert found.totals.rejected_records == {"too_large": 3}
    assert (found.totals.generation_tokens, found.request_stats.total_requests) == (0, 0)


def test_a_request_that_never_ran_needs_no_processing_time():
    collector, _ = make()
    collector.record_request_completion(request("r", 0, CompletionReason.REJECTED, nan))
    found = collector.get_request_statistics()
    assert (found.failed_requests, found.rejected_records) == (1, {})


def test_an_instant_of_another_clock_counts_as_now():
    collector, clock = make()
    collector.record_request_completion(request(finished_at=1e12))
    clock.advance(4.0)
    found = collector.get_request_statistics()
    assert (found.total_requests, found.requests_per_second) == (1, 0.25)


# Listeners.


def test_a_subscriber_receives_all_rows_from_then_on_checked_and_completed():
    collector, _ = make()
    record_of_each(collector)
    blocks = []
    collector.subscribe(blocks.append)
    record_of_each(collector)
    collector.record_request_completion(request(tokens=-1))
    assert blocks == []  # they come at a drain
    collector.read_totals()
    rows = {block.kind: block for block in blocks if isinstance(block, Rows) and len(block.values)}
    (gaps,) = (block for block in blocks if isinstance(block, Gaps))
    assert set(rows) == {RowKind.REQUEST, RowKind.ITERATION, RowKind.BATCH, RowKind.ERROR}
    assert all(len(block.values) == 1 for block in rows.values())
    assert rows[RowKind.REQUEST].objects == ["r"]
    assert rows[RowKind.ERROR].objects == ["oom"]
    assert gaps.values.tolist() == [0.25]


def test_after_unsubscribing_nothing_more_is_received_and_nothing_before_it_is_missed():
    collector, _ = make()
    seen, other = [], []
    unsubscribe = collector.subscribe(lambda block: seen.append(len(block.values)))
    collector.subscribe(lambda block: other.append(len(block.values)))
    collector.record_error("one")
    unsubscribe()
    collector.record_error("two")
    collector.read_totals()
    unsubscribe()
    assert (sum(seen), sum(other)) == (1, 2)


def test_a_subscriber_that_raises_is_dropped_and_counted_and_hurts_nobody():
    collector, _ = make()
    seen = []

    def failing(block):
        raise OSError("disk full")

    collector.subscribe(failing)
    collector.subscribe(lambda block: seen.append(len(block.values)))
    collector.record_request_completion(request())
    assert collector.get_request_statistics().total_requests == 1
    collector.record_request_completion(request())
    found = collector.get_snapshot()
    assert found.request_stats.total_requests == 2
    assert found.error_stats.errors_by_type == {"sink_failed": 1}
    assert sum(seen) == 3  # two requests and the error


# Life.


def test_closing_it_again_does_nothing_and_what_was_recorded_stays_readable():
    collector, _ = make()
    record_of_each(collector)
    assert not collector.closed
    collector.close()
    collector.close()
    assert collector.closed
    assert collector.get_request_statistics().total_requests == 1


def test_leaving_its_context_closes_it_and_lets_exceptions_through():
    with SchedulerMetricsCollector() as collector:
        assert not collector.closed
    assert collector.closed
    with pytest.raises(ZeroDivisionError), SchedulerMetricsCollector() as collector:
        raise ZeroDivisionError
    assert collector.closed


def test_a_collector_that_nobody_holds_is_freed():
    collector, _ = make()
    record_of_each(collector)
    gone = weakref.ref(collector)
    del collector
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", ["", "1st", "with space", "dash-ed", "__reserved", "ümlaut", 7])
def test_a_label_name_that_prometheus_would_refuse_is_refused(name):
    with pytest.raises(ConfigurationError, match="labels = "):
        SchedulerMetricsCollector(labels={name: "x"})


@pytest.mark.parametrize("value", [7, None, b"x"])
def test_a_label_value_that_is_no_text_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"labels\['rank'\]"):
        SchedulerMetricsCollector(labels={"rank": value})


def test_labels_are_copied_and_stand_in_the_snapshot():
    labels = {"model_name": "m", "_private": "", "rank0": "ü"}
    collector, _ = make(labels=labels)
    labels["late"] = "x"
    assert collector.get_snapshot().labels == {"model_name": "m", "_private": "", "rank0": "ü"}


def in_a_child(function):
    """What ``function`` gives in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(function(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        document = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return pickle.loads(document)  # noqa: S301


def figures(collector):
    snapshot = collector.get_snapshot()
    return (
        snapshot.request_stats.total_requests, snapshot.iteration_stats.total_iterations,
        snapshot.batch_stats.total_batches, snapshot.error_stats.total_errors, snapshot.totals.rejected_records,
        snapshot.gauges.requests_in_flight,
    )  # fmt: skip


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@forks
def test_after_a_fork_the_child_starts_empty_and_records_and_the_parents_counts_stay():
    collector, _ = make()
    record_of_each(collector)
    collector.get_snapshot()
    record_of_each(collector)  # not drained
    collector.record_request_completion(request(tokens=-1))
    collector.record_error(None)

    def child():
        empty = figures(collector)
        record_of_each(collector)
        return empty, figures(collector), collector.get_snapshot().instance_id

    empty, after, identity = in_a_child(child)
    assert empty == (0, 0, 0, 0, {}, 0)
    assert after == (1, 1, 1, 1, {}, 0)
    assert identity != collector.get_snapshot().instance_id
    assert figures(collector) == (2, 2, 2, 2, {"negative": 1, "wrong_type": 1}, 0)


@forks
def test_a_writer_made_before_the_fork_works_in_the_child_and_in_the_parent():
    collector, _ = make()
    writer = collector.writer()
    writer.error("before")

    def child():
        for _ in range(3000):
            writer.error("in the child")
        collector.record_error("in the child")
        return collector.get_error_statistics().errors_by_type

    assert in_a_child(child) == {"in the child": 3001}
    writer.error("after")
    assert collector.get_error_statistics().errors_by_type == {"before": 1, "after": 1}


@forks
def test_a_fork_while_the_lock_is_held_leaves_the_child_a_free_one():
    collector, _ = make()
    record_of_each(collector)
    with collector._draining.lock:
        assert in_a_child(lambda: figures(collector))[:4] == (0, 0, 0, 0)


@forks
def test_a_tracker_is_empty_in_the_child_too():
    collector, _ = make()
    tracker = RequestTracker(collector)
    tracker.arrived("parent's")

    def child():
        empty = figures(collector)
        tracker.arrived("child's")
        tracker.arrived("another")
        return empty, figures(collector)

    empty, after = in_a_child(child)
    assert (empty[-1], after[-1]) == (0, 2)
    assert figures(collector)[-1] == 1


@forks
def test_in_the_child_the_log_is_off_and_closing_works():
    with make(MetricsConfiguration(enable_detailed_logging=True, detailed_log_interval_seconds=3600))[0] as collector:
        assert in_a_child(lambda: (collector.close(), collector.closed)) == (None, True)


# Where the draft contradicts itself.


def test_contradiction_1_failed_requests_are_timeouts_errors_and_rejections():
    collector, _ = make()
    for reason in CompletionReason:
        collector.record_request_completion(request(reason=reason))
    found = collector.get_request_statistics()
    assert (found.completed_requests, found.failed_requests, found.cancelled_requests) == (5, 3, 1)


def test_contradiction_2_totals_are_lifetime_counts_and_not_the_length_of_a_buffer():
    collector, _ = make(MetricsConfiguration(max_request_samples=2, max_iteration_samples=2, max_batch_samples=2))
    for _ in range(5):
        record_of_each(collector)
    assert figures(collector)[:4] == (5, 5, 5, 5)


def test_contradiction_3_tokens_are_counted_once_and_the_total_does_not_fall_when_iterations_begin():
    collector, clock = make()
    collector.record_request_completion(request(tokens=64))
    clock.advance(8.0)
    snapshot = collector.get_snapshot()
    assert (snapshot.request_stats.tokens_per_second, snapshot.totals.generation_tokens) == (8.0, 64)
    collector.record_iteration(iteration(tokens=16))
    snapshot = collector.get_snapshot()
    assert (snapshot.request_stats.tokens_per_second, snapshot.totals.generation_tokens) == (2.0, 64)
    assert snapshot.totals.generation_tokens_of_requests == 64


def test_contradiction_4_queue_time_is_measured_or_nan():
    collector, _ = make()
    collector.record_request_completion(request(processing_time=1.0, total_time=5.0))
    assert isnan(collector.request_samples()[0].queue_time)
    assert isnan(collector.get_request_statistics().average_queue_time)
    collector.record_request_completion(request(queue_time=2.0))
    found = collector.get_request_statistics()
    assert (found.average_queue_time, found.queue_time.count) == (2.0, 1)


def test_contradiction_5_an_iteration_makes_no_batch_record_and_the_tracker_makes_one():
    collector, _ = make(limits=LIMITS)
    collector.record_iteration(iteration())
    assert collector.get_batch_statistics().total_batches == 0
    tracker = RequestTracker(collector)
    tracker.iteration([tracker.arrived("a"), tracker.arrived("b")], memory_bytes_used=64)
    found = collector.get_batch_statistics()
    assert (found.total_batches, found.average_batch_size, found.average_utilization) == (1, 2.0, 0.25)
    assert found.average_memory_bytes_per_batch == 64.0


def test_contradiction_6_there_is_one_window_divided_by_elapsed_time_when_that_is_shorter():
    collector, clock = make(MetricsConfiguration(counter_window_seconds=32))
    for reason in (EOS, CompletionReason.TIMEOUT, CompletionReason.CANCELLED, CompletionReason.REJECTED):
        collector.record_request_completion(request(reason=reason))
    collector.record_iteration(iteration())
    clock.advance(4.0)
    snapshot = collector.get_snapshot()
    assert (snapshot.request_stats.requests_per_second, snapshot.iteration_stats.iterations_per_second) == (1.0, 0.25)
    clock.advance(27.0)
    snapshot = collector.get_snapshot()
    assert snapshot.request_stats.requests_per_second == 4 / 31
    clock.advance(2.0)
    assert collector.get_request_statistics().requests_per_second == 0.0


def test_contradiction_7_utilization_uses_the_limits_and_is_nan_without_one():
    limited, free = make(limits=LIMITS)[0], make()[0]
    for collector in (limited, free):
        collector.record_iteration(iteration(requests=4, scheduled_tokens=50))
    found = limited.get_iteration_statistics()
    assert (found.average_utilization, found.time_weighted_utilization, found.token_utilization) == (0.5, 0.5, 0.5)
    found = free.get_iteration_statistics()
    assert isnan(found.average_utilization)
    assert isnan(found.time_weighted_utilization)
    assert isnan(found.token_utilization)


def test_contradiction_8_a_snapshot_is_one_cut_with_every_record_whose_call_had_returned():
    collector, _ = make(MetricsConfiguration(slo=SloTargets(e2e_latency=2.0)))
    for number in range(1, 4):
        record_of_each(collector)
        found = collector.get_snapshot()
        assert found.request_stats.total_requests == found.iteration_stats.total_iterations == number
        assert found.batch_stats.total_batches == found.error_stats.total_errors == number
        assert found.slo_stats["default"].met == found.totals.requests_received == number
        assert found.histograms["total_time"]["default"].count == number


def test_contradiction_9_averages_are_floats():
    collector, _ = make()
    collector.record_request_completion(request(tokens=1))
    collector.record_request_completion(request(tokens=2))
    collector.record_batch_utilization(1, request_count=3)
    assert collector.get_request_statistics().average_tokens_per_request == 1.5
    assert isinstance(collector.get_batch_statistics().average_batch_size, float)
    assert isinstance(collector.get_batch_statistics().average_utilization, float)


def test_contradiction_10_percentiles_are_exact_by_linear_interpolation_with_count_and_span():
    collector, clock = make()
    for processing_time in (1.0, 2.0, 4.0, 8.0):
        collector.record_request_completion(request(processing_time=processing_time))
        clock.advance(1.0)
    found = collector.get_request_statistics()
    assert (found.p50_latency, found.total_time.p90) == (3.0, pytest.approx(6.8, rel=1e-12))
    assert (found.total_time.count, found.total_time.span_seconds) == (4, 3.0)


def test_contradiction_11_the_error_rate_is_errors_by_finished_requests_and_nan_with_none():
    collector, _ = make()
    assert collector.get_error_statistics().last_error_time is None
    collector.record_error("oom")
    assert isnan(collector.get_error_statistics().error_rate)
    collector.record_request_completion(request())
    collector.record_request_completion(request(reason=CompletionReason.TIMEOUT))
    assert collector.get_error_statistics().error_rate == 0.5


def test_contradiction_12_error_names_are_bounded_and_the_rest_is_other():
    collector, _ = make(MetricsConfiguration(max_error_types=2))
    for name in ("first", "second", "third", "first", "fourth"):
        collector.record_error(name)
    found = collector.get_error_statistics()
    assert found.errors_by_type == {"first": 2, "second": 1, "other": 2}
    assert found.total_errors == 5


def test_contradiction_12_error_names_are_cut_at_120_characters():
    collector, _ = make()
    collector.record_error("x" * 121)
    collector.record_error("x" * 500)
    assert collector.get_error_statistics().errors_by_type == {"x" * 120: 2}


def test_contradiction_12_exceptions_are_never_kept():
    class Tensor(Exception):
        pass

    collector, _ = make()
    exception = Tensor()
    gone = weakref.ref(exception)
    collector.record_error("", exception)
    del exception
    assert gone() is None
    assert collector.get_error_statistics().errors_by_type == {"Tensor": 1}


def test_contradiction_13_wall_clock_time_is_only_shown_and_is_aware_utc():
    collector, clock = make()
    collector.record_error("oom")
    clock.advance(3600.0)
    record_of_each(collector)
    snapshot = collector.get_snapshot()
    shown = [
        snapshot.snapshot_time, snapshot.started_at, snapshot.error_stats.last_error_time,
        collector.request_samples()[0].completed_time, collector.iteration_samples()[0].timestamp,
        collector.batch_samples()[0].timestamp,
    ]  # fmt: skip
    assert all(time.tzinfo is dt.UTC for time in shown)
    assert snapshot.snapshot_time - snapshot.started_at == dt.timedelta(hours=1)


def test_contradiction_13_order_is_checked_within_a_request_and_never_against_the_clock():
    collector, _ = make()
    collector.record_request_completion(request(arrived_at=5e6, finished_at=6e6))
    collector.record_request_completion(request(arrived_at=-7.0, finished_at=-6.0))
    found = collector.get_request_statistics()
    assert (found.total_requests, found.rejected_records) == (2, {})


# Present values.


def test_gauges_vanish_after_three_windows_without_an_iteration():
    collector, clock = make(MetricsConfiguration(counter_window_seconds=16))
    collector.record_iteration(
        iteration(running_requests=3, waiting_requests=2, deferred_requests=1, kv_cache_usage=0.5, memory_bytes_used=64)
    )
    clock.advance(48.0)
    found = collector.read_totals().gauges
    assert (found.requests_running, found.requests_waiting, found.requests_deferred) == (3, 2, 1)
    assert (found.kv_cache_usage, found.memory_bytes_used, found.seconds_since_last_iteration) == (0.5, 64, 48.0)
    clock.advance(0.5)
    found = collector.read_totals().gauges
    assert (found.requests_running, found.requests_waiting, found.requests_deferred) == (None, None, None)
    assert isnan(found.kv_cache_usage)
    assert found.memory_bytes_used is None
    assert found.seconds_since_last_iteration == 48.5


def test_with_a_tracker_the_gauges_of_an_idle_engine_are_zero():
    collector, clock = make(slow := MetricsConfiguration(counter_window_seconds=16))
    assert slow.counter_window_seconds == 16
    tracker = RequestTracker(collector)
    slot = tracker.arrived("r")
    tracker.iteration([slot], kv_cache_usage=0.5)
    tracker.finished(slot, EOS)
    for seconds in (1.0, 100.0):
        clock.advance(seconds)
        found = collector.read_totals().gauges
        assert (found.requests_running, found.requests_waiting, found.requests_in_flight) == (0, 0, 0)
        assert found.kv_cache_usage == 0.0


def test_a_stuck_engine_does_not_look_perfect():
    collector, clock = make(MetricsConfiguration(slo=SloTargets(time_to_first_token=1.0)))
    tracker = RequestTracker(collector)
    tracker.iteration([tracker.arrived("a")])
    tracker.arrived("waits")
    clock.advance(32.0)
    snapshot = collector.get_snapshot()
    assert (snapshot.totals.requests_received, snapshot.gauges.requests_in_flight) == (2, 2)
    assert snapshot.gauges.oldest_waiting_seconds == 32.0
    assert snapshot.gauges.seconds_since_last_iteration == 32.0
    assert snapshot.gauges.requests_overdue == {"default": 1}


def test_the_limits_stand_among_the_gauges():
    found = make(limits=LIMITS)[0].read_totals().gauges
    assert (found.limit_running_requests, found.limit_scheduled_tokens, found.limit_kv_cache_blocks) == (8, 100, 10)


def test_read_totals_gives_the_totals_gauges_and_histograms_of_the_snapshot():
    collector, _ = make(limits=LIMITS)
    record_of_each(collector)
    totals, snapshot = collector.read_totals(), collector.get_snapshot()
    assert totals.totals == snapshot.totals
    assert repr(totals.gauges) == repr(snapshot.gauges)
    assert repr(totals.histograms) == repr(snapshot.histograms)


def test_a_limiter_may_be_given_by_its_name():
    collector, _ = make()
    collector.record_iteration(iteration(limited_by="paused"))
    assert collector.iteration_samples()[0].limited_by is BatchLimiter.PAUSED


@pytest.mark.parametrize("name", [np.array([1, 2]), np.array([]), type("Odd", (), {"__bool__": lambda _: 1 / 0})()])
def test_recording_never_raises_whatever_it_is_given(name):
    collector, _ = make()
    collector.record_error(name)
    assert collector.get_request_statistics().rejected_records == {"wrong_type": 1}


def test_limits_that_become_known_later_hold_from_then_on():
    now = [0.0]
    collector = SchedulerMetricsCollector(clock=lambda: now[0])
    tracker = RequestTracker(collector)
    slots = [tracker.arrived(number, at=0.0) for number in range(4)]
    for end in (1.0, 2.0, 3.0):
        now[0] = end
        tracker.iteration(slots, started_at=end - 1.0)
        if end == 1.0:
            collector.set_limits(SchedulerLimits(max_running_requests=8))
    snapshot = collector.get_snapshot()
    assert collector.limits == snapshot.limits == SchedulerLimits(max_running_requests=8)
    assert snapshot.totals.slot_seconds == 16.0
    assert snapshot.iteration_stats.time_weighted_utilization == 0.5
    assert sum(snapshot.totals.lost_slot_seconds_by_limiter.values()) == 8.0
    assert snapshot.batch_stats.average_utilization == 0.5
    collector.set_limits(SchedulerLimits(max_running_requests=4))
    assert collector.get_snapshot().totals.slot_seconds == 16.0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"role": None}, "role"), ({"labels": {"model": "x" * 1025}}, "labels"), ({"labels": {"model": 7}}, "labels")],
)
def test_texts_that_every_scrape_repeats_are_checked(arguments, field):
    with pytest.raises(ConfigurationError, match=rf"{field}.* at most 1024 characters"):
        SchedulerMetricsCollector(**arguments)


@pytest.mark.parametrize("engine", [None, "vllm", EngineInfo(kind=None), EngineInfo("vllm", "1" * 2000)])
def test_an_engine_is_an_engine_info_of_texts(engine):
    collector = SchedulerMetricsCollector()
    with pytest.raises(ConfigurationError, match="engine"):
        collector.engine = engine
    assert collector.engine == EngineInfo()


@pytest.mark.parametrize(
    "arguments", [{"configuration": SchedulerLimits(max_running_requests=8)}, {"labels": "rank=0"}]
)
def test_an_argument_in_the_wrong_place_is_said(arguments):
    with pytest.raises(ConfigurationError, match=r"configuration|labels"):
        SchedulerMetricsCollector(**arguments)


def test_strict_mode_names_what_is_wrong_with_this_call_only():
    collector = SchedulerMetricsCollector(MetricsConfiguration(strict=True))
    tracker = RequestTracker(collector)
    with pytest.raises(InvalidRecordError, match="stale_slot"):
        tracker.finished(12345, EOS)
    with pytest.raises(InvalidRecordError) as caught:
        collector.record_batch_utilization(-1.0)
    assert "negative" in str(caught.value)
    assert "stale_slot" not in str(caught.value)


@pytest.mark.parametrize("given", [([],), (None,), (SchedulerMetricsCollector(),)])
def test_merging_something_else_is_a_merge_error(given):
    with pytest.raises(MergeError, match="expected snapshots"):
        MetricsSnapshot.merge(*given)


def test_a_drain_of_ones_own_tells_whether_anything_was_recorded():
    collector = SchedulerMetricsCollector()
    before = collector.drain()
    assert collector.drain() == before
    collector.record_error("oops")
    assert collector.drain() > before
    assert collector.read_totals().totals.errors_by_type == {"oops": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limits": {"max_running_requests": 2}}, "limits = .*SchedulerLimits"),
        ({"limits": 8}, "limits = 8: expected a SchedulerLimits"),
        ({"configuration": {"strict": True}}, "configuration = .*MetricsConfiguration"),
        ({"labels": ["a"]}, "labels = .*mapping"),
        ({"labels": ""}, "labels = '': expected a mapping"),
        ({"role": 3}, "role = 3"),
        ({"clock": 5.0}, "clock = 5.0: expected a function"),
        ({"clock": lambda: "noon"}, "clock = .*function that gives seconds"),
    ],
)
def test_an_argument_is_checked_where_it_is_given(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        SchedulerMetricsCollector(**arguments)


@pytest.mark.parametrize("collector", [None, {}, SchedulerLimits(), SchedulerMetricsCollector, object()])
def test_a_tracker_says_what_it_needs_as_its_collector(collector):
    with pytest.raises(ConfigurationError, match=r"collector = .*SchedulerMetricsCollector"):
        RequestTracker(collector)


def test_a_trackers_clock_and_later_limits_are_checked_too():
    collector, _ = make()
    with pytest.raises(ConfigurationError, match="clock"):
        RequestTracker(collector, clock=0)
    with pytest.raises(ConfigurationError, match="limits"):
        collector.set_limits({"max_running_requests": 4})
