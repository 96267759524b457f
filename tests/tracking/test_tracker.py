"""RequestTracker: what it derives, what it refuses, and that a slot is never someone else's request."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tracker_doubles import Clock, Recorder, Tracked

from batchscope import BatchLimiter, CompletionReason, InvalidRecordError, RequestTracker
from batchscope.recording import producer

EOS, CANCELLED = CompletionReason.EOS_TOKEN_REACHED, CompletionReason.CANCELLED


@pytest.fixture
def tracked() -> Tracked:
    return Tracked()


# What it derives


def test_one_request_by_hand_gives_every_duration(tracked):
    (slot,) = tracked.arrive("a", at=10.0)
    tracked.run([slot], [0], started=12.0, finished=13.0)
    tracked.run([slot], [1], started=13.0, finished=15.0)
    tracked.run([slot], [2], started=15.0, finished=18.0)
    tracked.clock.now = 19.0
    tracked.tracker.finished(slot, EOS)
    sample = tracked.requests["a"]
    assert (sample.queue_time, sample.prefill_time, sample.time_to_first_token) == (2.0, 3.0, 5.0)
    assert (sample.decode_time, sample.time_per_output_token, sample.max_emission_gap) == (3.0, 1.5, 3.0)
    assert (sample.processing_time, sample.total_time, sample.tokens_generated) == (7.0, 9.0, 3)
    stats = tracked.collector.get_request_statistics()
    assert (stats.inter_token_latency.count, stats.inter_token_latency.mean) == (2, 1.5)
    assert (stats.inter_emission_latency.count, stats.inter_emission_latency.mean) == (1, 3.0)


def test_preempted_time_runs_from_the_evicting_start_to_the_next_start(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a, b], started=0.0, finished=1.0)
    tracked.run([b], started=1.0, finished=2.0, preempted=[a])
    tracked.run([b], started=2.0, finished=4.0)
    tracked.run([a, b], started=4.0, finished=5.0)
    tracked.tracker.finished(a, EOS, at=5.0)
    sample = tracked.requests["a"]
    assert (sample.preempted_time, sample.preemptions, sample.max_emission_gap) == (3.0, 1, 4.0)


def test_a_request_that_finishes_while_preempted_was_preempted_until_then(tracked):
    (slot,) = tracked.arrive("a")
    tracked.run([slot], started=0.0, finished=1.0)
    tracked.run([], started=1.0, finished=2.0, preempted=[slot])
    tracked.clock.now = 6.0
    tracked.tracker.finished(slot, CANCELLED)
    assert tracked.requests["a"].preempted_time == 5.0


@pytest.mark.parametrize("read", [False, True])
def test_evicted_twice_and_resumed_twice_adds_up_however_often_it_is_read(tracked, read):
    (slot,) = tracked.arrive("a")
    for start in (0.0, 8.0):
        tracked.run([slot], started=start, finished=start + 1)
        tracked.run([], started=start + 1, finished=start + 2, preempted=[slot])
        if read:
            tracked.collector.get_snapshot()
    tracked.run([slot], started=16.0, finished=17.0)
    tracked.tracker.finished(slot, EOS, at=17.0)
    sample = tracked.requests["a"]
    assert (sample.preempted_time, sample.preemptions) == (14.0, 2)


def test_running_and_waiting_are_counted_when_the_batch_was_formed(tracked):
    a, b, c = tracked.arrive("a", "b", "c")
    tracked.run([a, b], started=1.0, finished=2.0)
    tracked.run([a], started=2.0, finished=3.0, preempted=[b])
    (d,) = tracked.arrive("d", at=3.5)  # after the next batch was formed
    tracked.run([a, c], started=3.0, finished=4.0)
    tracked.tracker.finished(a, EOS, at=4.0)
    tracked.run([c, d], started=4.0, finished=5.0)
    counted = [(sample.running_requests, sample.waiting_requests) for sample in tracked.iterations]
    assert counted == [(2, 1), (1, 2), (2, 1), (2, 1)]


def test_a_running_request_that_an_iteration_skips_still_holds_its_place(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a, b], started=0.0, finished=1.0)
    tracked.run([a], started=1.0, finished=2.0)
    assert tracked.iterations[1].running_requests == 2
    assert tracked.iterations[1].request_count == 1


def test_what_the_engine_says_of_running_and_waiting_is_taken(tracked):
    tracked.run(tracked.arrive("a"), started=0.0, finished=1.0, waiting=7, running_requests=5)
    assert (tracked.iterations[0].running_requests, tracked.iterations[0].waiting_requests) == (5, 7)


def test_a_start_left_out_is_when_the_iteration_before_ended_or_its_first_request_arrived(tracked):
    tracker = tracked.tracker
    tracked.clock.now = 20.0
    a = tracker.arrived("a", at=1.0)
    tracker.iteration([a], finished_at=3.0)  # nothing before: from the arrival on
    tracker.iteration([a], finished_at=4.0)  # from the iteration before
    tracker.finished(a, EOS, at=4.0)
    b = tracker.arrived("b", at=9.0)
    tracker.iteration([b], finished_at=11.0)  # idle in between: from the arrival on
    assert [sample.processing_time for sample in tracked.iterations] == [2.0, 1.0, 2.0]
    tracker.iteration([b], finished_at=12.5)  # the iteration before was drained already
    assert tracked.iterations[-1].processing_time == 1.5


def test_a_request_that_arrived_while_its_batch_was_formed_did_not_wait(tracked):
    (slot,) = tracked.arrive("a", at=1.5)
    tracked.run([slot], started=1.0, finished=2.0)
    tracked.tracker.finished(slot, EOS, at=2.0)
    assert tracked.requests["a"].queue_time == 0.0


def test_instants_left_out_are_now(tracked):
    tracked.clock.now = 4.0
    slot = tracked.tracker.arrived("a")
    tracked.clock.now = 6.0
    tracked.tracker.iteration([slot], started_at=5.0)
    tracked.clock.now = 7.0
    tracked.tracker.finished(slot, EOS)
    sample = tracked.requests["a"]
    assert (sample.queue_time, sample.time_to_first_token, sample.total_time) == (1.0, 2.0, 3.0)


def test_lists_and_arrays_say_the_same_and_are_copied(tracked):
    slots = np.array(tracked.arrive("a", "b"), dtype=np.int64)
    tokens, scheduled = np.array([0, 3], dtype=np.int32), np.array([5, 7], dtype=np.uint16)
    tracked.run(slots, tokens, started=0.0, finished=1.0, scheduled_tokens=scheduled)
    slots[:], tokens[:], scheduled[:] = 0, 9, 9
    sample = tracked.iterations[0]
    assert (sample.request_count, sample.tokens_generated, sample.scheduled_tokens) == (2, 3, 12)
    assert tracked.rejected == {}


def test_scheduled_tokens_left_out_are_one_a_decoding_slot_and_unknown_with_a_prefill(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a], started=0.0, finished=1.0)  # its prefill
    tracked.run([a], started=1.0, finished=2.0)
    tracked.run([a, b], [1, 0], started=2.0, finished=3.0)
    assert [sample.scheduled_tokens for sample in tracked.iterations] == [None, 1, None]


def test_scheduled_tokens_of_some_iterations_do_not_fill_in_those_of_others(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a], started=0.0, finished=1.0, scheduled_tokens=[9])
    tracked.run([a, b], [1, 0], started=1.0, finished=2.0)
    tracked.run([a], started=2.0, finished=3.0)
    assert [sample.scheduled_tokens for sample in tracked.iterations] == [9, None, 1]


def test_other_facts_reach_the_iteration(tracked):
    slots = tracked.arrive("a")
    tracked.run(
        slots, started=0.0, finished=1.0, iteration_number=41, memory_bytes_used=10, kv_cache_usage=0.5,
        limited_by=BatchLimiter.POLICY, requests_completed=3, draft_tokens=4, accepted_tokens=2,
    )  # fmt: skip
    sample, totals = tracked.iterations[0], tracked.totals
    assert (sample.iteration_number, sample.memory_bytes_used, sample.kv_cache_usage) == (41, 10, 0.5)
    assert (sample.limited_by, sample.limiter_reported, sample.requests_completed) == (BatchLimiter.POLICY, True, 3)
    assert (totals.draft_tokens, totals.accepted_tokens) == (4, 2)


def test_tokens_that_only_the_engine_knows_come_with_the_finish(tracked):
    slot = tracked.tracker.arrived("a", prompt_tokens=10, at=0.0)
    tracked.run([slot], started=0.0, finished=1.0)
    tracked.tracker.finished(slot, EOS, at=1.0, cached_tokens=4, recomputed_tokens=2)
    sample = tracked.requests["a"]
    assert (sample.prompt_tokens, sample.cached_tokens, sample.recomputed_tokens) == (10, 4, 2)


def test_a_request_cancelled_before_it_was_scheduled_has_no_times_but_its_total(tracked):
    (slot,) = tracked.arrive("a", at=1.0)
    tracked.clock.now = 5.0
    tracked.tracker.finished(slot, CANCELLED)
    sample = tracked.requests["a"]
    assert sample.total_time == 4.0
    assert math.isnan(sample.queue_time)
    assert math.isnan(sample.time_to_first_token)
    assert tracked.rejected == {}


# Slots


def test_a_slot_is_not_valid_after_its_finish(tracked):
    (slot,) = tracked.arrive("a")
    tracked.run([slot], started=0.0, finished=1.0)
    tracked.tracker.finished(slot, EOS, at=1.0)
    tracked.run([slot], started=1.0, finished=2.0)
    assert tracked.rejected == {"stale_slot": 1}
    assert tracked.iterations[1].request_count == 0
    tracked.run([slot], started=2.0, finished=3.0)  # also after a drain
    assert tracked.rejected == {"stale_slot": 2}


@pytest.mark.parametrize("read", [False, True])
def test_a_request_finishes_once(tracked, read):
    (slot,) = tracked.arrive("a")
    tracked.run([slot], started=0.0, finished=1.0)
    tracked.tracker.finished(slot, EOS, at=1.0)
    if read:
        tracked.collector.get_snapshot()
    tracked.tracker.finished(slot, CANCELLED, at=1.0)
    assert tracked.totals.requests_by_reason["cancelled"] == 0
    assert tracked.rejected == {"stale_slot": 1}


@pytest.mark.parametrize("slot", [-1, 0, 255, 1 << 24, (1 << 24) + 9_999_999, (1 << 62) + 3])
def test_a_number_that_is_no_slot_is_rejected_everywhere(tracked, slot):
    tracked.run([slot], started=0.0, finished=1.0)
    tracked.run([], started=1.0, finished=2.0, preempted=[slot])
    tracked.tracker.finished(slot, EOS)
    tracked.tracker.lost(slot)
    assert tracked.rejected == {"stale_slot": 4}
    assert tracked.totals.requests_received == 0


def test_a_slot_never_comes_back_and_is_never_anothers_request(tracked):
    (first,) = tracked.arrive("a")
    tracked.tracker.finished(first, CANCELLED, at=0.0)
    (second,) = tracked.arrive("b")
    tracked.collector.get_snapshot()
    (third,) = tracked.arrive("c")
    assert first < second < third
    tracked.tracker.finished(first, CANCELLED, at=0.0)
    assert tracked.rejected == {"stale_slot": 1}
    assert tracked.collector.get_snapshot().gauges.requests_in_flight == 2


def test_the_table_grows_with_the_requests_in_flight_and_no_further(tracked):
    table = tracked.tracker._derivation.table
    for _ in range(20):
        slots = tracked.arrive(*range(1000))
        tracked.run(slots, started=0.0, finished=1.0)
        for slot in slots:
            tracked.tracker.finished(slot, EOS, at=1.0)
        assert sorted(tracked.requests) == list(range(1000))
    assert [sample.request_count for sample in tracked.iterations] == [1000] * 20
    assert table.capacity == 1024
    assert tracked.rejected == {}


def test_a_request_that_is_never_finished_costs_no_memory_for_those_after_it(tracked):
    stuck = tracked.arrive("first", "second")
    table = tracked.tracker._derivation.table
    for number in range(5000):
        (slot,) = tracked.arrive(number)
        tracked.run([*stuck, slot], started=float(number), finished=number + 1.0)
        tracked.tracker.finished(slot, EOS, at=number + 1.0)
        if not number % 100:
            tracked.collector.get_snapshot()
    assert (tracked.rejected, tracked.totals.iterations, tracked.totals.generation_tokens) == ({}, 5000, 15_000)
    assert table.capacity == 256
    assert len(table._places.window) == 1024
    for slot in stuck:
        tracked.tracker.finished(slot, EOS, at=5000.0)
    tracked.run(stuck, started=5000.0, finished=5001.0)
    assert tracked.rejected == {"stale_slot": 2}
    assert tracked.requests["first"].tokens_generated == 5000


def test_ids_are_free_again_after_the_finish_and_may_be_anything_hashable(tracked):
    for _ in range(2):
        for request_id in ("a", 7, ("x", 1), None):
            (slot,) = tracked.arrive(request_id)
            tracked.tracker.finished(slot, CANCELLED, at=0.0)
        tracked.collector.get_snapshot()
    assert tracked.totals.requests_by_reason["cancelled"] == 8
    assert tracked.rejected == {}


def test_an_id_may_arrive_again_at_once_after_its_finish_without_a_read_in_between(tracked):
    (first,) = tracked.arrive("a")
    tracked.tracker.finished(first, CANCELLED, at=0.0)
    (second,) = tracked.arrive("a")
    tracked.tracker.finished(second, CANCELLED, at=0.0)
    assert tracked.totals.requests_by_reason["cancelled"] == 2
    assert tracked.rejected == {}


# What it refuses


def test_an_id_in_flight_twice_is_rejected_and_its_slot_is_void(tracked):
    first, second = tracked.arrive("a", "a")
    tracked.run([first, second], started=0.0, finished=1.0)
    assert tracked.rejected == {"duplicate_request": 1, "stale_slot": 1}
    assert tracked.iterations[0].request_count == 1
    assert tracked.totals.requests_received == 1


def test_a_slot_twice_in_an_iteration_counts_once(tracked):
    (slot,) = tracked.arrive("a")
    tracked.run([slot, slot], [1, 5], started=0.0, finished=1.0)
    assert tracked.rejected == {"duplicate_slot": 1}
    assert (tracked.iterations[0].request_count, tracked.iterations[0].tokens_generated) == (1, 1)


def test_a_slot_evicted_and_scheduled_by_the_same_iteration_counts_once(tracked):
    (slot,) = tracked.arrive("a")
    tracked.run([slot], started=0.0, finished=1.0)
    tracked.run([slot], started=1.0, finished=2.0, preempted=[slot])
    assert tracked.rejected == {"duplicate_slot": 1}


@pytest.mark.parametrize("read", [False, True])
def test_who_does_not_run_cannot_be_evicted(tracked, read):
    a, b = tracked.arrive("a", "b")
    tracked.run([a], started=0.0, finished=1.0, preempted=[b])  # never ran
    tracked.run([], started=1.0, finished=2.0, preempted=[a])
    if read:
        tracked.collector.get_snapshot()
    tracked.run([], started=2.0, finished=3.0, preempted=[a])  # is out already
    assert tracked.rejected == {"not_running": 2}
    assert tracked.totals.preemptions == 1


@pytest.mark.parametrize(
    "facts", [{"tokens": [-1]}, {"scheduled_tokens": [-1]}, {"waiting": -1}, {"kv_cache_usage": -0.5}]
)
def test_negative_values_are_rejected_and_the_iteration_with_them(tracked, facts):
    (slot,) = tracked.arrive("a")
    tracked.tracker.iteration([slot], started_at=0.0, finished_at=1.0, **facts)
    tracked.clock.now = 2.0
    tracked.tracker.iteration([slot], started_at=1.0, finished_at=2.0)
    assert tracked.rejected == {"negative": 1}
    assert len(tracked.iterations) == 1
    assert tracked.totals.generation_tokens == 1


@pytest.mark.parametrize(
    ("slots", "facts"),
    [
        ([1.5], {}),
        (["a"], {}),
        (None, {}),
        (np.zeros((2, 2), dtype=np.int64), {}),
        (np.zeros(2), {}),
        ([1 << 80], {}),
        ([0], {"tokens": [1, 1]}),
        ([0, 1], {"tokens": [1]}),
        ([0], {"scheduled_tokens": [1, 2]}),
        ([0], {"tokens": [0.5]}),
        ([], {"preempted": ["a"]}),
        ([], {"preempted": 5}),
        ([], {"limited_by": "nonsense"}),
        ([], {"finished_at": "soon"}),
        ([], {"started_at": "then"}),
        ([], {"waiting": "many"}),
        ([], {"kv_cache_usage": object()}),
    ],
)
def test_a_wrong_type_is_counted_and_nothing_else_happens(tracked, slots, facts):
    tracked.tracker.iteration(slots, **facts)
    assert tracked.rejected == {"wrong_type": 1}
    assert tracked.totals.iterations == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda tracker, slot: tracker.finished("x", EOS),
        lambda tracker, slot: tracker.finished(slot, "no reason"),
        lambda tracker, slot: tracker.finished(slot, None),
        lambda tracker, slot: tracker.finished(slot, []),
        lambda tracker, slot: tracker.finished(slot, EOS, at="soon"),
        lambda tracker, slot: tracker.finished(slot, EOS, cached_tokens="few"),
        lambda tracker, slot: tracker.finished(None, EOS),
        lambda tracker, slot: tracker.lost(1.5),
        lambda tracker, slot: tracker.lost(slot, at="soon"),
        lambda tracker, slot: tracker.arrived([]),
        lambda tracker, slot: tracker.arrived("b", at="soon"),
        lambda tracker, slot: tracker.arrived("b", prompt_tokens="few"),
        lambda tracker, slot: tracker.arrived("b", prompt_tokens=None),
        lambda tracker, slot: tracker.arrived("b", request_class=[]),
    ],
)
def test_wrong_types_at_arrival_and_finish_are_counted_and_the_others_go_on(tracked, call):
    (slot,) = tracked.arrive("a")
    call(tracked.tracker, slot)
    assert tracked.rejected == {"wrong_type": 1}
    tracked.run([slot], started=0.0, finished=1.0)
    tracked.tracker.finished(slot, EOS, at=1.0)
    assert list(tracked.requests) == ["a"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"prompt_tokens": -1}, "negative"),
        ({"at": math.nan}, "not_a_number"),
        ({"at": math.inf}, "infinite"),
        ({"prompt_tokens": math.inf}, "infinite"),
    ],
)
def test_an_arrival_with_an_impossible_value_is_rejected_by_reason(tracked, facts, reason):
    tracked.tracker.arrived("a", **facts)
    assert tracked.rejected == {reason: 1}
    assert tracked.totals.requests_received == 0


@pytest.mark.parametrize("read", [False, True])
def test_an_iteration_that_ended_before_the_last_emission_of_a_slot_is_out_of_order_for_it(tracked, read):
    a, b = tracked.arrive("a", "b")
    tracked.run([a], started=0.0, finished=2.0)
    if read:
        tracked.collector.get_snapshot()
    tracked.run([a, b], started=0.5, finished=1.0)
    assert tracked.rejected == {"out_of_order": 1}
    assert [sample.request_count for sample in tracked.iterations] == [1, 1]


def test_an_iteration_that_ended_before_it_started_is_rejected(tracked):
    (slot,) = tracked.arrive("a")
    tracked.run([slot], started=3.0, finished=2.0)
    assert tracked.rejected == {"out_of_order": 1}
    assert tracked.totals.iterations == 0


def test_a_finish_before_the_last_emission_is_rejected_and_the_request_counts_as_lost(tracked):
    (slot,) = tracked.arrive("a")
    tracked.run([slot], started=0.0, finished=2.0)
    tracked.tracker.finished(slot, EOS, at=1.0)
    totals = tracked.totals
    assert totals.rejected_records == {"out_of_order": 1}
    assert (totals.requests_received, totals.requests_lost) == (1, 1)


def test_a_completed_request_that_was_never_scheduled_is_rejected_and_counts_as_lost(tracked):
    (slot,) = tracked.arrive("a")
    tracked.tracker.finished(slot, EOS, at=1.0)
    snapshot = tracked.collector.get_snapshot()
    assert sum(snapshot.totals.rejected_records.values()) == 1
    assert snapshot.totals.requests_received == 1
    assert snapshot.request_stats.total_requests + snapshot.totals.requests_lost == 1


@pytest.mark.parametrize("instant", [math.inf, -math.inf, math.nan])
def test_instants_that_are_no_instants_are_rejected(tracked, instant):
    (slot,) = tracked.arrive("a")
    tracked.tracker.iteration([slot], finished_at=instant)
    tracked.tracker.finished(slot, CANCELLED, at=instant)
    assert sum(tracked.rejected.values()) == 2
    totals = tracked.totals
    assert (totals.iterations, totals.requests_received, totals.requests_lost) == (0, 1, 1)


# Life


def test_a_lost_request_is_counted_as_lost_and_not_as_finished(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a, b], started=0.0, finished=1.0)
    tracked.tracker.lost(a)
    snapshot = tracked.collector.get_snapshot()
    assert (snapshot.totals.requests_received, snapshot.totals.requests_lost) == (2, 1)
    assert (snapshot.request_stats.total_requests, snapshot.gauges.requests_in_flight) == (0, 1)
    tracked.run([a], started=1.0, finished=2.0)
    assert tracked.rejected == {"stale_slot": 1}


def test_reset_keeps_what_is_in_flight_and_counts_it_when_it_finishes(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a, b], started=1.0, finished=2.0)
    tracked.tracker.finished(b, EOS, at=2.0)
    tracked.run([-1], started=2.0, finished=2.5)
    tracked.collector.reset()
    snapshot = tracked.collector.get_snapshot()
    assert (snapshot.totals.requests_received, snapshot.gauges.requests_in_flight) == (1, 1)
    assert (snapshot.request_stats.total_requests, snapshot.totals.rejected_records) == (0, {})
    tracked.run([a], started=3.0, finished=4.0)
    tracked.tracker.finished(a, EOS, at=4.0)
    assert (tracked.requests["a"].queue_time, tracked.requests["a"].total_time) == (1.0, 4.0)
    assert tracked.totals.requests_received == tracked.collector.get_request_statistics().total_requests == 1


def test_after_a_fork_the_child_is_empty_and_goes_on(tracked):
    (slot,) = tracked.arrive("a")
    tracked.collector.get_snapshot()
    tracked.tracker.after_fork()  # what the collector's fork hook calls
    tracked.run([slot], started=0.0, finished=1.0)
    assert tracked.rejected == {"stale_slot": 1}
    assert tracked.collector.get_snapshot().gauges.requests_in_flight == 0


def test_a_long_run_without_a_reader_drains_itself_and_loses_nothing(tracked):
    (slot,) = tracked.arrive("a")
    for number in range(5000):
        tracked.run([slot], started=float(number), finished=number + 1.0)
    assert len(tracked.tracker._log) <= producer._RELIEF_EVENTS
    assert tracked.totals.iterations == tracked.totals.generation_tokens == 5000


def test_events_beyond_the_bound_are_dropped_and_counted_when_nobody_can_drain(tracked, monkeypatch):
    monkeypatch.setattr(producer, "_RELIEF_EVENTS", 4)
    tracked.tracker._log._most = 10
    tracked.tracker._log._relieve = lambda: None
    for number in range(15):
        tracked.tracker.arrived(number, at=0.0)
    assert tracked.totals.dropped_records == 5
    assert tracked.totals.requests_received == 10


# Strict, and collectors that are not ours


def test_strict_raises_at_once_what_is_else_counted():
    tracked = Tracked(strict=True)
    (slot,) = tracked.arrive("a")
    with pytest.raises(InvalidRecordError, match="duplicate_request"):
        tracked.arrive("a")
    with pytest.raises(InvalidRecordError, match="stale_slot"):
        tracked.tracker.iteration([-1])
    with pytest.raises(InvalidRecordError, match=r"tokens.*3 values for 1 slot;"):
        tracked.tracker.iteration([slot], [1, 2, 3])
    with pytest.raises(InvalidRecordError, match="reason='no reason'"):
        tracked.tracker.finished(slot, "no reason")
    tracked.run([slot], started=0.0, finished=1.0)
    tracked.tracker.finished(slot, EOS, at=1.0)
    assert list(tracked.requests) == ["a"]


def test_any_metrics_object_gets_each_record_at_once():
    recorder, clock = Recorder(), Clock()
    tracker = RequestTracker(recorder, clock=clock)
    a = tracker.arrived("a", prompt_tokens=5, request_class="chat", at=0.0)
    b = tracker.arrived("b", at=0.0)
    tracker.iteration([a, b], [1, 0], started_at=1.0, finished_at=2.0, scheduled_tokens=[5, 3], waiting=4)
    first = recorder.iterations[0]
    assert (first.request_count, first.tokens_generated, first.scheduled_tokens) == (2, 1, 8)
    assert (first.processing_time, first.waiting_requests, first.running_requests) == (1.0, 4, 2)
    assert (first.memory_bytes_used, first.limited_by, first.inter_token_latencies) == (None, None, None)
    tracker.iteration([a, b], [2, 1], started_at=2.0, finished_at=4.0, limited_by=BatchLimiter.PAUSED)
    second = recorder.iterations[1]
    assert sorted(second.inter_token_latencies) == [(1.0, 2)]
    assert second.inter_emission_latencies == [(2.0, 1)]
    assert second.limited_by is BatchLimiter.PAUSED
    tracker.finished(a, EOS, at=5.0)
    (request,) = recorder.requests
    assert (request.request_id, request.reason, request.request_class) == ("a", EOS, "chat")
    assert (request.tokens_generated, request.prompt_tokens, request.preempted_time) == (3, 5, 0.0)
    assert (request.arrived_at, request.first_scheduled_at, request.first_token_at) == (0.0, 1.0, 2.0)
    assert (request.last_token_at, request.finished_at, request.max_emission_gap) == (4.0, 5.0, 2.0)
    assert [facts["request_count"] for _, facts in recorder.batches] == [2, 2]


def test_what_is_forwarded_to_a_collector_gives_the_same_statistics_as_a_tracker_of_it():
    ours, theirs = Tracked(places=None), Tracked(places=None)

    class Plain:
        """Hides that this is a collector."""

        record_iteration = theirs.collector.record_iteration
        record_request_completion = theirs.collector.record_request_completion
        record_batch_utilization = theirs.collector.record_batch_utilization
        record_error = theirs.collector.record_error

    plain = RequestTracker(Plain(), clock=theirs.clock)
    for tracker in (ours.tracker, plain):
        ours.clock.now = theirs.clock.now = 9.0
        a, b = (tracker.arrived(name, at=0.0) for name in "ab")
        tracker.iteration([a, b], [1, 0], started_at=1.0, finished_at=2.0, scheduled_tokens=[4, 4])
        tracker.iteration([a, b], [3, 1], started_at=2.0, finished_at=4.0)
        tracker.iteration([b], started_at=4.0, finished_at=5.0, preempted=[a])
        tracker.iteration([a, b], started_at=5.0, finished_at=6.0)
        tracker.finished(a, EOS, at=7.0)
        tracker.finished(b, CANCELLED, at=8.0)
    ours.clock.now = theirs.clock.now = 10.0
    mine, forwarded = ours.collector.get_snapshot(), theirs.collector.get_snapshot()
    assert forwarded.request_stats == mine.request_stats
    assert forwarded.totals.rejected_records == {}
    assert forwarded.iteration_stats.average_tokens_per_iteration == mine.iteration_stats.average_tokens_per_iteration
    assert forwarded.iteration_stats.preemptions == mine.iteration_stats.preemptions == 1


@pytest.mark.parametrize("read", [False, True])
def test_who_left_while_an_iteration_ran_was_there_when_its_batch_was_formed(tracked, read):
    a, b, c = tracked.arrive("a", "b", "c")
    tracked.run([a, b], started=0.0, finished=1.0)
    tracked.tracker.finished(c, CANCELLED, at=1.5)  # waited
    tracked.tracker.finished(b, CANCELLED, at=1.5)  # held a place
    if read:
        tracked.clock.now = 1.75
        tracked.collector.get_snapshot()
    tracked.run([a], started=1.0, finished=2.0)
    tracked.run([a], started=2.0, finished=3.0)
    counted = [(sample.running_requests, sample.waiting_requests) for sample in tracked.iterations]
    assert counted == [(2, 1), (2, 1), (1, 0)]
