"""Specification, test group 6: the snapshot, and its JSON document there and back."""

import datetime as dt
import json
from math import isnan, nan

import msgspec
import pytest

from batchscope import (
    DecodeError,
    MetricsConfiguration,
    MetricsSnapshot,
    RequestTracker,
    SchedulerLimits,
    SloTargets,
    decode_snapshot,
)
from spec.fakes import EOS, iteration, make, request, same


def filled():
    configuration = MetricsConfiguration(
        slo={"chat": SloTargets(time_to_first_token=1.0, e2e_latency=5.0), "batch": SloTargets(e2e_latency=60.0)}
    )
    collector, clock = make(
        configuration, limits=SchedulerLimits(8, 100, 50), labels={"model_name": "m", "rank": "0"}, role="decode"
    )
    tracker = RequestTracker(collector)
    slot = tracker.arrived("tracked", prompt_tokens=9, request_class="chat")
    tracker.iteration([slot], started_at=1000.0, finished_at=1000.5)
    collector.record_request_completion(request(time_to_first_token=0.5, request_class="chat", queue_time=0.25))
    collector.record_iteration(iteration(inter_token_latencies=[0.25], waiting_requests=0))
    collector.record_batch_utilization(0.5, request_count=4)
    collector.record_error("oom")
    collector.record_request_completion(request(processing_time=-1.0))
    clock.advance(4.0)
    return collector, clock


def test_a_snapshot_has_all_statistics_and_they_are_those_of_the_getters():
    collector, _ = filled()
    snapshot = collector.get_snapshot()
    assert same(snapshot.request_stats, collector.get_request_statistics())
    assert same(snapshot.iteration_stats, collector.get_iteration_statistics())
    assert same(snapshot.batch_stats, collector.get_batch_statistics())
    assert same(snapshot.error_stats, collector.get_error_statistics())
    assert (snapshot.request_stats.total_requests, snapshot.iteration_stats.total_iterations) == (1, 2)
    assert (snapshot.batch_stats.total_batches, snapshot.error_stats.total_errors) == (2, 1)


def numbers_in(document):
    """Where numbers stand: each container with the key of one in it."""
    if isinstance(document, dict | list):
        for key, value in list(document.items() if isinstance(document, dict) else enumerate(document)):
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield document, key
            yield from numbers_in(value)


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**63])
def test_a_whole_number_that_is_no_int64_is_refused_wherever_it_stands(number):
    document = json.loads(filled()[0].get_snapshot().to_json(histograms=True))
    places = list(numbers_in(document))
    assert len(places) > 200
    for container, key in places:
        before, container[key] = container[key], number
        with pytest.raises(DecodeError):
            decode_snapshot(json.dumps(document))
        container[key] = before
    assert decode_snapshot(json.dumps(document))


def test_the_largest_numbers_of_a_document_are_shown_and_add_up_to_one_that_can_be_read_again():
    document = json.loads(filled()[0].get_snapshot().to_json(histograms=True))
    spared = [document.pop("histograms"), document.pop("windowed_histograms")]  # these check their own counts
    for container, key in numbers_in(document):
        container[key] = 2**63 - 1 if type(container[key]) is int else 1.7e308
    document["histograms"], document["windowed_histograms"] = spared
    one = decode_snapshot(json.dumps(document))
    other = msgspec.structs.replace(one, instance_id="other")
    assert one.report()
    merged = MetricsSnapshot.merge(one, other)
    assert merged.report()
    again = decode_snapshot(merged.to_json(histograms=True))
    assert again.totals.generation_tokens == again.sequence == 2**63 - 1


