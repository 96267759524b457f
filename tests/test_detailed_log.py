"""Detailed logging: a line of JSON each interval, from a timer's thread, until ``close()``."""

import json
import logging
import threading

import pytest

from batchscope import MetricsConfiguration, SchedulerMetricsCollector
from spec.fakes import iteration, make, request

INTERVAL = 0.005


class Lines(logging.Handler):
    """Keeps log records; says when some number of them has come."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.arrived = threading.Condition()

    def emit(self, record):
        with self.arrived:
            self.records.append(record)
            self.arrived.notify_all()

    def wait_for(self, number):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.records) >= number, timeout=20)
        return self.records


@pytest.fixture
def lines():
    handler, logger = Lines(), logging.getLogger("batchscope")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def logging_collector(interval=INTERVAL):
    return make(MetricsConfiguration(enable_detailed_logging=True, detailed_log_interval_seconds=interval))[0]


def log_threads():
    return [thread for thread in threading.enumerate() if thread.name == "batchscope-log"]


def figures(record):
    name, document = record.getMessage().split(" ", 1)
    assert name == "batchscope"
    return json.loads(document)


def test_lines_come_every_interval_from_the_timers_thread_and_never_from_the_recording_one(lines):
    with logging_collector() as collector:
        collector.record_request_completion(request())
        timed = list(lines.wait_for(3))
    assert {record.threadName for record in timed} == {"batchscope-log"}
    assert {record.levelno for record in timed} == {logging.INFO}


def test_a_line_is_one_line_of_json_with_the_figures_of_the_moment(lines):
    collector = logging_collector(3600)
    collector.record_request_completion(request(processing_time=2.0))
    collector.record_iteration(iteration(waiting_requests=0))
    collector.record_error("oom")
    collector.record_request_completion(request(tokens=-1))
    assert lines.records == []
    collector.close()
    (record,) = [record for record in lines.records if record.levelname == "INFO"]  # beside what was rejected
    assert "\n" not in record.getMessage()
    found = figures(record)
    assert record.batchscope == found
    assert (found["requests_total"], found["requests_completed"], found["errors_total"]) == (1, 1, 1)
    assert (found["p50_latency"], found["ttft_p99"]) == (2.0, None)
    assert found["limited_by"] == {"demand": 1.0}
    assert found["rejected_records"] == {"negative": 1}


def test_close_ends_the_thread_after_a_last_line_and_no_line_follows(lines):
    collector = logging_collector()
    lines.wait_for(1)
    collector.close()
    assert log_threads() == []
    number = len(lines.records)
    collector.record_request_completion(request())
    collector.close()
    assert len(lines.records) == number


def test_without_detailed_logging_there_is_no_thread_and_no_line(lines):
    with SchedulerMetricsCollector() as collector:
        collector.record_request_completion(request())
        assert log_threads() == []
    assert lines.records == []


def test_a_handler_that_raises_does_not_end_the_log(lines):
    class Failing(logging.Handler):
        calls = 0
        twice = threading.Event()

        def emit(self, record):
            Failing.calls += 1
            if Failing.calls > 2:
                Failing.twice.set()
            raise OSError("disk full")

    failing = Failing()
    logging.getLogger("batchscope").addHandler(failing)
    try:
        with logging_collector() as collector:
            assert Failing.twice.wait(20)
            assert len(log_threads()) == 1
            collector.record_request_completion(request())
            assert collector.get_request_statistics().total_requests == 1
            logging.getLogger("batchscope").removeHandler(failing)
    finally:
        logging.getLogger("batchscope").removeHandler(failing)
