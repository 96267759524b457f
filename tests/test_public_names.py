"""The names of the design are importable from ``batchscope``, and nothing else is promised."""

import inspect
import typing

import pytest

import batchscope

NAMES = [
    "SchedulerMetricsCollector",
    "MetricsConfiguration",
    "SchedulerLimits",
    "SloTargets",
    "SchedulerMetrics",
    "IterationResult",
    "RequestResult",
    "CompletionReason",
    "BatchLimiter",
    "RequestMetrics",
    "IterationMetrics",
    "BatchMetrics",
    "RequestStatistics",
    "IterationStatistics",
    "BatchStatistics",
    "ErrorStatistics",
    "DistributionSummary",
    "MetricsSnapshot",
    "decode_snapshot",
    "CircularBuffer",
    "SlidingWindowCounter",
    "ExponentialHistogram",
    "RequestTracker",
    "BatchscopeError",
    "ConfigurationError",
    "DecodeError",
    "InvalidRecordError",
    "MergeError",
    "MissingExtraError",
    "WorkloadError",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_design_is_public_and_says_what_it_is(name):
    assert name in batchscope.__all__
    assert inspect.getdoc(getattr(batchscope, name))


def test_everything_that_is_declared_public_exists():
    assert [name for name in batchscope.__all__ if not hasattr(batchscope, name)] == []
    assert batchscope.__all__ == sorted(set(batchscope.__all__))


@pytest.mark.parametrize(
    "name",
    ["record_iteration", "record_request_completion", "record_batch_utilization", "record_error",
     "get_request_statistics", "get_iteration_statistics", "get_batch_statistics", "get_error_statistics",
     "get_snapshot", "reset", "close", "writer", "read_totals", "subscribe", "__enter__", "__exit__"],
)  # fmt: skip
def test_the_collector_has_the_methods_of_the_design(name):
    assert inspect.getdoc(getattr(batchscope.SchedulerMetricsCollector, name)) or name.startswith("__")


def test_the_collector_takes_its_settings_by_name():
    parameters = inspect.signature(batchscope.SchedulerMetricsCollector).parameters
    assert list(parameters) == ["configuration", "limits", "labels", "role", "clock"]
    assert parameters["role"].default == "unified"


def test_reasons_and_limiters_are_those_of_the_design():
    assert {reason.name for reason in batchscope.CompletionReason} == {
        "EOS_TOKEN_REACHED", "MAX_TOKENS_REACHED", "LENGTH_REACHED", "STOP_STRING", "OTHER", "TIMEOUT", "ERROR",
        "REJECTED", "CANCELLED",
    }  # fmt: skip
    assert {str(limiter) for limiter in batchscope.BatchLimiter} == {
        "request_slots", "token_budget", "kv_cache", "deferred", "policy", "paused", "demand", "unknown",
    }  # fmt: skip


def test_the_types_of_every_public_call_can_be_looked_up():
    """As documentation tools, dependency injection and editors do."""
    objects = [getattr(batchscope, name) for name in NAMES]
    owners = [each for each in objects if inspect.isclass(each)]
    functions = [*objects, *(method for owner in owners for _, method in inspect.getmembers(owner, inspect.isfunction))]
    looked_up = 0
    for each in functions:
        if inspect.isclass(each) or inspect.isfunction(each):
            looked_up += len(typing.get_type_hints(each))
    assert looked_up > 300
