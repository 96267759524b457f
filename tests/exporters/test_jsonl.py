"""JSON lines: one snapshot a line, files that rotate, one writer each, and the way back."""

import os
import stat
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import MetricsSnapshot, SchedulerMetricsCollector
from batchscope.errors import ConfigurationError
from batchscope.exporters.jsonl import JsonLinesExporter, read_json_lines
from batchscope.exporters.jsonl import file as file_module
from exporters.jsonl_files import NEVER, complete, finished, lines_file, python, sequences
from spec.fakes import request


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics" / "engine.jsonl"


@pytest.fixture
def collector():
    with SchedulerMetricsCollector(labels={"rank": "0"}) as collector:
        collector.record_request_completion(request(processing_time=2.0))
        yield collector


def test_each_line_is_a_snapshot_and_close_writes_the_last(collector, path):
    with JsonLinesExporter(collector, path, interval=NEVER) as exporter:
        assert exporter.write()
        collector.record_error("oom")
    first, last = read_json_lines(path)
    assert (first.error_stats.total_errors, last.error_stats.total_errors) == (0, 1)
    assert first.request_stats.p50_latency == 2.0
    assert (exporter.written, exporter.dropped) == (2, 0)
    assert not exporter.write()
    assert exporter.close()


def test_lines_come_every_interval_from_a_thread_of_ours(collector, path):
    threads, thrice = [], threading.Event()

    class Source:
        closed = False

        def get_snapshot(self):
            threads.append(threading.current_thread().name)
            if len(threads) == 3:
                thrice.set()
            return collector.get_snapshot()

    with JsonLinesExporter(Source(), path, interval=0.01):
        assert thrice.wait(20)
    assert set(threads) == {"batchscope-jsonl"}
    assert len(sequences(path)) == len(threads)


def test_lines_with_histograms_can_be_merged(collector, path):
    with JsonLinesExporter(collector, path, interval=NEVER, histograms=True):
        pass
    (snapshot,) = read_json_lines(path)
    assert MetricsSnapshot.merge(snapshot).request_stats.p50_latency == pytest.approx(2.0, rel=0.01)


def test_it_ends_with_its_source_after_a_last_line(collector, path):
    exporter = JsonLinesExporter(collector, path, interval=NEVER)
    collector.close()
    assert exporter.write()
    exporter.close()
    assert len(sequences(path)) == 1


def test_files_rotate_by_size_and_the_oldest_go(collector, path):
    with JsonLinesExporter(collector, path, interval=NEVER, max_bytes=1, keep=3) as exporter:
        for _ in range(6):
            exporter.write()
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "engine.jsonl", "engine.jsonl.1", "engine.jsonl.2", "engine.jsonl.3", "engine.jsonl.lock",
    ]  # fmt: skip
    assert sequences(path) == [4, 5, 6, 7]
    assert sequences(path, rotated=False) == [7]
    assert exporter.dropped == 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 120))
def test_no_file_is_larger_than_the_limit_unless_one_line_is(tmp_path_factory, sizes, max_bytes):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    lines = [b"{" + b"1" * size + b"}" for size in sizes]
    file = lines_file(path, max_bytes, keep=100)
    for line in lines:
        file.append(line)
    file.close()
    parts = [path, *(path.with_name(f"x.jsonl.{number}") for number in range(1, 101))]
    contents = [part.read_bytes() for part in parts if part.exists()]
    assert b"".join(reversed(contents)) == b"".join(line + b"\n" for line in lines)
    for content in contents:
        assert len(content) <= max_bytes or content.count(b"\n") == 1


def test_rotating_leaves_no_file_open(collector, path):
    with JsonLinesExporter(collector, path, interval=NEVER, max_bytes=1) as exporter:
        opened = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            exporter.write()
        assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_a_number_that_is_missing_is_filled_before_anything_is_lost(collector, path):
    with JsonLinesExporter(collector, path, interval=NEVER, max_bytes=1, keep=3) as exporter:
        for _ in range(4):
            exporter.write()
        path.with_name("engine.jsonl.1").unlink()  # as if it had died between two renames
        assert sequences(path) == [1, 2, 4]
        exporter.write()
        assert sequences(path) == [1, 2, 4, 5]


def test_a_reader_skips_and_counts_what_is_no_snapshot(collector, path):
    path.parent.mkdir()
    one, two = complete(collector)
    path.write_bytes(b"\n".join([one[:100], one, b"[1]", b"\xff\xfe", two, two[:50]]))
    lines = read_json_lines(path)
    assert [snapshot.sequence for snapshot in lines] == [1, 2]
    assert lines.skipped == 4
    assert len(list(lines)) == 2
    assert lines.skipped == 4


def test_reading_what_is_not_there_is_an_error(path):
    with pytest.raises(FileNotFoundError, match=r"engine\.jsonl"):
        list(read_json_lines(path))
    with pytest.raises(FileNotFoundError):
        list(read_json_lines(path, rotated=False))


