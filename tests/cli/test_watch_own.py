"""batchscope's own endpoint, watched and checked: exactly, by its snapshot, and like any engine's where there is none."""

import json
import math

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")

from command_line import batchscope
from scrape_doubles import Site, tokens

from batchscope import (
    CompletionReason,
    IterationResult,
    MetricsConfiguration,
    MetricsSnapshot,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.exporters.prometheus import Exposition, Format
from batchscope.records import EngineInfo
from batchscope.scraping.fetch import Fetcher, ScrapeError, ScrapeLimits, metrics_url, wait_for
from batchscope.scraping.remote import RemoteSource, held_since
from batchscope.scraping.watcher import Target, Watcher, look, scrape
from batchscope.server import serve
from batchscope.statistics.cumulative import StateSource, cumulative_of

TOKEN = "s3cret"  # noqa: S105


@pytest.fixture
def collector():
    now = [0.0]
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo=SloTargets(time_to_first_token=2.0)),
        limits=SchedulerLimits(max_running_requests=2),
        clock=lambda: now[0],
    )
    collector.engine = EngineInfo("my-engine", "1")
    tracker = RequestTracker(collector)
    slots = [tracker.arrived(number, prompt_tokens=7, at=0.0) for number in range(3)]
    for end in (1.0, 2.0, 3.0, 4.0):
        now[0] = end
        tracker.iteration(slots[:2], started_at=end - 1.0, finished_at=end)
    tracker.finished(slots[0], CompletionReason.EOS_TOKEN_REACHED, at=4.0)
    return collector


def page_of(collector):
    return Exposition().render(collector.read_totals(), Format.TEXT)


def mergeable(collector):
    return collector.get_snapshot().to_json(histograms=True)


def looks(*pages, rounds=1):
    """The last document of a watch of sites that serve these pages, by path."""
    sites = [Site(page) for page in pages]
    try:
        for site in sites:
            site.__enter__()
        watcher = Watcher([metrics_url(site.url) for site in sites])
        return [watcher.round() for _ in range(rounds)][-1]
    finally:
        for site in sites:
            site.__exit__(None, None, None)


@pytest.mark.parametrize("vllm_names", [False, True])
@pytest.mark.parametrize("path", ["", "/metrics", "/snapshot", "/snapshot?histograms=1"])
def test_a_watch_reads_what_the_collector_itself_says(collector, vllm_names, path):
    endpoint = serve(collector, port=0, vllm_names=vllm_names)
    try:
        document = Watcher([metrics_url(endpoint.url + path)]).round()
    finally:
        endpoint.close()
    [report] = document.targets
    own, found = collector.get_snapshot(), document.fleet.snapshot
    assert (report.state, report.notes, found.engine.kind, document.fleet.exact) == ("live", [], "my-engine", True)
    assert found.totals == own.totals
    assert found.request_stats == own.request_stats
    assert found.iteration_stats == own.iteration_stats
    assert found.slo_stats == own.slo_stats
    assert document.fleet.limited_by == own.iteration_stats.limited_by
    assert found.histograms == {}


def test_percentiles_are_as_wide_as_the_histograms_error_and_of_the_last_minute(collector):
    document = looks({"/metrics": page_of(collector), "/snapshot?histograms=1": mergeable(collector)})
    windowed = collector.get_snapshot().windowed["1m"].summaries["time_to_first_token"]
    interval = document.fleet.intervals["time_to_first_token"]
    assert (interval.count, interval.mean) == (windowed.count, windowed.mean)
    assert interval.p99 == pytest.approx((windowed.p99 * (1 - windowed.relative_error),
                                          windowed.p99 * (1 + windowed.relative_error)))  # fmt: skip
    assert document.fleet.window.seconds == 4.0
    assert document.fleet.window.since_start


def test_a_remote_source_is_a_source_like_the_collector_itself(collector):
    with Site({"/snapshot?histograms=1": mergeable(collector)}) as site:
        source: StateSource = RemoteSource(metrics_url(site.url))
        assert source.get_snapshot().totals == collector.get_snapshot().totals
        assert repr(source.read_totals().gauges) == repr(collector.read_totals().gauges)
        assert not source.closed
        merged = MetricsSnapshot.merge(source.get_snapshot())
    assert merged.totals == collector.get_snapshot().totals


