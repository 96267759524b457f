"""``batchscope top`` where there is no screen: one look as text, as JSON, as an exit code; and wrong use."""

import contextlib
import json
import os
import signal
import subprocess

import pytest
from command_line import COMMAND, environment
from scrape_doubles import CAPTURES, Site, needs_captures

from batchscope import (
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
    decode_snapshot,
)
from batchscope.cli import run
from batchscope.exporters.prometheus import Exposition, Format
from batchscope.publishing import SnapshotPublisher
from batchscope.simulator import VirtualClock
from batchscope.views.verdict import verdict


class Endpoint:
    """An engine that served 50 requests; ``late`` of them missed their target."""

    def __init__(self, late=0, *, waits=0.0):
        now = [0.0]
        configuration = MetricsConfiguration(slo=SloTargets(time_to_first_token=2.0))
        limits = SchedulerLimits(max_running_requests=2, max_scheduled_tokens=512)
        self.collector = SchedulerMetricsCollector(configuration, limits=limits, clock=lambda: now[0])
        tracker = RequestTracker(self.collector)
        for number in range(50):
            begin = now[0]
            slot = tracker.arrived(number, prompt_tokens=7, at=begin - (5.0 if number < late else 0.0))
            now[0] = begin + 1.0
            tracker.iteration([slot], started_at=begin, finished_at=begin + 1.0, limited_by="token_budget")
            tracker.finished(slot, "eos_token_reached", at=now[0])
        if waits:
            tracker.arrived("waits", at=now[0])
            now[0] += waits
        self.snapshot = self.collector.get_snapshot()
        plain, whole = (self.snapshot.to_json(histograms=wanted) for wanted in (False, True))
        page = Exposition().render(self.collector.read_totals(), Format.TEXT)
        self.site = Site({"/metrics": page, "/snapshot": plain, "/snapshot?histograms=1": whole})

    def __enter__(self):
        self.site.__enter__()
        return self

    def __exit__(self, *_):
        self.site.__exit__(None, None, None)

    @property
    def url(self):
        return self.site.url


def top(capsysbinary, *arguments):
    """Its exit code and what it printed."""
    code = run(["top", *map(str, arguments)])
    captured_ = capsysbinary.readouterr()
    return code, captured_.out.decode(), captured_.err.decode()


def test_the_first_line_is_the_verdict_word_for_word(capsysbinary):
    with Endpoint() as engine:
        code, text, errors = top(capsysbinary, engine.url, "--once")
    assert (code, errors) == (0, "")
    begin = " ".join(line.strip() for line in text.splitlines()[:3])
    told = verdict(engine.snapshot)
    assert begin.startswith((f"○ IDLE  {told.sentence}", f"● LIVE  {told.sentence}"))
    assert "limited by token_budget" in begin
    assert "n=50." in begin
    assert "Latency " in text
    assert all(line == line.rstrip() and len(line) <= 100 for line in text.splitlines())


def test_as_json_it_has_every_figure_and_null_for_what_was_not_measured(capsysbinary):
    with Endpoint() as engine:
        code, text, _ = top(capsysbinary, engine.url, "--once", "--json")
    document = json.loads(text)
    [one] = document["engines"]
    assert (code, document["schema"], one["state"] in {"live", "idle"}) == (0, "batchscope.top/1", True)
    assert one["sentence"] == verdict(engine.snapshot).sentence
    assert one["evidence"]["slo_stats.default.attainment"] == 1.0
    assert one["snapshot"]["gauges"]["kv_cache_usage"] is None
    found = decode_snapshot(json.dumps(one["snapshot"]))
    assert found.totals == engine.snapshot.totals


def test_a_check_answers_by_its_exit_code(capsysbinary):
    with Endpoint() as well, Endpoint(late=20) as slow, Endpoint(waits=90.0) as stalled:
        assert top(capsysbinary, well.url, "--check", "--objective", "0.9")[0] == 0
        assert top(capsysbinary, slow.url, "--check")[0] == 3
        assert top(capsysbinary, slow.url, "--check", "--objective", "0.3")[0] == 0
        code, text, _ = top(capsysbinary, stalled.url, "--check")
        assert (code, "STALLED" in text) == (3, True)
        assert top(capsysbinary, stalled.url, "--once")[0] == 0
        several = top(capsysbinary, well.url, "http://127.0.0.1:9/metrics", "--check")
    assert several[0] == 1
    assert "1 down" in several[1]


def test_a_wrong_address_is_one_line_that_says_what_was_tried(capsysbinary):
    code, text, errors = top(capsysbinary, "http://127.0.0.1:9", "--once")
    assert (code, errors) == (1, "")
    words = " ".join(line.strip() for line in text.splitlines()[:2])
    assert words.startswith("▽ DOWN  No figures yet from http://127.0.0.1:9/metrics:")
    assert len(text.splitlines()) <= 4


def test_several_engines_have_a_row_each_and_one_for_all(capsysbinary):
    with Endpoint() as one, Endpoint(late=20) as other:
        code, text, _ = top(capsysbinary, one.url, other.url, "--once")
    assert code == 0
    lines = text.splitlines()
    assert "2 of 2 shown, worst first" in text
    assert sum("127.0.0.1" in line for line in lines) == 2
    merged = next(line for line in lines if " all 2 " in line)
    assert "80.0 %" in merged  # 80 of 100 requests in time


