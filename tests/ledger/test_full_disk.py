"""A disk that takes no more ends the recording, says so and counts; never the engine."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchscope import CompletionReason, RequestTracker, SchedulerMetricsCollector
from batchscope.errors import BusyError, ConfigurationError
from batchscope.ledger import open_run, staging
from batchscope.ledger import parts as parts_module
from batchscope.ledger.document import read_document
from batchscope.ledger.listing import list_runs
from batchscope.ledger.parts import parts
from batchscope.ledger.recording import record
from batchscope.ledger.schema import Table


class Engine:
    """Records to ``root``; ``look`` is the writer's own look for rows, at an instant of the test's."""

    def __init__(self, root: Path, **options: object) -> None:
        self.now = 0.0
        self.collector = SchedulerMetricsCollector(clock=self.clock)
        self.recording = record(
            self.collector, root, instance_id="disk", clock=self.clock, interval=60, pace=self.clock, **options
        )
        self.tracker = RequestTracker(self.collector)
        self.steps = 0

    def clock(self) -> float:
        return self.now

    def work(self, steps: int) -> None:
        """As many iterations, each of a request of its own."""
        for _ in range(steps):
            self.steps += 1
            handle = self.tracker.arrived(f"request {self.steps}", prompt_tokens=7)
            self.now += 0.5
            self.tracker.iteration([handle])
            self.tracker.finished(handle, CompletionReason.EOS_TOKEN_REACHED)

    def close(self) -> None:
        self.collector.close()
        self.recording.close()

    def look(self) -> None:
        self.recording._hand_over._hand_over()


@pytest.fixture
def full_disk(monkeypatch):
    """From the call on, writes fail as on a full disk, the first of them after ``most`` bytes; what is cut is room."""
    real, real_truncate = os.write, os.ftruncate

    def fill(most: int) -> None:
        room = [most]

        def truncate(file, size):
            room[0] += os.fstat(file).st_size - size
            real_truncate(file, size)

        def write(file, content):
            if len(content) > room[0]:
                took = real(file, content[: room[0]]) if room[0] else 0
                room[0] = 0
                if not took:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return took
            room[0] -= len(content)
            return real(file, content)

        monkeypatch.setattr(staging.os, "write", write)
        monkeypatch.setattr(staging.os, "ftruncate", truncate)

    return fill


@pytest.mark.parametrize("most", [0, 1, 500, 3000])
def test_what_was_written_before_the_disk_was_full_is_whole_and_the_rest_is_counted(tmp_path, full_disk, most):
    engine = Engine(tmp_path)
    engine.work(30)
    engine.look()
    full_disk(most)
    engine.work(20)
    engine.look()
    assert "No space left" in engine.recording.failure
    engine.work(10)
    engine.collector.drain()
    snapshot = engine.collector.get_snapshot()
    assert snapshot.totals.requests_received == 60  # the engine goes on, and is counted
    assert snapshot.error_stats.errors_by_type == {"sink_failed": 1}
    engine.close()
    run = open_run(tmp_path)
    assert run.state == "stopped"
    iterations = run.iterations().num_rows
    assert iterations >= 30
    assert run.iterations().column("iteration").to_pylist() == list(range(1, iterations + 1))
    assert not any("were written and are missing" in each for each in run.problems)  # it is said once: not written
    missed = run.document.missed
    assert (iterations + missed["iterations"], run.requests().num_rows + missed["requests"]) == (60, 60)
    assert engine.recording.lost["REQUEST"] == missed["requests"] >= 10
    assert engine.recording.lost["ITERATION"] == missed["iterations"]
    assert any("stopped: nothing more could be written (No space left on device)" in each for each in run.problems)
    assert not [part for part in parts(run.path) if part.staged and staging.read_staged(part.path).torn_bytes]


@pytest.mark.parametrize("most", [60_000, 150_000])
def test_of_a_first_write_that_finds_no_room_the_beginning_is_kept_that_does(tmp_path, full_disk, most):
    engine = Engine(tmp_path)
    full_disk(most)
    for _ in range(1000):
        engine.collector.record_error("odd")
    engine.work(1000)
    engine.look()
    engine.close()
    run = open_run(tmp_path)
    kept = {"requests": run.requests(), "iterations": run.iterations(), "spans": run.spans()}
    size = sum(part.path.stat().st_size for part in parts(run.path))
    assert most / 2 < size <= most
    for name, rows in kept.items():
        numbers = rows.column({"requests": "request", "iterations": "iteration", "spans": "first_iteration"}[name])
        assert numbers.to_pylist() == list(range(1, rows.num_rows + 1))
        assert 0 < rows.num_rows < 1000
        assert rows.num_rows + run.document.missed[name] == 1000
    assert any("the last whole write (at 0.000 s of its clock) is missing" in problem for problem in run.problems)
    errors = sum(event["count"] for event in run.events().to_pylist())
    assert errors + engine.recording.lost["ERROR"] == 1001  # with the one that says that the sink failed
    assert not any("were written and are missing" in each for each in run.problems)


def test_a_part_that_cannot_be_converted_stays_a_stream_and_is_converted_with_the_next(tmp_path, monkeypatch, caplog):
    engine = Engine(tmp_path, part_seconds=5.0)
    engine.work(5)
    engine.look()
    real = Path.replace

    def replace(path, target):
        if Path(target).suffix == ".parquet":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    engine.work(20)
    engine.look()
    assert engine.recording.failure == ""
    assert "a part stays as it was staged: [Errno 28] No space left" in caplog.text
    assert all(part.staged for part in parts(engine.recording.path))
    assert not list(engine.recording.path.glob(".*.tmp"))
    half = open_run(tmp_path)
    assert (half.state, half.problems, half.iterations().num_rows) == ("recording", [], 25)
    monkeypatch.setattr(Path, "replace", real)
    engine.work(3)
    engine.close()
    run = open_run(tmp_path)
    assert (run.state, run.problems, run.iterations().num_rows) == ("finished", [], 28)
    assert not any(part.staged for part in parts(run.path))


def test_a_document_that_cannot_be_replaced_stops_the_run_and_what_was_written_is_read(tmp_path, monkeypatch):
    engine = Engine(tmp_path)
    engine.work(5)
    engine.look()

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fail)
    engine.work(30)
    engine.look()
    assert "No space left" in engine.recording.failure
    engine.close()
    monkeypatch.undo()
    run = open_run(tmp_path)
    assert run.iterations().num_rows == 35
    assert run.state == "interrupted"  # nobody could write that it was stopped
    assert run.problems


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with SchedulerMetricsCollector() as collector:
        for root in (tmp_path / "file", "/proc/batchscope", "/sys/batchscope"):
            with pytest.raises(ConfigurationError, match="expected a directory that can be written"):
                collector.record_to(root)
        for setting in ({"level": "full"}, {"interval": 0}, {"interval": float("nan")}, {"interval": 1e9}):
            with pytest.raises(ConfigurationError, match=next(iter(setting))):
                collector.record_to(tmp_path, **setting)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@contextmanager
def file_system(folder, options):
    """A small one of its own at ``folder``; it could not be unmounted if a file in it were still open."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_file_system_that_really_is_full_ends_the_recording_only(tmp_path):
    with file_system(tmp_path, "size=256k"):
        engine = Engine(tmp_path)
        while not engine.recording.failure and engine.steps < 20_000:
            engine.work(200)
            engine.look()
        assert "No space left" in engine.recording.failure
        engine.work(10)
        assert engine.collector.get_snapshot().totals.requests_received == engine.steps
        engine.close()
        run = open_run(tmp_path)
        assert run.state == "stopped"  # there was room left for saying so
        assert run.requests().num_rows + run.document.missed["requests"] == engine.steps
        assert run.document.missed.keys() <= {"requests", "iterations", "spans", "events"}
        written = run.iterations().column("iteration").to_pylist()
        assert written == list(range(1, len(written) + 1))
        assert len(written) > 100
        assert run.problems


