"""Runs are listed from their documents: what they say is what the run says, and no row is read."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from batchscope import CompletionReason, MetricsConfiguration, RequestTracker, SchedulerMetricsCollector, SloTargets
from batchscope.ledger.document import NAME
from batchscope.ledger.listing import ListedRun, Listing, list_runs
from batchscope.ledger.recording import record
from batchscope.records import EngineInfo
from batchscope.views.runs import view


@pytest.fixture
def root(tmp_path):
    """A finished run of 200 requests, of which 20 fail."""
    now = [0.0]
    configuration = MetricsConfiguration(slo=SloTargets(e2e_latency=1.0))
    with SchedulerMetricsCollector(configuration, clock=lambda: now[0]) as collector:
        collector.engine = EngineInfo("an engine", "7")
        collector.record_to(tmp_path / "runs")
        tracker = RequestTracker(collector)
        for number in range(200):
            handle = tracker.arrived(number, prompt_tokens=5)
            for _ in range(3):
                now[0] += 0.003 * (number + 1)
                tracker.iteration([handle])
            tracker.finished(handle, CompletionReason.ERROR if number % 10 == 0 else CompletionReason.EOS_TOKEN_REACHED)
        snapshot = collector.get_snapshot()
    return tmp_path / "runs", snapshot


def test_the_line_of_a_run_agrees_with_the_live_snapshot(root):
    folder, snapshot = root
    (run,) = list_runs(folder).runs
    summary, requests = run.summary, snapshot.request_stats
    assert (run.state, run.engine) == ("finished", EngineInfo("an engine", "7"))
    assert (summary.requests, summary.completed) == (requests.total_requests, requests.completed_requests)
    assert summary.tokens_generated == snapshot.totals.generation_tokens
    slo = snapshot.slo_stats["default"]
    assert (summary.met, summary.missed, summary.attainment) == (slo.met, slo.missed, slo.attainment)
    for name in ("time_to_first_token", "time_per_output_token", "total_time"):
        exact = getattr(requests, name)
        assert exact.source == "samples"
        assert getattr(summary, f"p99_{name}") == pytest.approx(exact.p99, rel=summary.relative_error)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 101, 1000])
def test_a_percentile_of_few_requests_is_the_one_of_their_report(tmp_path, count):
    now = [0.0]
    with SchedulerMetricsCollector(clock=lambda: now[0]) as collector:
        collector.record_to(tmp_path)
        tracker = RequestTracker(collector)
        for number in range(count):
            handle = tracker.arrived(number, prompt_tokens=5)
            now[0] += 1.5 ** (number % 20)
            tracker.iteration([handle])
            tracker.finished(handle, CompletionReason.EOS_TOKEN_REACHED)
        exact = collector.get_snapshot().request_stats.total_time
    (run,) = list_runs(tmp_path).runs
    assert run.summary.p99_total_time == pytest.approx(exact.p99, rel=run.summary.relative_error)


def test_no_file_but_the_document_is_read(root):
    folder, _ = root
    (run,) = folder.iterdir()
    before = list_runs(folder)
    for path in run.glob("*.parquet"):
        path.write_bytes(b"no Parquet at all")
    assert list_runs(folder) == before


def test_a_thousand_runs_are_shown_a_line_each(root):
    folder, _ = root
    (run,) = folder.iterdir()
    for number in range(2, 1001):
        shutil.copytree(run, folder / f"{run.name}-{number}", ignore=shutil.ignore_patterns("*.parquet"))
    lines = view(list_runs(folder)).splitlines()
    assert len(lines) == 1002
    assert all("an engine 7" in line for line in lines[1:-1])


def test_a_document_that_cannot_be_read_is_a_line_that_says_why(root):
    folder, _ = root
    (run,) = folder.iterdir()
    for name, content in (("newer", b'{"schema": "batchscope.ledger/99"}'), ("torn", b'{"schema": "batch')):
        (folder / name).mkdir()
        (folder / name / NAME).write_bytes(content)
    newer, torn = (each for each in list_runs(folder).runs if each.name in {"newer", "torn"})
    assert newer.state == torn.state == "unreadable"
    assert "batchscope.ledger/99" in newer.problem
    assert "newer: " in view(list_runs(folder))


def test_a_folder_that_may_not_be_looked_into_is_a_line_and_hides_no_other(root, monkeypatch):
    folder, _ = root
    closed = folder / "closed"
    closed.mkdir()
    looked = Path.is_file

    def is_file(path):
        if path.parent == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    found = {each.name: each.state for each in list_runs(folder).runs}
    assert found.pop("closed") == "unreadable"
    assert list(found.values()) == ["finished"]


def test_the_json_of_a_list_has_what_the_lines_have(root):
    folder, _ = root
    document = json.loads(list_runs(folder).to_json())
    assert document["schema"] == "batchscope.runs/1"
    assert document["runs"][0]["summary"]["attainment"] == list_runs(folder).runs[0].summary.attainment


def test_a_folder_without_runs_has_none_and_names_the_next_step(tmp_path):
    assert "no runs; batchscope demo --record" in view(list_runs(tmp_path))


def test_a_killed_run_is_listed_with_what_it_had_written(tmp_path):
    """Its document is a second behind its rows, or a thousand times as long as it takes to write it."""
    now = [0.0]
    collector = SchedulerMetricsCollector(clock=lambda: now[0])
    recording = record(
        collector, tmp_path, instance_id="killed", clock=lambda: now[0], interval=60, pace=lambda: now[0]
    )  # fmt: skip
    tracker = RequestTracker(collector)
    for _ in range(5):
        now[0] += 100.0
        handle = tracker.arrived("r", prompt_tokens=1)
        tracker.iteration([handle])
        tracker.finished(handle, CompletionReason.EOS_TOKEN_REACHED)
        recording._hand_over._hand_over()
    shutil.copytree(recording.path, tmp_path / "left")
    left = next(run for run in list_runs(tmp_path).runs if run.name == "left")
    assert (left.state, left.summary.requests, left.summary.iterations) == ("interrupted", 5, 5)
    recording.close()


def test_a_run_that_was_stopped_says_why_and_how_many_rows_it_lacks_and_what_is_counted(root):
    folder, _ = root
    (run,) = folder.iterdir()
    told = json.loads((run / NAME).read_bytes())
    told |= {"state": "stopped", "stopped_by": "No space left on device", "missed": {"requests": 1200, "spans": 3}}
    (run / NAME).write_text(json.dumps(told))
    listing = list_runs(folder)
    assert listing.runs[0].problem == "No space left on device; 1,203 rows were not written"
    assert "stopped: with what came last and could not be written; batchscope report counts the rows" in view(listing)


def test_what_a_killed_run_last_wrote_of_itself_is_a_lower_bound_and_says_so(tmp_path):
    killed = ListedRun(name="killed", state="interrupted", at_least=True, seconds=2.0)
    ended = ListedRun(name="ended", state="finished", seconds=2.0)
    text = view(Listing(root=str(tmp_path), runs=[killed, ended]))
    row = next(line for line in text.splitlines() if line.startswith("killed"))
    assert ">=2 s" in row
    assert ">=0" in row
    assert ">=" not in next(line for line in text.splitlines() if line.startswith("ended"))
    assert "batchscope report counts the rows" in text
