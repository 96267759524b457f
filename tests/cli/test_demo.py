"""``batchscope demo``: what everybody runs first."""

from command_line import batchscope

from batchscope import decode_snapshot
from batchscope.records import BatchLimiter


def test_it_shows_every_kind_of_limit_and_both_classes():
    run = batchscope("demo", "--json")
    assert run.code == 0
    snapshot = decode_snapshot(run.output)
    shares = snapshot.iteration_stats.limited_by
    for limiter in (BatchLimiter.REQUEST_SLOTS, BatchLimiter.TOKEN_BUDGET, BatchLimiter.KV_CACHE, BatchLimiter.DEMAND):
        assert shares[limiter] > 0.01
    assert {"interactive", "batch"} <= set(snapshot.slo_stats)
    requests = snapshot.request_stats
    assert requests.total_requests == snapshot.totals.requests_received == 3000
    assert min(requests.completed_requests, requests.failed_requests, requests.cancelled_requests) > 0


def test_the_same_seed_gives_the_same_report():
    first, again, other = (batchscope("demo", "--requests", 50, "--seed", seed).output for seed in (1, 1, 2))
    assert first == again != other


def test_a_setting_that_is_turned_has_its_effect():
    small, large = (
        decode_snapshot(batchscope("demo", "--requests", 600, "--kv-cache-blocks", blocks, "--json").output)
        for blocks in (1500, 50_000)
    )
    assert small.iteration_stats.limited_by["kv_cache"] > 0.1 > large.iteration_stats.limited_by["kv_cache"]


def test_its_peaks_and_shares_do_not_contradict_each_other():
    report = batchscope("demo").output
    assert "peak 100.0 %" in report  # the request slots held the batch for a while: then it was full
    assert "request slots" in report
