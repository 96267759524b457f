"""The table of a watch: nothing in it is cut, whatever the screen, and what there is no room for is said."""

import datetime as dt
import io
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.records import CompletionReason
from batchscope.scraping.documents import (
    IntervalSummary,
    RatioSpan,
    ScrapedSnapshot,
    ScrapeWindow,
    TargetReport,
    WatchDocument,
)
from batchscope.scraping.remote import exact
from batchscope.scraping.table import DURATIONS
from batchscope.views.watch import interval_text, view

NOW = dt.datetime(2026, 11, 28, 12, 0, tzinfo=dt.UTC)
SIZES = [(80, 24), (120, 40), (60, 20), (100, 30), (200, 60)]
URL = "http://127.0.0.1:{}/metrics"


def drawn(document, width=120, height=None):
    console = Console(file=io.StringIO(), width=width, height=200, force_terminal=False, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(view(document, height))
    return captured.get()


def snapshot(scale=1.0, tokens=1):
    """Of an engine with 2 places and 3 requests, each output of ``tokens`` tokens."""
    now = [0.0]
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo={"interactive": SloTargets(time_to_first_token=2.0), "batch": SloTargets()}),
        limits=SchedulerLimits(max_running_requests=2), clock=lambda: now[0],
    )  # fmt: skip
    tracker = RequestTracker(collector)
    slots = [tracker.arrived(n, prompt_tokens=7, request_class="interactive", at=0.0) for n in range(3)]
    for step in range(1, 9):
        now[0] = step * scale
        tracker.iteration(slots[:2], [tokens] * 2, started_at=now[0] - scale, finished_at=now[0])
    tracker.finished(slots[0], CompletionReason.EOS_TOKEN_REACHED, at=now[0])
    tracker.finished(slots[1], CompletionReason.EOS_TOKEN_REACHED, at=now[0])
    return collector.get_snapshot()


def scraped(found, **fields):
    page = ScrapedSnapshot(
        snapshot=found, intervals={}, ratios={"kv_cache_usage": RatioSpan(0.5, 0.97, 2)},
        window=ScrapeWindow(5.0), sources={}, not_given={},
    )  # fmt: skip
    return exact(page, found, fields.get("held", found.totals.busy_seconds_by_limiter))


def up(port, found):
    return TargetReport(url=URL.format(port), state="live", scraped=found)


def down(port):
    error = f"{URL.format(port)}: connection refused: expected a server at this address"
    return TargetReport(url=URL.format(port), state="down", since=NOW, error=error)


def document(*targets):
    first = next((target.scraped for target in targets if target.scraped is not None), None)
    return WatchDocument(time=NOW, targets=list(targets), fleet=first)


def test_two_targets_of_which_one_is_down_show_one_table_of_latencies_and_no_fleet():
    shown = drawn(document(up(1, scraped(snapshot())), down(2)))
    assert shown.count("Latency  ") == 1
    assert "fleet" not in shown
    assert "connection refused" in shown


@pytest.mark.parametrize(("precision", "error"), [(1, "8.6 %"), (2, "0.54 %"), (3, "0.068 %")])
def test_the_title_of_our_own_endpoint_says_the_error_that_its_histograms_guarantee(precision, error):
    collector = SchedulerMetricsCollector(MetricsConfiguration(percentile_precision=precision), clock=lambda: 9.0)
    tracker = RequestTracker(collector)
    slot = tracker.arrived("a", at=0.0)
    for end in (3.0, 5.0, 9.0):
        tracker.iteration([slot], finished_at=end)
    assert f"percentiles within {error}; TTFT, queue: of all requests\n" in drawn(
        document(up(1, scraped(collector.get_snapshot())))
    )


def test_two_targets_that_are_up_show_the_fleet_and_each():
    found = scraped(snapshot())
    shown = drawn(document(up(1, found), up(2, found)))
    assert shown.count("Latency  ") == 3
    assert shown.count("fleet") == 3  # in the table, what held it, its latencies


