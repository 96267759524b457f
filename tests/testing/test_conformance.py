"""The conformance kit: a sound integration passes, each wrong one is named."""

import random
from math import nan

import msgspec
import numpy as np
import pytest

from batchscope import (
    BatchLimiter,
    CompletionReason,
    IterationResult,
    RequestResult,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetrics,
    SchedulerMetricsCollector,
)
from batchscope.testing import ConformanceError, RecordingMetrics, assert_conforms, violations

EOS = CompletionReason.EOS_TOKEN_REACHED
SOUND = RequestResult(
    "a", 3, EOS, 2.0, queue_time=1.0, total_time=3.0, time_to_first_token=1.5, prefill_time=0.5, decode_time=1.0,
    prompt_tokens=10, cached_tokens=4, preemptions=0,
    arrived_at=0.0, first_scheduled_at=1.0, first_token_at=1.5, last_token_at=2.5, finished_at=3.0,
)  # fmt: skip
STEP = IterationResult(
    1, 1, 3, 1, 0.5, running_requests=1, waiting_requests=0, scheduled_tokens=10, prefill_tokens=9,
    started_at=0.0, finished_at=0.5, kv_cache_usage=0.5, preemptions=0, inter_token_latencies=[(0.5, 2)],
)  # fmt: skip


def recorded(*records, limits=None):
    metrics = RecordingMetrics(limits)
    for record in records:
        if isinstance(record, RequestResult):
            metrics.record_request_completion(record)
        else:
            metrics.record_iteration(record)
    return metrics


def but(record, **changes):
    return msgspec.structs.replace(record, **changes)


def serve(metrics, seed=1):
    """A random engine in a few lines, through the tracker."""
    chance, now = random.Random(seed), 0.0
    tracker = RequestTracker(metrics)
    waiting = [tracker.arrived(number, prompt_tokens=5, at=0.0) for number in range(20)]
    running: dict[int, int] = {}
    evicted: list[int] = []
    while waiting or running:
        oldest = next((slot for slot in running if slot not in evicted), None)
        while waiting and len(running) < 4:
            running[waiting.pop()] = chance.randint(1, 6)
        started, now = now, now + chance.choice([0.25, 0.5])
        evicted = [oldest] if oldest is not None and chance.random() < 0.2 else []
        slots = [slot for slot in running if slot not in evicted]
        tracker.iteration(slots, started_at=started, finished_at=now, preempted=evicted)
        for slot in slots:
            running[slot] -= 1
            if running[slot] == 0:
                del running[slot]
                tracker.finished(slot, EOS, at=now)


def test_the_double_is_a_scheduler_metrics_object_that_keeps_all_records():
    metrics = RecordingMetrics()
    assert isinstance(metrics, SchedulerMetrics)
    metrics.record_batch_utilization(0.5, batch_id=3)
    metrics.record_error("oom", ValueError("x"))
    assert metrics.batches == [(0.5, 3, None, None)]
    assert metrics.errors == [("oom", ValueError)]


@pytest.mark.parametrize("seed", range(5))
def test_the_tracker_conforms_onto_the_double_and_onto_a_collector(seed):
    double = RecordingMetrics(SchedulerLimits(max_running_requests=4))
    serve(double, seed)
    assert len(double.requests) == 20
    assert violations(double, drained=True) == []
    collector = SchedulerMetricsCollector(clock=lambda: 1000.0)
    serve(collector, seed)
    assert violations(collector.get_snapshot(), drained=True) == []


def test_a_sound_request_and_iteration_pass():
    assert violations(recorded(SOUND, STEP), drained=True) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"queue_time": -1.0}, "queue_time = -1.0: expected seconds >= 0"),
        ({"prefill_time": float("inf")}, "prefill_time = inf"),
        ({"tokens_generated": 2.5}, "tokens_generated = 2.5: expected a whole number"),
        ({"reason": "eos"}, "reason 'eos': expected a CompletionReason"),
        ({"first_token_at": 0.5}, "first_token_at = 0.5 lies before first_scheduled_at = 1.0"),
        ({"queue_time": 0.9}, "queue_time = 0.9, but its instants say 1.0"),
        ({"total_time": 9.0}, "total_time = 9.0, but its instants say 3.0"),
        ({"arrived_at": nan, "time_to_first_token": 1.6}, "time_to_first_token = 1.6, but queue + prefill is 1.5"),
        ({"tokens_generated": 0}, "completed without a token"),
        ({"cached_tokens": 11}, "11 cached tokens of a prompt of 10"),
    ],
)
def test_a_request_that_cannot_be_is_named(change, said):
    [*found] = violations(recorded(but(SOUND, **change)))
    assert any(said in sentence for sentence in found)
    assert all(sentence.startswith("request 'a': ") for sentence in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"processing_time": -0.5}, "processing_time = -0.5"),
        ({"started_at": 0.75}, "finished_at = 0.5 lies before started_at = 0.75"),
        ({"kv_cache_usage": 1.5}, "kv_cache_usage = 1.5: expected 0..1"),
        ({"request_count": 2}, "request_count = 2 exceeds running_requests = 1"),
        ({"prefill_tokens": 11}, "prefill_tokens = 11 exceeds scheduled_tokens = 10"),
        ({"request_count": 5, "running_requests": 5}, "request_count = 5 exceeds max_running_requests = 4"),
        ({"scheduled_tokens": 99}, "scheduled_tokens = 99 exceeds max_scheduled_tokens = 64"),
        ({"limited_by": BatchLimiter.DEMAND, "waiting_requests": 2}, "limited by demand while 2 requests wait"),
        ({"inter_token_latencies": np.full(4, 0.1)}, "4 inter-token latencies for 3 tokens"),
    ],
)
def test_an_iteration_that_cannot_be_is_named(change, said):
    [*found] = violations(recorded(but(STEP, **change), limits=SchedulerLimits(4, 64)))
    assert any(said in sentence for sentence in found)


