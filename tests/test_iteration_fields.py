"""A field of an iteration: written down in the record, the table, and who takes it; it arrives by every way."""

import inspect
from math import isnan

import msgspec
import numpy as np
import pytest

from batchscope import (
    BatchLimiter,
    IterationMetrics,
    IterationResult,
    RequestTracker,
    SchedulerMetricsCollector,
)
from batchscope.rows import LIMITER_CODES, PACKED_OF_ITERATION, IterationColumn, RowKind, Trait
from batchscope.testing import RecordingMetrics, violations

C = IterationColumn
GAPS = {"inter_token_latencies", "inter_emission_latencies"}
FIELDS = {name: C[name.upper()] for name in IterationResult.__struct_fields__ if name not in GAPS}
TAKEN_AS = {"waiting_requests": "waiting"}  # where a tracker's parameter has another name
KINDS = (Trait.INSTANT, Trait.CODE, Trait.SECONDS, Trait.BYTES, Trait.RATIO, Trait.COUNT)


def given(column, place):
    """A value of its own for each field, of its kind, that contradicts no other."""
    if column is C.LIMITED_BY:
        return BatchLimiter.POLICY
    if column.traits & Trait.INSTANT:
        return 100.0 + place
    if column.traits & Trait.RATIO:
        return place / 64
    return place + 0.5 if column.traits & Trait.SECONDS else 1000 - place


VALUES = {name: given(column, place) for place, (name, column) in enumerate(FIELDS.items())}


def stored(name):
    value = VALUES[name]
    return LIMITER_CODES[value] if isinstance(value, BatchLimiter) else float(value)


@pytest.fixture
def listened():
    """A collector, and the rows of iterations that it drained."""
    collector, rows = SchedulerMetricsCollector(), []
    collector.subscribe(
        lambda block: rows.extend(block.values) if getattr(block, "kind", None) is RowKind.ITERATION else None
    )
    return collector, rows


def in_samples(collector):
    """What the last sample says of the fields that samples have."""
    sample = collector.iteration_samples()[-1]
    return {name: getattr(sample, name) for name in FIELDS if name in IterationMetrics.__struct_fields__}


def test_the_table_has_the_records_fields_in_their_order_after_the_instant_and_before_what_is_derived():
    packed = [column for column in C if not column.traits & Trait.DERIVED]
    assert packed == list(C)[:PACKED_OF_ITERATION] == [C.AT, *FIELDS.values()]
    assert list(C) == list(range(len(C)))


def test_each_column_holds_one_kind_of_thing_and_a_count_or_bytes_where_the_record_has_an_int():
    for name, column in FIELDS.items():
        assert sum(bool(column.traits & kind) for kind in KINDS) == 1, name
        whole = IterationResult.__annotations__[name] in {"int", "int | None"}
        assert bool(column.traits & (Trait.COUNT | Trait.BYTES)) == whole, name


def test_a_writer_takes_the_records_fields_in_their_order():
    writer = SchedulerMetricsCollector().writer()
    assert tuple(inspect.signature(writer.iteration).parameters) == IterationResult.__struct_fields__


def test_a_tracker_takes_what_the_table_says_it_is_told():
    told = {TAKEN_AS.get(column.name.lower(), column.name.lower()) for column in C.having(Trait.TOLD)}
    of_itself = {"self", "slots", "tokens", "started_at", "finished_at", "scheduled_tokens", "preempted"}
    assert set(inspect.signature(RequestTracker.iteration).parameters) == told | of_itself
    assert set(inspect.signature(RequestTracker.forming).parameters) <= told | of_itself


@pytest.mark.parametrize(
    "record",
    [
        lambda collector: collector.record_iteration(IterationResult(**VALUES)),
        lambda collector: collector.writer().iteration(**VALUES),
    ],
    ids=["record_iteration", "writer().iteration"],
)
def test_every_field_of_a_record_arrives_at_subscribers_and_in_the_samples(record, listened):
    collector, rows = listened
    record(collector)
    assert in_samples(collector) == {name: VALUES[name] for name in in_samples(collector)}
    assert {name: rows[-1][column] for name, column in FIELDS.items()} == {name: stored(name) for name in FIELDS}
    assert collector.get_snapshot().request_stats.rejected_records == {}


