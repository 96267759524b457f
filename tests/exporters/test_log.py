"""Structured log records: the figures as a message and as an attribute, from a thread of ours."""

import json
import logging
import threading

import pytest

from batchscope import ConfigurationError, SchedulerMetricsCollector
from batchscope.exporters.log import LogExporter
from spec.fakes import request


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []
        self.thrice = threading.Event()

    def emit(self, record):
        self.records.append(record)
        if len(self.records) == 3:
            self.thrice.set()


@pytest.fixture
def logger():
    logger = logging.getLogger("engine.metrics")
    logger.setLevel(logging.INFO)
    logger.addHandler(Records())
    yield logger
    logger.handlers.clear()


@pytest.fixture
def collector():
    with SchedulerMetricsCollector(labels={"rank": "1"}) as collector:
        collector.record_request_completion(request(processing_time=2.0))
        yield collector


def test_a_record_has_the_figures_as_message_and_as_attribute(collector, logger):
    LogExporter(collector, logger, interval=3600, level=logging.WARNING).close()
    (record,) = logger.handlers[0].records
    assert record.levelno == logging.WARNING
    name, document = record.getMessage().split(" ", 1)
    assert name == "batchscope"
    assert json.loads(document) == record.batchscope
    found = record.batchscope
    assert (found["labels"], found["requests_total"], found["p50_latency"]) == ({"rank": "1"}, 1, 2.0)
    assert found["ttft_p99"] is None


def test_records_come_every_interval_from_a_thread_of_ours(collector, logger):
    with LogExporter(collector, logger, interval=0.005):
        assert logger.handlers[0].thrice.wait(20)
    assert {record.threadName for record in logger.handlers[0].records} == {"batchscope-log-exporter"}


def test_a_level_that_is_off_takes_no_snapshot(collector, logger):
    before = collector.get_snapshot().sequence
    LogExporter(collector, logger, interval=3600, level=logging.DEBUG).close()
    assert collector.get_snapshot().sequence == before + 1
    assert logger.handlers[0].records == []


def test_it_ends_with_its_source_after_a_last_record(collector, logger):
    exporter = LogExporter(collector, logger, interval=0.005)
    collector.close()
    exporter._periodic._thread.join(20)
    written = len(logger.handlers[0].records)
    assert written >= 1
    assert exporter.close()
    assert len(logger.handlers[0].records) == written


def test_a_handler_that_raises_is_counted_and_does_not_end_it(collector, logger):
    class Failing(logging.Handler):
        calls = 0
        twice = threading.Event()

        def emit(self, record):
            Failing.calls += 1
            if Failing.calls == 2:
                Failing.twice.set()
            raise OSError("disk full")

    logger.addHandler(Failing())
    with LogExporter(collector, logger, interval=0.005) as exporter:
        assert Failing.twice.wait(20)
    assert exporter.failures == Failing.calls >= 2


@pytest.mark.parametrize("bad", [{"level": "INFO"}, {"level": None}, {"logger": "batchscope"}])
def test_a_wrong_argument_is_refused_at_once_not_at_each_record(collector, bad):
    [field] = bad
    with pytest.raises(ConfigurationError, match=field):
        LogExporter(collector, **bad)
