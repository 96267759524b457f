"""What is told before an iteration is reported: why admission stopped, and the batch as it was formed."""

import threading

import numpy as np
import pytest
from tracker_doubles import Tracked

from batchscope import BatchLimiter, CompletionReason, InvalidRecordError

EOS = CompletionReason.EOS_TOKEN_REACHED
KV_CACHE, POLICY, DEMAND = BatchLimiter.KV_CACHE, BatchLimiter.POLICY, BatchLimiter.DEMAND


@pytest.fixture
def tracked() -> Tracked:
    return Tracked()


def test_a_stop_holds_for_the_next_iteration_and_for_no_other(tracked):
    slots = tracked.arrive("a", "b")
    tracked.tracker.stopped(KV_CACHE)
    tracked.run(slots, started=0.0, finished=1.0)
    tracked.run(slots, started=1.0, finished=2.0)
    assert [(i.limited_by, i.limiter_reported) for i in tracked.iterations] == [(KV_CACHE, True), (DEMAND, False)]


def test_of_several_stops_the_last_holds_and_what_the_iteration_says_itself_holds_above_it(tracked):
    slots = tracked.arrive("a")
    tracked.tracker.stopped(KV_CACHE)
    tracked.tracker.stopped(POLICY)
    tracked.run(slots, started=0.0, finished=1.0)
    tracked.tracker.stopped(KV_CACHE)
    tracked.run(slots, started=1.0, finished=2.0, limited_by=DEMAND)
    tracked.run(slots, started=2.0, finished=3.0)
    assert [i.limited_by for i in tracked.iterations] == [POLICY, DEMAND, DEMAND]
    assert [i.limiter_reported for i in tracked.iterations] == [True, True, False]


def test_a_stop_is_of_one_rank(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.tracker.stopped(KV_CACHE, rank=1)
    tracked.run([a], started=0.0, finished=1.0)
    tracked.run([b], started=0.0, finished=1.0, rank=1)
    assert [i.limiter_reported for i in tracked.iterations] == [False, True]


def test_a_batch_that_was_formed_is_recorded_with_what_was_true_at_that_moment(tracked):
    a, b = tracked.arrive("a", "b")
    c = tracked.tracker.arrived("c", prompt_tokens=9, at=0.5)
    tracked.clock.now = 1.0
    tracked.tracker.stopped(KV_CACHE)
    formed = tracked.tracker.forming([a, b], scheduled_tokens=[7, 8], kv_cache_usage=0.75, memory_bytes_used=5)
    tracked.tracker.stopped(POLICY)  # of the next one, formed while this one runs
    later = tracked.tracker.forming(np.array([a, b]), waiting=9, started_at=1.5, kv_cache_usage=0.5)
    tracked.clock.now = 2.0
    tracked.tracker.iteration(formed, [0, 1])
    tracked.tracker.finished(c, CompletionReason.CANCELLED)
    tracked.tracker.iteration(later, finished_at=3.0, kv_cache_usage=0.9)
    first, second = tracked.iterations
    assert (first.limited_by, first.processing_time, first.waiting_requests) == (KV_CACHE, 1.0, 1)
    assert (first.scheduled_tokens, first.tokens_generated) == (15, 1)
    assert (first.kv_cache_usage, first.memory_bytes_used) == (0.75, 5)
    assert (second.limited_by, second.processing_time, second.waiting_requests) == (POLICY, 1.5, 9)
    assert second.kv_cache_usage == 0.9  # what is said at the end replaces it
    assert tracked.rejected == {}


def test_the_engine_may_use_its_list_again_after_forming(tracked):
    slots = tracked.arrive("a", "b")
    formed = tracked.tracker.forming(slots)
    slots.clear()
    tracked.tracker.iteration(formed, finished_at=1.0)
    assert tracked.iterations[0].request_count == 2


@pytest.mark.parametrize("read", [False, True])
def test_a_place_wasted_after_the_end_of_its_request_is_left_empty_and_not_rejected(tracked, read):
    a, b = tracked.arrive("a", "b")
    first = tracked.tracker.forming([a, b], started_at=0.0)
    second = tracked.tracker.forming([a, b], started_at=0.5)  # nobody knows yet that a ends with the first
    tracked.tracker.iteration(first, finished_at=1.0)
    tracked.clock.now = 1.0
    tracked.tracker.finished(a, EOS)
    if read:
        assert tracked.rejected == {}
    tracked.tracker.iteration(second, [0, 1], finished_at=2.0)
    assert [(i.request_count, i.tokens_generated) for i in tracked.iterations] == [(2, 2), (1, 1)]
    assert tracked.rejected == {}
    assert tracked.iterations[1].limited_by == DEMAND  # a did not stand still


def test_preempted_slots_may_be_told_when_the_batch_is_formed(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a, b], started=0.0, finished=1.0)
    formed = tracked.tracker.forming([a], started_at=1.0, preempted=[b])
    tracked.tracker.iteration(formed, finished_at=2.0)
    assert tracked.totals.preemptions == 1
    assert tracked.iterations[1].waiting_requests == 1


