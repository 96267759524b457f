"""Specification, test group 3: percentiles are exact, by linear interpolation."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import CompletionReason, MetricsConfiguration
from batchscope.statistics.distributions import linear_percentile, summarize
from spec.fakes import make, request

DURATIONS = st.floats(0, 1e6)


def latencies(values, configuration=None):
    collector, _ = make(configuration)
    for value in values:
        collector.record_request_completion(request(processing_time=value))
    return collector.get_request_statistics()


@pytest.mark.parametrize(("name", "expected"), [("p50_latency", 50.5), ("p95_latency", 95.05), ("p99_latency", 99.01)])
def test_of_one_to_a_hundred_seconds_the_percentiles_are_the_textbook_values(name, expected):
    assert getattr(latencies(range(1, 101)), name) == pytest.approx(expected, rel=1e-12)


def test_without_a_value_every_percentile_is_nan_and_not_zero():
    found = latencies([])
    assert all(isnan(value) for value in (found.p50_latency, found.p95_latency, found.p99_latency))
    assert found.total_time.count == 0


def test_of_a_single_value_every_percentile_is_that_value():
    found = latencies([2.5]).total_time
    assert (found.p50, found.p90, found.p95, found.p99, found.max, found.mean) == (2.5,) * 6


def test_between_two_values_percentiles_are_interpolated():
    found = latencies([1.0, 2.0]).total_time
    assert (found.p50, found.p90, found.p99) == (1.5, 1.9, 1.99)


@given(values=st.lists(DURATIONS, min_size=1, max_size=200), percentile=st.integers(0, 100))
def test_any_percentile_of_any_values_is_numpys_linear_one(values, percentile):
    ordered = np.sort(np.array(values))
    assert linear_percentile(ordered, percentile) == pytest.approx(np.percentile(ordered, percentile), rel=1e-12)


@given(values=st.lists(DURATIONS, min_size=1, max_size=50))
def test_a_summary_is_the_same_in_whatever_order_the_values_came(values):
    assert summarize(np.array(values)) is not None
    one, other = summarize(np.array(values)), summarize(np.array(sorted(values)))
    assert (one.p50, one.p90, one.p95, one.p99, one.max, one.count) == (
        other.p50, other.p90, other.p95, other.p99, other.max, other.count,
    )  # fmt: skip


def test_values_that_were_not_measured_are_left_out():
    found = summarize(np.array([np.nan, 1.0, np.nan, 3.0]))
    assert (found.count, found.p50, found.max) == (2, 2.0, 3.0)


def test_only_the_last_samples_count():
    found = latencies([1000.0, 1.0, 2.0, 3.0], MetricsConfiguration(max_request_samples=3))
    assert (found.total_time.count, found.p50_latency, found.total_time.max) == (3, 2.0, 3.0)


def test_requests_that_did_not_complete_have_no_latency():
    collector, _ = make()
    collector.record_request_completion(request(processing_time=1.0))
    collector.record_request_completion(request(reason=CompletionReason.TIMEOUT, processing_time=60.0))
    collector.record_request_completion(request(reason=CompletionReason.CANCELLED, processing_time=60.0))
    assert collector.get_request_statistics().total_time.max == 1.0


def test_a_percentile_is_never_off_by_one_rank_through_rounding():
    values = np.arange(1.0, 102.0)  # the p-th percentile of 1..101 is p + 1, exactly
    assert [linear_percentile(values, percentile) for percentile in range(101)] == list(np.arange(1.0, 102.0))
