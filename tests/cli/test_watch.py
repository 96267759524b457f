"""``batchscope watch``: what people see, what programs read, and how it ends."""

import json
import os
import pty
import signal
import subprocess
import threading

import pytest
from command_line import COMMAND, batchscope, environment, refused
from scrape_doubles import Site, captured, needs_captures

from batchscope.scraping.table import DURATIONS
from batchscope.views.words import short_name


class Phases:
    """Serves the first page once and the second from then on."""

    def __init__(self, *pages):
        self._pages = list(pages)

    def __call__(self):
        return self._pages.pop(0) if len(self._pages) > 1 else self._pages[0]


def tokens(number, running=1):
    return f"vllm:num_requests_running {running}\nvllm:num_requests_waiting 0\nvllm:generation_tokens_total {number}\n".encode()


@needs_captures
def test_the_first_look_says_that_its_numbers_are_since_the_start():
    with Site({"/metrics": captured("vllm_metrics")}) as site:
        run = batchscope("watch", site.url, "--once")
    assert run.code == 0
    for part in (
        "1 of 1 targets answer",
        "vllm",
        "28",
        "100.0 %",
        "since start",
        "within these intervals",
        "750..1000 ms",
    ):
        assert part in run.output.replace("0.75..1 s", "750..1000 ms"), part
    assert "last" not in run.output


@needs_captures
def test_two_looks_give_rates_and_intervals_of_what_happened_in_between():
    page = Phases(captured("vllm_metrics"), captured("vllm_metrics_after"))
    with Site({"/metrics": page}) as site:
        run = batchscope("watch", site.url, "--count", 2, "--interval", 0.2, "--json")
    first, second = (json.loads(line) for line in run.output.splitlines())
    assert first["targets"][0]["scraped"]["window"]["since_start"]
    scraped = second["targets"][0]["scraped"]
    assert not scraped["window"]["since_start"]
    seconds = scraped["window"]["seconds"]
    assert 0.1 < seconds < 30
    assert scraped["snapshot"]["request_stats"]["tokens_per_second"] * seconds == pytest.approx(4676 - 1455)
    assert scraped["intervals"]["time_to_first_token"]["count"] == 60 - 22
    assert scraped["intervals"]["time_to_first_token"]["p99"] == [2.5, 5.0]
    assert second["fleet"]["intervals"] == scraped["intervals"]


@needs_captures
def test_several_engines_stand_side_by_side_and_one_that_is_down_is_said_to_be():
    pages = {"/metrics": captured("vllm_metrics"), "/b/metrics": captured("sglang_metrics"),
             "/c/metrics": captured("llamacpp_metrics")}  # fmt: skip
    with Site(pages) as site:
        run = batchscope(
            "watch", site.url, f"{site.url}/b/metrics", f"{site.url}/c/metrics", "http://127.0.0.1:1", "--once"
        )
    assert run.code == 0
    for part in ("3 of 4 targets answer", "vllm", "sglang", "llama.cpp", "fleet", "down", "since ", "connection refused",
                 "not merged, because these engines mean different things by it", "batch 3.9"):  # fmt: skip
        assert part in run.output, part
    assert all(line == line.rstrip() and len(line) <= 100 for line in run.output.splitlines())
    assert run.output.count("since start") >= 3 + 2
    assert "\x1b" not in run.output
    assert "nan" not in run.output
    assert "…" not in run.output


def test_nobody_there_ends_with_1():
    run = batchscope("watch", "http://127.0.0.1:1", "--once", "--json")
    assert run.code == 1
    document = json.loads(run.output)
    assert (document["fleet"], document["targets"][0]["state"]) == (None, "down")


def test_a_restart_is_said():
    with Site({"/metrics": Phases(tokens(100), tokens(5))}) as site:
        run = batchscope("watch", site.url, "--count", 2, "--interval", 0.1)
    assert "since restart" in run.output


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("URL",)),
        (("localhost:none",), ("URL localhost:none", "expected http://HOST")),
        (("http://x", "http://x/"), ("URL http://x/metrics", "each target once")),
        (("http://x", "--interval", 0), ("--interval 0.0: expected seconds > 0",)),
        (("http://x", "--timeout", "nan"), ("--timeout nan: expected seconds > 0",)),
        (("http://x", "--max-mib", -1), ("--max-mib -1.0: expected MiB > 0",)),
        (("http://x", "--count", 0), ("--count 0: expected a whole number",)),
        (("http://x", "--once", "--count", 3), ("--count 3", "--once")),
    ],
)
def test_wrong_use_is_one_line(arguments, parts):
    assert refused(batchscope("watch", *arguments), *parts)


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_ctrl_c_ends_with_130_and_without_a_word(arguments):
    asked = threading.Event()

    def page():
        asked.set()
        return tokens(5)

    with Site({"/metrics": page}) as site:
        process = subprocess.Popen(
            [*COMMAND, "watch", site.url, "--interval", "600", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment(),
        )  # fmt: skip
        assert process.stdout.readline()
        assert asked.is_set()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""


def test_a_reader_that_leaves_early_ends_the_watch():
    with Site({"/metrics": tokens(5)}) as site:
        process = subprocess.Popen(
            [*COMMAND, "watch", site.url, "--interval", "0.05", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


def test_a_terminal_is_redrawn_in_place():
    with Site({"/metrics": Phases(tokens(5), tokens(50))}) as site:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, "watch", site.url, "--count", "2", "--interval", "0.1"],
            stdout=theirs, stderr=subprocess.PIPE, env=environment() | {"TERM": "xterm-256color", "COLUMNS": "120"},
        )  # fmt: skip
        os.close(theirs)
        output = b""
        while piece := _available(ours):
            output += piece
        os.close(ours)
        assert process.wait(60) == 0, process.stderr.read()
        process.stderr.close()
    assert output.count(b"targets answer") >= 2
    assert b"\x1b[1A" in output


def _available(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_hostile_page_is_one_targets_trouble():
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"\0" * 65536)

    with Site({"/metrics": tokens(5)}) as good, Site(answer=endless) as bad:
        run = batchscope("watch", good.url, bad.url, "--once")
    assert run.code == 0
    assert "line 1: longer than 16,384 bytes" in run.output
    assert "1 of 2 targets answer" in run.output


def test_the_view_has_a_name_for_every_duration():
    assert [quantity for quantity in DURATIONS if short_name(quantity) == quantity] == []