def engine(batch, iterations=10):
    now = [0.0]
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(max_running_requests=4), clock=lambda: now[0])
    for number in range(iterations):
        now[0] = float(number + 1)
        collector.record_iteration(IterationResult(number, batch, batch, 0, 1.0, started_at=float(number),
                                                   finished_at=now[0]))  # fmt: skip
    return collector


def sites(*collectors):
    return [{"/metrics": page_of(one), "/snapshot?histograms=1": mergeable(one)} for one in collectors]


def test_utilization_of_a_fleet_is_that_of_all_its_records():
    three_quarters, quarter = engine(3), engine(1, iterations=30)
    fleet = looks(*sites(three_quarters, quarter)).fleet.snapshot
    expected = MetricsSnapshot.merge(three_quarters.get_snapshot(), quarter.get_snapshot()).iteration_stats
    assert fleet.iteration_stats == expected
    assert expected.average_utilization == (10 * 0.75 + 30 * 0.25) / 40


def test_utilization_of_a_page_that_is_a_merge_is_that_of_all_its_records_too():
    merged = MetricsSnapshot.merge(*(engine(4).get_snapshot() for _ in range(4)))

    class Merge:
        """What ``batchscope serve DIRECTORY`` serves."""

        closed = False

        def get_snapshot(self):
            return merged

        def read_totals(self):
            return cumulative_of(merged)

    document = looks(*sites(Merge()))
    assert document.fleet.snapshot.iteration_stats.average_utilization == 1.0
    page_alone = looks({"/metrics": page_of(Merge())}).fleet.snapshot.iteration_stats.average_utilization
    assert math.isnan(page_alone)  # a page does not tell how many schedulers share its places


def test_where_the_snapshot_is_not_to_be_had_the_page_is_read_and_that_is_said(collector):
    for snapshot in (None, b"nonsense", b"{}", b'{"schema": "batchscope.snapshot/1"}'):
        pages = {"/metrics": page_of(collector)} | ({} if snapshot is None else {"/snapshot?histograms=1": snapshot})
        document = looks(pages)
        [report] = document.targets
        assert report.state == "live"
        assert "exact figures are not to be had" in report.notes[0]
        assert not document.fleet.exact
        assert document.fleet.snapshot.totals.generation_tokens == 8
        assert document.fleet.intervals["time_to_first_token"].count == 2


def lying(collector, **totals):
    """Its snapshot, with other totals."""
    document = json.loads(mergeable(collector))
    document["totals"] |= totals
    return json.dumps(document).encode()


OVERFLOWING = {"busy_seconds_by_limiter": {"demand": 1e308, "kv_cache": 1e308}, "iterations": 2**63 - 1}


@pytest.mark.parametrize("totals", [OVERFLOWING, {"iterations": 10**400}])
@pytest.mark.parametrize("command", [("watch", "--once"), ("watch", "--once", "--json"), ("check",), ("report",)])
def test_a_lying_endpoint_ends_no_command_with_a_traceback(collector, totals, command):
    lie = lying(collector, **totals)
    with Site({"/metrics": page_of(collector), "/snapshot?histograms=1": lie, "/snapshot": lie}) as site:
        ran = batchscope(command[0], site.url, *command[1:])
    assert "Traceback" not in ran.errors
    assert ran.code == (2 if command == ("report",) and totals == {"iterations": 10**400} else 0)


@pytest.mark.parametrize("command", [("watch", "--once"), ("report",)])
def test_of_thousands_of_names_the_largest_are_shown_and_the_rest_counted(collector, command):
    document = json.loads(mergeable(collector))
    names = [f"name_{number}" for number in range(3000)]
    shares = {name: 1.0 + number for number, name in enumerate(names)}
    document["totals"]["busy_seconds_by_limiter"] = document["iteration_stats"]["limited_by"] = shares
    document["slo_stats"] = dict.fromkeys(names, document["slo_stats"]["default"])
    document["labels"] = dict.fromkeys(names, "x")
    lie = json.dumps(document).encode()
    with Site({"/metrics": page_of(collector), "/snapshot?histograms=1": lie, "/snapshot": lie}) as site:
        ran = batchscope(command[0], site.url, *command[1:], COLUMNS="120")
    assert ran.code == 0, ran.errors
    assert len(ran.output) < 20_000
    assert "name 2999" in ran.output
    assert "name 2980" in ran.output
    assert "name 2979" not in ran.output
    assert "2,980 more" in ran.output


