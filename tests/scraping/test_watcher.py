"""Targets over time: windows, restarts, targets that hang, vanish or stall, over a real HTTP server."""

import asyncio
import datetime as dt
import json
import math
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from scrape_doubles import A_LONG_TIME, NOW, Site, captured, needs_captures, round_of, scrape, tokens

from batchscope import MergeError, MetricsSnapshot, SchedulerMetricsCollector, decode_snapshot
from batchscope.errors import ConfigurationError
from batchscope.scraping.documents import WatchDocument
from batchscope.scraping.fetch import Fetcher, ScrapeLimits, metrics_url
from batchscope.scraping.remote import RemoteSource
from batchscope.scraping.series import Key, known_samples
from batchscope.scraping.snapshot import ScrapeIdentity, scraped_snapshot
from batchscope.scraping.sums import combined
from batchscope.scraping.table import Quantity
from batchscope.scraping.watcher import MAX_TARGETS, Target, Watcher
from batchscope.views.watch import view

TOKENS = Key(Quantity.GENERATION_TOKENS)


class Clock:
    """Time as the test sets it."""

    def __init__(self):
        self.at = 100.0

    def __call__(self):
        return self.at

    def wall(self):
        return NOW + self.at


def watcher(*urls, clock=None, **options):
    clock = clock or Clock()
    targets = [metrics_url(url) for url in urls]
    return Watcher(targets, clock=clock, wall_clock=clock.wall, **options)


