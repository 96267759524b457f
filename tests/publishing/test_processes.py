"""Real processes over one directory: killed, stopped, restarted."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fleet_doubles import Clock, files, reader_of

HERE = Path(__file__).parent


@pytest.fixture
def start(tmp_path):
    with contextlib.ExitStack() as stack:

        def started(requests, mode="wait"):
            process = subprocess.Popen(
                [sys.executable, str(HERE / "fleet_worker.py"), str(tmp_path / "fleet"), str(requests), mode],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(end, process)
            return process

        yield started


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
    process.stdin.close()
    process.stdout.close()
    process.wait(30)


def ready(process):
    assert process.stdout.readline() == "ready\n"
    return process


def served(reader):
    return reader.get_snapshot().request_stats.total_requests


def test_killed_stopped_and_ended_processes_count_once(start, tmp_path):
    """kill -9 keeps the counts; SIGSTOP for longer than dead_after, and then on, counts what came since."""
    clock = Clock()
    processes = [start(1), start(2), start(4), start(8, "quit")]
    killed, stopped, alive = map(ready, processes[:3])
    processes[3].wait(60)
    reader, other = reader_of(tmp_path / "fleet", clock), reader_of(tmp_path / "fleet", clock)
    assert (served(reader), len(reader.living())) == (15, 3)
    killed.kill()
    killed.wait(30)
    stopped.send_signal(signal.SIGSTOP)
    clock.now += 10.0
    alive.stdin.write("\n")
    alive.stdin.flush()
    ready(alive)
    assert (served(reader), len(reader.living())) == (16, 1)
    assert served(other) == 16
    assert len(files(tmp_path / "fleet")) == 2  # the archive, and the one that lives
    stopped.send_signal(signal.SIGCONT)
    stopped.stdin.write("\n\n")
    stopped.stdin.flush()
    ready(ready(stopped))
    assert (served(reader), len(reader.living())) == (18, 2)
    assert served(other) == served(reader_of(tmp_path / "fleet", clock)) == 18


def test_twenty_short_lives_leave_twenty_lives_counts_and_one_file(start, tmp_path):
    """Half of them are killed; the reader looks in between, as a scraper does."""
    clock, folder = Clock(), tmp_path / "fleet"
    reader = reader_of(folder, clock)
    sizes = []
    for _ in range(5):
        batch = [start(1, "quit" if number % 2 else "wait") for number in range(4)]
        for number, process in enumerate(batch):
            if number % 2:
                assert process.wait(60) == 0
            else:
                ready(process).kill()
                process.wait(30)
        served(reader)
        clock.now += 10.0
        served(reader)
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    assert served(reader) == served(reader_of(folder, clock)) == 20
    assert len(files(folder)) == 1
    assert sizes[-1] - sizes[1] < 6 * 60  # the names of those that were killed: 1,000 at most


def test_a_process_killed_at_any_moment_leaves_a_whole_directory(start, tmp_path):
    """Killed while it publishes as fast as it can: no publication is lost, none is half there."""
    clock, folder = Clock(), tmp_path / "fleet"
    reader = None
    for number in range(4):
        process = ready(start(1))
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n" * 500)
            process.stdin.flush()
        for _ in range(20 + 30 * number):
            ready(process)
        process.kill()
        seen = 1 + 20 + 30 * number + process.stdout.read().count("ready\n")
        process.wait(30)
        reader = reader or reader_of(folder, clock)
        before = getattr(reader, "total", 0)
        reader.total = served(reader)
        assert seen <= reader.total - before <= seen + 1
        assert reader.skipped == {}
        clock.now += 10.0
        assert served(reader) == reader.total
    clock.now += 10.0
    served(reader)
    assert len(files(folder)) == 1
    assert os.listdir(folder)[0].startswith("archive")
