"""``batchscope replay``: the report, the document, and Ctrl-C."""

import gzip
import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import AZURE, COMMAND, HEADER, ROWS, batchscope, environment, needs_azure

from batchscope import decode_snapshot


def test_the_report_names_every_part(trace):
    run = batchscope("replay", trace, "--slo-ttft", 1)
    assert run.code == 0
    parts = ("3 arrived", "3 completed", "TTFT", "TPOT", "ITL", "e2e", "p99", "tokens/s", "lost slot-s")
    for part in (*parts, "TTFT <= 1 s", "95 % range", "Batch over time"):
        assert part in run.output


def test_piped_output_has_no_escape_codes_no_nan_and_no_trailing_blanks(trace):
    run = batchscope("replay", trace)
    assert "\x1b" not in run.output + run.errors
    assert "nan" not in run.output
    assert all(line == line.rstrip() and len(line) <= 100 for line in run.output.splitlines())


def test_what_was_not_measured_is_a_dash(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text(HEADER + "2023-11-16 18:15:46.6805900,374,1\n")
    run = batchscope("replay", path)
    line = next(line for line in run.output.splitlines() if "TPOT" in line)
    assert line.split()[-7:] == ["0", "-", "-", "-", "-", "-", "-"]


def test_json_prints_one_document_and_nothing_else(trace):
    run = batchscope("replay", trace, "--json")
    assert run.code == 0
    assert run.output.count("\n") == 1
    assert json.loads(run.output)["schema"] == "batchscope.snapshot/1"
    snapshot = decode_snapshot(run.output)
    requests = snapshot.request_stats
    ended = requests.completed_requests + requests.failed_requests + requests.cancelled_requests
    assert snapshot.totals.requests_received == ended == 3
    assert snapshot.totals.prompt_tokens_computed + snapshot.totals.prompt_tokens_cached == 374 + 396 + 879
    assert snapshot.totals.generation_tokens == 44 + 109 + 55


def test_a_request_that_its_service_failed_is_a_failure_here_too(tmp_path):
    path = tmp_path / "burst.csv"
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n"
        "45,ChatGPT,1087,0,1087,Conversation log\n"
    )
    run = batchscope("replay", path)
    assert "1 completed   1 failed (error 1)   0 cancelled" in run.output


def test_the_limits_given_are_the_limits_of_the_snapshot(trace):
    limits = ("--max-running-requests", 2, "--max-scheduled-tokens", 64, "--kv-cache-blocks", 500)
    snapshot = decode_snapshot(batchscope("replay", trace, *limits, "--json").output)
    assert snapshot.limits.max_running_requests == 2
    assert snapshot.limits.max_scheduled_tokens == 64
    assert snapshot.limits.kv_cache_blocks == 500
    assert snapshot.iteration_stats.limited_by["token_budget"] > 0


def test_targets_are_judged_over_all_requests(trace):
    run = batchscope("replay", trace, "--slo-e2e", 1000, "--slo-tpot", 1e-6, "--json")
    slo = decode_snapshot(run.output).slo_stats["default"]
    assert (slo.evaluated, slo.met, slo.missed) == (3, 0, 3)
    assert slo.missed_by["time_per_output_token"] == 3


def test_limit_and_rate_scale(trace):
    assert "2 arrived" in batchscope("replay", trace, "--limit", 2).output
    normal, fast = (
        decode_snapshot(batchscope("replay", trace, "--rate-scale", scale, "--json").output).elapsed_seconds
        for scale in (1, 1000)
    )
    assert fast < normal


def test_requests_that_can_never_fit_are_said_first_with_what_would_let_them_in(trace):
    run = batchscope("replay", trace, "--kv-cache-blocks", 10)
    assert "3 of 3, at admission" in run.output
    assert "they can never fit: kv_cache_blocks is 10, the longest needs 59" in run.output  # 879 + 55 - 1 tokens
    assert "no more to do" not in run.output.split("Latency")[0]
    assert "refused" not in batchscope("replay", trace, "--kv-cache-blocks", 59).output


def test_a_compressed_trace_is_read_as_well(tmp_path):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "".join(ROWS)).encode()))
    assert "3 completed" in batchscope("replay", path).output


def test_bad_rows_are_skipped_on_demand_and_counted(trace):
    trace.write_text(HEADER + ROWS[0] + "broken\n" + ROWS[1] + "2023-11-16 18:15:51,-1,5\n")
    run = batchscope("replay", trace, "--skip-bad-rows", "--json")
    assert run.code == 0
    assert "note: 2 bad rows were skipped" in run.errors
    assert decode_snapshot(run.output).totals.requests_received == 2


def test_the_picture_is_written_beside_the_report(trace, tmp_path):
    picture = tmp_path / "report.svg"
    run = batchscope("replay", trace, "--svg", picture)
    assert run.code == 0
    assert "3 arrived" in run.output
    picture_text = picture.read_text()
    assert picture_text.startswith("<svg")
    assert not re.search("<text [^>]*>&#160;[^<]*[^<;]", picture_text)  # blanks are not what places a text


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_ctrl_c_ends_with_what_ran_so_far(tmp_path, arguments):
    path = tmp_path / "long.csv"
    path.write_text(HEADER + ROWS[0] + "2023-11-16 19:15:50.9951690,396,109\n")
    process = subprocess.Popen(
        [*COMMAND, "replay", str(path), "--speed", "1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    )
    assert process.stderr.readline().startswith("note: serving")  # it has begun; the second row is an hour away
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
    if arguments:
        assert decode_snapshot(output).labels["interrupted"] == "true"
    else:
        assert "INTERRUPTED" in output


def test_a_reader_that_leaves_early_is_no_error(trace):
    process = subprocess.Popen(
        [*COMMAND, "replay", str(trace)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 0
    assert errors.splitlines() == ["note: serving trace.csv (azure)"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [("replay",), ("replay", "--json"), ("--version",)])
def test_a_full_disk_is_said_in_one_line(trace, arguments):
    arguments = [*arguments, str(trace)] if "replay" in arguments else arguments
    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(
            [*COMMAND, *arguments], check=False, stdout=full, stderr=subprocess.PIPE, env=environment()
        )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith(b"error: the output cannot be written: No space left")
    assert b"Traceback" not in process.stderr


def test_an_ascii_terminal_gets_ascii(trace):
    run = batchscope("replay", trace, PYTHONIOENCODING="ascii")
    assert run.code == 0
    assert run.output.isascii()
    assert "?" not in run.output


@needs_azure
def test_the_real_trace_is_served_to_its_last_token():
    snapshot = decode_snapshot(batchscope("replay", AZURE, "--json").output)
    totals = snapshot.totals
    assert totals.requests_received == snapshot.request_stats.completed_requests == 19_366
    assert totals.prompt_tokens_computed + totals.prompt_tokens_cached == 22_361_870
    assert totals.generation_tokens == totals.generation_tokens_of_requests == 4_088_665
