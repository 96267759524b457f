"""Snapshots of unlike collectors: whatever the order and the grouping, their merge is the same, and its identities hold."""

from __future__ import annotations

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx  # noqa: PT013

from batchscope import (
    CompletionReason,
    IterationResult,
    MetricsConfiguration,
    MetricsSnapshot,
    RequestResult,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
    decode_snapshot,
)

SLOS = st.sampled_from(
    [
        None,
        SloTargets(e2e_latency=0.5),
        {"chat": SloTargets(time_to_first_token=0.25), "batch": SloTargets(e2e_latency=4.0)},
        {"chat": SloTargets(time_to_first_token=0.5)},
    ]
)
LIMITS = st.builds(SchedulerLimits, *[st.sampled_from([None, 4, 16])] * 3)
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(list(CompletionReason)), st.integers(0, 9), st.integers(0, 99), st.sampled_from(["chat", None])
    ),
    max_size=6,
)
ITERATIONS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 90), st.integers(0, 2), st.sampled_from([math.nan, 0.5])), max_size=6
)
PARTS = st.lists(
    st.tuples(
        st.integers(1, 4), SLOS, LIMITS, REQUESTS, ITERATIONS, st.integers(0, 2),
        st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=2), st.sampled_from(["unified", "decode"]),
        st.booleans(),
    ),
    min_size=2, max_size=4,
)  # fmt: skip


def snapshot_of(part: tuple) -> MetricsSnapshot:
    precision, slo, limits, requests, iterations, in_flight, labels, role, through_json = part
    now = [64.0]
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(percentile_precision=precision, slo=slo),
        limits=limits, labels=labels, role=role, clock=lambda: now[0],
    )  # fmt: skip
    tracker = RequestTracker(collector)
    for number in range(in_flight):
        tracker.iteration([tracker.arrived(number), 5])
    for reason, tokens, ticks, request_class in requests:
        now[0] += 0.25
        collector.record_request_completion(
            RequestResult(1, tokens, reason, ticks / 64, time_to_first_token=ticks / 128, request_class=request_class)
        )
        collector.record_error(str(reason))
    for size, ticks, rank, usage in iterations:
        now[0] += 2.0
        collector.record_iteration(
            IterationResult(1, size, size, 0, ticks / 64, waiting_requests=size % 3, kv_cache_usage=usage, rank=rank)
        )
        collector.record_batch_utilization(size / 20, request_count=size)
    now[0] += 1.0
    snapshot = collector.get_snapshot()
    return decode_snapshot(snapshot.to_json(histograms=True)) if through_json else snapshot


def plain(snapshot: MetricsSnapshot) -> dict:
    return json.loads(snapshot.to_json(histograms=True))


def assert_same(one, other, path: str = "") -> None:
    """Equal to the bit; only floats may differ in their last digits, by the order of addition."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for place, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{place}]")
    elif isinstance(one, float) and isinstance(other, float):
        assert one == approx(other, rel=1e-12, abs=1e-12), path
    else:
        assert one == other, path


@settings(max_examples=60, deadline=None)
@given(PARTS, st.randoms())
def test_order_and_grouping_change_nothing_whatever_the_scales_classes_and_limits(parts, random):
    found = [snapshot_of(part) for part in parts]
    whole = MetricsSnapshot.merge(*found)
    assert_identities(whole, found)
    shuffled = random.sample(found, len(found))
    split = random.randint(1, len(found) - 1)
    grouped = MetricsSnapshot.merge(MetricsSnapshot.merge(*shuffled[:split]), MetricsSnapshot.merge(*shuffled[split:]))
    assert_same(plain(whole), plain(MetricsSnapshot.merge(*shuffled)))
    assert_same(plain(whole), plain(grouped))
    assert_same(plain(whole), plain(decode_snapshot(whole.to_json(histograms=True))))


def assert_identities(whole: MetricsSnapshot, found: list[MetricsSnapshot]) -> None:
    totals, stats = whole.totals, whole.request_stats
    assert stats.total_requests == stats.completed_requests + stats.failed_requests + stats.cancelled_requests
    assert stats.total_requests == sum(totals.requests_by_reason.values())
    in_flight = whole.gauges.requests_in_flight
    assert totals.requests_received == stats.total_requests + in_flight + totals.requests_lost
    assert math.fsum(totals.busy_seconds_by_limiter.values()) == approx(totals.busy_seconds)
    assert totals.rejected_records.get("stale_slot", 0) == in_flight
    for slo in whole.slo_stats.values():
        assert slo.evaluated == slo.met + slo.missed
    for name, by_class in whole.histograms.items():
        counts = sum(h.count for part in found for h in part.histograms[name].values())
        assert sum(h.count for h in by_class.values()) == counts
        assert all(h.count == h.zero_count + h.overflow_count + int(h.counts.sum()) for h in by_class.values())
