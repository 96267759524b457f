"""Protobuf: byte for byte what the official runtime writes, and native histograms that hold every observation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_states import full_state, histogram, with_histogram

from batchscope import SchedulerMetricsCollector
from batchscope.catalog import CATALOG, MetricKind, values
from batchscope.exporters.prometheus import render_protobuf
from batchscope.exporters.prometheus.edges import cumulative_counts, edges_of
from batchscope.exporters.prometheus.native import ZERO_THRESHOLD, infinite_bucket, native_buckets
from batchscope.histograms.layout import bucket_layout
from batchscope.wire import packed_sints, sint, varint

descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
Field = descriptor_pb2.FieldDescriptorProto

# Message -> fields as (name, number, type, repeated): client_model's metrics.proto, as far as it is used here.
SCHEMA = {
    "LabelPair": [("name", 1, "string", False), ("value", 2, "string", False)],
    "Gauge": [("value", 1, "double", False)],
    "Timestamp": [("seconds", 1, "int64", False), ("nanos", 2, "int32", False)],
    "Counter": [("value", 1, "double", False), ("created_timestamp", 3, "Timestamp", False)],
    "Bucket": [("cumulative_count", 1, "uint64", False), ("upper_bound", 2, "double", False)],
    "BucketSpan": [("offset", 1, "sint32", False), ("length", 2, "uint32", False)],
    "Histogram": [
        ("sample_count", 1, "uint64", False),
        ("sample_sum", 2, "double", False),
        ("bucket", 3, "Bucket", True),
        ("schema", 5, "sint32", False),
        ("zero_threshold", 6, "double", False),
        ("zero_count", 7, "uint64", False),
        ("positive_span", 12, "BucketSpan", True),
        ("positive_delta", 13, "sint64", True),
        ("created_timestamp", 15, "Timestamp", False),
    ],
    "Metric": [
        ("label", 1, "LabelPair", True),
        ("gauge", 2, "Gauge", False),
        ("counter", 3, "Counter", False),
        ("histogram", 7, "Histogram", False),
    ],
    "MetricFamily": [
        ("name", 1, "string", False),
        ("help", 2, "string", False),
        ("type", 3, "int32", False),
        ("metric", 4, "Metric", True),
    ],
}
COUNTER, GAUGE, HISTOGRAM = 0, 1, 4


def _message_class():
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="families.proto", package="t", syntax="proto2")
    for message, fields in SCHEMA.items():
        described = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            if kind in SCHEMA:
                field.type, field.type_name = Field.TYPE_MESSAGE, f".t.{kind}"
            else:
                field.type = getattr(Field, f"TYPE_{kind.upper()}")
                field.options.packed = repeated
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.MetricFamily"))


FAMILY = _message_class()


def split(body):
    """The messages of a delimited stream."""
    while body:
        size, shift = 0, 0
        while True:
            byte, body = body[0], body[1:]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield body[:size]
        body = body[size:]


def families(state):
    return {family.name: family for family in map(FAMILY.FromString, split(render_protobuf(state)))}


def buckets(message):
    """Index -> count of a native histogram's buckets, as a receiver unfolds them."""
    found, index, place, count = {}, 0, 0, 0
    for span in message.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += message.positive_delta[place]
            found[index] = count
            place, index = place + 1, index + 1
    assert place == len(message.positive_delta)
    return found


def test_the_official_runtime_writes_the_same_bytes():
    messages = list(split(render_protobuf(full_state())))
    assert len(messages) > 40
    for message in messages:
        family = FAMILY.FromString(message)
        family.DiscardUnknownFields()  # there are none: the bytes stay the same
        assert family.SerializeToString(deterministic=True) == message


def test_every_known_value_is_there_under_its_labels():
    state = full_state()
    found = families(state)
    kinds = {
        MetricKind.COUNTER: COUNTER,
        MetricKind.GAUGE: GAUGE,
        MetricKind.INFO: GAUGE,
        MetricKind.HISTOGRAM: HISTOGRAM,
    }
    for metric in CATALOG:
        known = list(values(metric, state))
        assert (metric.name in found) == bool(known)
        for (labels, value), message in zip(known, found[metric.name].metric if known else (), strict=True):
            pairs = {pair.name: pair.value for pair in message.label}
            assert pairs == {**dict(zip(metric.labels, labels, strict=True)), **state.labels}
            assert found[metric.name].type == kinds[metric.kind]
            if metric.kind is MetricKind.HISTOGRAM:
                assert (message.histogram.sample_count, message.histogram.sample_sum) == (value.count, value.sum)
            else:
                assert (message.counter if metric.kind is MetricKind.COUNTER else message.gauge).value == value


