"""The event log of a scheduler nobody here wrote, replayed through RequestTracker, gives its published figures."""

from __future__ import annotations

import json

import pytest
from oracle_modules import TRACES, loaders, needs_oracle, oracle
from vidur_log import BUDGET, FOLDER, PLACES, WINDOW, Replay, replayed

from batchscope import BatchLimiter, SloTargets

pytestmark = [
    needs_oracle,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the event log is not here: no {FOLDER}"),
]
CELL = WINDOW / 60
FIELDS = {
    "queue_time": "queue",
    "time_to_first_token": "ttft",
    "prefill_time": "prefill",
    "decode_time": "decode",
    "time_per_output_token": "tpot",
    "total_time": "e2e",
}


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((TRACES / "expected.json").read_text())["vidur_conv_sarathi"]


@pytest.fixture(scope="module")
def replay(expected) -> Replay:
    return replayed(SloTargets(time_to_first_token=10, time_per_output_token=0.1), expected)


def test_every_request_of_the_log_completes_and_no_record_is_rejected(replay, expected):
    stats, totals = replay.snapshot.request_stats, replay.snapshot.totals
    assert stats.total_requests == stats.completed_requests == expected["reasons"]["reason:stop"] == 1000
    assert totals.requests_received == 1000
    assert replay.snapshot.gauges.requests_in_flight == totals.requests_lost == 0
    assert totals.rejected_records == {}
    assert stats.requests_per_second == pytest.approx(expected["windows_30s"][-1]["finished_per_s"], abs=CELL * 7)
    assert stats.average_tokens_per_request == expected["requests"]["output_tokens"]["mean"]
    assert totals.prompt_tokens_computed == expected["requests"]["prompt_tokens"]["sum"]


@pytest.mark.parametrize("name", FIELDS)
def test_latencies_are_the_published_ones(replay, expected, name):
    summary, wanted = getattr(replay.snapshot.request_stats, name), expected["requests"][FIELDS[name]]
    found = (summary.count, summary.mean, summary.p50, summary.p90, summary.p95, summary.p99, summary.max)
    figures = [f"p{p}_linear" for p in (50, 90, 95, 99)]
    assert found == pytest.approx([wanted[key] for key in ("count", "mean", *figures, "max")], rel=1e-9)


@pytest.mark.parametrize("name", ["inter_token_latency", "inter_emission_latency"])
def test_gaps_between_tokens_are_the_published_ones_within_the_histograms_error(replay, expected, name):
    summary, wanted = getattr(replay.snapshot.request_stats, name), expected["requests"]["itl"]
    assert summary.count == wanted["count"] == 246_262
    assert summary.mean == pytest.approx(wanted["mean"], rel=1e-9)
    assert summary.max == pytest.approx(wanted["max"], rel=1e-9)
    for percentile in (50, 90, 95, 99):
        nearest = wanted[f"p{percentile}_nearest"]
        assert getattr(summary, f"p{percentile}") == pytest.approx(nearest, rel=summary.relative_error)


def test_iterations_are_the_published_ones(replay, expected):
    stats, totals, wanted = replay.snapshot.iteration_stats, replay.snapshot.totals, expected["iterations"]
    assert stats.total_iterations == wanted["count"]
    time = stats.processing_time
    found = (time.mean, time.p50, time.p90, time.p95, time.p99, time.max)
    keys = ("mean", "p50_linear", "p90_linear", "p95_linear", "p99_linear", "max")
    assert found == pytest.approx([wanted["duration"][key] for key in keys], rel=1e-9)
    assert stats.average_requests_per_iteration == pytest.approx(wanted["running"]["mean"], rel=1e-9)
    assert totals.scheduled_request_seconds / totals.busy_seconds == pytest.approx(wanted["running_time_weighted"])
    assert stats.average_utilization == pytest.approx(wanted["batch_occupancy"], rel=1e-9)
    assert stats.time_weighted_utilization == pytest.approx(wanted["batch_occupancy_time_weighted"], rel=1e-9)
    assert totals.busy_seconds == pytest.approx(wanted["busy"], rel=1e-9)
    assert stats.busy_ratio == pytest.approx(wanted["utilisation"], rel=1e-9)
    assert stats.token_utilization == pytest.approx(wanted["tokens_per_iteration"] / BUDGET, rel=1e-9)
    assert totals.scheduled_prefill_tokens + totals.scheduled_decode_tokens == wanted["tokens_total"]
    assert totals.scheduled_prefill_tokens == wanted["prefill_tokens_total"]
    assert totals.scheduled_decode_tokens == wanted["decode_tokens_total"]
    assert totals.generation_tokens == expected["requests"]["output_tokens"]["sum"]
    assert stats.average_waiting_requests == pytest.approx(wanted["waiting"]["mean"], rel=1e-9)
    assert stats.average_kv_cache_usage == pytest.approx(wanted["memory"]["mean"] / 100, rel=1e-9)
    assert stats.preemptions == wanted["preempted_total"]


