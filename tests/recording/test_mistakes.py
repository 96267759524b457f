"""The first mistake of each kind is said in words: what was called, with what, and what would have been right."""

from __future__ import annotations

import gc
import logging
import time
import weakref

import numpy as np
import pytest

from batchscope import (
    BatchscopeError,
    CompletionReason,
    InvalidRecordError,
    IterationResult,
    MetricsConfiguration,
    RequestResult,
    RequestTracker,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.recording.mistakes import shown
from spec.fakes import EOS, iteration, request

MISTAKES = {
    "slots that are no numbers": (lambda t, s: t.iteration(["a"]),
                                  ["RequestTracker.iteration(slots=['a'])", "wrong_type", "list or array"]),
    "a set": (lambda t, s: t.iteration({s}), ["iteration(slots=a set)", "a set has no order"]),
    "a generator": (lambda t, s: t.iteration(x for x in [s]), ["slots=a generator", "list or array"]),
    "an array of floats": (lambda t, s: t.iteration(np.array([1.5])), ["slots=an array of float64, shape (1,)"]),
    "more tokens than slots": (lambda t, s: t.iteration([s], [1, 2]), ["iteration(tokens=[1, 2])", "2 values for 1 slot;", "one a slot"]),
    "more tokens than a formed batch has slots": (lambda t, s: t.iteration(t.forming([s]), tokens=[1, 1]),
                                                  ["iteration(tokens=[1, 1])", "2 values for 1 slot;"]),
    "too few scheduled tokens": (lambda t, s: t.iteration([s, s], [1, 1], scheduled_tokens=[7]),
                                 ["iteration(scheduled_tokens=[7])", "1 values for 2 slots", "one a slot"]),
    "a text as tokens of a formed batch": (lambda t, s: t.iteration(t.forming([s]), tokens=["x"]),
                                           ["iteration(tokens=['x'])"]),
    "slots that are None": (lambda t, s: t.iteration(None), ["iteration(slots=None)", "list or array"]),
    "a stop that is none": (lambda t, s: t.stopped("kv"), ["stopped(limiter='kv')", "such as BatchLimiter.KV_CACHE"]),
    "a prompt that is None": (lambda t, s: t.arrived("b", prompt_tokens=None),
                              ["RequestTracker.arrived()", "prompt_tokens=None", "prompt_tokens and rank whole"]),
    "a reason that is none": (lambda t, s: t.finished(s, "stop"),
                              ["RequestTracker.finished(reason='stop')", "CompletionReason.EOS_TOKEN_REACHED"]),
    "a limiter that is none": (lambda t, s: t.iteration([s], limited_by="kv"), ["limited_by='kv'", "BatchLimiter."]),
    "a count that is a text": (lambda t, s: t.iteration([s], waiting="3"), ["waiting='3'", "expected a number"]),
    "a slot that is none": (lambda t, s: t.finished("r", EOS), ["finished(slot='r')", "arrived() returned"]),
    "a slot twice": (lambda t, s: t.iteration([s, s]), ["duplicate_slot", f"slot {1 << 24}"]),
    "a slot that is evicted and in the batch": (lambda t, s: (t.iteration([s]), t.iteration([s], preempted=[s]))[0],
                                                ["duplicate_slot", "both in slots and in preempted"]),
    "a stale slot": (lambda t, s: t.iteration([12345]), ["stale_slot", "slot 12345"]),
    "a finish of nobody": (lambda t, s: t.finished(99, EOS), ["RequestTracker.finished()", "stale_slot", "slot 99"]),
    "an id twice": (lambda t, s: t.arrived("x"), ["RequestTracker.arrived()", "duplicate_request", "request_id='x'"]),
    "a percentage": (lambda t, s: t.iteration([s], kv_cache_usage=97), ["kv_cache_usage = 97", "ratio 0..1"]),
    "who waits is negative": (lambda t, s: t.iteration([s], waiting=-3), ["negative", "waiting_requests = -3"]),
    "an end before the start": (lambda t, s: t.iteration([s], started_at=5.0, finished_at=4.0),
                                ["out_of_order", "started_at = 5.000, finished_at = 4.000"]),
}  # fmt: skip


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def told(caplog, collector):
    """What the next read logs."""
    caplog.clear()
    collector.get_snapshot()
    return warnings(caplog)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_trackers_mistake_is_told_once_at_the_next_read_with_its_value_and_what_was_expected(name, caplog):
    mistake, parts = MISTAKES[name]
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    slot = tracker.arrived("x")
    mistake(tracker, slot)
    assert not warnings(caplog)  # never on the caller's thread
    mistake(tracker, slot)
    (line,) = told(caplog, collector)
    assert all(part in line for part in parts), line
    assert "strict=True" in line
    assert told(caplog, collector) == []


def test_an_instant_of_the_wall_clock_is_named_and_its_request_is_lost(caplog):
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    slot = tracker.arrived("x", at=time.time())
    tracker.iteration([slot])
    tracker.finished(slot, EOS)
    lines = told(caplog, collector)
    assert len(lines) == 2
    assert all("looks like time.time()" in line for line in lines)
    assert "counted as lost" in lines[1]
    assert collector.read_totals().totals.requests_lost == 1


@pytest.mark.parametrize("name", MISTAKES)
def test_strict_raises_the_same_sentence_at_the_call(name):
    mistake, parts = MISTAKES[name]
    tracker = RequestTracker(SchedulerMetricsCollector(MetricsConfiguration(strict=True)))
    slot = tracker.arrived("x")
    with pytest.raises(InvalidRecordError) as raised:
        mistake(tracker, slot)
    assert all(part in str(raised.value) for part in parts), raised.value
    assert "strict" not in str(raised.value)


def test_strict_names_the_last_record_that_was_refused_and_a_clock_that_is_another():
    tracker = RequestTracker(SchedulerMetricsCollector(MetricsConfiguration(strict=True)))
    slot = tracker.arrived("x", at=time.time())
    with pytest.raises(InvalidRecordError, match=r"looks like time\.time\(\)"):
        tracker.iteration([slot])
    with pytest.raises(
        InvalidRecordError, match=r"RequestTracker\.finished\(\) was not counted \(stale_slot\): slot 7;"
    ):
        tracker.finished(7, EOS)


def test_preempted_none_is_nobody_as_tokens_none_is_one_each():
    collector = SchedulerMetricsCollector(MetricsConfiguration(strict=True))
    tracker = RequestTracker(collector)
    slot = tracker.arrived("x")
    tracker.iteration([slot], preempted=None)
    tracker.iteration(tracker.forming([slot], preempted=None))
    totals = collector.read_totals().totals
    assert (totals.iterations, totals.preemptions) == (2, 0)


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        (lambda c: c.record_iteration(iteration(processing_time=-1.0)), ["An iteration", "processing_time = -1"]),
        (lambda c: c.record_iteration(iteration(tokens="3")), ["record_iteration(tokens_generated='3')"]),
        (lambda c: c.record_iteration({"a": 1}), ["a dict: expected an IterationResult"]),
        (lambda c: c.record_iteration(iteration(inter_token_latencies=["x"])), ["inter_token_latencies=['x']"]),
        (lambda c: c.record_request_completion(request(reason="stop")), ["record_request_completion(reason='stop')"]),
        (lambda c: c.record_request_completion(request(tokens=-4)), ["A finished request", "tokens_generated = -4"]),
        (
            lambda c: c.record_request_completion(request(arrived_at=5.0, finished_at=4.0)),
            ["out_of_order", "one clock"],
        ),
        (lambda c: c.record_batch_utilization("full"), ["record_batch_utilization(utilization='full')"]),
        (lambda c: c.record_error(5), ["expected a name"]),
        (lambda c: c.writer().iteration(1, 2, 3, 4, object()), ["Writer.iteration(processing_time=a object)"]),
        (lambda c: c.writer().inter_token_latency("x"), ["Writer.inter_token_latency(latency='x')"]),
    ],
)
def test_a_records_mistake_is_told_with_the_field(record, parts, caplog):
    collector = SchedulerMetricsCollector()
    for _ in range(3):
        record(collector)
    (line,) = told(caplog, collector)
    assert all(part in line for part in parts), line
    assert sum(collector.read_totals().totals.rejected_records.values()) == 3