def test_no_run_is_made_inside_a_runs_own_folder(tmp_path):
    engine = Engine(tmp_path)
    before = sorted(engine.recording.path.iterdir())
    with (
        SchedulerMetricsCollector() as collector,
        pytest.raises(ConfigurationError, match="a folder of runs, not the folder of one"),
    ):
        collector.record_to(engine.recording.path)
    assert sorted(engine.recording.path.iterdir()) == before
    engine.close()


def test_a_table_of_which_nothing_was_written_is_empty(tmp_path):
    Engine(tmp_path).close()
    run = open_run(tmp_path)
    assert (run.state, run.problems) == ("finished", [])
    assert [run.requests().num_rows, run.iterations().num_rows, run.spans().num_rows, run.tokens().num_rows] == [0] * 4
    assert run.events().schema.names[0] == "at"
    assert run.unfinished() == []
    assert Table.REQUESTS not in {part.table for part in parts_module.parts(run.path)}


def test_what_a_slow_disk_had_no_room_for_is_a_gap_that_says_how_much(tmp_path):
    engine = Engine(tmp_path, max_bytes=40_000)
    engine.work(20)
    engine.look()
    engine.work(3000)  # before the writer looks again
    engine.collector.drain()
    engine.look()
    engine.work(5)
    engine.close()
    run = open_run(tmp_path)
    missed = run.document.missed
    assert run.iterations().num_rows + missed["iterations"] == 3025
    assert run.requests().num_rows + missed.get("requests", 0) == 3025
    gaps = [event for event in run.events().to_pylist() if event["kind"] == "gap"]
    assert sum(event["count"] for event in gaps if event["name"] == "iterations") == missed["iterations"]
    assert any(f"{missed['iterations']} rows of iterations were not written" in problem for problem in run.problems)
    last = run.iterations().column("iteration").to_pylist()[-5:]
    assert last == list(range(3021, 3026))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_file_system_is_refused_at_once(tmp_path):
    with file_system(tmp_path, "size=64k,ro"):
        with (
            SchedulerMetricsCollector() as collector,
            pytest.raises(ConfigurationError, match=r"can be written .*Read-only file system"),
        ):
            collector.record_to(tmp_path / "runs")
        assert collector.recordings == ()