def test_a_batch_counts_once_however_often_it_is_reported(tracked):
    formed = tracked.tracker.forming(tracked.arrive("a"), started_at=0.0)
    for _ in range(3):
        tracked.tracker.iteration(formed, finished_at=1.0)
    assert tracked.totals.iterations == 1
    assert tracked.rejected == {"told_twice": 2}


def test_a_formed_batch_in_whose_place_slots_are_reported_is_counted_as_not_told_once(tracked):
    slots = tracked.arrive("a")
    tracked.tracker.forming(slots, started_at=0.0)
    tracked.run(slots, started=1.0, finished=2.0, rank=1)  # of another rank
    assert tracked.rejected == {}
    tracked.run(slots, started=2.0, finished=3.0)
    tracked.run(slots, started=3.0, finished=4.0)
    assert tracked.totals.iterations == 3
    assert tracked.rejected == {"not_told": 1}


def test_a_batch_that_is_never_reported_leaves_no_trace_where_the_next_one_is(tracked):
    slots = tracked.arrive("a")
    tracked.tracker.forming(slots, started_at=0.0)
    tracked.tracker.iteration(tracked.tracker.forming(slots, started_at=1.0), finished_at=2.0)
    tracked.run(slots, started=2.0, finished=3.0)
    assert tracked.totals.iterations == 2
    assert tracked.rejected == {}


@pytest.mark.parametrize(
    "call",
    [
        lambda tracker, slot: tracker.stopped("no such thing"),
        lambda tracker, slot: tracker.stopped(["kv_cache"]),
        lambda tracker, slot: tracker.stopped(KV_CACHE, slot="a"),
        lambda tracker, slot: tracker.stopped(KV_CACHE, rank=-1),
        lambda tracker, slot: tracker.stopped(KV_CACHE, rank=10**9),
        lambda tracker, slot: tracker.iteration(tracker.forming(["a"])),
        lambda tracker, slot: tracker.iteration(tracker.forming([slot], waiting="many")),
        lambda tracker, slot: tracker.iteration(tracker.forming([slot], scheduled_tokens=[1, 2])),
        lambda tracker, slot: tracker.iteration(tracker.forming([slot], limited_by="nothing")),
        lambda tracker, slot: tracker.iteration(tracker.forming([slot], rank={})),
    ],
)
def test_a_mistake_is_counted_once_and_nothing_else_happens(tracked, call):
    (slot,) = tracked.arrive("a")
    call(tracked.tracker, slot)
    assert tracked.rejected == {"wrong_type": 1}
    assert tracked.totals.iterations == 0
    tracked.run([slot], started=0.0, finished=1.0)
    assert not tracked.iterations[0].limiter_reported


def test_strict_raises_where_the_mistake_is_made():
    tracker = Tracked(strict=True).tracker
    with pytest.raises(InvalidRecordError, match="nothing"):
        tracker.stopped("nothing")
    with pytest.raises(InvalidRecordError):
        tracker.forming(["a"])
    tracker.forming([tracker.arrived("a")])
    with pytest.raises(InvalidRecordError, match="give iteration what forming returned"):
        tracker.iteration([])