def test_a_reader_sees_nothing_twice_when_the_writer_rotates_between_two_opens(collector, path, monkeypatch):
    from batchscope.exporters.jsonl import reader

    with JsonLinesExporter(collector, path, interval=NEVER, max_bytes=1, keep=5) as exporter:
        for _ in range(3):
            exporter.write()
        numbered, written = reader.numbered_path, []

        def rotating(path, number):
            if number == 1 and not written:
                written.append(exporter.write())
            return numbered(path, number)

        monkeypatch.setattr(reader, "numbered_path", rotating)
        assert sequences(path) == [1, 2, 3]


def test_a_second_writer_is_refused_in_this_process_and_in_another(collector, path):
    code = (
        "import sys; from batchscope import SchedulerMetricsCollector\n"
        "from batchscope.exporters.jsonl import JsonLinesExporter\n"
        "try: JsonLinesExporter(SchedulerMetricsCollector(), sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    with JsonLinesExporter(collector, path, interval=NEVER):
        with pytest.raises(ConfigurationError, match="no other exporter writes"):
            JsonLinesExporter(collector, path)
        assert finished(python(code, path)).strip() == "ConfigurationError"
    assert finished(python(code, path)).strip() == ""
    JsonLinesExporter(collector, path).close()


def test_a_refused_writer_does_not_free_the_others_lock(collector, path):
    with JsonLinesExporter(collector, path, interval=NEVER):
        with pytest.raises(ConfigurationError):
            JsonLinesExporter(collector, path)
        code = (
            "import fcntl, sys\n"
            "try: fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')\n"
            "except OSError: print('held')\n"
        )
        assert finished(python(code, f"{path}.lock")).strip() == "held"


def test_a_forked_child_neither_writes_nor_keeps_the_lock(collector, path):
    go = os.pipe()
    exporter = JsonLinesExporter(collector, path, interval=NEVER)
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        os.close(go[1])
        wrote = exporter.write() or not exporter.close()
        os.read(go[0], 1)  # outlives its parent's exporter
        os._exit(1 if wrote else 0)
    os.close(go[0])
    exporter.close()
    JsonLinesExporter(collector, path).close()
    os.close(go[1])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(sequences(path)) == 2


@pytest.mark.parametrize("action", ["delete", "move"])
def test_a_file_moved_or_deleted_by_others_is_made_anew(collector, path, action):
    with JsonLinesExporter(collector, path, interval=NEVER) as exporter:
        exporter.write()
        if action == "delete":
            path.unlink()
        else:
            path.rename(path.with_name("elsewhere"))
        exporter.write()
        assert sequences(path) == [2]


@pytest.mark.parametrize(("fsync", "files", "directories"), [("always", 6, 2), ("rotate", 3, 2), ("never", 0, 0)])
def test_a_line_or_a_file_is_synced_as_the_policy_says(path, monkeypatch, fsync, files, directories):
    """Three lines are three files: two rotations and a close; ``always`` syncs each line besides."""
    synced = []
    monkeypatch.setattr(file_module.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_mode))
    file = lines_file(path, max_bytes=1, fsync=fsync)
    for _ in range(3):
        file.append(b"{}")
    file.close()
    assert sum(map(stat.S_ISREG, synced)) == files
    assert sum(map(stat.S_ISDIR, synced)) == directories


@pytest.mark.parametrize("content", [b"time,value\n1,2\n", b"[1]\n", b"half a text"])
def test_a_file_of_something_else_is_refused_and_left_alone(collector, path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="a file of JSON lines"):
        JsonLinesExporter(collector, path)
    assert path.read_bytes() == content
    path.unlink()
    JsonLinesExporter(collector, path).close()  # the lock is free again


def test_a_symbolic_link_is_the_file_that_it_leads_to(collector, path):
    path.parent.mkdir()
    link = path.with_name("link")
    link.symlink_to(path)
    with JsonLinesExporter(collector, link, interval=3600, max_bytes=1) as exporter:
        with pytest.raises(ConfigurationError, match="no other exporter writes"):
            JsonLinesExporter(collector, path)
        assert exporter.write()
        assert exporter.write()  # rotates
    assert link.is_symlink()
    assert path.with_name("engine.jsonl.1").exists()
    assert len(list(read_json_lines(link))) == 3


def test_what_is_no_file_is_refused(collector, path):
    path.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"engine\.jsonl.*choose another"):
        JsonLinesExporter(collector, path)
    assert not list(path.parent.glob("*.lock"))
    pipe = path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigurationError, match="path"):
        JsonLinesExporter(collector, pipe)


@pytest.mark.parametrize(
    ("field", "options"),
    [("interval", {"interval": 0}), ("max_bytes", {"max_bytes": 0}), ("keep", {"keep": 0}), ("fsync", {"fsync": "x"})],
)
def test_a_wrong_argument_is_refused_and_leaves_no_file(collector, path, field, options):
    with pytest.raises(ConfigurationError, match=field):
        JsonLinesExporter(collector, path, **options)
    assert not path.exists()
