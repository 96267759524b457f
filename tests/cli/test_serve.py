"""``batchscope serve``: the endpoint as a command, until Ctrl-C."""

import contextlib
import json
import re
import signal
import subprocess
import urllib.error
import urllib.request

import pytest
from command_line import COMMAND, HEADER, ROWS, Run, batchscope, environment, refused

from batchscope import SchedulerMetricsCollector
from batchscope.cli import run
from batchscope.errors import MissingExtraError
from batchscope.ledger import open_run
from batchscope.publishing import SnapshotPublisher

TOKEN = "s3cret"  # noqa: S105  (of this test)


@contextlib.contextmanager
def serving(*arguments, saying="", ending="", by=signal.SIGINT, **changes):
    """(process, url) of a running ``serve`` that begins by ``saying`` it; it ends with 130 ``by`` a signal, ``ending`` so."""
    process = subprocess.Popen(
        [*COMMAND, "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**environment(), **changes},
    )
    try:
        line = process.stderr.readline()
        if "is empty" in line:
            line = process.stderr.readline()
        found = re.fullmatch(
            r"note: (http://127\.0\.0\.1:\d+)/metrics serves (.+), \1/ shows it in a browser; Ctrl-C ends it\n", line
        )
        assert found, line + process.stderr.read()
        assert saying in line
        yield process, found[1]
        process.send_signal(by)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (130, "")
        assert re.fullmatch(ending, errors), errors
    finally:
        process.kill()
        process.communicate()


def get(url, **headers):
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (of loopback)
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return answer.read().decode()


def test_a_directory_of_snapshots_is_served_added_up(tmp_path):
    collectors = [SchedulerMetricsCollector() for _ in range(2)]
    for collector in collectors:
        collector.record_error("oom")
    with contextlib.ExitStack() as stack:
        for collector in collectors:
            stack.enter_context(SnapshotPublisher(collector, tmp_path, interval=None))
        with serving(tmp_path) as (_, url):
            assert 'batchscope_errors_total{type="oom"} 2\n' in get(f"{url}/metrics")
            assert json.loads(get(f"{url}/healthz"))["status"] == "ok"
            assert json.loads(get(f"{url}/snapshot"))["error_stats"]["total_errors"] == 2


def test_an_empty_directory_is_served_until_somebody_publishes(tmp_path):
    with serving(tmp_path / "new", "--vllm-names") as (_, url):
        text = get(f"{url}/metrics")
    assert "batchscope_iterations_total 0\n" in text
    assert "vllm:num_preemptions_total{" in text


def test_a_mistyped_directory_is_said_to_be_made_and_empty(tmp_path, capsys):
    """Also when the endpoint then cannot start; an unfit label is named by its option."""
    assert run(["serve", str(tmp_path / "typo"), "--tls-key", "/nope"]) == 2
    assert "typo did not exist: it was made, and is empty" in capsys.readouterr().err
    for label, part in (("model", "--label model: expected NAME=VALUE"), ("1=x", "--label 1: expected label names")):
        assert run(["serve", str(tmp_path), "--label", label]) == 2
        assert part in capsys.readouterr().err


def test_a_command_that_is_not_there_is_answered_with_those_that_are(capsys):
    assert run(["nonsense"]) == 2
    assert "demo, serve, watch, check, top, replay" in capsys.readouterr().err


def test_a_missing_extra_is_said_of_the_command(tmp_path, capsys, monkeypatch):
    def missing(*_, **__):
        raise MissingExtraError("batchscope.server.make_asgi_app", "serve")

    monkeypatch.setattr("batchscope.cli.serve.serve_source", missing)
    assert run(["serve", str(tmp_path)]) == 2
    assert "batchscope serve needs an extra: pip install 'batchscope[serve]'" in capsys.readouterr().err


def test_a_replay_runs_in_front_of_the_endpoint(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(HEADER + ROWS[0] + "2023-11-16 19:15:50.9951690,396,109\n")
    with serving("--replay", path, "--speed", 2) as (_, url):
        text = get(f"{url}/metrics")
        assert 'batchscope_requests_received_total{model_name="replay"}' in text


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_replay_in_front_of_the_endpoint_is_recorded_until_ctrl_c_or_a_container_ends(trace, tmp_path, by):
    runs = tmp_path / "runs"
    told = rf"note: recorded to {re.escape(str(runs))}/\S+\n"
    with serving("--replay", trace, "--speed", 1000, "--record", runs, ending=told, by=by) as (process, _):
        assert process.stderr.readline().startswith("note: the replay is over")
    run = open_run(runs)
    assert (run.state, run.problems) == ("finished", [])
    assert sorted(run.requests().column("prompt_tokens").to_pylist()) == [374, 396, 879]


def test_a_replay_takes_the_schedulers_knobs_and_an_slo(trace):
    knobs = ("--max-running-requests", 2, "--max-scheduled-tokens", 64, "--kv-cache-blocks", 500)
    with serving("--replay", trace, "--speed", 1000, *knobs, "--slo-ttft", 100, "--slo-e2e", 0.001) as (process, url):
        assert process.stderr.readline().startswith("note: the replay is over")
        snapshot = json.loads(get(f"{url}/snapshot"))
    limits = snapshot["limits"]
    assert [limits[name] for name in ("max_running_requests", "max_scheduled_tokens", "kv_cache_blocks")] == [
        2,
        64,
        500,
    ]
    [slo] = snapshot["slo_stats"].values()
    assert slo["targets"] == {"time_to_first_token": 100.0, "e2e_latency": 0.001}
    assert (slo["evaluated"], slo["met"]) == (3, 0)


def test_a_declared_name_is_answered_and_no_other(tmp_path):
    with serving(tmp_path, "--allowed-host", "metrics.example") as (_, url):
        assert get(f"{url}/healthz", Host="metrics.example")
        with pytest.raises(urllib.error.HTTPError, match="421") as caught:
            get(f"{url}/healthz", Host="evil.example")
        caught.value.close()


def test_a_replay_may_be_cut_and_quickened_as_in_the_command_and_says_whose_seconds_are_meant(trace):
    cut = ("--limit", 2, "--rate-scale", 50, "--speed", 1000)
    with serving("--replay", trace, *cut, saying="that Prometheus takes in yours (1000 times as high)") as (
        process,
        url,
    ):
        assert process.stderr.readline().startswith("note: the replay is over")
        assert 'batchscope_requests_received_total{model_name="replay"} 2\n' in get(f"{url}/metrics")


def test_the_last_figures_of_a_replay_stay(trace):
    with serving("--replay", trace, "--speed", 1000) as (process, url):
        assert process.stderr.readline().startswith("note: the replay is over")
        text = get(f"{url}/metrics")
        assert 'batchscope_requests_total{reason="eos_token_reached",model_name="replay"} 3\n' in text
        assert 'batchscope_requests_in_flight{model_name="replay"} 0\n' in text


def test_a_token_from_a_file_is_asked_for(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    with serving(tmp_path / "snapshots", "--token-file", tmp_path / "token") as (_, url):
        with pytest.raises(urllib.error.HTTPError, match="401") as caught:
            get(f"{url}/metrics")
        caught.value.close()
        assert get(f"{url}/metrics", Authorization=f"Bearer {TOKEN}")


def test_a_taken_port_is_said_in_one_line(tmp_path):
    with serving(tmp_path) as (_, url):
        port = url.rpartition(":")[2]
        assert refused(batchscope("serve", tmp_path, "--port", port), f"--port {port}", "free on 127.0.0.1")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "--replay TRACE"),
        (("somewhere", "--replay", "trace.csv"), "one of them"),
        (("--replay", "missing.csv"), "missing.csv"),
        (("",), "expected a path"),
        (("/dev/null",), "/dev/null"),
        (("x", "--port", "70000"), "--port 70000"),
        (("x", "--host", "192.0.2.1"), "--host 192.0.2.1"),
        (("x", "--stall-seconds", "0"), "--stall-seconds 0"),
        (("x", "--token-file", "missing"), "--token-file missing"),
        (("x", "--tls-key", "missing"), "--tls-key missing: expected --tls-certificate beside it"),
        (("x", "--tls-certificate", "/dev/null", "--tls-key", "/dev/null"), "--tls-key /dev/null: expected the key"),
        (("x", "--token-file", "/dev/null"), "--token-file /dev/null: expected a file that holds the token"),
        (("x", "--host", ""), "--host '': expected"),
        (("x", "--speed", "5"), "--speed 5: expected --replay"),
        (("--speed", "3"), "--speed 3: expected --replay"),
        (("x", "--speed", "1"), "--speed 1: expected --replay"),
        (("x", "--slo-ttft", "1"), "--slo-ttft 1: expected --replay"),
        (("x", "--limit", "5"), "--limit 5: expected --replay"),
        (("--replay", __file__, "--rate-scale", "0"), "--rate-scale 0.0: expected a factor > 0"),
        (("x", "--kv-cache-blocks", "5"), "--kv-cache-blocks 5: expected --replay"),
        (("--replay", "trace.csv", "--max-running-requests", "0"), "--max-running-requests 0: expected a whole number"),
        (("--replay", "trace.csv", "--slo-e2e", "-1"), "--slo-e2e -1"),
        (("x", "--allowed-host", "a b"), "--allowed-host a b: expected names"),
        ((__file__,), f"is a file, expected a directory; to serve a trace: --replay {__file__}"),
        (("unix:/run/s",), "serve unix:/run/s: expected a directory, such as /run/batchscope"),
        (("x", "--tls-certificate", "missing"), "--tls-certificate"),
    ],
)
def test_wrong_use_is_said_in_one_line(arguments, part, tmp_path, capsys):
    code = run(["serve", *(str(tmp_path) if one == "x" else one for one in arguments)])
    said = capsys.readouterr()
    assert refused(Run(code, said.out, said.err), part)