def test_counters_and_histograms_say_when_counting_began():
    state = full_state()
    found = families(state)
    for message in (
        found["batchscope_iterations_total"].metric[0].counter,
        found["batchscope_batch_size_requests"].metric[0].histogram,
    ):
        created = message.created_timestamp.seconds + message.created_timestamp.nanos / 1e9
        assert created == pytest.approx(state.started_at.timestamp(), abs=2e-6)


def test_classic_buckets_are_carried_beside_the_native_ones():
    metric = next(metric for metric in CATALOG if metric.name == "batchscope_batch_size_requests")
    one = full_state().histograms["batch_size"][""]
    [message] = families(full_state())[metric.name].metric
    edges = edges_of(metric, one)
    expected = list(zip(edges.bounds, cumulative_counts([one], [edges])[0], strict=True))
    assert [(bucket.upper_bound, bucket.cumulative_count) for bucket in message.histogram.bucket] == expected


AMOUNTS = st.one_of(st.floats(1e-9, 1e9, exclude_max=True), st.sampled_from([0.0, 1e-10, 1.0, 2.0, 0.5, 1e9, 1e300]))


@given(amounts=st.lists(AMOUNTS, max_size=40), scale=st.integers(-4, 12))
def test_a_native_histogram_holds_every_observation_in_its_bucket(amounts, scale):
    one = histogram(amounts, scale)
    [message] = families(with_histogram("total_time", one))["batchscope_e2e_request_latency_seconds"].metric
    found = message.histogram
    schema = min(scale, 8)
    assert (found.schema, found.zero_threshold) == (schema, ZERO_THRESHOLD)
    expected = {}
    for amount in amounts:
        if amount >= 1e9:
            index = infinite_bucket(schema)
        elif amount > ZERO_THRESHOLD:
            index = bucket_layout(schema).index(amount) + 1
        else:
            continue
        expected[index] = expected.get(index, 0) + 1
    assert {index: count for index, count in buckets(found).items() if count} == expected
    assert found.zero_count + sum(buckets(found).values()) == found.sample_count == len(amounts)
    for index, amount in ((bucket_layout(schema).index(a) + 1, a) for a in amounts if ZERO_THRESHOLD < a < 1e9):
        upper, exponent = (index << -schema, 1) if schema < 0 else (index, 1 << schema)
        assert math.log2(amount) <= upper / exponent + 1e-12
        assert buckets(found)[index]


def test_values_of_the_zero_bucket_do_not_exceed_its_threshold():
    edge = histogram([math.nextafter(1e-9, 0), 1e-9])
    native = native_buckets(edge)
    assert native.zero_count == 1
    assert ZERO_THRESHOLD < 1e-9
    assert native.deltas.tolist() == [1]


def test_an_empty_histogram_is_still_a_native_one():
    [message] = families(SchedulerMetricsCollector().read_totals())["batchscope_inter_token_latency_seconds"].metric
    assert not message.histogram.positive_span
    assert message.histogram.zero_threshold > 0  # what tells it from a classic one
    assert message.histogram.HasField("zero_count")


def test_near_buckets_share_a_span_and_distant_ones_do_not():
    layout = bucket_layout(3)
    edges = [float(layout.edges(i, 2).mean()) for i in (0, 1, 4, 8)]
    native = native_buckets(histogram(edges, 3))
    assert native.spans == [(1, 5), (3, 1)]
    assert native.deltas.cumsum().tolist() == [1, 1, 0, 0, 1, 1]


@given(st.lists(st.one_of(st.integers(-3, 3), st.integers(-(2**62), 2**62)), max_size=20))
def test_packed_integers_are_those_of_the_runtime(numbers):
    family = FAMILY()
    family.metric.add().histogram.positive_delta.extend(numbers)
    inner = family.metric[0].histogram.SerializeToString()
    assert packed_sints(13, np.array(numbers, dtype=np.int64)) == inner


@given(st.integers(0, 2**64 - 1), st.integers(-(2**31), 2**31 - 1))
def test_single_integers_are_those_of_the_runtime(unsigned, signed):
    family = FAMILY()
    found = family.metric.add().histogram
    found.sample_count, found.schema = unsigned, signed
    assert found.SerializeToString() == b"\x08" + varint(unsigned) + sint(5, signed)


def test_labels_with_any_text_survive():
    state = SchedulerMetricsCollector(labels={"model_name": 'ä"\n\\\ud800\0'}).read_totals()
    [message] = families(state)["batchscope_iterations_total"].metric
    assert message.label[0].value.startswith('ä"\n\\')