def test_the_first_class_that_is_not_declared_is_named(caplog):
    configuration = MetricsConfiguration(slo={"a": SloTargets(e2e_latency=1.0)})
    collector = SchedulerMetricsCollector(configuration)
    collector.record_request_completion(request(request_class="a"))
    assert told(caplog, collector) == []
    collector.record_request_completion(request(request_class="A"))
    RequestTracker(collector).arrived("x", request_class="B")
    (line,) = told(caplog, collector)
    assert "request_class='A'" in line
    assert "'a', 'other'" in line
    assert [sample.request_class for sample in collector.request_samples()] == ["a", "other"]


def test_without_classes_declared_any_class_is_right(caplog):
    collector = SchedulerMetricsCollector()
    collector.record_request_completion(request(request_class="A"))
    assert told(caplog, collector) == []


def test_values_of_hostile_types_are_named_by_type_and_run_nothing(caplog):
    class Hostile:
        def __repr__(self):
            raise RuntimeError

        __str__ = __len__ = __float__ = __index__ = __repr__

    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    tracker.iteration(Hostile())
    tracker.finished(Hostile(), EOS)
    lines = told(caplog, collector)
    assert len(lines) == 2
    assert all("a Hostile" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x" * 100, repr("x" * 60) + "..."), ([1, 2, 3, 4, 5], "[1, 2, 3, ...]"), ([[[]]], "[[...]]"), (2**70, "a int"),
        (None, "None"), (1.5, "1.5"), (CompletionReason.TIMEOUT, "CompletionReason.TIMEOUT"), (b"ab", "b'ab'"),
        ({"a": 1}, "a dict"), (np.zeros((2, 2)), "an array of float64, shape (2, 2)"),
    ],
)  # fmt: skip
def test_a_value_is_shown_short(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    "mistake",
    [
        lambda t, c: t.iteration([1], [1, 2]), lambda t, c: t.finished("r", EOS), lambda t, c: t.forming(["a"]),
        lambda t, c: c.record_iteration(iteration(tokens="3")), lambda t, c: c.record_batch_utilization("full"),
    ],
)  # fmt: skip
def test_a_mistake_keeps_nothing_of_its_caller_alive(mistake):
    class Tensor:
        """Large, and held by the caller's frame alone."""

    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)

    def step():
        tensor = Tensor()
        mistake(tracker, collector)
        return weakref.ref(tensor)

    collecting = gc.isenabled()
    gc.disable()
    try:
        assert step()() is None
    finally:
        if collecting:
            gc.enable()
    assert sum(collector.read_totals().totals.rejected_records.values()) == 1