def test_a_wrong_speed_is_refused(trace, capsys):
    code = run(["serve", "--replay", str(trace), "--speed", "0", "--port", "0"])
    said = capsys.readouterr()
    assert refused(Run(code, said.out, said.err), "--speed 0")


def test_the_demo_is_served_live_with_its_page():
    with serving("--demo", saying="the demo") as (process, url):
        assert process.stderr.readline() == "note: serving the demo: interactive and batch requests, in bursts\n"
        assert "<title>batchscope</title>" in get(f"{url}/", Accept="text/html")
        assert json.loads(get(f"{url}/history"))["names"]["labels"] == {"demo": "true"}


def test_the_demo_shows_itself_and_ends_in_its_report():
    process = subprocess.Popen(
        [*COMMAND, "demo", "--serve", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment(),
    )  # fmt: skip
    try:
        found = re.fullmatch(r"note: look at (http://127\.0\.0\.1:\d+)/ in a browser; .+\n", process.stderr.readline())
        assert found
        assert "<title>batchscope</title>" in get(found[1] + "/", Accept="text/html")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "INTERRUPTED: what ran so far" in output
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("arguments", [["--open"], ["--port", "0"]])
def test_what_belongs_to_a_served_demo_is_refused_without(arguments, capsys):
    assert run(["demo", *arguments]) == 2
    assert f"{arguments[0]}: expected --serve beside it" in capsys.readouterr().err
