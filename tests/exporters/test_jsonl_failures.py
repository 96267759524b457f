"""JSON lines are whole whatever happens: a kill, a power failure, a full disk, a disk that hangs."""

import json
import logging
import os
import resource
import signal
import threading

import pytest

from batchscope import SchedulerMetricsCollector
from batchscope.exporters.jsonl import JsonLinesExporter, read_json_lines
from batchscope.exporters.jsonl import file as file_module
from exporters.jsonl_files import NEVER, complete, lines_file, python, sequences
from spec.fakes import request


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics" / "engine.jsonl"


@pytest.fixture
def collector():
    with SchedulerMetricsCollector(labels={"rank": "0"}) as collector:
        collector.record_request_completion(request(processing_time=2.0))
        yield collector


@pytest.mark.parametrize("junk", [b"", b"\0" * 5000])
def test_wherever_the_last_line_was_torn_the_file_is_whole_again_when_opened(collector, path, junk):
    lines = complete(collector, 3)
    whole = b"\n".join(lines[:2]) + b"\n"
    path.parent.mkdir()
    for end in [*range(1, 60), *range(60, len(lines[2]), 997), len(lines[2]) - 1]:
        path.write_bytes(whole + lines[2][:end] + junk)
        file = lines_file(path)
        assert path.read_bytes() == whole
        assert file.recovered_bytes == end + len(junk)
        file.append(lines[2])
        file.close()
        assert sequences(path) == [1, 2, 3]


def test_a_last_line_that_only_lacks_its_newline_is_kept(collector, path):
    path.parent.mkdir()
    path.write_bytes(b"\n".join(complete(collector)))
    file = lines_file(path)
    assert file.recovered_bytes == 0
    file.append(collector.get_snapshot().to_json())
    file.close()
    assert sequences(path) == [1, 2, 3]


@pytest.mark.parametrize("left", [b"{", b"\0" * 100, b'{"schema":' + b"1" * 200_000])
def test_a_file_of_nothing_but_a_torn_line_becomes_empty(path, left):
    path.parent.mkdir()
    path.write_bytes(left)
    file = lines_file(path)
    assert (path.read_bytes(), file.recovered_bytes) == (b"", len(left))
    file.close()


def test_what_was_cut_off_is_counted_and_logged(collector, path, caplog):
    path.parent.mkdir()
    path.write_bytes(b"\n".join([*complete(collector), b'{"sch']))
    with caplog.at_level(logging.WARNING, "batchscope"), JsonLinesExporter(collector, path, interval=NEVER) as exporter:
        assert exporter.recovered_bytes == 5
    assert [record.getMessage() for record in caplog.records] == [
        f"batchscope: 5 bytes of a torn last line were cut off {path}"
    ]


KILLED = """
import sys
from batchscope import SchedulerMetricsCollector
from batchscope.exporters.jsonl import JsonLinesExporter
exporter = JsonLinesExporter(SchedulerMetricsCollector(), sys.argv[1], interval=3600, max_bytes=200_000, keep=1000)
while exporter.write():
    print(exporter.written, flush=True)
"""


def test_a_process_killed_while_it_writes_loses_no_line_it_had_written(collector, path):
    for _ in range(3):
        before = len(sequences(path)) if path.exists() else 0
        with python(KILLED, path) as process:
            for said in process.stdout:
                written = int(said)
                if written == 40:
                    process.send_signal(signal.SIGKILL)
        file = lines_file(path)
        file.close()
        lines = read_json_lines(path)
        assert before + written <= len(list(lines)) <= before + written + 1
        assert lines.skipped == 0


FULL = """
import json, logging, resource, sys
from batchscope import SchedulerMetricsCollector
from batchscope.exporters.jsonl import JsonLinesExporter
logging.basicConfig(stream=sys.stderr)
path, limit = sys.argv[1], int(sys.argv[2])
exporter = JsonLinesExporter(SchedulerMetricsCollector(), path, interval=3600)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
results = [exporter.write() for _ in range(12)]
ends = open(path, "rb").read()[-1:] == b"\\n"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
results.append(exporter.write())
exporter.close()
print(json.dumps([results, ends, exporter.written, exporter.dropped]))
"""


