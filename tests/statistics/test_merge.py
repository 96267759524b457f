import math
import random
from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscope.collector import SchedulerMetricsCollector
from batchscope.configuration import MetricsConfiguration, SchedulerLimits, SloTargets
from batchscope.errors import MergeError
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.records import BatchLimiter, CompletionReason, IterationResult, RequestResult
from batchscope.statistics.merge import merge_snapshots
from batchscope.statistics.snapshot import MetricsSnapshot, decode_snapshot
from batchscope.statistics.summaries import DistributionSummary, ResourceStatistics

SLO = {
    "chat": SloTargets(time_to_first_token=4.0, e2e_latency=8.0),
    "bulk": SloTargets(time_per_output_token=2.0),
}
CONFIGURATION = MetricsConfiguration(slo=SLO)
LIMITS = SchedulerLimits(max_running_requests=8, max_scheduled_tokens=64, kv_cache_blocks=100)
SECONDS = st.integers(1, 96).map(lambda k: k / 16)
MAYBE = st.just(math.nan) | SECONDS
COUNT = st.integers(0, 40)
RANKS = 3
OWN = {
    "gauges", "limits", "instance_id", "sequence", "merged_from", "started_at", "snapshot_time",
}  # fmt: skip
"""What is each collector's own: present values, capacity, who it is, when its wall clock was read."""
COMPARED_APART = {
    "totals", "histograms", "request_stats", "iteration_stats", "error_stats", "windowed", "windowed_histograms",
}  # fmt: skip


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@st.composite
def requests(draw):
    return RequestResult(
        draw(COUNT), draw(COUNT), draw(st.sampled_from(CompletionReason)), draw(SECONDS),
        queue_time=draw(MAYBE), time_to_first_token=draw(MAYBE), prefill_time=draw(MAYBE),
        decode_time=draw(MAYBE), preempted_time=draw(MAYBE), prompt_tokens=draw(COUNT),
        cached_tokens=draw(COUNT), request_class=draw(st.sampled_from(["chat", "bulk", "unheard of", None])),
    )  # fmt: skip


@st.composite
def iterations(draw):
    return IterationResult(
        draw(COUNT), draw(st.integers(0, 8)), draw(COUNT), 0, draw(SECONDS), rank=draw(st.integers(0, RANKS - 1)),
        memory_bytes_used=draw(st.none() | COUNT), waiting_requests=draw(st.none() | COUNT),
        running_requests=draw(st.none() | st.integers(0, 8)), scheduled_tokens=draw(st.none() | COUNT),
        prefill_tokens=0, preemptions=draw(st.integers(0, 1)), kv_cache_usage=draw(st.sampled_from([math.nan, 0.5])),
        limited_by=draw(st.none() | st.sampled_from(BatchLimiter)),
        inter_token_latencies=draw(st.lists(SECONDS, max_size=3)),
    )  # fmt: skip


BATCHES = st.tuples(SECONDS.map(lambda x: x / 6), st.none() | COUNT, st.none() | COUNT)
ERRORS = st.sampled_from(["oom", "timeout", "cuda"])
# A processing time that is negative is refused: rejections add up as well.
BAD = st.just(RequestResult("bad", 1, CompletionReason.OTHER, -1.0))
HISTORY = st.lists(
    st.tuples(requests() | iterations() | BATCHES | ERRORS | BAD, st.integers(0, 3), st.integers(0, 400)), max_size=25
)


def report(collector, record):
    if isinstance(record, RequestResult):
        collector.record_request_completion(record)
    elif isinstance(record, IterationResult):
        collector.record_iteration(record)
    elif isinstance(record, str):
        collector.record_error(record)
    else:
        collector.record_batch_utilization(record[0], request_count=record[1], memory_bytes_used=record[2])


def collected(history, number, limits=LIMITS):
    """Snapshots of one collector fed with all, and of ``number`` that share it; a rank belongs to one of them."""
    clock = Clock()
    one, *parts = (
        SchedulerMetricsCollector(CONFIGURATION, limits=limits, labels={"model": "m"}, clock=clock)
        for _ in range(number + 1)
    )
    for record, whose, later in history:
        clock.now += later / 16
        report(one, record)
        owner = record.rank or 0 if isinstance(record, IterationResult) else whose
        report(parts[owner % number], record)
    clock.now += 1.0
    return one.get_snapshot(), [part.get_snapshot() for part in parts]