def independent(text):
    """The page by another reader: sample name and labels -> value."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def summed(samples, name, **labels):
    return sum(value for key, value in samples.items() if key[0] == name and set(labels.items()) <= set(key[1:]))


@needs_captures
def test_two_looks_at_a_real_engine_give_exactly_what_happened_in_between():
    before, after = captured("vllm_metrics"), captured("vllm_metrics_after")
    clock = Clock()
    with Site({"/metrics": before}) as site:
        watching = watcher(site.url, clock=clock)
        first = watching.round().targets[0].scraped
        site.pages["/metrics"] = after
        clock.at += 4.0
        second = watching.round().targets[0].scraped
    old, new = independent(before), independent(after)

    def gain(name, **labels):
        return summed(new, name, **labels) - summed(old, name, **labels)

    assert first.window.since_start
    assert second.window == type(second.window)(4.0, since_start=False, restarted=False)
    requests = second.snapshot.request_stats
    assert requests.tokens_per_second == gain("vllm:generation_tokens_total") / 4 == (4676 - 1455) / 4
    assert requests.requests_per_second == gain("vllm:request_success_total") / 4 == 10
    assert second.snapshot.iteration_stats.iterations_per_second == gain("vllm:iteration_tokens_total_count") / 4
    assert requests.total_requests == summed(new, "vllm:request_success_total") == 54
    assert second.snapshot.totals.preemptions == 36
    names = {
        "time_to_first_token": "time_to_first_token_seconds", "total_time": "e2e_request_latency_seconds",
        "queue_time": "request_queue_time_seconds", "prefill_time": "request_prefill_time_seconds",
        "decode_time": "request_decode_time_seconds", "processing_time": "request_inference_time_seconds",
        "time_per_output_token": "request_time_per_output_token_seconds",
        "inter_emission_latency": "inter_token_latency_seconds", "iteration_scheduled_tokens": "iteration_tokens_total",
        "request_generation_tokens": "request_generation_tokens",
    }  # fmt: skip
    assert set(second.intervals) == set(names)
    for name, theirs in names.items():
        interval = second.intervals[name]
        assert interval.source == f"vllm:{theirs}"
        assert interval.count == gain(f"vllm:{theirs}_count")
        assert interval.mean == pytest.approx(gain(f"vllm:{theirs}_sum") / interval.count)
        assert (interval.span_seconds, interval.since_start) == (4.0, False)
        rank = -(-99 * interval.count // 100)
        edges = sorted({float(dict(key[1:])["le"]) for key in new if key[0] == f"vllm:{theirs}_bucket"})
        cumulative = [gain(f"vllm:{theirs}_bucket", le=_le(edge, new, theirs)) for edge in edges]
        at = next(index for index, count in enumerate(cumulative) if count >= rank)
        assert interval.p99 == (edges[at - 1] if at else 0.0, edges[at])


def _le(edge, samples, name):
    texts = {dict(key[1:])["le"] for key in samples if key[0] == f"vllm:{name}_bucket"}
    return next(text for text in texts if float(text) == edge)


@needs_captures
def test_the_document_holds_a_snapshot_that_every_view_can_read():
    with Site({"/metrics": captured("vllm_metrics")}) as site:
        document = json.loads(watcher(site.url).round().to_json())
    assert document["schema"] == "batchscope.watch/1"
    scraped = document["targets"][0]["scraped"]
    snapshot = decode_snapshot(json.dumps(scraped["snapshot"]))
    assert snapshot.engine.kind == "vllm"
    assert snapshot.labels == {"model_name": "tiny"}
    assert snapshot.definitions["inter_emission_latency"].startswith("gap between output events")
    summary = snapshot.request_stats.time_to_first_token
    assert (summary.count, summary.source) == (22, "buckets since start")
    assert math.isnan(summary.p99)
    assert snapshot.request_stats.inter_token_latency.count == 0
    assert scraped["intervals"]["time_to_first_token"]["p99"] == [0.75, 1.0]
    assert scraped["intervals"]["time_to_first_token"]["since_start"] is True
    assert scraped["not_given"]["inter_token_latency"].startswith("vLLM's inter-token latency is one observation")


@needs_captures
def test_scraped_snapshots_are_not_merged_as_if_they_had_histograms():
    with Site({"/metrics": captured("vllm_metrics")}) as site:
        scraped = watcher(site.url).round().targets[0].scraped
    with pytest.raises(MergeError, match="no histograms"):
        MetricsSnapshot.merge(scraped.snapshot, scraped.snapshot)


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=12))
def test_every_window_holds_what_came_since_the_last_look_or_the_restart_and_says_which(history):
    target = Target(metrics_url("http://x"))
    value, seen, restarts = 0, None, 0
    for sequence, (gain, restart) in enumerate(history, start=1):
        restarted = restart and value > 0 and seen is not None
        value = gain % value if restarted else value + gain
        restarts += restarted
        report = target.answered(scrape(tokens(value), at=float(sequence)))
        assert report.scraped.window.restarted == restarted
        assert report.scraped.window.since_start == (restarted or seen is None)
        assert target.figures.gains[TOKENS] == (value if report.scraped.window.since_start else value - seen)
        assert (report.scraped.snapshot.generation, report.scraped.snapshot.sequence) == (restarts, sequence)
        seen = value


def test_an_idle_window_is_empty_and_never_filled_with_older_numbers():
    target = Target(metrics_url("http://x"))
    text = 'vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 5\n' + tokens(100)
    target.answered(scrape(text, at=0))
    scraped = target.answered(scrape(text, at=5)).scraped
    interval = scraped.intervals["total_time"]
    assert interval.count == 0
    assert math.isnan(interval.mean)
    assert all(math.isnan(edge) for edge in interval.p99)
    assert scraped.snapshot.request_stats.tokens_per_second == 0


def test_a_target_that_was_never_there_is_down_since_the_first_look():
    target = Target(metrics_url("http://x"))
    first, second = target.failed("refused", NOW), target.failed("refused", NOW + 5)
    assert (first.state, second.state) == ("down", "down")
    assert first.since == second.since == dt.datetime.fromtimestamp(NOW, dt.UTC)
    assert second.scraped is None


def test_a_target_that_is_gone_has_vanished_and_its_return_is_compared_with_what_was_before():
    target = Target(metrics_url("http://x"))
    target.answered(scrape(tokens(100), at=0))
    gone = target.failed("refused", NOW + 5)
    assert (gone.state, gone.since, gone.scraped) == ("gone", dt.datetime.fromtimestamp(NOW + 5, dt.UTC), None)
    assert target.figures is None
    back = target.answered(scrape(tokens(160), at=20))
    assert (back.state, back.since) == ("live", None)
    assert back.scraped.window.seconds == 20
    assert back.scraped.snapshot.request_stats.tokens_per_second == 3
    assert target.failed("refused", NOW + 25).since == dt.datetime.fromtimestamp(NOW + 25, dt.UTC)


def test_an_engine_that_answers_but_does_not_move_is_stalled():
    target = Target(metrics_url("http://x"), stalled_seconds=30)
    states = [target.answered(scrape(tokens(100, running=2), at=at)) for at in (0.0, 10.0, 20.0, 30.0, 40.0)]
    assert [report.state for report in states] == ["live", "live", "live", "stalled", "stalled"]
    assert states[4].since == dt.datetime.fromtimestamp(NOW, dt.UTC)
    assert target.answered(scrape(tokens(101, running=2), at=50)).state == "live"


def test_an_idle_engine_is_not_stalled():
    target = Target(metrics_url("http://x"), stalled_seconds=30)
    assert {target.answered(scrape(tokens(100), at=at)).state for at in (0.0, 50.0, 100.0)} == {"live"}


def test_one_target_that_fails_or_hangs_does_not_stop_the_rest():
    over = threading.Event()

    def hangs(handler):
        over.wait(10 * A_LONG_TIME)

    with Site({"/metrics": tokens(5, running=3).encode()}) as good, Site(answer=hangs) as hanging, Site() as missing:
        watching = Watcher(
            [metrics_url(url) for url in (hanging.url, good.url, missing.url, "http://127.0.0.1:1")],
            limits=ScrapeLimits(timeout_seconds=A_LONG_TIME),
        )
        try:
            first, second = round_of(watching, hanging=1), round_of(watching, hanging=1)
        finally:
            over.set()
    for document in (first, second):
        assert [target.state for target in document.targets] == ["down", "live", "down", "down"]
        assert document.fleet.snapshot.gauges.requests_running == 3
    assert "no complete answer within 60 s" in first.targets[0].error
    assert "404" in first.targets[2].error
    assert first.targets[3].since == second.targets[3].since


def test_a_name_that_does_not_resolve_in_time_is_given_up_for_this_round(monkeypatch):
    over, asked = threading.Event(), []

    def slow(*_):
        asked.append(1)
        over.wait(10 * A_LONG_TIME)
        raise OSError("late")

    with Site({"/metrics": tokens(5).encode()}) as good:
        clock_jobs = [metrics_url("http://slow.invalid"), metrics_url(good.url)]
        watching = Watcher(clock_jobs, limits=ScrapeLimits(timeout_seconds=A_LONG_TIME))
        real = socket.getaddrinfo
        monkeypatch.setattr(
            "socket.getaddrinfo", lambda host, *rest: (slow if host == b"slow.invalid" else real)(host, *rest)
        )
        try:
            document, _ = round_of(watching, hanging=1), round_of(watching, hanging=1)
        finally:
            over.set()
    assert asked == [1], "a name that hangs is asked once at a time"
    assert [target.state for target in document.targets] == ["down", "live"]
    assert "no complete answer within 60 s" in document.targets[0].error


def test_what_is_left_out_of_a_page_is_noted():
    target = Target(metrics_url("http://x"))
    report = target.answered(scrape("vllm:num_requests_running 1\nvllm:generation_tokens_total -1\ntgi_queue_size 5\n"))
    assert report.state == "live"
    assert report.error == ""
    assert report.notes == [
        "names of TGI are on this page as well, and not read",
        "left out: vllm:generation_tokens_total = -1: expected a count",
    ]


NUMBERS = st.sampled_from(
    ["0", "1", "-1", "NaN", "+Inf", "-Inf", "1e308", "-1e308", "1e-320", "0.5", "9" * 400, str(2**53), "17"]
)
SAMPLES = st.sampled_from(sorted(name for name in known_samples() if name.startswith(("vllm:", "process_"))))
LABELS = st.sampled_from(["", '{engine="0"}', '{engine="1",finished_reason="stop"}', '{le="1"}', '{le="+Inf"}', '{le="-Inf"}',
                          '{num_gpu_blocks="1e400"}', '{num_gpu_blocks="-3"}', '{reason="capacity"}'])  # fmt: skip


@given(st.lists(st.lists(st.tuples(SAMPLES, LABELS, NUMBERS), min_size=1, max_size=30), min_size=1, max_size=3))
def test_whatever_numbers_a_page_has_the_document_can_be_written(pages):
    target = Target(metrics_url("http://x"))
    for at, lines in enumerate(pages):
        text = "vllm:num_requests_running 1\n" + "".join(f"{name}{labels} {value}\n" for name, labels, value in lines)
        report = target.answered(scrape(text, at=float(at)))
        fleet = combined([target.figures, target.figures])
        document = WatchDocument(time=report.scraped.snapshot.snapshot_time, targets=[report],
                                 fleet=scraped_snapshot(fleet, ScrapeIdentity("fleet", 0, 1, report.scraped.snapshot.snapshot_time)))  # fmt: skip
        assert json.loads(document.to_json())["targets"][0]["state"] == "live"
        assert view(document)


def test_nobody_there_is_no_fleet():
    document = watcher("http://127.0.0.1:1").round()
    assert document.fleet is None
    assert json.loads(document.to_json())["fleet"] is None


def test_a_target_named_twice_or_too_many_are_refused():
    with pytest.raises(ConfigurationError, match="each target once"):
        watcher("http://x:1", "http://x:1/metrics")
    with pytest.raises(ConfigurationError, match="at most 256"):
        watcher(*(f"http://x:{port}" for port in range(1, MAX_TARGETS + 2)))


def test_what_surprises_the_reader_stays_one_targets_trouble(monkeypatch):
    def surprise(*_):
        raise RuntimeError("never thought of")

    monkeypatch.setattr("batchscope.scraping.watcher.scrape", surprise)
    (report,) = watcher("http://127.0.0.1:1").round().targets
    assert report.error == "http://127.0.0.1:1/metrics: RuntimeError: never thought of"


def test_of_two_hundred_targets_twenty_that_hang_hold_up_none_of_the_others():
    over = threading.Event()

    def hangs(handler):
        over.wait(10 * A_LONG_TIME)

    with (
        Site({f"/{number}": tokens(5, running=1).encode() for number in range(180)}) as good,
        Site(answer=hangs) as bad,
    ):
        urls = [f"{bad.url}/{number}" for number in range(20)] + [f"{good.url}/{number}" for number in range(180)]
        watching = Watcher([metrics_url(url) for url in urls], limits=ScrapeLimits(timeout_seconds=A_LONG_TIME))
        try:
            document = round_of(watching, hanging=20)
        finally:
            over.set()
    assert [target.state for target in document.targets] == ["down"] * 20 + ["live"] * 180
    assert document.fleet.snapshot.gauges.requests_running == 180


def test_a_program_with_an_event_loop_goes_on_while_pages_are_read():
    async def program(url):
        watching, source = Watcher([metrics_url(url)]), RemoteSource(metrics_url(url))
        return await asyncio.gather(watching.next_round(), Fetcher().get(metrics_url(url)), source.read_snapshot())

    snapshot = SchedulerMetricsCollector().get_snapshot()
    pages = {"/metrics": tokens(5).encode(), "/snapshot?histograms=1": snapshot.to_json(histograms=True)}
    with Site(pages) as site:
        document, text, remote = asyncio.run(program(site.url))
    assert [target.state for target in document.targets] == ["live"]
    assert text == pages["/metrics"]
    assert remote.instance_id == snapshot.instance_id
