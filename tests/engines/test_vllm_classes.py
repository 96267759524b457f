"""Requests of vLLM by class: from the id, or from the priority that the scheduler tells; within the declared ones."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_vllm_admission import Engine, output, stats
from vllm_doubles import BOOTED, Finished, Scheduler, outputs

from batchscope import ConfigurationError, MetricsConfiguration, SchedulerMetricsCollector, SloTargets
from batchscope.engines.vllm.admission import PRIORITY, AdmissionReporter
from batchscope.engines.vllm.classes import ClassesByPriority, parse_request_class
from batchscope.engines.vllm.source import VllmSource


def recorded(setting, slo):
    """A collector and its source, on a clock that stands."""
    now = [BOOTED]
    collector = SchedulerMetricsCollector(MetricsConfiguration(slo=slo), clock=lambda: now[0])
    source = VllmSource(collector, request_classes=parse_request_class(setting))
    now[0] += 100.0
    return collector, source


def finished(collector):
    return {name: stats.evaluated for name, stats in collector.get_snapshot().slo_stats.items()}


@pytest.mark.parametrize(
    ("setting", "request_id", "expected"),
    [
        (r"id:^cmpl-(\w+)-", "cmpl-batch-17-0", "batch"),
        (r"id:^cmpl-(\w+)-", "chatcmpl-batch-17", None),
        (r"id:batch|chat", "x-chat-1", "chat"),
        (r"id:(a)|(b)", "b", None),
        (r"id:.", 7, None),
        ("priority", "anything", "0"),
        ("priority", None, None),
    ],
)
def test_the_class_is_read_from_the_id(setting, request_id, expected):
    assert parse_request_class(setting).of(request_id) == expected


@pytest.mark.parametrize("setting", ["id", "id:", "id:(", "Priority", "tenant", "priority:1"])
def test_a_setting_that_cannot_be_is_said_with_what_is_allowed(setting):
    with pytest.raises(ConfigurationError, match=r"BATCHSCOPE_VLLM_REQUEST_CLASS = .*expected priority, or id:REGEX"):
        parse_request_class(setting)


def test_no_setting_is_no_classes():
    assert parse_request_class("  ") is None


def test_each_class_has_its_own_slo_and_histograms_and_undeclared_ones_are_others():
    target = SloTargets(time_to_first_token=0.5)
    collector, source = recorded(r"id:^(\w+)-", {"chat": target, "batch": target})
    done = [Finished(request_id=name) for name in ("chat-1", "chat-2", "batch-1", "stranger-1", "nobody")]
    source.record(Scheduler(), outputs([0.125] * 5, finished=done))
    assert finished(collector) == {"chat": 2, "batch": 1}
    histograms = collector.get_snapshot().histograms
    for name in ("time_to_first_token", "queue_time", "total_time"):
        assert {key: one.count for key, one in histograms[name].items()} == {"chat": 2, "batch": 1, "other": 2}
    assert (
        histograms["time_to_first_token"]["batch"].sum == 0.5
    )  # queue and prefill: whose first token it was is not told
    assert "with its class" in collector.get_snapshot().definitions["time_to_first_token"]
    assert collector.get_snapshot().totals.requests_received == 5


def test_a_priority_that_the_scheduler_told_is_the_class():
    collector, source = recorded("priority", {"0": SloTargets(e2e_latency=9.0), "5": SloTargets(e2e_latency=9.0)})
    engine = Engine([True])
    engine.requests = {
        "cmpl-1-0-89abcdef": SimpleNamespace(priority=5), "1_cmpl-2-01234567": SimpleNamespace(priority=-3),
        "plain": SimpleNamespace(priority=0), "x" * 300: SimpleNamespace(priority=5),
    }  # fmt: skip
    step = output(1)
    step.scheduled_new_reqs = [SimpleNamespace(req_id=name) for name in engine.requests]
    reporter = AdmissionReporter(engine)
    reporter.scheduled(step)
    reporter.processing(step)
    said = stats()
    reporter.tell(said)
    assert not any(said.num_kv_fetch_reqs_by_stage.values())
    assert sum(key.startswith(PRIORITY) for key in said.num_kv_fetch_reqs_by_stage) == 2
    source.record(Scheduler(1, num_kv_fetch_reqs_by_stage=said.num_kv_fetch_reqs_by_stage), None)
    done = [Finished(request_id=name) for name in ("cmpl-1-0", "cmpl-2", "plain", "x" * 300)]
    source.record(Scheduler(), outputs(finished=done))
    assert finished(collector) == {"0": 2, "5": 1}
    assert collector.iteration_samples()[0].limiter_reported


@given(st.integers(-(10**9), 10**9), st.text(max_size=30), st.integers(0, 2**32 - 1), st.none() | st.integers(0, 99))
def test_a_told_priority_is_found_by_the_id_that_the_client_gave(priority, given_id, digits, answer):
    classes = ClassesByPriority()
    internal = ("" if answer is None else f"{answer}_") + f"{given_id}-{digits:08x}"
    classes.learn({f"batchscope/priority:{priority}:{internal}": 0, "in_progress": 1})
    assert classes.of(given_id) == str(priority)


def test_without_statistics_to_tell_them_in_priorities_are_forgotten():
    engine = Engine([True])
    engine.requests = {"a": SimpleNamespace(priority=5)}
    reporter, step = AdmissionReporter(engine), output(1)
    step.scheduled_new_reqs = [SimpleNamespace(req_id="a")]
    for _ in range(3):
        reporter.scheduled(step)
        reporter.processing(step)
        reporter.tell(None)
    assert (reporter._priorities, reporter.failures) == ([], 0)


def test_what_is_remembered_of_priorities_is_bounded(monkeypatch):
    monkeypatch.setattr("batchscope.engines.vllm.classes._MOST_PRIORITIES", 8)
    classes = ClassesByPriority()
    for number in range(100):
        classes.learn({f"batchscope/priority:7:{number}": 0, "in_progress": 1})
    assert len(classes._told) == 8
    assert (classes.of("99"), classes.of("1")) == ("7", "0")