def test_the_count_of_a_stopped_run_that_goes_on_is_told_while_its_process_lives(tmp_path, full_disk, caplog):
    engine = Engine(tmp_path)
    engine.work(30)
    engine.look()
    full_disk(0)
    for _ in range(4):
        engine.work(25)
        engine.look()
    listed = list_runs(tmp_path).runs[0]
    assert listed.state == "stopped"
    assert re.search(r"No space left on device; \d+ rows were not written", listed.problem)
    assert read_document(engine.recording.path).missed["requests"] >= 75
    engine.close()
    assert open_run(tmp_path).document.missed["requests"] == 100
    assert "rows that are not in it: " in caplog.text
    assert "100 of requests" in caplog.text


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError("no memory")])
def test_whatever_a_write_fails_with_is_counted_and_ends_the_recording_only(tmp_path, monkeypatch, error):
    engine = Engine(tmp_path)
    engine.work(30)
    engine.look()

    def fail(*_):
        raise error

    monkeypatch.setattr(staging.Stream, "append", fail)
    engine.work(20)
    engine.look()
    assert engine.recording.lost["REQUEST"] == 20
    engine.work(10)
    engine.close()
    run = open_run(tmp_path)
    assert (run.state, run.requests().num_rows, run.document.missed["requests"]) == ("stopped", 30, 30)
    assert run.document.stopped_by == f"{type(error).__name__}: {error}"
    assert left_in(run.path) == [
        "iterations-000001.arrows",
        "requests-000001.arrows",
        "run.json",
        "spans-000001.arrows",
    ]


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_part_that_there_is_no_memory_to_convert_stays_a_stream(tmp_path, monkeypatch, caplog):
    engine = Engine(tmp_path, part_seconds=5.0)
    engine.work(5)
    engine.look()

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("batchscope.ledger.writer.convert", fail)
    engine.work(20)
    engine.look()
    assert engine.recording.failure == ""
    engine.close()
    assert "a part stays as it was staged" in caplog.text
    run = open_run(tmp_path)
    assert (run.state, run.problems, run.requests().num_rows) == ("finished", [], 25)


def test_where_nothing_more_can_be_handed_over_the_run_says_so_while_its_process_lives(tmp_path, monkeypatch):
    engine = Engine(tmp_path)
    engine.work(5)

    def fail(*_):
        raise ValueError("odd")

    monkeypatch.setattr("batchscope.ledger.writer.request_batch", fail)
    for _ in range(2):
        engine.look()
        engine.work(30)
    run = open_run(tmp_path)
    assert (run.state, run.iterations().num_rows, run.requests().num_rows) == ("stopped", 5, 0)
    assert "ValueError: odd" in run.document.stopped_by
    engine.close()
    assert open_run(tmp_path).document.missed["requests"] == 65


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_file_system_without_room_for_a_run_is_refused_at_once_and_nothing_stays(tmp_path):
    with file_system(tmp_path, "size=64k"):
        with (
            SchedulerMetricsCollector() as collector,
            pytest.raises(ConfigurationError, match=r"can be written .*No space left"),
        ):
            collector.record_to(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_begin_leaves_no_folder_and_no_thread(tmp_path):
    raised = []

    def record_in_a_drain(_):
        with pytest.raises(BusyError) as error:
            collector.record_to(tmp_path)
        raised.append(error)

    with SchedulerMetricsCollector() as collector:
        before = threading.active_count()
        collector.subscribe(record_in_a_drain)
        collector.record_error("odd")
        collector.drain()
        assert len(raised) == 1
        assert (left_in(tmp_path), threading.active_count(), collector.recordings) == ([], before, ())


LIMITED = """
import resource, signal, sys
from batchscope import CompletionReason, RequestTracker, SchedulerMetricsCollector
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
collector = SchedulerMetricsCollector()
recording = collector.record_to(sys.argv[1], interval=0.01)
tracker = RequestTracker(collector)
def work(count):
    for number in range(count):
        request = tracker.arrived(f"r{number}", prompt_tokens=7)
        tracker.iteration([request])
        tracker.finished(request, CompletionReason.EOS_TOKEN_REACHED)
work(200)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
while not recording.failure:
    work(20)
work(500)
collector.close()
totals = collector.get_snapshot().totals
print(sum(totals.requests_by_reason.values()), totals.iterations, recording.lost["REQUEST"], recording.lost["ITERATION"])
"""


def test_a_real_limit_of_a_files_size_loses_no_count(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    run, (finished, iterations, *lost) = open_run(tmp_path), map(int, done.stdout.split())
    assert run.state == "stopped"
    assert "File too large" in run.document.stopped_by
    kept = run.requests().num_rows
    assert kept < finished
    assert kept + run.document.missed["requests"] == finished
    assert run.iterations().num_rows + run.document.missed["iterations"] == iterations
    assert lost == [run.document.missed["requests"], run.document.missed["iterations"]]
