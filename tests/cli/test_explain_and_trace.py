"""``batchscope explain RUN`` and ``batchscope trace RUN``: a recorded run, asked from a shell."""

import gzip
import json
import re
import time

import pytest
from command_line import Run, batchscope, refused
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos

from batchscope import BatchLimiter, CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, cli
from batchscope.ledger import open_run

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil"


def record(folder, ids=("a", "b", "c"), level="default", *, finish=True):
    """Requests that come at once: each waits for the KV cache until the one before it is done."""
    now = [0.0]
    collector = SchedulerMetricsCollector(
        limits=SchedulerLimits(max_running_requests=4, kv_cache_blocks=7), clock=lambda: now[0]
    )
    collector.record_to(folder, level=level)
    tracker = RequestTracker(collector)
    slots = [tracker.arrived(name, prompt_tokens=8, at=0.0) for name in ids]
    for place, slot in enumerate(slots):
        for step in range(4):
            now[0] += 0.25
            tracker.iteration(
                [slot], scheduled_tokens=[1 if step else 8], started_at=now[0] - 0.25, finished_at=now[0],
                limited_by=BatchLimiter.KV_CACHE if place + 1 < len(slots) else BatchLimiter.DEMAND,
            )  # fmt: skip
        if finish:
            tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED, at=now[0])
    collector.close()
    return folder


