"""Writer: raw values into rings; wrong types are counted, never raised unless strict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace
from tracker_doubles import Clock

from batchscope import (
    CompletionReason,
    InvalidRecordError,
    IterationResult,
    MetricsConfiguration,
    RequestResult,
    SchedulerMetricsCollector,
)

EOS = CompletionReason.EOS_TOKEN_REACHED


@pytest.fixture
def collector() -> SchedulerMetricsCollector:
    return SchedulerMetricsCollector(clock=Clock(100.0))


def rejected(collector) -> dict[str, int]:
    return collector.get_snapshot().totals.rejected_records


def test_a_thread_has_one_writer(collector):
    assert collector.writer() is collector.writer()


def test_positional_and_by_record_say_the_same(collector):
    writer = collector.writer()
    writer.request("a", 3, EOS, 2.0, 1.0)
    writer.request_result(RequestResult("a", 3, EOS, 2.0, 1.0))
    writer.iteration(0, 2, 2, 0, 0.5)
    writer.iteration_result(IterationResult(0, 2, 2, 0, 0.5))
    first, second = collector.request_samples()
    assert repr(first) == repr(second)  # nan is not equal to itself
    assert first.total_time == 3.0
    first, second = (replace(sample, busy_time=0.0) for sample in collector.iteration_samples())  # the same instant
    assert repr(first) == repr(second)
    assert first.processing_time == 0.5


def test_a_record_without_an_instant_is_of_now(collector):
    collector.writer().iteration(0, 1, 1, 0, 0.5)
    assert collector.get_snapshot().gauges.seconds_since_last_iteration == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda writer: writer.request("a", "many", EOS, 1.0),
        lambda writer: writer.request("a", 1, "no reason", 1.0),
        lambda writer: writer.request("a", 1, EOS, None),
        lambda writer: writer.request("a", 1, EOS, 1.0, request_class=[]),
        lambda writer: writer.request("a", 1, EOS, 1.0, prompt_tokens="few"),
        lambda writer: writer.request_result("a"),
        lambda writer: writer.request_result(None),
        lambda writer: writer.iteration(0, "two", 1, 0, 0.5),
        lambda writer: writer.iteration(0, 1, 1, 0, 0.5, limited_by="nonsense"),
        lambda writer: writer.iteration_result(object()),
        lambda writer: writer.batch("half"),
        lambda writer: writer.error("", None),
        lambda writer: writer.error(7),
        lambda writer: writer.inter_token_latency("slow"),
        lambda writer: writer.inter_emission_latencies(["slow"]),
        lambda writer: writer.inter_token_latencies(np.zeros((2, 2))),
        lambda writer: writer.inter_token_latencies(7),
    ],
)
def test_a_wrong_type_is_counted_once_and_the_next_record_is_taken(collector, call):
    call(collector.writer())
    collector.writer().request("good", 1, EOS, 1.0)
    assert rejected(collector) == {"wrong_type": 1}
    assert [sample.request_id for sample in collector.request_samples()] == ["good"]
    assert collector.get_snapshot().totals.iterations == 0


def test_strict_raises_where_the_record_is_made():
    writer = SchedulerMetricsCollector(MetricsConfiguration(strict=True)).writer()
    with pytest.raises(InvalidRecordError, match=r"Writer\.request\(tokens_generated=\'many\'\).*expected a number"):
        writer.request("a", "many", EOS, 1.0)
    with pytest.raises(InvalidRecordError, match="expected a RequestResult"):
        writer.request_result("a")


@pytest.mark.parametrize(
    "latencies",
    [[0.5, 0.25, 0.5], np.array([0.5, 0.25, 0.5]), np.array([0.5, 0.25, 0.5], dtype=np.float32), [(0.5, 2), (0.25, 1)]],
)
def test_latencies_come_as_a_list_an_array_or_pairs(collector, latencies):
    collector.writer().inter_token_latencies(latencies)
    collector.writer().inter_emission_latencies(latencies)
    stats = collector.get_request_statistics()
    for summary in (stats.inter_token_latency, stats.inter_emission_latency):
        assert (summary.count, summary.max, summary.mean) == (3, 0.5, pytest.approx(1.25 / 3))


def test_an_array_of_latencies_is_copied(collector):
    latencies = np.array([0.5])
    collector.writer().inter_token_latencies(latencies)
    latencies[0] = 9.0
    assert collector.get_request_statistics().inter_token_latency.max == 0.5


def test_single_latencies_count_as_often_as_said(collector):
    collector.writer().inter_token_latency(0.5, 4)
    collector.writer().inter_emission_latency(2.0)
    stats = collector.get_request_statistics()
    assert (stats.inter_token_latency.count, stats.inter_emission_latency.count) == (4, 1)


def test_no_latencies_at_all_are_none(collector):
    collector.writer().inter_token_latencies([])
    collector.writer().inter_token_latencies(np.array([]))
    assert collector.get_request_statistics().inter_token_latency.count == 0
    assert rejected(collector) == {}


def test_error_names_are_cut_and_exceptions_are_not_kept(collector):
    collector.writer().error("x" * 500)
    collector.writer().error("", ValueError("text"))
    assert set(collector.get_error_statistics().errors_by_type) == {"x" * 120, "ValueError"}


def test_bad_values_are_found_at_the_drain_and_leave_the_statistics_as_they_were(collector):
    writer = collector.writer()
    for value in (-1.0, math.inf, math.nan):
        writer.request("a", 1, EOS, value)
    assert sum(rejected(collector).values()) == 3
    assert collector.get_request_statistics().total_requests == 0


def test_an_iteration_that_is_rejected_leaves_no_latency_behind(collector):
    collector.writer().iteration(0, 1, 1, 0, 0.5, inter_token_latencies=[0.5], inter_emission_latencies=["x"])
    assert rejected(collector) == {"wrong_type": 1}
    assert collector.get_request_statistics().inter_token_latency.count == 0


@pytest.mark.parametrize("said", ["positional", "record"])
def test_counts_that_are_no_integers_are_taken_as_the_numbers_they_are(collector, said):
    writer = collector.writer()

    def request(*fields, **named):
        writer.request(*fields, **named) if said == "positional" else writer.request_result(
            RequestResult(*fields, **named)
        )

    request("whole", 3.0, EOS, 2.0, prompt_tokens=np.float64(7), cached_tokens=None, preemptions=np.int64(1))
    request("int", 3, EOS, 2.0, prompt_tokens=7, preemptions=True)
    request("half", 3, EOS, 2.0, prompt_tokens=7.5)
    request("nan", math.nan, EOS, 2.0)
    request("huge", 3, EOS, 2.0, prompt_tokens=1 << 70)
    request("below", -1, EOS, 2.0)
    request("text", 3, EOS, 2.0, prompt_tokens="7")
    assert rejected(collector) == {"not_whole": 1, "not_a_number": 1, "too_large": 1, "negative": 1, "wrong_type": 1}
    first, second = collector.request_samples()
    assert [first.request_id, second.request_id] == ["whole", "int"]
    for kept in (first, second):
        assert (kept.tokens_generated, kept.prompt_tokens, kept.cached_tokens, kept.preemptions) == (3, 7, None, 1)


def test_rows_of_a_block_that_is_used_again_are_not_taken_for_those_it_held(collector):
    writer = collector.writer()
    for number in range(20_000):
        writer.request(number, 3.0 if number < 3000 and number % 2 else 3, EOS, 2.0)
    totals = collector.get_snapshot().totals
    assert (totals.generation_tokens, totals.dropped_records, totals.rejected_records) == (60_000, 0, {})


def test_instants_beyond_what_windows_resolve_are_counted_in_no_window_and_break_nothing(collector):
    writer = collector.writer()
    writer.request("long ago", 1, EOS, 2.0, finished_at=-1e300)
    writer.iteration(0, 1, 1, 0, 0.5, finished_at=-1e300, inter_token_latencies=[0.5])
    snapshot = collector.get_snapshot()
    assert snapshot.request_stats.total_requests == snapshot.iteration_stats.total_iterations == 1
    assert snapshot.window.requests == snapshot.window.iterations == 0
    assert snapshot.request_stats.inter_token_latency.count == 1
