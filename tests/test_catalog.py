"""The catalogue: every exported metric once, and all that a state knows."""

import re

import pytest

from batchscope import CompletionReason, SchedulerMetricsCollector
from batchscope.catalog import CATALOG, INFO, PREFIX, MetricKind, values


def one(name):
    return next(metric for metric in CATALOG if metric.name == PREFIX + name)


def test_every_name_is_unique_and_follows_prometheus_rules():
    names = [metric.name for metric in CATALOG]
    assert len(set(names)) == len(names)
    for metric in CATALOG:
        assert re.fullmatch(r"batchscope_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
        assert metric.help.endswith(".")
        assert set(metric.labels).isdisjoint({"le", "quantile", "instance", "job"})


@pytest.mark.parametrize("metric", CATALOG, ids=lambda metric: metric.name)
def test_every_source_leads_somewhere_in_an_empty_collector(metric):
    state = SchedulerMetricsCollector().read_totals()
    for series in values(metric, state):
        assert len(series[0]) == len(metric.labels)


def test_a_finished_request_shows_under_its_reason_and_in_its_histogram():
    collector = SchedulerMetricsCollector()
    collector.writer().request("a", 5, CompletionReason.TIMEOUT, 1.0)
    state = collector.read_totals()
    assert dict(values(one("requests_total"), state))["timeout",] == 1
    [series] = values(one("e2e_request_latency_seconds"), state)
    assert series[0] == ("default",)
    assert series[1].count == 0  # only completed requests


def test_what_is_not_known_has_no_series():
    state = SchedulerMetricsCollector().read_totals()
    for name in ("kv_cache_usage_ratio", "limit_running_requests", "gpu_power_watts", "requests_running"):
        assert list(values(one(name), state)) == []


def test_info_names_engine_and_role():
    collector = SchedulerMetricsCollector(role="decode")
    [series] = values(INFO, collector.read_totals())
    assert series[0][:3] == ("", "", "decode")
    assert series[1] == 1
