"""A clock that goes back or gives no number: what was recorded stays, durations are never negative, and it is said."""

from __future__ import annotations

import math
import os

import pytest

from batchscope import CompletionReason, RequestTracker, SchedulerMetricsCollector
from batchscope import clock as clocks
from batchscope.cli import run as run_command
from batchscope.ledger import open_run
from batchscope.ledger.trace import trace


class Engine:
    """Six requests a batch, one iteration in 0.1 s; ``now`` is its clock."""

    def __init__(self, root):
        self.now = 1000.0
        self.collector = SchedulerMetricsCollector(clock=lambda: self.now)
        self.recording = self.collector.record_to(root, interval=60)
        self.tracker = RequestTracker(self.collector)
        self.running, self.steps = [], 0

    def work(self, steps):
        for _ in range(steps):
            self.steps += 1
            if self.steps % 3 == 1:
                self.running.append((self.tracker.arrived(f"r{self.steps}", prompt_tokens=10), self.steps))
            self.now += 0.1
            self.tracker.iteration([slot for slot, _ in self.running])
            if self.steps - self.running[0][1] == 5:
                self.tracker.finished(self.running.pop(0)[0], CompletionReason.EOS_TOKEN_REACHED)


@pytest.fixture
def gone_back(tmp_path):
    engine = Engine(tmp_path / "runs")
    engine.work(60)
    engine.collector.drain()
    engine.now -= 500
    engine.work(60)
    return engine


def test_a_clock_that_goes_back_is_counted_and_kept_as_an_event_and_no_time_is_negative(gone_back, tmp_path):
    snapshot = gone_back.collector.get_snapshot()
    assert snapshot.totals.errors_by_type == {clocks.WENT_BACK: 1}
    assert (snapshot.elapsed_seconds, snapshot.totals.rank_seconds) == (0.0, 0.0)
    assert "-" not in snapshot.report().partition("Batch over time")[2].split("s,")[0]
    gone_back.collector.close()
    run = open_run(tmp_path / "runs")
    (event,) = [event for event in run.events().to_pylist() if event["kind"] == "error"]
    assert (event["name"], event["count"]) == (clocks.WENT_BACK, 1)
    (problem,) = run.problems
    assert "its clock went back (1 times seen, first to 512.000 s)" in problem


@pytest.mark.parametrize("command", ["report", "explain", "trace"])
def test_every_answer_about_such_a_run_says_that_its_clock_went_back(gone_back, tmp_path, capsys, command):
    gone_back.collector.close()
    options = ["--out", str(tmp_path / "t")] if command == "trace" else []
    assert run_command([command, str(tmp_path / "runs"), *options]) in {0, 3}
    said = capsys.readouterr()
    assert "its clock went back" in " ".join((said.out + said.err).split())


def test_a_trace_says_which_requests_it_leaves_out(gone_back, tmp_path):
    gone_back.collector.close()
    run = open_run(tmp_path / "runs")
    finished = run.requests().num_rows
    drawn = trace(run)
    (told,) = [told for told in drawn.left_out if "are not drawn" in told]
    assert told.startswith(f"{finished - drawn.drawn_requests} of {finished} requests took no time, or none after")
    assert 0 < drawn.drawn_requests < finished


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_clock_that_gives_no_number_leaves_what_was_recorded_before_in_a_run_that_is_whole(tmp_path, broken):
    engine = Engine(tmp_path / "runs")
    engine.work(60)
    engine.now = broken
    engine.work(2)
    assert engine.collector.get_snapshot().totals.rejected_records
    engine.collector.close()
    run = open_run(tmp_path / "runs")
    assert (run.state, run.problems) == ("finished", [])
    assert run.iterations().num_rows == 60
    assert run.requests().num_rows == 19


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_beside_a_clock_that_gives_no_number_says_nothing_and_the_child_counts_from_nothing(tmp_path, capfd):
    engine = Engine(tmp_path / "runs")
    engine.work(10)
    engine.now = math.nan
    child = os.fork()
    if not child:
        os._exit(0 if engine.collector.get_snapshot().totals.requests_received == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    engine.now = 2000.0
    engine.collector.close()
    assert capfd.readouterr().err == ""