def test_the_refused_request_is_known_with_what_it_needs(tracked):
    rows = []
    tracked.collector.subscribe(rows.append)
    small, large = (tracked.tracker.arrived(n, prompt_tokens=size, at=0.0) for n, size in ((1, 10), (2, 700)))
    tracked.tracker.stopped(KV_CACHE, slot=large)
    tracked.run([small], [1], started=0.0, finished=1.0)
    tracked.run([small, large], [1, 1], started=1.0, finished=2.0)
    tracked.tracker.stopped(KV_CACHE, slot=large)
    tracked.run([small], [1], started=2.0, finished=3.0, preempted=[large])
    tracked.tracker.stopped(KV_CACHE, slot=12345)
    tracked.run([small], [1], started=3.0, finished=4.0)
    assert tracked.totals.iterations == 4
    assert heads(rows) == [700.0, None, 701.0, None]
    assert tracked.rejected == {"stale_slot": 1}


def heads(rows):
    found = [value for block in rows if getattr(block, "kind", None) == 1 for value in block.values[:, 27].tolist()]
    return [None if value != value else value for value in found]  # noqa: PLR0124


def test_threads_may_form_and_report_batches_of_their_ranks_at_once(tracked):
    def serve(rank):
        slots = [tracked.tracker.arrived((rank, n), at=0.0, rank=rank) for n in range(3)]
        for step in range(200):
            tracked.tracker.stopped(POLICY if rank else KV_CACHE, rank=rank)
            formed = tracked.tracker.forming(slots, started_at=float(step), rank=rank)
            tracked.tracker.iteration(formed, finished_at=step + 1.0)

    threads = [threading.Thread(target=serve, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracked.clock.now = 200.0
    assert tracked.rejected == {}
    assert tracked.totals.busy_seconds_by_limiter["kv_cache"] == 200.0
    assert tracked.totals.busy_seconds_by_limiter["policy"] == 600.0


# Ranks.


def test_running_and_waiting_are_those_of_the_iterations_own_rank(tracked):
    tracker = tracked.tracker
    a, b = (tracker.arrived(name, at=0.0, rank=0) for name in "ab")
    c, d, e = (tracker.arrived(name, at=0.0, rank=1) for name in "cde")
    tracked.run([a], started=1.0, finished=2.0, rank=0)
    tracked.run([c, d], started=1.0, finished=2.0, rank=1)
    tracked.run([a, b], started=2.0, finished=3.0, rank=0)
    tracked.run([c], started=2.0, finished=3.0, preempted=[d], rank=1)
    found = [(i.running_requests, i.waiting_requests) for i in tracked.iterations]
    assert found == [(1, 1), (2, 1), (2, 0), (1, 2)]
    gauges = tracked.collector.get_snapshot().gauges
    assert (gauges.requests_running, gauges.requests_waiting) == (3, 2)  # of all ranks
    assert e


@pytest.mark.parametrize("read", [False, True])
def test_a_request_that_arrived_for_no_rank_waits_for_all_until_one_takes_it(tracked, read):
    a, b = tracked.arrive("a", "b")
    tracked.run([a], started=1.0, finished=2.0, rank=0)
    if read:
        tracked.collector.read_totals()
    tracked.run([], started=1.5, finished=2.5, rank=1)
    tracked.run([b], started=3.0, finished=4.0, rank=1)
    tracked.run([a], started=3.5, finished=4.5, rank=0)
    found = [(i.running_requests, i.waiting_requests) for i in tracked.iterations]
    assert found == [(1, 1), (0, 1), (1, 0), (1, 0)]


@pytest.mark.parametrize(("rank", "reason"), [(-1, "negative"), (float("inf"), "infinite"), ("a", "wrong_type")])
def test_an_arrival_for_a_rank_that_cannot_be_is_rejected(tracked, rank, reason):
    tracked.tracker.arrived("a", at=0.0, rank=rank)
    assert tracked.rejected == {reason: 1}


# Completed requests, and cached tokens.


def test_completed_requests_count_for_the_iteration_before(tracked):
    a, b, c = tracked.arrive("a", "b", "c")
    tracked.run([a, b], started=0.0, finished=1.0)
    tracked.tracker.finished(a, EOS, at=1.0)
    tracked.tracker.finished(c, CompletionReason.CANCELLED, at=1.0)
    tracked.run([b], started=1.0, finished=2.0)
    tracked.run([b], started=2.0, finished=3.0)
    tracked.tracker.finished(b, EOS, at=3.0)
    assert [i.requests_completed for i in tracked.iterations] == [1, 0, 1]


def test_completed_requests_are_of_their_rank_and_those_told_after_a_read_count_for_the_next(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a], started=0.0, finished=1.0, rank=0)
    tracked.run([b], started=0.0, finished=1.5, rank=1)
    tracked.collector.read_totals()
    tracked.tracker.finished(a, EOS, at=1.5)
    tracked.collector.read_totals()
    (c,) = tracked.arrive("c")
    tracked.run([b], started=2.0, finished=3.0, rank=1)
    tracked.run([c], started=2.0, finished=3.0, rank=0)
    assert [i.requests_completed for i in tracked.iterations] == [0, 0, 0, 1]


def test_what_the_engine_says_of_completed_requests_is_taken(tracked):
    (slot,) = tracked.arrive("a")
    tracked.run([slot], started=0.0, finished=1.0, requests_completed=7)
    tracked.tracker.finished(slot, EOS, at=1.0)
    assert tracked.iterations[0].requests_completed == 7


def prefilled(tracked, name, prompt, cached, at, **finish):
    slot = tracked.tracker.arrived(name, prompt_tokens=prompt, at=at)
    tracked.run([slot], [1], started=at, finished=at + 1, cached_prompt_tokens=cached)
    tracked.tracker.finished(slot, EOS, at=at + 1, **finish)


@pytest.mark.parametrize("read", [False, True])
def test_cached_tokens_that_only_iterations_tell_count(tracked, read):
    for n in range(3):
        prefilled(tracked, n, 1000, 512, float(n))
        if read:
            tracked.collector.read_totals()
    totals = tracked.totals
    assert (totals.prompt_tokens_cached, totals.prompt_tokens_computed) == (3 * 512, 3 * 488)
    assert tracked.requests[0].cached_tokens is None  # whose they were is not known


@pytest.mark.parametrize("read", [False, True])
def test_cached_tokens_that_both_tell_count_once(tracked, read):
    for n in range(3):
        prefilled(tracked, n, 1000, 512, float(n), cached_tokens=512)
        if read:
            tracked.collector.read_totals()
    prefilled(tracked, "last", 1000, 0, 3.0)
    totals = tracked.totals
    assert (totals.prompt_tokens_cached, totals.prompt_tokens_computed) == (3 * 512, 3 * 488 + 1000)


def test_no_more_is_cached_than_the_prompts_had(tracked):
    prefilled(tracked, "a", 100, 5000, 0.0)
    totals = tracked.totals
    assert (totals.prompt_tokens_cached, totals.prompt_tokens_computed) == (100, 0)


@pytest.mark.parametrize("read", [False, True])
def test_a_request_that_left_after_the_estimated_start_did_not_stand_still(tracked, read):
    """An engine that gives no instants: a finish is told a moment after the iteration, and the next one starts there."""
    slots = tracked.arrive("a", "b", "c")
    while slots:
        tracked.clock.now += 1.0
        tracked.tracker.iteration(slots)
        tracked.clock.now += 0.001
        tracked.tracker.finished(slots.pop(), EOS)
        if read:
            tracked.collector.read_totals()
    assert [i.limited_by for i in tracked.iterations] == [DEMAND] * 3


def test_running_requests_that_make_way_for_a_prompt_stand_still(tracked):
    a, b = tracked.arrive("a", "b")
    tracked.run([a], started=0.0, finished=1.0)
    tracked.run([b], started=1.0, finished=2.0)
    tracked.run([a, b], started=2.0, finished=3.0)
    assert [i.limited_by for i in tracked.iterations] == [BatchLimiter.UNKNOWN, POLICY, DEMAND]
