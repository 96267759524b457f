"""Iterations: spans completed, sums and integrals over time, the last one's present values."""

from math import nan

import pytest

from batchscope import BatchLimiter, IterationResult, MetricsConfiguration, SchedulerLimits, SchedulerMetricsCollector


def ran(*results, **configuration):
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(**configuration), limits=SchedulerLimits(max_running_requests=8), clock=lambda: 10.0
    )
    for result in results:
        collector.record_iteration(result)
    return collector


@pytest.mark.parametrize(
    ("duration", "started", "finished", "busy"),
    [(2.0, nan, nan, 2.0), (2.0, 1.0, nan, 2.0), (2.0, nan, 4.0, 2.0), (nan, 1.0, 4.0, 3.0), (2.0, 1.0, 5.0, 4.0)],
)
def test_the_span_of_an_iteration_follows_from_what_is_given(duration, started, finished, busy):
    collector = ran(IterationResult(1, 4, 4, 0, duration, started_at=started, finished_at=finished))
    assert collector.read_totals().totals.busy_seconds == busy


def test_integrals_are_requests_times_busy_time():
    fields = {"running_requests": 5, "waiting_requests": 3}
    totals = (
        ran(
            IterationResult(1, 4, 4, 0, 2.0, started_at=0.0, finished_at=2.0, **fields),
            IterationResult(2, 2, 2, 0, 1.0, started_at=2.0, finished_at=3.0, running_requests=2, waiting_requests=0),
        )
        .read_totals()
        .totals
    )
    assert totals.running_request_seconds == 5 * 2 + 2 * 1
    assert totals.waiting_request_seconds == 3 * 2
    assert totals.scheduled_request_seconds == 4 * 2 + 2 * 1
    assert totals.slot_seconds == 8 * 3


def test_what_those_who_waited_waited_for_is_kept_by_limiter():
    totals = (
        ran(
            IterationResult(1, 4, 4, 0, 2.0, finished_at=2.0, waiting_requests=3, limited_by=BatchLimiter.KV_CACHE),
            IterationResult(2, 4, 4, 0, 1.0, finished_at=3.0, waiting_requests=5, limited_by=BatchLimiter.TOKEN_BUDGET),
            IterationResult(3, 4, 4, 0, 1.0, finished_at=4.0, limited_by=BatchLimiter.TOKEN_BUDGET),
            IterationResult(4, 4, 4, 0, 4.0, finished_at=8.0, waiting_requests=0, limited_by=BatchLimiter.DEMAND),
        )
        .read_totals()
        .totals
    )
    waited = totals.waiting_request_seconds_by_limiter
    assert {name: seconds for name, seconds in waited.items() if seconds} == {"kv_cache": 6.0, "token_budget": 5.0}
    assert sum(waited.values()) == totals.waiting_request_seconds


def test_where_nobody_says_who_waits_it_is_kept_by_no_limiter():
    totals = ran(IterationResult(1, 4, 4, 0, 2.0)).read_totals().totals
    assert totals.waiting_request_seconds_by_limiter == {}


def test_tokens_are_summed_by_what_they_were_scheduled_for():
    totals = (
        ran(
            IterationResult(1, 4, 3, 0, 1.0, scheduled_tokens=50, prefill_tokens=47, recomputed_tokens=7),
            IterationResult(2, 4, 4, 0, 1.0, scheduled_tokens=4, prefill_tokens=0, draft_tokens=8, accepted_tokens=6),
            IterationResult(3, 4, 4, 0, 1.0),
        )
        .read_totals()
        .totals
    )
    assert (totals.scheduled_prefill_tokens, totals.scheduled_decode_tokens) == (47, 7)
    assert (totals.recomputed_tokens, totals.draft_tokens, totals.accepted_tokens) == (7, 8, 6)
    assert totals.generation_tokens == 11


def test_sums_go_on_when_the_sample_buffer_is_full():
    collector = ran(*(IterationResult(n, 1, 2, 0, 0.0, preemptions=1) for n in range(9)), max_iteration_samples=2)
    totals = collector.read_totals().totals
    assert (totals.iterations, totals.generation_tokens, totals.preemptions) == (9, 18, 9)


def test_what_was_not_given_is_not_in_a_histogram():
    histograms = ran(
        IterationResult(1, 4, 4, 0, 1.0), IterationResult(2, 4, 4, 0, 1.0, scheduled_tokens=4)
    ).read_totals()
    assert histograms.histograms["iteration_scheduled_tokens"][""].count == 1
    assert histograms.histograms["batch_size"][""].count == 2