def test_a_full_disk_is_counted_and_logged_once_and_leaves_no_half_a_line(collector, path):
    """The limit of a file's size stands in for the disk: the system writes a part of the line, then fails."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    limit = 5 * len(collector.get_snapshot().to_json()) // 2
    process = python(FULL, path, limit)
    output, errors = process.communicate(timeout=60)
    results, ends_whole, written, dropped = json.loads(output)
    assert results == [True] * 2 + [False] * 10 + [True]
    assert ends_whole
    assert (written, dropped) == (4, 10)  # close() wrote the last
    lines = read_json_lines(path)
    assert len(list(lines)) == written
    assert lines.skipped == 0
    assert errors.count("cannot write to") == 1


def test_what_could_not_be_cut_off_at_once_is_cut_off_before_the_next_line(collector, path, monkeypatch):
    file = lines_file(path)
    file.append(b'{"a":1}')
    real = (os.write, os.ftruncate)

    def write_a_part(descriptor, data):
        if len(data) > 3:
            return real[0](descriptor, bytes(data[:3]))
        raise OSError(28, "No space left on device")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(file_module.os, "write", write_a_part)
    monkeypatch.setattr(file_module.os, "ftruncate", fail)
    with pytest.raises(OSError, match="No space left"):
        file.append(b'{"bc":2}')
    assert path.read_bytes() != b'{"a":1}\n'
    monkeypatch.setattr(file_module.os, "write", real[0])
    with pytest.raises(OSError, match="Input/output"):
        file.append(b'{"d":3}')
    monkeypatch.setattr(file_module.os, "ftruncate", real[1])
    file.append(b'{"d":3}')
    assert path.read_bytes() == b'{"a":1}\n{"d":3}\n'
    file.close()


def test_where_rotating_fails_lines_go_on_in_the_same_file_and_it_is_said_once(collector, path, caplog):
    path.parent.mkdir()
    path.with_name("engine.jsonl.1").mkdir()
    path.with_name("engine.jsonl.1").joinpath("full").touch()
    with JsonLinesExporter(collector, path, interval=NEVER, max_bytes=1, keep=1) as exporter:
        for _ in range(3):
            assert exporter.write()
    assert sequences(path, rotated=False) == [1, 2, 3, 4]
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [f"batchscope: cannot rotate {path}"]


def test_close_does_not_wait_for_a_disk_that_hangs_and_closes_the_file_when_asked_again(collector, path, monkeypatch):
    exporter = JsonLinesExporter(collector, path, interval=NEVER)
    hangs, real = threading.Event(), os.write

    def hang(descriptor, data):
        assert hangs.wait(20)
        return real(descriptor, data)

    monkeypatch.setattr(file_module.os, "write", hang)
    assert not exporter.close(timeout=0.01)
    hangs.set()
    assert exporter.close(timeout=20)
    assert sequences(path) == [1]
    JsonLinesExporter(collector, path).close()  # the lock is free


def test_a_disk_that_fails_at_the_end_is_said_and_the_file_is_closed(collector, path, monkeypatch, caplog):
    exporter = JsonLinesExporter(collector, path, interval=NEVER)

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(file_module.os, "fsync", fail)
    assert exporter.close()
    assert "is closed, but not known to be on disk: [Errno 5] Input/output error" in caplog.text
    monkeypatch.undo()
    JsonLinesExporter(collector, path).close()


def test_a_snapshot_that_cannot_be_written_is_counted_and_logged_once(collector, path, monkeypatch, caplog):
    with JsonLinesExporter(collector, path, interval=NEVER) as exporter:
        path.unlink()
        path.mkdir()  # in the file's place
        assert [exporter.write(), exporter.write()] == [False, False]
        path.rmdir()
        assert exporter.write()
    assert (exporter.written, exporter.dropped) == (2, 2)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"batchscope: cannot write to {path} (1 snapshots dropped so far): ")
