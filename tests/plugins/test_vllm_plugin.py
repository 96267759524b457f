"""The vLLM plug-in as vLLM uses it, with a stand-in for vLLM's classes; engine_tests/ does it with vLLM."""

import logging
import threading
from types import SimpleNamespace

import pytest
from fake_vllm import AggregateStatLoggerBase, Manager, import_plugin, scheduler, vllm_config

from batchscope import SchedulerLimits, SchedulerMetricsCollector


@pytest.fixture
def collectors():
    """Collectors whose draining ends with the test."""
    made = []
    yield made
    for collector in made:
        collector.close()


@pytest.fixture
def plugin(monkeypatch):
    for name in ("VLLM", "HOST", "PORT", "TOKEN_FILE", "SNAPSHOT_DIR", "SLO", "RECORD"):
        monkeypatch.delenv(f"BATCHSCOPE_{name}", raising=False)
    return import_plugin(monkeypatch)


@pytest.fixture
def started(plugin, monkeypatch):
    """Starts the plug-in with these variables, and ends its threads afterwards."""
    managers = []

    def start(**variables):
        monkeypatch.setenv("BATCHSCOPE_VLLM", "1")
        for name, value in variables.items():
            monkeypatch.setenv(f"BATCHSCOPE_{name}", value)
        managers.append(Manager(plugin.BatchscopeStatLogger))
        return managers[-1]

    yield start
    for manager in managers:
        for logger in manager.stat_loggers:
            logger._started.service.close()


def ours():
    return {thread for thread in threading.enumerate() if thread.name.startswith("batchscope")}


def test_the_plug_in_is_what_vllm_asks_of_one(plugin):
    assert issubclass(plugin.BatchscopeStatLogger, AggregateStatLoggerBase)


@pytest.mark.parametrize("value", [None, "", "0", "off", "No", "false"])
def test_switched_off_it_hears_everything_and_does_nothing(plugin, monkeypatch, caplog, value):
    before = ours()
    if value is not None:
        monkeypatch.setenv("BATCHSCOPE_VLLM", value)
    with caplog.at_level(logging.DEBUG):
        manager = Manager(plugin.BatchscopeStatLogger)
        (logger,) = manager.stat_loggers
        manager.record(scheduler(1), None)
        logger.record_sleep_state(1, 1)
        logger.record_admission_rejection("max_num_queued_reqs")
        logger.log()
    assert type(logger._recorder) is plugin._Off
    assert ours() - before == set()
    assert caplog.records == []


def test_switched_on_it_records_with_the_engines_limits_and_name(started):
    manager = started(PORT="off", SLO="time_to_first_token=0.5")
    manager.record(scheduler(4, 2), None)
    collector = manager.stat_loggers[0]._started.collector
    snapshot = collector.get_snapshot()
    assert snapshot.gauges.requests_in_flight == 6
    assert (snapshot.limits, snapshot.labels, snapshot.engine.kind) == (
        SchedulerLimits(8, 256, 24), {"model_name": "tiny"}, "vllm",
    )  # fmt: skip
    assert collector.configuration.slo.time_to_first_token == 0.5


def test_a_wrong_setting_is_told_in_one_line_and_the_rest_goes_on(started, caplog):
    manager = started(PORT="off", SLO="time_to_first_tokens=0.5")
    manager.record(scheduler(1), None)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "BATCHSCOPE_SLO" in line
    assert "time_to_first_token" in line
    assert manager.stat_loggers[0]._started.collector.get_snapshot().totals.iterations == 1


def test_sleep_and_refused_requests_are_heard(started):
    manager = started(PORT="off")
    (logger,) = manager.stat_loggers
    logger.record_sleep_state(1, 1)
    manager.record(scheduler(1), None)
    logger.record_sleep_state(0, 0)
    manager.record(scheduler(1), None)
    logger.record_admission_rejection("max_num_queued_reqs")
    collector = logger._started.collector
    assert [iteration.limited_by for iteration in collector.iteration_samples()] == ["paused", "demand"]
    assert collector.get_snapshot().totals.requests_by_reason["rejected"] == 1


def test_if_it_cannot_begin_the_engine_does_not_hear_of_it(plugin, monkeypatch, caplog):
    def fails():
        raise RuntimeError("no")

    logger = plugin.BatchscopeStatLogger(vllm_config(), [0])
    monkeypatch.setattr(logger, "_begin", fails)
    logger.log_engine_initialized()
    logger.record(scheduler(1), None)
    assert "RuntimeError('no')" in caplog.text


def test_a_logger_for_ones_own_collector_records_into_it(plugin, collectors):
    collector = SchedulerMetricsCollector()
    collectors.append(collector)
    manager = Manager(plugin.stat_logger(collector))
    manager.record(scheduler(1), None)
    assert collector.get_snapshot().totals.iterations == 1


def test_without_a_collector_of_ones_own_the_logger_makes_one_with_the_engines_limits(plugin, collectors):
    factory = plugin.stat_logger()
    assert factory.collector is None
    Manager(factory, engine_indexes=(0, 1))
    collectors.append(factory.collector)
    assert factory.collector.limits == SchedulerLimits(8, 256, 12)


@pytest.mark.parametrize("limits", [None, SchedulerLimits(max_running_requests=4)])
def test_a_collector_without_limits_gets_the_engines_and_one_that_has_them_keeps_them(plugin, collectors, limits):
    collector = SchedulerMetricsCollector(limits=limits)
    collectors.append(collector)
    Manager(plugin.stat_logger(collector)).record(scheduler(4), None)
    assert collector.limits == (limits or SchedulerLimits(8, 256, 24))
    assert collector.get_snapshot().batch_stats.average_utilization == (1.0 if limits else 0.5)


def test_two_loggers_do_not_share_a_collector(plugin, collectors):
    one, other = plugin.stat_logger(), plugin.stat_logger()
    Manager(one, other)
    collectors += [one.collector, other.collector]
    assert one.collector is not other.collector


def test_an_engine_that_exists_already_can_be_attached_to(plugin, collectors):
    manager = Manager()
    llm = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=vllm_config(), logger_manager=manager))
    collector = plugin.attach(llm)
    collectors.append(collector)
    manager.record(scheduler(1), None)
    assert collector.get_snapshot().totals.iterations == 1


def test_an_engine_without_statistics_says_how_to_make_one_with_them(plugin):
    llm = SimpleNamespace(llm_engine=SimpleNamespace(logger_manager=None))
    with pytest.raises(ValueError, match="disable_log_stats=False"):
        plugin.attach(llm)


def test_asked_to_it_records_a_run_with_the_engines_resolved_settings(started, tmp_path):
    from batchscope.ledger import open_run

    manager = started(PORT="off", RECORD=str(tmp_path))
    manager.record(scheduler(4, 2), None)
    manager.stat_loggers[0]._started.service.close()
    run = open_run(tmp_path)
    assert (run.state, run.header.engine.kind, run.header.limits) == ("finished", "vllm", SchedulerLimits(8, 256, 24))
    assert run.header.labels == {"model_name": "tiny"}
    assert run.document.configuration["cache_config"] == {"num_gpu_blocks": 24}
    assert len(run.headers) == 1
