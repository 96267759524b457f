"""``batchscope report RUN``: the live snapshot's figures of a recorded run, and one clear line for what cannot be."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import subprocess
import sys
from typing import NamedTuple

import msgspec
import pytest

from batchscope import (
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
    decode_snapshot,
)
from batchscope.cli import run
from batchscope.simulator import RequestSpec, SchedulerOptions, Simulator, VirtualClock

OPTIONS = SchedulerOptions(max_running_requests=16, max_scheduled_tokens=256, kv_cache_blocks=500)
LIMITS = SchedulerLimits(16, 256, 500, OPTIONS.block_size)


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def report(capfd):
    """The command in this process: what it loads takes longer than what it does."""

    def call(*arguments):
        code = run(["report", *map(str, arguments)])
        return Said(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A root with one run of 400 requests, and the live snapshot of the same."""
    root, clock = tmp_path_factory.mktemp("runs"), VirtualClock()
    configuration = MetricsConfiguration(counter_window_seconds=86_400, slo=SloTargets(2.0, 0.05))
    collector = SchedulerMetricsCollector(
        configuration, limits=LIMITS, labels={"model": "<b>m</b>"}, clock=clock.__call__
    )
    collector.record_to(root)
    specs = [RequestSpec(f"</script>{i}", i / 8, 60 + i % 200, 8 + i % 30) for i in range(400)]
    Simulator(specs, RequestTracker(collector), options=OPTIONS, clock=clock, seed=0).run()
    live = collector.get_snapshot()
    collector.close()
    return root, live


def test_its_json_is_the_live_snapshot_of_the_run(report, recorded):
    root, live = recorded
    result = report(root, "--json")
    assert result.code == 0
    found = decode_snapshot(result.out)
    for part in ("totals", "slo_stats", "iteration_stats", "batch_stats", "error_stats"):
        assert _near(msgspec.to_builtins(getattr(live, part)), msgspec.to_builtins(getattr(found, part))), part
    for name in ("time_to_first_token", "time_per_output_token", "total_time", "queue_time", "prefill_time"):
        assert _near(*(msgspec.to_builtins(getattr(s.request_stats, name)) for s in (live, found))), name
    assert found.request_stats.requests_per_second == pytest.approx(live.request_stats.requests_per_second)


def _near(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_near(value, other[key]) for key, value in one.items())
    if isinstance(one, float) and not math.isnan(one):
        return one == pytest.approx(other, rel=1e-9, abs=1e-12)
    return one == other or (isinstance(one, float) and math.isnan(other))


def test_its_text_says_what_the_live_report_says_and_where_the_run_is_steady(report, recorded):
    root, live = recorded
    result = report(root)
    assert result.code == 0
    assert f"{live.totals.iterations:,} iterations" in result.out
    assert "400 completed" in result.out
    assert "Batch over time" in result.out
    assert "Steady state" in result.out


def test_a_stretch_is_chosen_by_seconds_or_by_the_clock_on_the_wall(report, recorded):
    root, live = recorded
    by_seconds = decode_snapshot(report(root, "--from", "10", "--to", "30", "--json").out)
    assert by_seconds.elapsed_seconds == pytest.approx(20)
    assert 0 < by_seconds.request_stats.total_requests < 400
    first = by_seconds.started_at - dt.timedelta(seconds=10)
    texts = [(first + dt.timedelta(seconds=s)).isoformat() for s in (10, 30)]
    by_clock = decode_snapshot(report(root, "--from", texts[0], "--to", texts[1], "--json").out)
    assert by_clock.request_stats.total_requests == by_seconds.request_stats.total_requests
    assert by_clock.elapsed_seconds == pytest.approx(20)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--from", "soon"], "--from soon: expected seconds from the start"),
        (["--from", "-1"], "--from -1: expected seconds >= 0"),
        (["--from", "nan"], "--from nan: expected seconds >= 0"),
        (["--from", "1e6"], "--from 1e6 is outside of the run, which lasted"),
        (["--to", "2001-01-01"], "--to 2001-01-01 is outside of the run"),
        (["--from", "20", "--to", "10"], "--from 20 is not before --to 10"),
        (["--html", "/"], "--html /: is a directory"),
        (["--html", "nowhere/x.html"], "there is no directory nowhere"),
        (["--at", "2026-11-28"], "--at: expected JSON lines; of a run --from and --to"),
        (["--json", "--html", "x.html"], "--json and --html or --svg: expected one of them"),
        (["--svg", "x.svg", "--html", "x.html"], "--html and --svg: expected one of them"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(report, recorded, arguments, says):
    result = report(recorded[0], *arguments)
    assert result.code == 2
    assert says in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_a_snapshot_has_no_stretch_and_no_page(report, tmp_path, recorded):
    file = tmp_path / "snapshot.json"
    file.write_bytes(recorded[1].to_json())
    for option in (["--from", "1"], ["--to", "1"], ["--html", "x.html"]):
        result = report(file, *option)
        assert result.code == 2
        assert f"{option[0]}: expected a recorded run" in result.err
    assert decode_snapshot(report(file, "--json").out) == decode_snapshot(file.read_bytes())


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "ledger"), ("duckdb", "analysis")])
def test_what_is_not_installed_is_named_with_its_extra(recorded, package, extra):
    code = f"import sys; sys.modules[{package!r}] = None; from batchscope.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", recorded[0]], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"pip install 'batchscope[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_several_runs_are_named_and_one_has_to_be_chosen(report, tmp_path, recorded):
    (only,) = recorded[0].iterdir()
    for name in ("a", "b"):
        shutil.copytree(only, tmp_path / name)
    result = report(tmp_path)
    assert result.code == 2
    assert "2 runs (a, b): name one" in result.err
    assert report(tmp_path / "a", "--json").code == 0


