"""The board: one model that report and watch draw from, so that they cannot say different things."""

import io
import json
import math

import msgspec
import pytest
from hypothesis import given, settings
from rich.console import Console
from test_report_view import NOON, SNAPSHOTS, served, snapshot_of
from test_watch_view import document, scraped, up

from batchscope.scraping.documents import IntervalSummary, RatioSpan, ScrapedSnapshot, ScrapeWindow
from batchscope.scraping.table import DURATIONS
from batchscope.statistics.summaries import RequestStatistics, SloStatistics
from batchscope.statistics.totals import Gauges, Totals, WindowTotals
from batchscope.views.board import Trouble, board
from batchscope.views.watch import view


def watched(snapshot):
    console = Console(file=io.StringIO(), width=120, height=200, force_terminal=False)
    with console.capture() as captured:
        console.print(view(document(up(1, scraped(snapshot)))))
    return captured.get()


@settings(max_examples=30, deadline=None)
@given(SNAPSHOTS)
def test_it_is_json_with_the_snapshots_own_figures_and_null_where_nothing_was_measured(snapshot):
    shown = json.loads(msgspec.json.encode(board(snapshot)))
    own = json.loads(snapshot.to_json())
    iterations, requests = own["iteration_stats"], own["request_stats"]
    assert shown["batch"]["full_by_time"] == iterations["time_weighted_utilization"]
    assert {one["limiter"]: (one["share"], one["lost_slot_seconds"]) for one in shown["held"]} == {
        name: (share, iterations["lost_slot_seconds"].get(name))
        for name, share in iterations["limited_by"].items()
        if share
    }
    assert [one["share"] for one in shown["held"]] == sorted((one["share"] for one in shown["held"]), reverse=True)
    for name in set(DURATIONS) & requests.keys():
        assert shown["latencies"][name]["count"] == requests[name]["count"]
        assert shown["latencies"][name]["p99"]["value"] == requests[name]["p99"]
    for one in shown["slo"]:
        assert one["attainment"] == own["slo_stats"][one["request_class"]]["attainment"]


def test_rates_are_of_the_whole_run_and_of_its_last_window():
    totals = Totals(prompt_tokens_computed=300, prompt_tokens_cached=100, generation_tokens=50)
    requests = RequestStatistics(total_requests=20, requests_per_second=3.0, tokens_per_second=7.0)
    snapshot = snapshot_of({}, totals=totals, request_stats=requests, elapsed_seconds=10.0,
                           window=WindowTotals(window_seconds=5.0, elapsed_seconds=10.0))  # fmt: skip
    whole, recent = board(snapshot).throughput, board(snapshot).recent
    assert (whole.requests, whole.output_tokens, whole.prompt_tokens, whole.cached_ratio) == (2.0, 5.0, 40.0, 0.25)
    assert (recent.requests, recent.output_tokens, recent.seconds, recent.whole_run) == (3.0, 7.0, 5.0, False)


def test_estimates_come_with_the_interval_that_their_error_allows():
    estimated = board(served().get_snapshot()).latencies["inter_token_latency"]
    low, high = estimated.p50.interval
    assert low == estimated.p50.value * (1 - estimated.relative_error) < estimated.p50.value < high
    exact = board(served().get_snapshot()).latencies["total_time"]
    assert exact.p99.interval == (exact.p99.value, exact.p99.value)


def test_of_a_page_a_percentile_is_its_interval_and_no_number():
    page = ScrapedSnapshot(
        snapshot=snapshot_of({}, gauges=Gauges(kv_cache_usage=0.7)),
        intervals={"time_to_first_token": IntervalSummary(9, 0.05, *[(0.04, 0.06)] * 5)},
        ratios={"kv_cache_usage": RatioSpan(0.5, 0.9, 2)}, window=ScrapeWindow(5.0), sources={}, not_given={},
        limited_by={"kv_cache": 0.25, "demand": 0.75}, limited_over=ScrapeWindow(4.0),
    )  # fmt: skip
    shown = board(page)
    [latency] = shown.latencies.values()
    assert (latency.count, latency.p99.interval, math.isnan(latency.p99.value)) == (9, (0.04, 0.06), True)
    assert latency.relative_error == pytest.approx(0.2)
    assert (shown.kv_cache.lowest, shown.kv_cache.highest, shown.exact) == (0.5, 0.9, False)
    assert [(one.limiter, one.share) for one in shown.held] == [("demand", 0.75), ("kv_cache", 0.25)]
    assert (shown.over.seconds, shown.held_over.seconds, shown.time) == (5.0, 4.0, NOON)


def test_what_should_be_zero_is_a_trouble_only_where_it_is_not():
    requests = RequestStatistics(rejected_records={"negative": 0})
    snapshot = snapshot_of({}, request_stats=requests, totals=Totals(requests_lost=2))
    assert board(snapshot).troubles == [Trouble("lost", 2)]


def test_report_and_watch_say_the_same_error_of_the_same_histogram():
    snapshot = served().get_snapshot()
    assert "percentiles within 0.54 %" in snapshot.report()
    assert "percentiles within 0.54 %" in watched(snapshot)


def test_report_and_watch_show_the_same_classes():
    slo = {
        "interactive": SloStatistics(targets={"time_to_first_token": 1.0}, evaluated=2, met=2, attainment=1.0),
        "batch": SloStatistics(),
        "other": SloStatistics(targets={"time_to_first_token": 1.0}),
    }
    snapshot = snapshot_of({}, slo_stats=slo)
    assert [one.request_class for one in board(snapshot).slo] == ["interactive"]
    for text in (snapshot.report().split("SLO  ")[1], watched(snapshot)):
        assert "interactive" in text
        assert not [line for line in text.splitlines() if "batch:" in line or line.split()[:1] == ["batch"]]
        assert "other" not in text
