import errno
import logging
import os
import subprocess
import sys
import threading

import pytest
from fleet_doubles import Clock, Engine, reader_of
from fleet_doubles import files as names_in

from batchscope.collector import SchedulerMetricsCollector
from batchscope.errors import ConfigurationError
from batchscope.publishing import SnapshotPublisher, files
from batchscope.publishing.files import write_whole


def test_a_publisher_publishes_when_it_is_made(tmp_path):
    """So that a directory that cannot be written is said then, and a process is known from its start."""
    engine = Engine(tmp_path / "deep" / "fleet")
    (name,) = names_in(tmp_path / "deep" / "fleet")
    assert name.startswith(engine.collector.get_snapshot().instance_id)


@pytest.mark.parametrize("below", ["", "below", "below/deeper"])
def test_a_file_in_the_place_of_a_directory_is_said_at_construction(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="directory = "):
        Engine(tmp_path / "file" / below)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write anywhere")
def test_a_directory_that_cannot_be_written_is_said_at_construction(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigurationError, match="choose another one"):
            Engine(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_source_that_is_no_single_collector_is_refused(tmp_path):
    Engine(tmp_path).publish()
    with pytest.raises(ConfigurationError, match="source"):
        SnapshotPublisher(reader_of(tmp_path, Clock()), tmp_path)


def test_a_full_disk_is_counted_logged_once_a_minute_and_tried_again(tmp_path, monkeypatch, caplog):
    engine = Engine(tmp_path).serve(2)
    clock = Clock()
    engine.publisher._log._clock = clock

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("batchscope.publishing.directory_writer.write_whole", full)
    with caplog.at_level(logging.WARNING, "batchscope"):
        for _ in range(3):
            assert not engine.publisher.publish_now()
            clock.now += 25.0
        assert len(caplog.records) == 1
        clock.now += 25.0
        engine.publisher.publish_now()
    assert (engine.publisher.failures, len(caplog.records)) == (4, 2)
    monkeypatch.undo()
    engine.publish()
    assert reader_of(tmp_path, Clock()).get_snapshot().request_stats.total_requests == 2


FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from fleet_doubles import Engine
engine = Engine(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
engine.serve(2)
print(engine.publisher.publish_now(), engine.publisher.failures, len(list(Path(sys.argv[1]).iterdir())))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(engine.publisher.publish_now(), engine.publisher.failures, len(list(Path(sys.argv[1]).iterdir())))
"""


def test_a_file_that_cannot_be_completed_leaves_nothing_behind(tmp_path):
    """With the kernel's own limit of a file's size: the one before stays, and the next attempt succeeds."""
    here = os.path.dirname(__file__)
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), here], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.splitlines() == ["False 1 1", "True 1 1"]


def test_a_temporary_file_is_removed_when_its_renaming_fails(tmp_path):
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError, match="name"):
        write_whole(tmp_path, "name", b"data")
    assert names_in(tmp_path) == ["name"]


def test_what_is_read_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    (tmp_path / "file").write_bytes(b"0" * 11)
    with pytest.raises(files.FrameError, match="more than 10 bytes"):
        files.read_whole(tmp_path / "file")


def test_the_last_publication_is_marked_and_comes_once(tmp_path):
    engine = Engine(tmp_path)
    with engine.publisher:
        engine.serve(3)
    reader = reader_of(tmp_path, Clock())
    assert reader.get_snapshot().request_stats.total_requests == 3
    assert (engine.publisher.closed, reader.living()) == (True, [])
    engine.serve(1)
    engine.publisher.close()
    assert not engine.publisher.publish_now()
    assert reader.get_snapshot().request_stats.total_requests == 3


def test_a_thread_publishes_and_ends_with_the_publisher(tmp_path):
    published = threading.Event()

    class Source:
        def __init__(self):
            self.collector = SchedulerMetricsCollector()

        def get_snapshot(self):
            snapshot = self.collector.get_snapshot()
            if snapshot.sequence >= 4:
                published.set()
            return snapshot

    with SnapshotPublisher(Source(), tmp_path, interval=0.001) as publisher:
        assert published.wait(30)
        assert "batchscope-publish" in {thread.name for thread in threading.enumerate()}
    assert "batchscope-publish" not in {thread.name for thread in threading.enumerate()}
    assert publisher.failures == 0


def test_where_nothing_was_recorded_it_publishes_every_four_seconds_and_news_at_once(tmp_path):
    now = [0.0]
    collector = SchedulerMetricsCollector()
    publisher = SnapshotPublisher(collector, tmp_path, interval=None, clock=lambda: now[0])

    def published():
        before = names_in(tmp_path)
        now[0] += 1.0
        publisher._publish_news()
        return names_in(tmp_path) != before

    assert [published() for _ in range(10)] == [True, False, False, False, True, False, False, False, True, False]
    collector.record_error("oops")
    assert [published() for _ in range(4)] == [True, False, False, False]
    publisher.close()


@pytest.mark.parametrize(("interval", "dead_after"), [(0.05, 0.5), (0.05, 2.0), (30.0, 10.0)])
def test_an_idle_process_is_never_taken_for_dead_whatever_dead_after_and_interval_are(tmp_path, interval, dead_after):
    clock = Clock()
    with SnapshotPublisher(SchedulerMetricsCollector(), tmp_path, interval=interval):
        reader = reader_of(tmp_path, clock, dead_after=dead_after)
        for _ in range(8):
            reader.get_snapshot()
            assert len(reader.living()) == 1
            clock.now += max(interval, 4.0) / 4
    reader.get_snapshot()
    assert reader.living() == []


def test_an_error_of_the_source_is_counted_not_raised(tmp_path, monkeypatch):
    engine = Engine(tmp_path)
    monkeypatch.setattr(engine.collector, "get_snapshot", lambda: 1 / 0)
    assert not engine.publisher.publish_now()
    engine.publisher.close()
    assert engine.publisher.failures == 2


AT_EXIT = """
import sys
sys.path.insert(0, sys.argv[2])
from batchscope import SchedulerMetricsCollector
from batchscope.publishing import SnapshotPublisher
collector = SchedulerMetricsCollector()
publisher = SnapshotPublisher(collector, sys.argv[1], interval=3600.0)
collector.record_error("late")
"""


def test_a_process_that_ends_without_closing_still_says_goodbye(tmp_path):
    subprocess.run([sys.executable, "-c", AT_EXIT, str(tmp_path), ""], check=True, timeout=60)
    reader = reader_of(tmp_path, Clock())
    assert (reader.get_snapshot().error_stats.total_errors, reader.living()) == (1, [])


def test_after_a_fork_the_childs_publisher_is_off_and_the_parents_files_stay(tmp_path):
    """The child has another instance: it makes a publisher of its own, or none."""
    engine = Engine(tmp_path).serve(2).publish()
    before = names_in(tmp_path)
    child = os.fork()
    if child == 0:
        quiet = engine.publisher.closed and not engine.publisher.publish_now()
        engine.publisher.close()
        untouched = names_in(tmp_path) == before
        own = SnapshotPublisher(engine.collector, tmp_path, interval=None)
        engine.serve(5)
        own.close()
        os._exit(0 if quiet and untouched else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    engine.serve(1).publish()
    assert reader_of(tmp_path, Clock()).get_snapshot().request_stats.total_requests == 8