def test_a_lying_endpoint_costs_a_fleet_nobody_elses_figures(collector):
    liar = {"/metrics": page_of(collector), "/snapshot?histograms=1": lying(collector, iterations=10**400)}
    document = looks(*sites(collector), liar)
    assert [target.state for target in document.targets] == ["live", "live"]
    assert "a whole number of 1329 bits" in document.targets[1].notes[0]
    assert document.targets[0].scraped.snapshot.totals.iterations == 4


def test_whatever_goes_wrong_with_one_targets_figures_the_others_are_shown(collector, monkeypatch):
    answered = Target.answered

    def fails_for_the_second(target, now):
        if target.url.text.startswith(second.url):
            raise ArithmeticError("odd figures")
        return answered(target, now)

    monkeypatch.setattr(Target, "answered", fails_for_the_second)
    with Site(sites(collector)[0]) as first, Site(sites(collector)[0]) as second:
        document = Watcher([metrics_url(first.url), metrics_url(second.url)]).round()
    assert [target.state for target in document.targets] == ["live", "down"]
    assert "ArithmeticError: odd figures" in document.targets[1].error
    assert document.fleet.snapshot.totals.iterations == 4


def test_the_time_of_page_and_snapshot_together_is_bounded(collector):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        if handler.path.startswith("/metrics"):
            handler.wfile.write(page_of(collector))
            return
        while True:
            handler.wfile.write(b" " * 65536)

    with Site(answer=endless) as site:
        seen = wait_for(look(metrics_url(site.url), Fetcher(ScrapeLimits(timeout_seconds=5.0, max_bytes=2**20))))
    assert seen.snapshot is None
    assert "larger than 1 MiB" in seen.lacking


def test_one_collector_under_two_addresses_is_said_and_not_merged(collector):
    document = looks(*sites(collector, collector))
    assert "would count twice" in document.fleet.notes[0]
    assert [target.scraped.exact for target in document.targets] == [True, True]


def test_beside_an_engines_page_a_fleet_is_made_of_pages(collector):
    document = looks(*sites(collector), {"/metrics": tokens(100, running=3).encode()})
    assert [target.scraped.exact for target in document.targets] == [True, False]
    assert not document.fleet.exact
    assert document.fleet.snapshot.totals.generation_tokens == 108
    assert document.fleet.snapshot.engine.kind == "mixed"


def test_what_held_the_batch_is_of_the_time_between_two_looks_of_the_same_life():
    one = engine(4)
    before = one.get_snapshot()
    one.record_iteration(IterationResult(10, 1, 1, 0, 0.5, started_at=10.0, finished_at=10.5, running_requests=1,
                                         waiting_requests=0))  # fmt: skip
    now = one.get_snapshot()
    gained = {name: seconds for name, seconds in held_since(now, before).items() if seconds}
    assert gained == {"demand": 0.5}
    assert held_since(now, None) == held_since(now, engine(2).get_snapshot()) == now.totals.busy_seconds_by_limiter


def test_check_names_the_engine_behind_it_and_where_there_is_more(collector, tmp_path):
    endpoint = serve(collector, port=0)
    try:
        run = batchscope("check", endpoint.url)
    finally:
        endpoint.close()
    assert run.code == 0, run.output + run.errors
    for part in ("my-engine", "/snapshot has everything", "batchscope_lost_slot_seconds_total"):
        assert part in run.output


def test_a_token_opens_the_page_and_is_never_shown(collector, tmp_path):
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    endpoint = serve(collector, port=0, token_file=secret)
    try:
        url = metrics_url(endpoint.url)
        with pytest.raises(ScrapeError, match=r"401.*expected a bearer token.*--token-file") as refused:
            wait_for(scrape(url, Fetcher()))
        run = batchscope("watch", endpoint.url, "--once", "--token-file", str(secret))
    finally:
        endpoint.close()
    assert run.code == 0, run.output + run.errors
    assert TOKEN not in run.output + run.errors + str(refused.value)