def test_what_held_the_batch_and_the_slo_are_shown():
    found = snapshot()
    shown = drawn(document(up(1, scraped(found))))
    assert "limited by  request slots 100.0 %  (last 5 s; inferred)" in shown
    assert "SLO         interactive: 100.0 % of 2 met" in shown
    assert "batch:" not in shown  # it has no targets
    many = drawn(document(*(up(port, scraped(found)) for port in range(1, 7))))
    assert many.count("request slots 100.0 %") == 6 + 2  # a column, and the fleet's line
    assert many.count("Latency  ") == 1


@pytest.mark.parametrize(("tokens", "rows"), [(1, {"ITL = gap"}), (3, {"ITL, a token", "gap, an output"})])
def test_the_two_gaps_are_one_row_where_they_are_the_same(tokens, rows):
    shown = drawn(document(up(1, scraped(snapshot(tokens=tokens)))))
    names = {"ITL = gap", "ITL, a token", "gap, an output"}
    assert {name for name in names if name in shown} == rows


SECONDS = st.sampled_from([0.0, 0.0000042, 0.0123456, 0.25, 0.3536, 0.99996, 1.0, 65.536, 3599.9, 123456.0])


@st.composite
def engine_page(draw):
    """An engine's page with intervals of any width."""
    intervals = {}
    for quantity in DURATIONS:
        low, high = sorted((draw(SECONDS), draw(SECONDS)))
        edges = [(low, high), (0.0, high), (high, math.inf), (math.nan, math.nan)][draw(st.integers(0, 3))]
        intervals[quantity] = IntervalSummary(draw(st.integers(0, 10**9)), high, edges, edges, edges, edges, edges, 5.0)
    return ScrapedSnapshot(
        snapshot=snapshot(), intervals=intervals, ratios={}, window=ScrapeWindow(draw(SECONDS), draw(st.booleans())),
        sources={}, not_given={},
    )  # fmt: skip


@settings(max_examples=25)
@given(pages=st.lists(engine_page(), min_size=1, max_size=3), size=st.sampled_from(SIZES))
def test_no_figure_unit_or_header_is_cut_on_any_screen(pages, size):
    width, height = size
    shown = drawn(document(*(up(port, page) for port, page in enumerate(pages, 1))), width)
    assert "…" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    headers = [line.split() for line in shown.splitlines() if line.split()[-1:] == ["p99"]]
    assert len(headers) == len(pages) + (len(pages) > 1)
    assert all(set(header) <= {"count", "mean", "p50", "p90", "p95", "p99"} for header in headers)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
@pytest.mark.parametrize("states", [("live",), ("live", "down"), ("live", "live"), ("live", "live", "live")])
def test_a_round_fits_the_screen_and_says_what_does_not(width, height, states):
    found = scraped(snapshot())
    targets = [up(port, found) if state == "live" else down(port) for port, state in enumerate(states, 1)]
    shown = drawn(document(*targets), width, height).splitlines()
    assert len(shown) <= height
    latencies = sum(line.startswith((" queue", " TTFT", " TPOT", " ITL", " e2e", " prefill")) for line in shown)
    assert latencies >= 3
    whole = drawn(document(*targets), width).splitlines()
    assert (len(shown) < len(whole)) == any("rows of latencies not shown" in line for line in shown)


def test_of_a_table_without_room_the_rows_that_matter_stay():
    shown = drawn(document(up(1, scraped(snapshot()))), 80, 18)
    assert "TTFT" in shown
    assert "e2e" in shown
    assert "preempted" not in shown


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.25, 0.35355), "250..354 ms"),
        ((0.0, 0.01), "<= 10 ms"),
        ((80.0, math.inf), "> 80 s"),
        ((0.75, 1.0), "0.75..1 s"),
        ((0.9996, 0.99985), "1000 ms"),
        ((2560.0, 10000.0), "2,560..10,000 s"),
        ((0.0995, 0.1005), "100 ms"),
        ((0.0, 0.0), "0 s"),
        ((math.nan, math.nan), "-"),
    ],
)
def test_intervals_in_words(interval, text):
    assert interval_text(interval) == text


def test_numbers_of_an_interval_are_no_longer_than_six_characters():
    for low, high in itertools.pairwise([0.000123456, 0.0123456, 0.123456, 0.99951, 12.3456, 999.6, 2345.6]):
        numbers = interval_text((low, high)).rpartition(" ")[0].split("..")
        assert all(len(number) <= 6 for number in numbers)