def test_every_field_that_a_tracker_is_told_arrives_and_the_others_follow_from_its_slots(listened):
    collector, rows = listened
    tracker = RequestTracker(collector)
    told = {column.name.lower(): VALUES[column.name.lower()] for column in C.having(Trait.TOLD)}
    slots = [tracker.arrived(name, at=100.0, prompt_tokens=8, rank=VALUES["rank"]) for name in "abc"]
    tracker.stopped(BatchLimiter.POLICY, slot=slots[2], rank=VALUES["rank"])  # or nobody asks for the queue's head
    tracker.iteration(
        slots[:2], [1, 0], started_at=107.0, finished_at=108.0, scheduled_tokens=[8, 4],
        **{TAKEN_AS.get(name, name): value for name, value in told.items()},
    )  # fmt: skip
    row, sample = collector.iteration_samples() and rows[-1], in_samples(collector)
    assert {name: row[FIELDS[name]] for name in told} == {name: stored(name) for name in told}
    assert {name: sample[name] for name in sample if name in told} == {n: told[n] for n in told if n in sample}
    derived = {name: row[column] for name, column in FIELDS.items() if name not in told}
    assert derived == {
        "request_count": 2, "tokens_generated": 1, "processing_time": 1.0, "started_at": 107.0, "finished_at": 108.0,
        "prefill_requests": 2, "scheduled_tokens": 12, "prefill_tokens": 12, "preemptions": 0, "head_tokens": 8,
        "standing_requests": 0,
    }  # fmt: skip


def test_a_metrics_object_without_rings_is_told_the_same_fields():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    told = {TAKEN_AS.get(c.name.lower(), c.name.lower()): VALUES[c.name.lower()] for c in C.having(Trait.TOLD)}
    tracker.iteration([tracker.arrived("a", at=100.0)], started_at=107.0, finished_at=108.0, **told)
    [iteration] = double.iterations
    for column in C.having(Trait.TOLD):
        assert getattr(iteration, column.name.lower()) == VALUES[column.name.lower()]


@pytest.mark.parametrize("column", C.having(Trait.AMOUNT), ids=lambda column: column.name.lower())
def test_no_amount_may_be_negative_nor_infinite_for_the_checks_or_the_conformance_kit(column):
    for bad, reason in ((-1, "negative"), (np.inf, "infinite")):
        result = IterationResult(**{**VALUES, column.name.lower(): bad})
        collector, double = SchedulerMetricsCollector(), RecordingMetrics()
        collector.record_iteration(result)
        double.record_iteration(result)
        assert collector.get_snapshot().request_stats.rejected_records == {reason: 1}
        assert any(column.name.lower() in sentence for sentence in violations(double))


@pytest.mark.parametrize("column", C.having(Trait.SUMMED), ids=lambda column: column.name.lower())
def test_what_is_summed_is_a_count_and_adds_up(column):
    assert column.traits & Trait.COUNT
    collector = SchedulerMetricsCollector()
    for number in range(3):
        collector.record_iteration(msgspec.structs.replace(IterationResult(**VALUES), iteration_number=number))
    collector.get_snapshot()
    assert collector._draining.state.iterations.told(column.name.lower()) == 3 * VALUES[column.name.lower()]


def test_what_is_not_told_is_not_measured(listened):
    collector, rows = listened
    collector.record_iteration(IterationResult(0, 1, 1, 0, 0.5))
    collector.get_snapshot()
    known = {name for name, column in FIELDS.items() if not isnan(rows[-1][column])}
    derived = {"started_at", "finished_at", "limited_by"}
    assert known == {name for name, column in FIELDS.items() if column.traits & Trait.DUE} | derived