def test_a_part_that_cannot_be_read_is_named_and_left_out(report, tmp_path, recorded):
    (only,) = recorded[0].iterdir()
    shutil.copytree(only, tmp_path / "run")
    spans = tmp_path / "run" / "spans-000001.parquet"
    spans.write_bytes(spans.read_bytes()[:-100])
    result = report(tmp_path / "run", "--json")
    assert result.code == 0
    assert "spans-000001.parquet" in result.err
    found = decode_snapshot(result.out)
    assert found.request_stats.inter_token_latency.count == 0
    assert found.request_stats.total_requests == 400


def test_a_run_that_is_still_being_written_is_said_to_be_so_in_text_and_on_the_page(report, tmp_path):
    with SchedulerMetricsCollector() as collector:
        recording = collector.record_to(tmp_path / "runs", interval=60)
        tracker = RequestTracker(collector)
        tracker.iteration([tracker.arrived("r", prompt_tokens=1)])
        recording._hand_over._hand_over()  # what its thread does
        result = report(tmp_path / "runs", "--html", tmp_path / "page.html")
        assert result.code == 0
        assert "is still being written; this is what it holds so far" in result.err
        assert "is still being written; this is what it holds so far" in (tmp_path / "page.html").read_text()


def test_a_run_stopped_before_its_first_write_is_shown_as_empty(report, tmp_path):
    with SchedulerMetricsCollector() as collector:
        document = collector.record_to(tmp_path).path / "run.json"
    told = json.loads(document.read_bytes())
    told |= {"state": "stopped", "stopped_by": "No space left on device", "written_until": None}
    document.write_text(json.dumps(told))
    result = report(tmp_path)
    assert result.code == 3
    assert "No space left on device" in result.err
    assert "nothing was recorded" in result.err
    assert "error" not in result.err


def test_a_file_that_is_damaged_inside_is_one_line_and_exit_code_2(report, tmp_path, recorded):
    (only,) = recorded[0].iterdir()
    shutil.copytree(only, tmp_path / "run")
    file = tmp_path / "run" / "iterations-000001.parquet"
    content = bytearray(file.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    file.write_bytes(content)
    result = report(tmp_path / "run", "--json")
    assert (result.code, result.out) == (2, "")
    assert "iterations-000001.parquet: cannot be read" in result.err
    assert "move it out of the run's folder" in result.err
    assert result.err.count("\n") == 1


def test_the_page_holds_no_name_as_html_and_all_figures_without_a_script(report, tmp_path, recorded):
    file = tmp_path / "report.html"
    result = report(recorded[0], "--html", file)
    assert (result.code, result.out) == (0, "")
    page = file.read_text()
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert len(page) - len(data) < 120_000  # the rest of what a page may have: tests/dashboard/test_run_data.py
    assert "model=&lt;b&gt;m&lt;/b&gt;" in page
    assert "<b>m</b>" not in page
    assert page.count("</script>") == 2  # the data's and the code's
    assert "SLO met, default" in page
    assert "first token - arrived" in page
    assert "The slowest 1 % of TTFT (4 of 400 requests) spent" in page