def test_each_process_that_publishes_is_an_engine_and_all_are_merged(capsysbinary, tmp_path):
    engines = [Endpoint(), Endpoint(late=20), Endpoint()]
    with contextlib.ExitStack() as living:
        for engine in engines[:2]:
            living.enter_context(SnapshotPublisher(engine.collector, tmp_path))
        with SnapshotPublisher(engines[2].collector, tmp_path):
            pass
        code, text, errors = top(capsysbinary, tmp_path, "--once", "--json")
    document = json.loads(text)
    assert errors == ""
    states = [one["state"] for one in document["engines"]]
    assert len(states) in {2, 3}  # who has ended may be in the archive already
    assert states.count("gone") == len(states) - 2
    assert code == (1 if "gone" in states else 0)
    assert document["merged"]["snapshot"]["request_stats"]["total_requests"] == 150


def test_what_one_process_publishes_is_one_engine(capsysbinary, tmp_path):
    engine = Endpoint()
    with SnapshotPublisher(engine.collector, tmp_path):
        pass  # the last one at the end
    _, text, errors = top(capsysbinary, tmp_path, "--once")
    assert errors == ""
    assert "n=50" in text
    assert str(tmp_path)[:40] in text


@needs_captures
def test_an_engines_own_page_is_shown_by_what_it_tells(capsysbinary):
    with Site({"/metrics": _capture()}) as site:
        code, text, _ = top(capsysbinary, site.url, "--once")
    assert code == 0
    assert "its page does not tell what holds the batch" in text


def test_once_of_a_recorded_run_prints_how_it_stood_at_its_end(tmp_path, capsysbinary):
    pytest.importorskip("pyarrow", reason="the extra 'ledger' is not installed")
    clock = VirtualClock()
    with SchedulerMetricsCollector(clock=clock) as collector:
        collector.record_to(tmp_path)
        tracker = RequestTracker(collector)
        slot = tracker.arrived("a", at=0.0)
        for end in (1.0, 2.0, 3.0):
            clock.advance_to(end)
            tracker.iteration([slot], finished_at=end)
        tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED, at=3.0)
        expected = collector.get_snapshot()
    code, text, _ = top(capsysbinary, str(tmp_path), "--once", "--json")
    [engine] = json.loads(text)["engines"]
    assert code == 0
    assert engine["snapshot"]["totals"]["iterations"] == expected.totals.iterations == 3
    code, text, errors = top(capsysbinary, str(tmp_path))
    assert (code, text) == (2, "")
    assert "--once prints how it stood at its end" in errors


def _capture():
    return next(path for path in sorted(CAPTURES.glob("*.txt")) if "vllm" in path.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected URL..., a DIRECTORY, a RUN or --demo"),
        (["http://a:1", "http://a:1/metrics"], "each engine once"),
        (["ftp://a"], "expected http://HOST"),
        (["./runs/gone"], "is no directory and no recorded run"),
        ([__file__], "is no directory and no recorded run"),
        (["--demo", "http://a"], "expected no address beside it"),
        (["http://a", "--json"], "expected --once beside it"),
        (["http://a", "--speed", "10"], "expected a recorded RUN beside it"),
        (["http://a", "--objective", "0.9"], "expected --check beside it"),
        (["http://a", "--interval", "0"], "seconds > 0"),
        (["http://a", "--check", "--objective", "2"], "a share > 0"),
        ([f"http://h{number}" for number in range(257)], "at most 256"),
    ],
)
def test_wrong_use_is_one_line(capsysbinary, arguments, words):
    code, text, errors = top(capsysbinary, *arguments)
    assert (code, text, errors.count("\n")) == (2, "", 1)
    assert words in errors


def test_without_a_screen_a_page_is_printed_every_interval_until_nobody_reads():
    with Endpoint() as engine:
        process = subprocess.Popen(
            [*COMMAND, "top", engine.url, "--interval", "0.2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, env={**environment(), "TERM": "dumb"},
        )  # fmt: skip
        pages = 0
        while pages < 3:
            pages += b"batchscope top " in process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


def test_control_c_ends_it_with_130():
    with Endpoint() as engine:
        process = subprocess.Popen(
            [*COMMAND, "top", engine.url, "--interval", "0.2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, env={**environment(), "TERM": "dumb"},
        )  # fmt: skip
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, b"")


def test_without_textual_the_extra_is_named():
    script = "import sys; sys.modules['textual'] = None; from batchscope.cli import top; top.show(None)"
    done = subprocess.run([COMMAND[0], "-c", script], capture_output=True, text=True, check=False)
    assert "batchscope top needs an extra: pip install 'batchscope[terminal]'" in done.stderr


def test_textual_is_loaded_for_a_screen_only():
    script = "import sys; from batchscope.cli import run; run(['top', '--help']); assert 'textual' not in sys.modules"
    done = subprocess.run([COMMAND[0], "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the worst first" in done.stdout