def test_a_snapshot_has_every_part():
    snapshot = filled()[0].get_snapshot()
    assert set(snapshot.slo_stats) == {"chat", "batch"}
    assert set(snapshot.windowed) == {"1m", "5m"}
    assert set(snapshot.histograms) == {
        "queue_time", "time_to_first_token", "total_time", "time_per_output_token", "prefill_time", "decode_time",
        "preempted_time", "inter_token_latency", "inter_emission_latency", "iteration_duration",
        "iteration_scheduled_tokens", "batch_size", "server_time_per_output_token", "inference_time",
        "request_prompt_tokens", "request_computed_prompt_tokens", "request_generation_tokens",
    }  # fmt: skip
    assert snapshot.labels == {"model_name": "m", "rank": "0"}
    assert (snapshot.role, snapshot.schema, snapshot.sequence) == ("decode", "batchscope.snapshot/1", 1)
    assert snapshot.limits == SchedulerLimits(8, 100, 50)
    assert snapshot.totals.rejected_records == {"negative": 1}
    assert (snapshot.totals.requests_received, snapshot.gauges.requests_in_flight) == (2, 1)
    assert len(snapshot.instance_id) == 32


def test_the_parts_fit_together():
    snapshot = filled()[0].get_snapshot()
    totals, gauges, requests = snapshot.totals, snapshot.gauges, snapshot.request_stats
    assert sum(totals.requests_by_reason.values()) == requests.total_requests
    assert totals.requests_received == requests.total_requests + gauges.requests_in_flight + totals.requests_lost
    assert totals.iterations == snapshot.iteration_stats.total_iterations
    assert totals.errors_by_type == snapshot.error_stats.errors_by_type
    assert sum(totals.busy_seconds_by_limiter.values()) == totals.busy_seconds


def test_the_timestamp_is_current_in_utc_and_moves_with_the_clock():
    collector, clock = make()
    before = dt.datetime.now(dt.UTC)
    one = collector.get_snapshot()
    clock.advance(30.0)
    two = collector.get_snapshot()
    assert one.snapshot_time.tzinfo is dt.UTC
    assert abs(one.snapshot_time - before) < dt.timedelta(seconds=5)
    assert two.snapshot_time - one.snapshot_time == dt.timedelta(seconds=30)
    assert two.snapshot_time - two.started_at == dt.timedelta(seconds=30)
    assert two.elapsed_seconds == 30.0


def test_a_snapshot_does_not_change_after_it_was_taken():
    collector, _ = filled()
    snapshot = collector.get_snapshot()
    before = snapshot.to_json(histograms=True)
    collector.record_request_completion(request(request_class="chat"))
    collector.record_iteration(iteration(inter_token_latencies=[1.0]))
    collector.record_error("new")
    collector.get_snapshot()
    assert snapshot.to_json(histograms=True) == before
    with pytest.raises(AttributeError):
        snapshot.sequence = 9


def test_the_document_goes_there_and_back_unchanged():
    snapshot = filled()[0].get_snapshot()
    back = decode_snapshot(snapshot.to_json(histograms=True))
    assert isinstance(back, MetricsSnapshot)
    assert back.to_json(histograms=True) == snapshot.to_json(histograms=True)
    for part in ("request_stats", "iteration_stats", "batch_stats", "error_stats", "slo_stats", "totals", "gauges",
                 "windowed", "limits", "labels", "means", "window", "started_at", "snapshot_time"):  # fmt: skip
        assert same(getattr(back, part), getattr(snapshot, part)), part


def test_of_an_empty_collector_too():
    snapshot = make()[0].get_snapshot()
    assert same(decode_snapshot(snapshot.to_json()).request_stats, snapshot.request_stats)


def test_not_measured_is_null_in_the_document_and_nan_again_when_decoded():
    snapshot = make()[0].get_snapshot()
    assert isnan(snapshot.request_stats.p50_latency)
    document = snapshot.to_json()
    raw = json.loads(document)
    assert raw["request_stats"]["p50_latency"] is None
    assert raw["request_stats"]["total_time"]["p99"] is None
    assert b"NaN" not in document
    back = decode_snapshot(document)
    assert isnan(back.request_stats.p50_latency)
    assert isnan(back.request_stats.total_time.p99)
    assert back.batch_stats.max_batch_size is None
    assert back.error_stats.last_error_time is None


def test_keys_of_the_document_are_the_field_names():
    raw = json.loads(filled()[0].get_snapshot().to_json())
    assert set(raw) == set(MetricsSnapshot.__struct_fields__)
    assert raw["schema"] == "batchscope.snapshot/1"


