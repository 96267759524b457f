"""Whatever object an engine hands over: the call does not raise, it is counted once, and no statistic moves."""

from __future__ import annotations

import copy
import decimal

import numpy as np
import pytest

from batchscope import (
    CompletionReason,
    IterationResult,
    RequestResult,
    RequestTracker,
    SchedulerMetricsCollector,
    decode_snapshot,
)

EOS = CompletionReason.EOS_TOKEN_REACHED


class Hostile:
    """What a tensor on a device that is gone does: every method raises, and nothing of the usual kinds."""

    def _refuse(self, *_):
        raise RuntimeError("device lost")

    __float__ = __index__ = __len__ = __bool__ = __getitem__ = __iter__ = __repr__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __hash__ = _refuse


class Wider(RequestResult, frozen=True):
    tenant: int = 3


class WiderIteration(IterationResult, frozen=True):
    tenant: int = 3


BAD = [Hostile(), decimal.Decimal("sNaN"), 10**400, "many", 1j, np.array([1, 2]), object()]


@pytest.fixture
def collector():
    return SchedulerMetricsCollector()


def counted(collector) -> tuple[int, int, int]:
    """(requests, iterations, rejected), after the document went to JSON and back."""
    snapshot = collector.get_snapshot()
    document = snapshot.to_json(histograms=True)
    assert decode_snapshot(document).to_json(histograms=True) == document
    totals = snapshot.totals
    finished = snapshot.request_stats.total_requests
    assert totals.requests_received == finished + snapshot.gauges.requests_in_flight + totals.requests_lost
    return finished, totals.iterations, sum(totals.rejected_records.values())


@pytest.mark.parametrize("value", BAD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("field", ["tokens_generated", "reason", "processing_time", "cached_tokens", "finished_at"])
def test_a_request_with_a_value_that_is_none_is_rejected_once(collector, field, value):
    fields = {"request_id": 1, "tokens_generated": 3, "reason": EOS, "processing_time": 1.0} | {field: value}
    collector.record_request_completion(RequestResult(**fields))
    collector.writer().request(**fields)
    assert counted(collector) == (0, 0, 2)


@pytest.mark.parametrize("value", BAD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "field", ["request_count", "processing_time", "finished_at", "limited_by", "inter_token_latencies"]
)
def test_an_iteration_with_a_value_that_is_none_is_rejected_once(collector, field, value):
    if field == "inter_token_latencies" and isinstance(value, np.ndarray):
        value = np.array([[1.0]])
    fields = {
        "iteration_number": 1, "request_count": 1, "tokens_generated": 1, "requests_completed": 0, "processing_time": 0.5,
    }  # fmt: skip
    collector.record_iteration(IterationResult(**fields | {field: value}))
    assert counted(collector) == (0, 0, 1)


def test_what_is_no_record_is_rejected_without_being_shown(collector):
    collector.record_request_completion(Hostile())
    collector.record_iteration(Hostile())
    collector.writer().inter_token_latencies([(Hostile(), 1)])
    assert counted(collector) == (0, 0, 3)


@pytest.mark.parametrize("value", BAD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("field", ["at", "prompt_tokens"])
def test_a_bad_arrival_costs_no_other_event(collector, field, value):
    tracker = RequestTracker(collector)
    good = tracker.arrived("good")
    tracker.arrived("bad", **{field: value})
    tracker.iteration([good])
    tracker.finished(good, EOS)
    assert counted(collector) == (1, 1, 1)


@pytest.mark.parametrize("name", ["request_id", "request_class"])
def test_an_id_or_class_that_cannot_be_hashed_costs_no_other_event(collector, name):
    tracker = RequestTracker(collector)
    good = tracker.arrived("good")
    tracker.arrived(**{"request_id": "bad"} | {name: Hostile()})
    tracker.iteration([good])
    tracker.finished(good, EOS)
    assert counted(collector) == (1, 1, 1)


def test_a_tracker_rejects_slots_tokens_and_reasons_of_any_kind(collector):
    tracker = RequestTracker(collector)
    slot = tracker.arrived("good")
    tracker.iteration(Hostile())
    tracker.iteration([Hostile()])
    tracker.iteration([slot], [Hostile()])
    tracker.iteration([slot], finished_at=Hostile())
    tracker.iteration([slot], preempted=Hostile())
    tracker.finished(Hostile(), EOS)
    tracker.finished(slot, Hostile())
    tracker.finished(slot, EOS, at=Hostile())
    tracker.lost(Hostile())
    tracker.iteration([slot])
    tracker.finished(slot, EOS)
    assert counted(collector) == (1, 1, 9)


@pytest.mark.parametrize("tokens", [2**31 + 1, 2**53, 2**62, 2**63 - 1, -1, -(2**63)])
def test_a_number_of_tokens_that_cannot_be_rejects_its_iteration_alone(collector, tokens):
    tracker = RequestTracker(collector)
    slot = tracker.arrived("a")
    tracker.iteration([slot], [2])
    tracker.iteration([slot], [tokens])
    tracker.iteration([slot], [2])
    tracker.finished(slot, EOS)
    assert counted(collector) == (1, 2, 1)
    assert collector.get_snapshot().request_stats.inter_token_latency.count == 2
    assert collector.get_snapshot().totals.generation_tokens_of_requests == 4


def test_scheduled_tokens_that_cannot_be_reject_their_iteration_alone(collector):
    tracker = RequestTracker(collector)
    slot = tracker.arrived("a")
    tracker.iteration([slot], scheduled_tokens=[2**62])
    tracker.iteration([slot], scheduled_tokens=[7])
    assert counted(collector) == (0, 1, 1)
    assert collector.get_snapshot().totals.rejected_records == {"too_large": 1}


def test_records_with_fields_of_an_engines_own_are_taken(collector):
    collector.record_request_completion(Wider(1, 3, EOS, 1.0, prompt_tokens=4))
    collector.record_iteration(WiderIteration(1, 1, 1, 0, 0.5))
    assert counted(collector) == (1, 1, 0)
    assert collector.get_snapshot().totals.prompt_tokens_computed == 4


def test_an_iteration_number_given_as_the_rank_keeps_memory_bounded(collector):
    for number in (0, 2**16 - 1, 2**16, 2**40):
        collector.record_iteration(IterationResult(number, 1, 1, 0, 0.5, rank=number))
    assert collector.get_snapshot().totals.rejected_records == {"too_large": 2}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_writer_cannot_be_copied(collector, copied):
    with pytest.raises(TypeError, match="one writer"):
        copied(collector.writer())
