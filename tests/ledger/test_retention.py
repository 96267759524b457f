"""Old runs are removed by age and by size; never the run being written, nor somebody else's file."""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import os

import pytest

from batchscope import SchedulerMetricsCollector
from batchscope.ledger.document import NAME, SPARE, read_document
from batchscope.ledger.retention import Retention

DAY = dt.timedelta(days=1)
LEFT_BY_A_KILL = (SPARE, ".writing", ".run.json.tmp", ".requests-000002.tmp")


@pytest.fixture
def runs(tmp_path):
    """Three runs that ended 3, 2 and 1 days ago, of 1000 bytes each besides what is known of them."""
    found = []
    for days in (3, 2, 1):
        with SchedulerMetricsCollector() as collector:
            path = collector.record_to(tmp_path).path
        document = read_document(path)
        document.ended_at -= days * DAY
        document.write(path)
        named = path.rename(tmp_path / f"run-{3 - days}")
        (named / "requests-000001.parquet").write_bytes(b"x" * 1000)
        found.append(named)
    return found


def left(root):
    return sorted(path.name for path in root.iterdir())


def now():
    return dt.datetime.now(dt.UTC)


def test_what_ended_too_long_ago_is_gone(runs, tmp_path):
    assert Retention(seconds=1.5 * 86_400).apply(tmp_path, now()) == runs[:2]
    assert left(tmp_path) == ["run-2"]


def test_the_oldest_go_until_the_rest_is_small_enough(runs, tmp_path):
    size = sum(path.stat().st_size for path in runs[2].iterdir())
    assert Retention(size=size + 10).apply(tmp_path, now()) == runs[:2]
    assert Retention(size=0).apply(tmp_path, now()) == runs[2:]
    assert left(tmp_path) == []


def test_the_oldest_are_those_that_ended_first_whatever_they_are_called(runs, tmp_path):
    imported = runs[2].rename(tmp_path / "an import")  # its name comes last, its end was the first but one
    (imported / "prefixes.parquet").write_bytes(b"x")
    document = read_document(imported)
    document.ended_at -= 1.5 * DAY
    document.write(imported)
    size = sum(path.stat().st_size for path in runs[1].iterdir())
    assert Retention(size=size + 10).apply(tmp_path, now()) == [runs[0], imported]
    assert left(tmp_path) == ["run-1"]


def test_what_a_killed_process_left_of_a_run_goes_with_it(runs, tmp_path):
    for name in LEFT_BY_A_KILL:
        (runs[0] / name).write_bytes(b"x")
    assert Retention(seconds=2.5 * 86_400).apply(tmp_path, now()) == runs[:1]
    assert left(tmp_path) == ["run-1", "run-2"]


def test_a_recorder_clears_what_killed_ones_needed_for_writing_and_no_row(runs, tmp_path):
    for name in LEFT_BY_A_KILL:
        (runs[0] / name).write_bytes(b"x")
    with SchedulerMetricsCollector() as first, SchedulerMetricsCollector() as second:
        writing = first.record_to(tmp_path).path
        second.record_to(tmp_path)
        assert (writing / SPARE).exists()  # that one lives
    assert left(runs[0]) == [".writing", "requests-000001.parquet", NAME]


def test_without_bounds_all_are_kept(runs, tmp_path):
    assert Retention().apply(tmp_path, now()) == []
    assert len(left(tmp_path)) == 3


def test_the_run_being_written_is_never_removed(runs, tmp_path):
    with SchedulerMetricsCollector() as collector:
        recording = collector.record_to(tmp_path, keep_seconds=1e-9, keep_bytes=1)
        assert left(tmp_path) == [recording.path.name]  # the others went as it began
        assert Retention(seconds=-1e9, size=0).apply(tmp_path, now() + 1000 * DAY) == []
    assert read_document(recording.path).state == "finished"


def test_a_run_of_which_nobody_knows_whether_it_is_written_stays(runs, tmp_path, monkeypatch):
    (runs[0] / ".writing").touch()

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert Retention(seconds=0.0).apply(tmp_path, now()) == runs[1:]
    assert left(tmp_path) == ["run-0"]


def test_a_file_of_somebody_else_stays(runs, tmp_path):
    (runs[0] / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / NAME).write_text("{}")
    assert Retention(seconds=60.0).apply(tmp_path, now()) == runs
    assert left(tmp_path) == ["other", "run-0"]
    assert left(runs[0]) == ["notes.txt"]