def plain(value):
    """Structs and histograms as builtins."""
    if isinstance(value, ExponentialHistogram):
        return value.to_dict()
    if isinstance(value, msgspec.Struct):
        return {field: plain(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def assert_close(found, expected, where=""):
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_close(found[key], value, f"{where}.{key}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), where
    else:
        assert found == expected, where


def same(found, expected, *, without=()):
    one, other = plain(found), plain(expected)
    for field in without:
        one.pop(field)
        other.pop(field)
    assert_close(one, other)


def at_one_scale(histogram, other):
    return histogram.downscaled(min(histogram.scale, other.scale))


@given(history=HISTORY, number=st.integers(2, 4))
@settings(deadline=None)
def test_a_merge_is_what_one_collector_would_have_given(history, number):
    one, parts = collected(history, number)
    merged = merge_snapshots(parts)
    same(merged, one, without=OWN | COMPARED_APART)  # means, rates of the window, batch, SLO, labels, ...
    same(merged.totals, one.totals)
    assert_close(plain(merged.histograms), plain(one.histograms))
    percentiles = {"processing_time"}
    same(merged.iteration_stats, one.iteration_stats, without=percentiles)
    latencies = {field for field in one.request_stats.__struct_fields__ if field.startswith("p") and field[1].isdigit()}
    latencies |= {
        field for field in one.request_stats.__struct_fields__
        if isinstance(getattr(one.request_stats, field), DistributionSummary) and not field.startswith("inter")
    }  # fmt: skip
    same(merged.request_stats, one.request_stats, without=latencies)
    same(merged.error_stats, one.error_stats, without={"last_error_time"})
    assert merged.gauges.requests_in_flight == one.gauges.requests_in_flight
    for name, histograms in one.windowed_histograms.items():
        for quantity, by_class in histograms.items():
            for class_name, expected in by_class.items():
                found = merged.windowed_histograms[name][quantity][class_name]
                assert_close(at_one_scale(found, expected).to_dict(), at_one_scale(expected, found).to_dict())
            assert merged.windowed[name].summaries[quantity].count == one.windowed[name].summaries[quantity].count
        assert merged.windowed[name].span_seconds == one.windowed[name].span_seconds


@given(history=HISTORY, shuffled=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_and_grouping_do_not_matter(history, shuffled: random.Random):
    _, parts = collected(history, 4)
    whole = merge_snapshots(parts)
    first, second, third, fourth = shuffled.sample(parts, 4)
    same(merge_snapshots([first, second, third, fourth]), whole)
    same(merge_snapshots([merge_snapshots([first, second]), merge_snapshots([third, fourth])]), whole)
    same(merge_snapshots([merge_snapshots([merge_snapshots([first]), second, third]), fourth]), whole)


@given(history=HISTORY)
@settings(deadline=None, max_examples=40)
def test_percentiles_are_within_their_stated_error_of_nearest_rank(history):
    one, parts = collected(history, 3)
    found = MetricsSnapshot.merge(*parts).request_stats.total_time
    assert (found.source, found.count) == ("histogram", one.request_stats.completed_requests)
    times = sorted(
        (0.0 if math.isnan(record.queue_time) else record.queue_time) + record.processing_time
        for record, _, _ in history
        if isinstance(record, RequestResult) and record.reason.outcome == "completed" and record.request_id != "bad"
    )
    if times:
        for percentile, estimate in ((50, found.p50), (95, found.p95), (99, found.p99)):
            exact = times[-(-percentile * len(times) // 100) - 1]
            assert estimate == pytest.approx(exact, rel=found.relative_error * (1 + 1e-9))


ITERATION = IterationResult(1, 4, 4, 0, 0.5, started_at=1000.0, kv_cache_usage=0.25)


def snapshot(*records, configuration=CONFIGURATION, later=1.0, **arguments):
    clock = Clock()
    collector = SchedulerMetricsCollector(configuration, clock=clock, **arguments)
    clock.now += later
    for record in records:
        report(collector, record)
    return collector.get_snapshot()


def usage(of, blocks=None):
    iteration = msgspec.structs.replace(ITERATION, kv_cache_usage=of)
    return snapshot(iteration, limits=SchedulerLimits(kv_cache_blocks=blocks))


def test_a_merge_survives_json():
    _, parts = collected([(ITERATION, 0, 16), ("oom", 1, 16)], 2)
    merged = merge_snapshots(parts)
    again = merge_snapshots([decode_snapshot(part.to_json(histograms=True)) for part in parts])
    same(again, merged)
    assert again.merged_from == sorted(part.instance_id for part in parts)


def test_what_cannot_be_merged_says_so():
    one, other = snapshot(ITERATION), snapshot()
    with pytest.raises(MergeError, match="no snapshots"):
        MetricsSnapshot.merge()
    with pytest.raises(MergeError, match=one.instance_id):
        merge_snapshots([one, one])
    with pytest.raises(MergeError, match=one.instance_id):
        merge_snapshots([merge_snapshots([one, other]), one])
    with pytest.raises(MergeError, match="ask for histograms"):
        merge_snapshots([other, decode_snapshot(one.to_json())])
    with pytest.raises(MergeError, match=r"\[30.0, 60.0\]"):
        merge_snapshots([one, snapshot(configuration=MetricsConfiguration(counter_window_seconds=30))])


def test_one_snapshot_goes_through_merging():
    one = snapshot(RequestResult("a", 3, CompletionReason.EOS_TOKEN_REACHED, 1.5), ITERATION)
    merged = merge_snapshots([one])
    assert merged.request_stats.total_time.source == "histogram"
    assert merged.merged_from == [one.instance_id]
    same(merged.totals, one.totals)
    assert merge_snapshots([decode_snapshot(snapshot().to_json())]).totals.iterations == 0  # nothing was left out


def test_the_parts_are_left_as_they_were():
    parts = [snapshot(ITERATION), snapshot(ITERATION)]
    before = [part.to_json(histograms=True) for part in parts]
    merge_snapshots(parts)
    assert [part.to_json(histograms=True) for part in parts] == before


def test_different_thresholds_and_scales():
    finished = RequestResult("a", 3, CompletionReason.EOS_TOKEN_REACHED, 1.5)
    configurations = [
        MetricsConfiguration(slo=SloTargets(e2e_latency=limit), percentile_precision=digits)
        for limit, digits in ((1.0, 2), (2.0, 1), (1.0, 3))
    ]
    first, second, third = (snapshot(finished, configuration=configuration) for configuration in configurations)
    same_targets = merge_snapshots([first, third])
    assert same_targets.histograms["total_time"]["default"].thresholds == (1.0,)
    assert same_targets.histograms["total_time"]["default"].cumulative_count_at(1.0) == 0
    assert same_targets.slo_stats["default"].targets == {"e2e_latency": 1.0}
    for found in (merge_snapshots([first, second, third]), merge_snapshots([merge_snapshots([first, second]), third])):
        histogram = found.histograms["total_time"]["default"]
        assert (histogram.thresholds, histogram.scale, histogram.count) == ((), 2, 3)
        assert (found.slo_stats["default"].targets, found.slo_stats["default"].met) == ({}, 1)


def test_capacity_adds_up_and_is_unknown_where_an_engine_that_ran_does_not_say():
    limited, silent, idle = snapshot(ITERATION, limits=LIMITS), snapshot(ITERATION), snapshot()
    assert merge_snapshots([limited, snapshot(limits=LIMITS), idle]).limits.max_running_requests == 16
    assert merge_snapshots([limited, idle]).iteration_stats.time_weighted_utilization == 0.5
    unknown = merge_snapshots([limited, silent])
    assert unknown.limits.max_running_requests is unknown.gauges.limit_running_requests is None
    utilizations = unknown.iteration_stats
    assert math.isnan(utilizations.time_weighted_utilization)
    assert math.isnan(utilizations.average_utilization)  # the one's is not that of both
    assert math.isnan(utilizations.token_utilization)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(0.5, 100), (0.2, 300)], 0.275),
        ([(0.5, 100), (0.2, 300), (0.9, 100)], 0.4),
        ([(0.5, 100), (0.2, None)], math.nan),
        ([(0.5, None), (0.2, None), (0.9, 100)], math.nan),
        ([(0.5, 100), (math.nan, 100), (0.5, 100)], math.nan),
        ([(0.5, None)], 0.5),
    ],
)
def test_kv_cache_usage_is_weighted_by_blocks(parts, expected):
    for first, *rest in permutations([usage(*part) for part in parts] + [snapshot()]):
        for found in (merge_snapshots([first, *rest]), merge_snapshots([merge_snapshots([first, rest[0]]), *rest[1:]])):
            assert found.gauges.kv_cache_usage == pytest.approx(expected, nan_ok=True)


def test_attainment_and_goodput_come_from_counts():
    def finished(first_token):
        return RequestResult("a", 3, CompletionReason.EOS_TOKEN_REACHED, 6.0, time_to_first_token=first_token,
                             request_class="chat")  # fmt: skip

    history = [(finished(0.5), 0, 16), (finished(4.0), 1, 16), (finished(4.5), 0, 16), (finished(math.nan), 1, 16)]
    one, parts = collected(history, 2)
    chat = merge_snapshots(parts).slo_stats["chat"]
    assert (chat.met, chat.missed, chat.unmeasured, chat.evaluated) == (2, 1, 1, 3)
    assert chat.missed_by == {"failed": 0, "time_to_first_token": 1, "e2e_latency": 0}
    assert chat.goodput_per_second == 2 / 5
    assert chat == one.slo_stats["chat"]


def test_gauges():
    first = usage(0.5)
    idle = snapshot()
    replace = msgspec.structs.replace
    busy = replace(first.gauges, requests_running=3, requests_in_flight=4, oldest_waiting_seconds=2.0,
                   seconds_since_last_iteration=5.0, requests_overdue={"chat": 1}, memory_bytes_used=7)  # fmt: skip
    calm = replace(idle.gauges, requests_running=2, oldest_waiting_seconds=0.5, seconds_since_last_iteration=1.0,
                   requests_overdue={"chat": 2, "bulk": 1})  # fmt: skip
    found = merge_snapshots([replace(first, gauges=busy), replace(idle, gauges=calm)]).gauges
    assert (found.requests_running, found.requests_in_flight, found.memory_bytes_used) == (5, 4, 7)
    assert (found.oldest_waiting_seconds, found.seconds_since_last_iteration) == (2.0, 1.0)
    assert found.requests_overdue == {"chat": 3, "bulk": 1}
    assert found.requests_deferred is None


def test_names_and_times():
    one = snapshot("oom", labels={"model": "m", "rank": "0"}, role="prefill")
    other = snapshot("oom", "cuda", later=3.0, labels={"model": "m", "rank": "1"}, role="decode")
    one = msgspec.structs.replace(one, definitions={"ttft": "a", "e2e": "b"})
    other = msgspec.structs.replace(other, definitions={"ttft": "a", "e2e": "c"})
    merged = merge_snapshots([one, other])
    assert merged.labels == {"model": "m"}
    assert merged.definitions == {"ttft": "a"}
    assert (merged.role, merge_snapshots([one]).role) == ("mixed", "prefill")
    assert (merged.elapsed_seconds, merged.started_at) == (3.0, min(one.started_at, other.started_at))
    assert merged.snapshot_time == max(one.snapshot_time, other.snapshot_time)
    assert merged.error_stats.errors_by_type == {"oom": 2, "cuda": 1}
    assert merged.error_stats.last_error_time == max(one.error_stats.last_error_time, other.error_stats.last_error_time)
    assert merged.merged_from == sorted([one.instance_id, other.instance_id])


def test_resources_keep_their_owners():
    def with_gpu(last):
        return msgspec.structs.replace(snapshot(), resource_stats={"gpu0": ResourceStatistics("ratio", last)})

    parts = [with_gpu(0.1), with_gpu(0.2), with_gpu(0.3)]
    found = merge_snapshots([merge_snapshots(parts[:2]), parts[2]]).resource_stats
    assert found == {f"{part.instance_id}/gpu0": part.resource_stats["gpu0"] for part in parts}
    unnamed = [msgspec.structs.replace(part, instance_id="") for part in parts[:2]]
    with pytest.raises(MergeError, match="gpu0"):
        merge_snapshots(unnamed)


REQUESTS = RequestResult("r", 500, CompletionReason.EOS_TOKEN_REACHED, 1.0)


def tokens_of(*snapshots):
    merged = merge_snapshots(list(snapshots))
    return merged.totals.generation_tokens, merged.request_stats.tokens_per_second


def test_an_engine_that_reports_no_iterations_keeps_its_tokens_in_a_merge():
    engine, other = snapshot(ITERATION, labels={"model": "a"}), snapshot(REQUESTS, labels={"model": "b"})
    more = snapshot(REQUESTS, labels={"model": "b"}, role="decode")
    assert tokens_of(engine, other) == (504, 504.0)
    assert tokens_of(merge_snapshots([engine, other]), more) == tokens_of(engine, merge_snapshots([more, other]))
    assert tokens_of(engine, other, more) == (1004, 1004.0)


def test_two_processes_of_one_engine_that_tell_of_the_same_tokens_count_them_once():
    scheduler, front_end = snapshot(ITERATION, labels={"model": "a"}), snapshot(REQUESTS, labels={"model": "a"})
    assert tokens_of(scheduler, front_end) == tokens_of(front_end, scheduler) == (4, 4.0)
    assert tokens_of(front_end) == (500, 500.0)


def test_tokens_of_a_document_that_does_not_say_whose_they_are_are_those_of_its_labels():
    engine, other = snapshot(ITERATION, labels={"model": "a"}), snapshot(REQUESTS, labels={"model": "b"})
    plain = [
        msgspec.structs.replace(
            part,
            totals=msgspec.structs.replace(part.totals, generation_tokens_by_engine={}),
            window=msgspec.structs.replace(part.window, tokens_by_engine={}),
        )
        for part in (engine, other)
    ]
    assert tokens_of(*plain) == (504, 504.0)


def test_many_engines_are_bounded_and_their_tokens_are_all_there(monkeypatch):
    monkeypatch.setattr("batchscope.statistics.totals.MOST_ENGINES", 3)
    merged = merge_snapshots([snapshot(REQUESTS, labels={"model": str(k)}) for k in range(9)])
    assert merged.totals.generation_tokens == 9 * 500
    assert len(merged.totals.generation_tokens_by_engine) == 4


def test_an_idle_collector_of_a_coarser_scale_costs_the_others_no_precision():
    coarse = snapshot(configuration=MetricsConfiguration(percentile_precision=1))
    fine = snapshot(REQUESTS, configuration=MetricsConfiguration(percentile_precision=3))
    for parts in ([coarse, fine], [fine, coarse]):
        merged = merge_snapshots(parts)
        assert merged.request_stats.total_time.relative_error < 0.001
        assert merged.histograms["total_time"]["default"].scale == 9
        assert merged.windowed["1m"].summaries["total_time"].relative_error < 0.001


def test_integrals_that_one_part_never_said_do_not_hide_the_others():
    silent = snapshot(ITERATION)
    said = snapshot(msgspec.structs.replace(ITERATION, waiting_requests=2, running_requests=4))
    totals = merge_snapshots([silent, said]).totals
    assert (totals.waiting_request_seconds, totals.waiting_reported_seconds) == (1.0, 0.5)
    assert math.isnan(merge_snapshots([silent]).totals.waiting_request_seconds)


def limited(**limits):
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(**limits))
    collector.record_iteration(IterationResult(1, 1, 1, 0, 1.0))
    return collector.get_snapshot()


def test_places_add_up_while_block_size_and_stages_are_what_all_agree_on():
    one, other = ({"max_running_requests": n, "kv_block_size": 16, "pipeline_stages": 2} for n in (4, 8))
    merged = MetricsSnapshot.merge(limited(**one), limited(**other)).limits
    assert merged == SchedulerLimits(max_running_requests=12, kv_block_size=16, pipeline_stages=2)
    mixed = MetricsSnapshot.merge(limited(**one), limited(max_running_requests=8, kv_block_size=32)).limits
    assert mixed == SchedulerLimits(max_running_requests=12)
