"""Runs whose clock is a simulation's have no dates, only time from their start; a reset in a run takes nothing from it."""

import json
from pathlib import Path

import pytest
from command_line import Run

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, cli
from batchscope.ledger import open_run
from batchscope.simulator import VirtualClock
from batchscope.statistics.snapshot import decode_snapshot
from batchscope.terminal.player import Player, Playing

REQUESTS = 40


@pytest.fixture
def inside(capfd):
    """The command in this process: a process of its own takes a second."""

    def run(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        return Run(code, *capfd.readouterr())

    return run


def record(root: Path, *, simulated: bool, reset: bool = False) -> Path:
    """Requests one after the other; ``reset`` in the middle of one."""
    now = VirtualClock()
    limits = SchedulerLimits(max_running_requests=4, max_scheduled_tokens=64, kv_cache_blocks=100)
    with SchedulerMetricsCollector(limits=limits, clock=now if simulated else now.__call__) as collector:
        collector.record_to(root)
        tracker = RequestTracker(collector)
        for number in range(REQUESTS):
            slot = tracker.arrived(f"r{number}", prompt_tokens=8)
            for step in range(4):
                if reset and number == REQUESTS // 2 and step == 2:
                    collector.reset()
                now.advance_to(now() + 0.25)
                tracker.iteration([slot], scheduled_tokens=[1 if step else 8], started_at=now() - 0.25)
            tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED)
    (folder,) = root.iterdir()
    return folder


def test_a_run_in_simulated_time_says_so_wherever_a_date_would_stand(tmp_path, inside):
    run = record(tmp_path / "simulated", simulated=True)
    assert open_run(run).header.simulated
    assert "40.0 s simulated" in inside("runs", run).output
    assert json.loads(inside("runs", run, "--json").output)["runs"][0]["simulated"] is True
    for arguments in (("--worst", "e2e"), ("--request", "r7")):
        said = inside("explain", run, *arguments).output
        assert "UTC" not in said
        assert "simulated time" in said
    document = json.loads(inside("explain", run, "--request", "r7", "--json").output)
    assert (document["request"]["arrived"], document["request"]["arrived_time"]) == (7.0, None)
    assert "simulated time" in inside("report", run).output
    page = tmp_path / "page.html"
    assert inside("report", run, "--html", page).code == 0
    assert "simulated time, 40" in page.read_text()
    refused = inside("report", run, "--from", "2026-11-28T18:00")
    assert refused.code == 2
    assert "seconds from its start: the run is of simulated time" in refused.errors
    playing = Playing(open_run(run))
    assert playing.scene().player.startswith("simulated, ")
    playing.close()


def test_a_run_in_the_time_of_the_day_has_its_dates(tmp_path, inside):
    run = record(tmp_path / "real", simulated=False)
    assert not open_run(run).header.simulated
    assert "simulated" not in inside("runs", run).output
    assert "UTC" in inside("explain", run, "--request", "r7").output
    assert "simulated" not in inside("report", run).output


def test_a_reset_in_a_run_takes_nothing_from_what_is_played_reported_or_replayed(tmp_path, inside):
    plain, run = (record(tmp_path / name, simulated=False, reset=name == "reset") for name in ("plain", "reset"))
    assert [event["kind"] for event in open_run(run).events().to_pylist()] == ["reset"]
    reported = decode_snapshot(inside("report", run, "--json").output)
    player = Player(open_run(run))
    player.go_to(1e9, lambda *_: None)
    played = player.snapshot()
    player.close()
    for snapshot in (reported, played):
        assert snapshot.totals.iterations == 4 * REQUESTS
        assert snapshot.request_stats.completed_requests == REQUESTS
        assert snapshot.totals.generation_tokens == 4 * REQUESTS
        assert snapshot.totals.busy_seconds == pytest.approx(float(REQUESTS))
    again = [json.loads(inside("replay", one, "--json").output) for one in (plain, run)]
    assert [one["request_stats"]["completed_requests"] for one in again] == [REQUESTS, REQUESTS]
    assert again[0]["totals"]["iterations"] == again[1]["totals"]["iterations"]
    slow = json.loads(inside("explain", run, "--request", f"r{REQUESTS // 2}", "--json").output)["request"]
    assert sum(part["seconds"] for part in slow["parts"]) == pytest.approx(1.0)
    assert {part["part"] for part in slow["parts"]} == {"prefill", "decode"}


def test_requests_that_waited_at_the_end_and_never_ran_are_in_the_report_of_the_run(tmp_path, inside):
    now = VirtualClock()
    with SchedulerMetricsCollector(clock=now) as collector:
        collector.record_to(tmp_path)
        tracker = RequestTracker(collector)
        first, _, _ = (tracker.arrived(name, prompt_tokens=8) for name in "abc")
        now.advance_to(1.0)
        tracker.iteration([first], scheduled_tokens=[8])
        live = collector.get_snapshot()
    reported = decode_snapshot(inside("report", tmp_path, "--json").output)
    for snapshot in (live, reported):
        assert (snapshot.totals.requests_received, snapshot.gauges.requests_in_flight) == (3, 3)
    later = decode_snapshot(inside("report", tmp_path, "--json", "--from", "0.5").output)
    assert (later.totals.requests_received, later.gauges.requests_in_flight) == (
        0,
        3,
    )  # when two of them came is unknown