def test_a_handler_that_fails_does_not_reach_the_reader():
    class Failing(logging.Handler):
        def emit(self, record):
            raise RuntimeError

    handler, logger = Failing(), logging.getLogger("batchscope")
    logger.addHandler(handler)
    try:
        collector = SchedulerMetricsCollector()
        collector.record_request_completion(RequestResult("r", -1, EOS, 1.0))
        assert collector.get_snapshot().totals.rejected_records == {"negative": 1}
    finally:
        logger.removeHandler(handler)


def test_what_is_logged_is_logged_after_the_lock_is_free():
    seen = []

    class Reading(logging.Handler):
        def emit(self, record):
            seen.append(collector.read_totals().totals.rejected_records)

    collector = SchedulerMetricsCollector()
    handler, logger = Reading(), logging.getLogger("batchscope")
    logger.addHandler(handler)
    try:
        collector.record_iteration(IterationResult(1, 1, 1, 0, -1.0))
        collector.get_snapshot()
    finally:
        logger.removeHandler(handler)
    assert seen == [{"negative": 1}]


def test_strict_raises_at_once_and_what_is_said_is_bounded(caplog):
    strict = SchedulerMetricsCollector(MetricsConfiguration(strict=True))
    with pytest.raises(BatchscopeError):
        RequestTracker(strict).finished(1, "stop")
    collector = SchedulerMetricsCollector()
    for number in range(10_000):
        collector.record_error(number)
    assert len(told(caplog, collector)) == 1
