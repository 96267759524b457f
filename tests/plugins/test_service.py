"""What a plug-in starts around a collector: served, published, drained; what cannot be started is told."""

import gc
import logging
import socket
import threading
import urllib.request

import pytest

from batchscope import IterationResult, SchedulerMetricsCollector, decode_snapshot
from batchscope.plugins.service import Service, drain_regularly
from batchscope.plugins.settings import Settings

log = logging.getLogger("vllm.batchscope")


@pytest.fixture
def start(caplog):
    started = []
    caplog.set_level(logging.INFO, logger="vllm.batchscope")

    def make(**settings):
        collector = SchedulerMetricsCollector()
        collector.record_iteration(IterationResult(0, 1, 1, 0, 0.25))
        started.append(Service(collector, Settings(**settings), log))
        return started[-1]

    yield make
    for service in started:
        service.close()


def ours():
    return {thread for thread in threading.enumerate() if thread.name.startswith("batchscope")}


def test_it_serves_where_it_is_told_to(start):
    service = start(port=0)
    with urllib.request.urlopen(f"{service.url}/snapshot", timeout=10) as answer:  # noqa: S310  (our own loopback)
        assert decode_snapshot(answer.read()).totals.iterations == 1


def test_a_port_that_is_taken_is_told_in_one_line_and_recording_goes_on(start, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = start(port=taken.getsockname()[1])
    assert service.url is None
    (line,) = [record.getMessage() for record in caplog.records if record.name == log.name]
    assert "BATCHSCOPE_PORT" in line
    assert "recording goes on" in line


def test_a_token_file_that_cannot_be_read_means_that_nothing_is_served(start, tmp_path):
    assert start(port=0, token_file=tmp_path / "missing").url is None


def test_snapshots_are_published(start, tmp_path):
    start(port=None, snapshot_directory=str(tmp_path))
    assert list(tmp_path.glob("*.snapshot"))


def test_a_unix_socket_is_told_to_be_gone(start, caplog):
    start(port=None, snapshot_directory="unix:/run/batchscope.sock")
    assert "Unix sockets are gone" in caplog.text


def test_a_directory_that_cannot_be_written_is_told_and_the_rest_goes_on(start, tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("")
    service = start(port=0, snapshot_directory=str(file))
    assert service.url is not None
    assert "BATCHSCOPE_SNAPSHOT_DIR" in caplog.text


def test_closing_ends_every_thread(start, tmp_path):
    before = ours()
    service = start(port=0, snapshot_directory=str(tmp_path))
    started = ours() - before
    parts = {"batchscope-drain", "batchscope-publish", "batchscope-server", "batchscope-history"}
    assert {thread.name for thread in started} == parts
    service.close()
    service.close()
    for thread in started:
        thread.join(10.0)  # the page's history is told to end, and not waited for
    assert ours() - before == set()


def test_a_collector_that_is_closed_or_gone_is_no_longer_drained():
    for end in (SchedulerMetricsCollector.close, lambda collector: None):
        collector = SchedulerMetricsCollector()
        periodic = drain_regularly(collector)
        end(collector)
        if not collector.closed:
            del collector
            gc.collect()
        periodic._work()
        assert periodic.close()
        assert periodic.failures == 0