def test_the_batch_distribution_is_the_published_one_within_the_histograms_error(replay, expected):
    for name, key in (("batch_size", "running"), ("iteration_scheduled_tokens", "tokens")):
        histogram, wanted = replay.snapshot.histograms[name][""], expected["iterations"][key]
        assert (histogram.count, histogram.sum) == (wanted["count"], wanted["sum"])
        assert (histogram.min, histogram.max) == (wanted["min"], wanted["max"])
        for percentile in (50, 90, 95, 99):
            nearest = wanted[f"p{percentile}_nearest"]
            assert histogram.quantile(percentile / 100) == pytest.approx(nearest, rel=histogram.relative_error)


def test_requests_that_are_neither_running_nor_finished_were_counted_as_waiting(replay):
    """What a place is, the log does not say; but nobody runs twice, and the batch is among the running."""
    assert all(sample.running_requests >= sample.request_count for sample in replay.iterations)
    assert max(sample.running_requests for sample in replay.iterations) <= PLACES


def test_the_token_budget_bound_most_of_the_time(replay):
    share = replay.snapshot.iteration_stats.limited_by[BatchLimiter.TOKEN_BUDGET]
    bound = [s for s in replay.iterations if s.limited_by is BatchLimiter.TOKEN_BUDGET]
    busy = sum(s.processing_time for s in bound) / sum(s.processing_time for s in replay.iterations)
    assert share == pytest.approx(busy, rel=1e-9)
    assert share == pytest.approx(0.78, abs=0.01)  # of time; of iterations it is another figure
    assert len(bound) / len(replay.iterations) == pytest.approx(0.52, abs=0.01)


def test_windows_hold_the_published_rates_up_to_one_cell_at_their_old_edge(replay, expected):
    log, ran = loaders.vidur(str(FOLDER))
    assert len(replay.windows) == len(expected["windows_30s"])
    for snapshot, wanted in zip(replay.windows, expected["windows_30s"], strict=True):
        t, stats = wanted["t"], snapshot.request_stats
        fewest = oracle.requests_per_second(log, t, WINDOW - CELL) * (WINDOW - CELL) / WINDOW
        assert fewest <= stats.requests_per_second + 1e-12
        assert stats.requests_per_second <= wanted["finished_per_s"] + 1e-12
        fewest = oracle.tokens_per_second(log, t, WINDOW - CELL) * (WINDOW - CELL) / WINDOW
        assert fewest <= stats.tokens_per_second + 1e-12
        assert stats.tokens_per_second <= wanted["output_tokens_per_s"] + 1e-12
        assert snapshot.gauges.requests_in_flight == wanted["in_system"]
        ends = [(iteration.end, 1) for iteration in ran]
        at_most = oracle.window_rate(ends, t, WINDOW)
        at_least = oracle.window_rate(ends, t, WINDOW - CELL) * (WINDOW - CELL) / WINDOW
        assert at_least - 1e-12 <= snapshot.iteration_stats.iterations_per_second <= at_most + 1e-12


@pytest.mark.parametrize(
    ("key", "slo", "good"),
    [
        ("goodput_ttft10_tpot0.1", SloTargets(time_to_first_token=10, time_per_output_token=0.1), 683),
        ("goodput_ttft60_e2e90", SloTargets(time_to_first_token=60, e2e_latency=90), 999),
    ],
)
def test_goodput_counts_the_requests_that_met_both_targets(expected, key, slo, good):
    found = replayed(slo, expected).snapshot.slo_stats["default"]
    assert found.met == expected[key]["good"] == good
    assert (found.evaluated, found.unmeasured, found.not_evaluated) == (1000, 0, 0)
    assert found.attainment == expected[key]["of_finished"]
