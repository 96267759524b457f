"""``batchscope report FILE|URL``: the report of a snapshot, wherever it is."""

import datetime as dt
import json
import re
import subprocess

import msgspec
import pytest
from command_line import COMMAND, batchscope, environment, refused

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, decode_snapshot
from batchscope.exporters.jsonl import JsonLinesExporter

NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
TOKEN = "s3cret"  # noqa: S105


@pytest.fixture
def collector():
    now = [0.0]
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(max_running_requests=2), clock=lambda: now[0])
    tracker = RequestTracker(collector)
    slots = [tracker.arrived(number, prompt_tokens=7, at=0.0) for number in range(3)]
    for end in (1.0, 2.0):
        now[0] = end
        tracker.iteration(slots[:2], started_at=end - 1.0, finished_at=end)
    tracker.finished(slots[0], CompletionReason.EOS_TOKEN_REACHED, at=2.0)
    return collector


@pytest.fixture
def lines(collector):
    """A snapshot a minute, the n-th with n requests received."""
    snapshot = collector.get_snapshot()
    return [
        msgspec.structs.replace(
            snapshot,
            totals=msgspec.structs.replace(snapshot.totals, requests_received=minute),
            snapshot_time=NOON + dt.timedelta(minutes=minute),
        ).to_json()
        + b"\n"
        for minute in range(1, 6)
    ]


def piped(document, *arguments):
    return subprocess.run(
        [*COMMAND, "report", "-", *arguments], input=document, capture_output=True, check=False, env=environment()
    )


def arrived(run):
    return int(re.search(r"(\d+) arrived", run.output)[1])


def test_a_file_gives_what_the_snapshot_itself_reports(collector, tmp_path):
    path = tmp_path / "snapshot.json"
    snapshot = collector.get_snapshot()
    for document in (snapshot.to_json(), snapshot.to_json(histograms=True), snapshot.to_json(indent=2)):
        path.write_bytes(document)
        run = batchscope("report", path)
        assert (run.code, run.errors) == (0, "")
        assert run.output == snapshot.report()


def test_stdin_gives_the_same(collector):
    snapshot = collector.get_snapshot()
    for document in (snapshot.to_json(), snapshot.to_json(indent=2)):
        done = piped(document)
        assert (done.returncode, done.stderr, done.stdout.decode()) == (0, b"", snapshot.report())


def test_the_exporters_own_file_is_read(collector, tmp_path):
    path = tmp_path / "snapshots.jsonl"
    with JsonLinesExporter(collector, path):
        pass
    run = batchscope("report", path)
    assert run.code == 0
    assert "3 arrived" in run.output


def test_of_json_lines_the_last_one_or_the_last_up_to_a_time(lines, tmp_path):
    path = tmp_path / "snapshots.jsonl"
    path.write_bytes(b"".join(lines))
    assert arrived(batchscope("report", path)) == 5
    for at in ("2026-11-28T12:03", "2026-11-28T12:03:59+00:00", "2026-11-28T13:03:30+01:00"):
        assert arrived(batchscope("report", path, "--at", at)) == 3
    first = (NOON + dt.timedelta(minutes=1)).isoformat()
    assert refused(batchscope("report", path, "--at", "2026-11-28T12:00:59"), "before the first snapshot", first)
    path.write_bytes(json.dumps(json.loads(lines[0]), indent=1).encode())
    assert refused(batchscope("report", path, "--at", "2026-11-28T12:00:59"), "before the first snapshot", first)


def test_a_torn_line_costs_itself_and_is_counted(lines, tmp_path):
    path = tmp_path / "snapshots.jsonl"
    path.write_bytes(lines[0] + b"torn\n" + lines[1] + lines[2][:500])
    run = batchscope("report", path)
    assert (run.code, arrived(run)) == (0, 2)
    assert run.errors == f"note: {path}: 2 lines are no snapshot, and left out\n"


def test_the_picture_is_written_of_ones_own_engine(collector, tmp_path):
    path, picture = tmp_path / "snapshot.json", tmp_path / "report.svg"
    path.write_bytes(collector.get_snapshot().to_json())
    assert batchscope("report", path, "--svg", picture).code == 0
    assert picture.read_text().startswith("<svg")
    assert refused(batchscope("report", path, "--svg", path), "--svg")
    assert decode_snapshot(path.read_bytes())


def test_a_snapshot_in_which_nothing_was_recorded_ends_with_3(tmp_path):
    path = tmp_path / "empty.json"
    path.write_bytes(SchedulerMetricsCollector().get_snapshot().to_json())
    run = batchscope("report", path)
    assert run.code == 3
    assert "0 arrived" in run.output
    assert run.errors == "note: nothing was recorded in this snapshot yet\n"


def test_what_is_no_snapshot_is_refused_with_what_was_expected(tmp_path):
    assert refused(batchscope("report", tmp_path / "none.json"), "none.json", "No such file", "snapshot's JSON")
    assert refused(batchscope("report", tmp_path), "is a directory", "batchscope serve DIRECTORY")
    for text, part in (("", "is empty"), ("\n\n", "is empty"), ("no JSON", "not a snapshot"), ("[1]", "schema 'list'"),
                       ('{"schema": "batchscope.watch/1"}', "batchscope.watch/1"), ("\x00\xff", "not a snapshot")):  # fmt: skip
        path = tmp_path / "other.json"
        path.write_text(text)
        assert refused(batchscope("report", path), str(path), part)
    for at in ("noon", "2026-11-28T25:00", ""):
        assert refused(batchscope("report", path, "--at", at), "--at", "2026-11-28T18:00")
    assert refused(batchscope("report"), "FILE|URL")


class TestEndpoint:
    @pytest.fixture
    def endpoint(self, collector, tmp_path):
        pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
        from batchscope.server import serve

        (tmp_path / "token").write_text(TOKEN)
        handle = serve(collector, port=0, token_file=tmp_path / "token")
        yield handle
        handle.close()

    def test_its_snapshot_is_shown_whichever_of_its_pages_was_named(self, endpoint, tmp_path):
        for path in ("", "/", "/metrics", "/snapshot"):
            run = batchscope("report", endpoint.url + path, "--token-file", tmp_path / "token")
            assert (run.code, run.errors) == (0, "")
            assert "3 arrived" in run.output

    def test_the_token_is_asked_for_and_never_shown(self, endpoint):
        assert refused(batchscope("report", endpoint.url), "401", "--token-file")
        run = batchscope("report", endpoint.url, BATCHSCOPE_TOKEN=TOKEN)
        assert run.code == 0
        assert TOKEN not in run.output + run.errors

    def test_another_page_is_refused_with_the_command_that_reads_it(self, endpoint):
        for page in ("/healthz", "/no-such-page"):
            run = batchscope("report", endpoint.url + page, BATCHSCOPE_TOKEN=TOKEN)
            assert refused(run, page, "batchscope watch URL --once")

    def test_an_endpoint_has_no_past(self, endpoint):
        assert refused(batchscope("report", endpoint.url, "--at", "2026-11-28"), "--at", "JSON lines")


def test_nobody_at_an_address_is_said_in_one_line():
    assert refused(batchscope("report", "http://127.0.0.1:1"), "http://127.0.0.1:1/snapshot", "connection refused")
    assert refused(batchscope("report", "127.0.0.1:1/metrics"), "127.0.0.1:1")