@pytest.fixture
def inside(capfd):
    """The command in this process: a process of its own takes a second."""

    def run(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        return Run(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs"))


def test_the_slowest_are_explained_in_words_and_figures(recorded):
    run = batchscope("explain", recorded)
    assert run.code == 0, run.errors
    said = " ".join(run.output.split())
    assert "The slowest request of TTFT (1 of 3 requests) spent 88.9 % of it queued, held by the KV cache" in said
    assert "behind it: kv_cache_blocks, now 7" in said
    assert re.search(r"c \(#3\) +2.25 s +queued: KV cache +88.9 %", run.output)


def test_of_a_share_of_less_than_a_request_the_slowest_request_is_told(recorded, inside):
    said = " ".join(inside("explain", recorded, "--share", "1e-9").output.split())
    assert "The slowest request of TTFT (1 of 3 requests) spent 88.9 % of it queued" in said
    assert "The slowest 34 % of TTFT (2 of 3 requests)" in " ".join(
        inside("explain", recorded, "--share", "0.34").output.split()
    )


def test_a_request_is_explained_by_its_id_and_its_parts_add_up(recorded, inside):
    run = inside("explain", recorded, "--request", "b", "--json")
    assert run.code == 0
    request = json.loads(run.output)["request"]
    assert {part["part"]: part["seconds"] for part in request["parts"]} == {
        "queued": 1.0, "decode": 0.75, "prefill": 0.25,
    }  # fmt: skip
    assert request["total_time"] == 2.0


def test_a_wrong_request_metric_or_share_is_refused_in_one_line(recorded, tmp_path, inside):
    assert refused(
        inside("explain", recorded, "--request", "nobody"), "--request", "'nobody'", "no finished request has this id"
    )
    assert refused(inside("explain", recorded, "--request", "#0"), "'#0'", "no finished request has this number")
    assert refused(inside("explain", recorded, "--worst", "speed"), "ttft, tpot, e2e, gap")
    assert refused(inside("explain", recorded, "--share", "0"), "--share 0", "0.01 for the slowest 1 %")
    assert refused(inside("explain", recorded, "--worst", "e2e", "--request", "a"), "one of them")
    assert refused(inside("explain", tmp_path), "no run")


def test_a_lean_run_is_split_by_its_requests_instants_and_names_what_was_not_recorded(tmp_path, inside):
    run = inside("explain", record(tmp_path, level="lean"))
    assert run.code == 0
    assert "queued, held by the KV cache" in " ".join(run.output.split())
    assert "not recorded: spans" in run.output
    assert "whatif" in run.errors
    assert "--set kv_cache_blocks=N" in run.errors


@pytest.mark.parametrize("level", ["default", "lean"])
def test_a_run_in_which_nothing_finished_ends_with_3(tmp_path, inside, level):
    run = inside("explain", record(tmp_path, finish=False, level=level))
    assert (run.code, run.output) == (3, "")
    noted, told = run.errors.splitlines()
    assert noted.endswith("3 requests did not finish: not in what follows")
    assert told == "not known: no request finished in this run: there is nothing to explain yet"


def test_an_id_never_steers_the_terminal(tmp_path, inside):
    record(tmp_path, (ESCAPE, "[red]b[/red]", "c\nd"))
    for arguments in (("--worst", "e2e"), ("--request", "#1"), ("--request", ESCAPE), ("--request", "\x1b[2J")):
        run = inside("explain", tmp_path, *arguments)
        assert all(line.isprintable() for line in (run.output + run.errors).splitlines()), run
    assert "[red]b[/red]" in inside("explain", tmp_path, "--share", "1").output


def test_an_id_is_found_as_it_was_given_however_odd_it_is(tmp_path, inside):
    odd = ("x" * 300, "\udcff\udcfe", "é ü")
    record(tmp_path / "runs", odd)
    for name in odd:
        assert inside("explain", tmp_path / "runs", "--request", name).code == 0
        assert inside("trace", tmp_path / "runs", "--out", tmp_path / "t", "--requests", name).code == 0
    assert refused(inside("explain", tmp_path / "runs", "--request", "\udcfe"), "no finished request")


def test_a_trace_is_written_packed_or_not_and_named_with_its_viewer(recorded, tmp_path, inside):
    for name, opened, command in (("t.pftrace", open, inside), ("t.pftrace.gz", gzip.open, batchscope)):
        run = command("trace", recorded, "--out", tmp_path / name)
        assert (run.code, run.output) == (0, "")
        assert "3 requests" in run.errors
        assert "https://ui.perfetto.dev" in run.errors
        with opened(tmp_path / name, "rb") as file:
            document = protos.Trace.FromString(file.read())
        assert len(document.packet) > 30


def test_a_trace_as_json_of_a_part(recorded, tmp_path, inside):
    out = tmp_path / "t.json"
    run = inside("trace", recorded, "--out", out, "--format", "chrome", "--from", "1", "--to", "2", "--requests", "b")
    assert run.code == 0, run.errors
    slices = [event for event in json.loads(out.read_text())["traceEvents"] if event["ph"] == "X"]
    assert {event["name"] for event in slices} >= {"b", "prefill", "decode"}
    assert all(event["ts"] >= 1e6 and event["ts"] + event["dur"] <= 2e6 for event in slices)


def test_more_events_than_allowed_are_left_out_with_a_word(recorded, tmp_path, inside):
    run = inside("trace", recorded, "--out", tmp_path / "t", "--max-events", "20")
    assert run.code == 0
    assert "at most 20 are written" in run.errors


def test_a_limit_that_has_room_for_nothing_is_the_reason_that_is_told(recorded, tmp_path, inside):
    run = inside("trace", recorded, "--out", tmp_path / "t", "--max-events", "1")
    assert (run.code, (tmp_path / "t").exists()) == (3, False)
    assert "--max-events 1 has no room for what was asked for: nothing is written" in run.errors
    empty = inside("trace", recorded, "--out", tmp_path / "t", "--from", "5000")
    assert "nothing of this run lies in what was asked for" in empty.errors


def test_what_cannot_be_written_or_is_not_there_is_refused(recorded, tmp_path, inside):
    out = tmp_path / "t"
    (run,) = recorded.iterdir()
    assert refused(inside("trace", recorded, "--out", tmp_path), "is a directory")
    assert refused(inside("trace", recorded, "--out", tmp_path / "no" / "t"), "cannot be written")
    assert refused(inside("trace", recorded, "--out", run / "run.json"), "the run's own folder")
    assert refused(inside("trace", recorded, "--out", out, "--from", "3", "--to", "2"), "--from 3 is not before --to 2")
    assert refused(
        inside("trace", recorded, "--out", out, "--to", "0"), "--to 0: expected a time after the run's start"
    )
    assert refused(inside("trace", recorded, "--out", out, "--format", "svg"), "perfetto, chrome")
    for nothing in (("--requests", "nobody"), ("--from", "5000")):
        empty = inside("trace", recorded, "--out", out, *nothing)
        assert (empty.code, out.exists()) == (3, False)


def test_a_trace_may_go_to_stdout(recorded, capfdbinary):
    assert cli.run(["trace", str(recorded), "--out", "-"]) == 0
    assert len(protos.Trace.FromString(capfdbinary.readouterr().out).packet) > 30


def test_a_run_that_is_still_being_written_is_explained_as_far_as_it_is(tmp_path, inside):
    now = [0.0]
    with SchedulerMetricsCollector(clock=lambda: now[0]) as collector:
        collector.record_to(tmp_path, interval=0.02)
        tracker = RequestTracker(collector)
        slot = tracker.arrived("a", prompt_tokens=8, at=0.0)
        now[0] = 1.0
        tracker.iteration([slot], started_at=0.5, finished_at=1.0)
        tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED, at=1.0)
        deadline = time.monotonic() + 30
        while not len(open_run(tmp_path).requests()):  # its thread writes
            assert time.monotonic() < deadline
        run = inside("explain", tmp_path, "--request", "a")
    assert run.code == 0, run.errors
    assert "still being written" in run.errors
    assert "50.0 % in its own prefill" in " ".join(run.output.split())