def test_histograms_are_left_out_unless_asked_for():
    snapshot = filled()[0].get_snapshot()
    bare = json.loads(snapshot.to_json())
    assert (bare["histograms"], bare["windowed_histograms"]) == ({}, {})
    back = decode_snapshot(snapshot.to_json(histograms=True))
    latency = back.histograms["inter_token_latency"][""]
    assert (latency.count, latency.sum) == (1, 0.25)
    assert set(back.histograms["total_time"]) == {"chat", "batch", "other"}
    assert decode_snapshot(snapshot.to_json()).histograms == {}


def test_indentation_changes_the_look_and_not_the_document():
    snapshot = filled()[0].get_snapshot()
    pretty = snapshot.to_json(indent=2)
    assert b"\n  " in pretty
    assert json.loads(pretty) == json.loads(snapshot.to_json())


def test_a_document_is_decoded_from_text_too_and_unknown_keys_are_ignored():
    raw = json.loads(filled()[0].get_snapshot().to_json())
    raw["of_a_later_version"] = {"a": None}
    raw["request_stats"]["of_a_later_version"] = 1
    assert decode_snapshot(json.dumps(raw)).request_stats.total_requests == 1


def test_a_document_without_the_optional_parts_is_decoded_with_their_defaults():
    raw = json.loads(filled()[0].get_snapshot().to_json())
    for part in ("gauges", "windowed", "slo_stats", "means"):
        del raw[part]
    assert decode_snapshot(json.dumps(raw)).slo_stats == {}


@pytest.mark.parametrize(
    "document",
    [b"", b"null", b"[]", b"3", b'"x"', b"{}", b'{"schema": "batchscope.snapshot/2"}', b'{"schema": 1}',
     b'{"schema": "batchscope.snapshot/1"}', b"# HELP requests_total", b"\xff\xfe", b'{"schema": "\xff"}',
     '{"schema": "\ud800"}', b"[" * 100_000],
)  # fmt: skip
def test_a_foreign_document_is_a_decode_error(document):
    with pytest.raises(DecodeError):
        decode_snapshot(document)


def test_a_document_truncated_anywhere_is_a_decode_error():
    document = filled()[0].get_snapshot().to_json(histograms=True)
    for end in range(0, len(document) - 1, 97):
        with pytest.raises(DecodeError):
            decode_snapshot(document[:end])


@pytest.mark.parametrize(
    ("part", "value"),
    [("request_stats", None), ("request_stats", {"total_requests": "many"}), ("snapshot_time", "yesterday"),
     ("sequence", 1.5), ("histograms", {"total_time": {"": {"scale": 6}}}), ("histograms", {"total_time": {"": 3}}),
     ("histograms", {"total_time": {"": None}}), ("windowed", []), ("labels", {"a": 1}), ("slo_stats", {"a": []}),
     ("limits", {"max_running_requests": -1})],
)  # fmt: skip
def test_a_part_of_another_shape_is_a_decode_error(part, value):
    raw = json.loads(filled()[0].get_snapshot().to_json())
    raw[part] = value
    with pytest.raises(DecodeError):
        decode_snapshot(msgspec.json.encode(raw))


def test_the_schema_that_was_found_and_the_one_expected_are_in_the_message():
    with pytest.raises(DecodeError, match=r"'other/9'.*'batchscope.snapshot/1'"):
        decode_snapshot(b'{"schema": "other/9"}')


def test_each_snapshot_has_the_next_sequence_number_and_collectors_differ_in_identity():
    collector, _ = make()
    assert [collector.get_snapshot().sequence for _ in range(3)] == [1, 2, 3]
    assert collector.get_snapshot().instance_id != make()[0].get_snapshot().instance_id


def test_a_snapshot_can_be_taken_when_no_time_has_passed():
    collector, _ = make()
    collector.record_request_completion(request("r", 1, EOS, 0.0))
    found = collector.get_snapshot().request_stats
    assert same(found.requests_per_second, nan)
    assert found.p50_latency == 0.0
