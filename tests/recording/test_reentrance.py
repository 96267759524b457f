"""A record in the middle of a record, at every bytecode: both are counted, and so is the next one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from interruptions import TRACKING, act_at, at_each_bytecode, interrupt

from batchscope import CompletionReason, IterationResult, RequestResult, RequestTracker, SchedulerMetricsCollector
from batchscope.recording import rings

EOS = CompletionReason.EOS_TOKEN_REACHED
REQUEST = RequestResult("a", 3, EOS, 2.0)
LOOSE_REQUEST = RequestResult("a", 3.0, EOS, 2.0, prompt_tokens=4.0)
ITERATION = IterationResult(1, 1, 1, 0, 0.5)
CALLS: dict[str, Callable[[SchedulerMetricsCollector], object]] = {
    "record_request_completion": lambda each: each.record_request_completion(REQUEST),
    "a request with float counts": lambda each: each.record_request_completion(LOOSE_REQUEST),
    "a request that cannot be packed": lambda each: each.record_request_completion(RequestResult("a", "x", EOS, 2.0)),
    "record_iteration": lambda each: each.record_iteration(ITERATION),
    "record_batch_utilization": lambda each: each.record_batch_utilization(0.5),
    "record_error": lambda each: each.record_error("e"),
    "writer().request": lambda each: each.writer().request("a", 3, EOS, 2.0),
    "writer().request, loosely": lambda each: each.writer().request("a", 3.0, EOS, 2.0),
    "writer().iteration": lambda each: each.writer().iteration(1, 1, 1, 0, 0.5),
    "writer().inter_token_latency": lambda each: each.writer().inter_token_latency(0.5),
    "writer().inter_emission_latency": lambda each: each.writer().inter_emission_latency(0.5),
    "writer().inter_token_latencies": lambda each: each.writer().inter_token_latencies([0.5]),
    "latencies that are no numbers": lambda each: each.writer().inter_token_latencies(["x"]),
}


def accounted(collector: SchedulerMetricsCollector) -> int:
    """Records that were counted, rejected or dropped, of any kind."""
    core = collector._draining
    with core.lock:
        core.drain()
        state, counted = core.state, core.counted()
        latencies = state.inter_token_latency.lifetime.count + state.inter_emission_latency.lifetime.count
        kept = int(state.requests.by_reason.sum()) + state.iterations.count + state.batches.count + state.errors.total
    return kept + latencies + sum(counted.rejected.values()) + counted.dropped


def all_kinds(collector: SchedulerMetricsCollector) -> int:
    """Every call once; how many records that is."""
    for record in CALLS.values():
        record(collector)
    return len(CALLS)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two rows: most records come to the end of one, and every twentieth drains."""
    monkeypatch.setattr(rings, "_BLOCK_ROWS", dict.fromkeys(rings._BLOCK_ROWS, 2))
    monkeypatch.setattr("batchscope.recording.ring.time.sleep", lambda _: None)


@pytest.mark.parametrize("call", CALLS)
def test_a_record_inside_a_record_is_counted_as_it_is_wherever_it_happens(call, small_blocks):
    collector = SchedulerMetricsCollector()
    recorded = 0

    def nested():
        nonlocal recorded
        recorded += all_kinds(collector)

    for number in at_each_bytecode(lambda: CALLS[call](collector), nested):
        recorded += 1
        assert accounted(collector) == recorded, f"at bytecode {number}"
    assert number > 20
    recorded += 1 + all_kinds(collector)  # the call that was long enough for nobody, and the next ones
    assert accounted(collector) == recorded
    assert collector.get_snapshot().totals.dropped_records == 0


@pytest.mark.parametrize("call", CALLS)
def test_an_exception_anywhere_in_a_record_costs_that_record_at_most(call, small_blocks):
    collector = SchedulerMetricsCollector()
    sure = 0
    for number in at_each_bytecode(lambda: CALLS[call](collector), interrupt):
        sure += all_kinds(collector)
        assert sure <= accounted(collector) <= sure + number + 1, f"at bytecode {number}"
    before = accounted(collector)
    assert number > 20
    for _ in range(50):
        sure = all_kinds(collector)
        before += sure
        assert accounted(collector) == before
    assert collector.get_snapshot().totals.dropped_records == 0


@pytest.mark.parametrize("call", CALLS)
def test_an_exception_in_a_record_inside_a_record_costs_that_one_at_most(call, small_blocks):
    """A finalizer's exceptions are swallowed: the outer record goes on. Here a value's method stands for it."""
    collector = SchedulerMetricsCollector()
    inner = 0

    class Value:
        def __float__(self):
            nonlocal inner
            inner = len(list(at_each_bytecode(lambda: CALLS[call](collector), interrupt)))
            return 0.5

    collector.writer().request("a", 3, EOS, Value())
    assert 1 <= accounted(collector) <= 1 + inner + 2  # the last one came to its end; a float is asked for twice
    assert inner > 20
    before = accounted(collector)
    for _ in range(50):
        before += all_kinds(collector)
        assert accounted(collector) == before


TRACKER_CALLS: dict[str, Callable[[RequestTracker, int], object]] = {
    "arrived": lambda tracker, _: tracker.arrived(["an", "unhashable", "id"]),
    "iteration": lambda tracker, slot: tracker.iteration([slot]),
    "finished": lambda tracker, slot: tracker.finished(slot, EOS),
    "lost": lambda tracker, slot: tracker.lost(slot),
}


@pytest.mark.parametrize("relief", [1, 1000], ids=["draining", "not draining"])
@pytest.mark.parametrize("act", ["nested", "interrupt"])
@pytest.mark.parametrize("call", TRACKER_CALLS)
def test_a_trackers_call_in_the_middle_of_another_or_ended_there_leaves_it_whole(call, act, relief, monkeypatch):
    monkeypatch.setattr("batchscope.recording.producer._RELIEF_EVENTS", relief)
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    served = 0

    def serve():
        nonlocal served
        served += 1
        slot = tracker.arrived(served)
        tracker.iteration([slot])
        tracker.finished(slot, EOS)

    def check():
        serve()
        totals, gauges = collector.get_snapshot().totals, collector.get_snapshot().gauges
        finished = sum(totals.requests_by_reason.values())
        assert finished >= served if act == "nested" else finished >= served - number
        assert totals.requests_received == finished + gauges.requests_in_flight + totals.requests_lost
        assert totals.dropped_records == 0

    number, step = 0, 1 if relief > 1 else 331
    slot = tracker.arrived("first")
    act_inside = serve if act == "nested" else interrupt
    while act_at(number, lambda: TRACKER_CALLS[call](tracker, slot), act_inside, within=TRACKING):  # noqa: B023
        check()
        slot = tracker.arrived(("next", number))
        number += step
    check()
    assert number > (20 if relief > 1 else 900)
