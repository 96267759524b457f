"""batchscope's own endpoint, watched and checked like any engine's."""

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")

from command_line import batchscope

from batchscope import (
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.engines.scraped.fetch import ScrapeError, ScrapeLimits, metrics_url
from batchscope.engines.scraped.watcher import Watcher, scrape
from batchscope.records import EngineInfo
from batchscope.server import serve

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


@pytest.mark.parametrize("vllm_names", [False, True])
def test_a_watch_reads_what_the_collector_itself_says(collector, vllm_names):
    endpoint = serve(collector, port=0, vllm_names=vllm_names)
    try:
        document = Watcher([metrics_url(endpoint.url)]).round()
    finally:
        endpoint.close()
    [report] = document.targets
    own, found = collector.get_snapshot(), document.fleet.snapshot
    assert (report.state, found.engine.kind) == ("up", "batchscope")
    assert found.totals.generation_tokens == own.totals.generation_tokens == 8
    assert found.iteration_stats.limited_by == own.iteration_stats.limited_by
    assert found.iteration_stats.time_weighted_utilization == own.iteration_stats.time_weighted_utilization
    assert (found.slo_stats["default"].met, found.gauges.requests_waiting) == (1, own.gauges.requests_waiting)
    assert found.totals.slo_requests == own.totals.slo_requests


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
            scrape(url, ScrapeLimits())
        run = batchscope("watch", endpoint.url, "--once", "--token-file", str(secret))
    finally:
        endpoint.close()
    assert run.code == 0, run.output + run.errors
    assert TOKEN not in run.output + run.errors + str(refused.value)