def test_iterations_of_a_rank_come_in_order_and_ranks_do_not_disturb_each_other():
    later = but(STEP, iteration_number=2, started_at=0.5, finished_at=1.0)
    assert violations(recorded(STEP, later)) == []
    assert violations(recorded(but(later, rank=0), but(STEP, rank=1))) == []
    found = violations(recorded(later, STEP))
    assert found[0] == "iteration 1: comes after 2: expected growing numbers on a rank"
    assert "ended at 0.5, before the one before it at 1.0" in found[1]


def test_a_request_ends_once():
    assert violations(recorded(SOUND, SOUND)) == ["request 'a' finished 2 times: expected once"]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ((SOUND, but(STEP, tokens_generated=4)), "tokens_generated: iterations say 4, finished requests 3"),
        ((SOUND, but(STEP, preemptions=1)), "preemptions: iterations say 1, finished requests 0"),
        ((SOUND, but(STEP, inter_token_latencies=[0.5])), "the sum of inter_token_latencies = 0.5, but decode times"),
        ((SOUND, but(STEP, inter_emission_latencies=[2.0])), "the sum of inter_emission_latencies = 2.0"),
    ],
)
def test_iterations_and_requests_must_agree_when_all_have_left(records, said):
    assert violations(recorded(*records)) == []
    [found] = violations(recorded(*records), drained=True)
    assert said in found


def test_a_token_for_each_chunk_of_a_prefill_is_said_once_with_its_cause():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    for number in range(200):
        slot = tracker.arrived(number, prompt_tokens=300, at=10.0 * number)
        for chunk in range(3):
            tracker.iteration([slot], scheduled_tokens=[100], finished_at=10.0 * number + chunk + 1)
        tracker.finished(slot, EOS, at=10.0 * number + 3)
    [found] = violations(double, drained=True)
    assert found.startswith("request 0: its first token came after 100 of 300 prompt tokens")
    assert "say tokens=0 for a chunk" in found
    assert found.endswith("(and 199 more like it)")
    with pytest.raises(ConformanceError, match=r"^1 contradiction:\n  request 0: its first token"):
        assert_conforms(double, drained=True)


def test_the_error_lists_contradictions_and_how_many_more():
    with pytest.raises(ConformanceError, match=r"30 contradictions:\n(.*\n){20}  ... and 10 more") as caught:
        assert_conforms(recorded(*(but(STEP, iteration_number=k, kv_cache_usage=2.0) for k in range(30))))
    assert len(caught.value.violations) == 30


def test_a_snapshot_says_what_was_refused_lost_or_is_still_in_flight():
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    tracker.arrived("in flight")
    tracker.lost(tracker.arrived("lost"))
    collector.record_batch_utilization(-1.0)
    snapshot = collector.get_snapshot()
    assert len(violations(snapshot)) == 1
    found = violations(snapshot, drained=True)
    assert any("1 requests in flight" in sentence for sentence in found)
    assert any("1 requests lost" in sentence for sentence in found)
    assert any("rejected" in sentence for sentence in found)


def tracked(double):
    """A request through a tracker, sound so far."""
    tracker = RequestTracker(double)
    slot = tracker.arrived("a", prompt_tokens=3, at=0.0)
    tracker.iteration([slot], started_at=1.0, finished_at=2.0)
    return tracker, slot


def test_a_batch_without_a_limit_has_no_utilization_and_passes():
    double = RecordingMetrics()
    tracker, slot = tracked(double)
    tracker.finished(slot, EOS, at=2.0)
    assert violations(double, drained=True) == []


def test_what_a_tracker_refused_is_found_though_it_never_became_a_record():
    double = RecordingMetrics()
    tracker, slot = tracked(double)
    tracker.iteration([slot, slot], started_at=2.0, finished_at=3.0)
    tracker.finished(slot, EOS, at=3.0)
    tracker.finished(slot, EOS, at=3.0)
    found = violations(double)
    assert any("refused as stale_slot" in sentence for sentence in found)
    assert len(found) >= 2


def test_what_a_tracker_still_holds_or_lost_has_not_left():
    double = RecordingMetrics()
    tracker, _ = tracked(double)
    tracker.lost(tracker.arrived("b", at=2.0), at=3.0)
    assert violations(double) == []
    found = violations(double, drained=True)
    assert "1 request of a tracker lost: expected an end of each" in found
    assert "1 request arrived and 0 ended: expected that all have left" in found


def test_a_completed_request_that_no_iteration_took_is_found():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    tracker.finished(tracker.arrived("a", at=0.0), EOS, at=1.0)
    assert violations(double) == ["1 call of a tracker refused as not_running: expected none"]
    [found] = violations(recorded(RequestResult("b", 1, EOS, nan)))
    assert "completed without a processing_time" in found
