"""What is sent over OTLP: names, units, attributes and buckets of a state, without sending it."""

import logging
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import ExponentialHistogram, MetricsSnapshot, SchedulerMetricsCollector, decode_snapshot
from batchscope.catalog import CATALOG, MetricKind
from batchscope.errors import ConfigurationError, MissingExtraError
from batchscope.exporters.otlp import GenAiAttributes, OtlpExporter
from batchscope.exporters.otlp.buckets import otlp_buckets
from batchscope.exporters.otlp.environment import chosen_interval, chosen_protocol
from batchscope.exporters.otlp.names import otlp_name, otlp_unit
from batchscope.exporters.otlp.points import Translation
from batchscope.exporters.otlp.sdk import Resources
from batchscope.records import EngineInfo
from batchscope.statistics.cumulative import cumulative_of
from spec.fakes import FakeClock, iteration, request

SUFFIXES = {"s": "seconds", "By": "bytes", "Cel": "celsius", "Hz": "hertz", "J": "joules", "W": "watts"}


def translated(metric):
    """The name that Prometheus' otlptranslator (UnderscoreEscapingWithSuffixes) makes of an OTLP metric."""
    words = re.split(r"[^a-zA-Z0-9]+", otlp_name(metric))
    suffix = SUFFIXES.get(otlp_unit(metric))
    if otlp_unit(metric) == "1" and metric.kind is MetricKind.GAUGE:
        suffix = "ratio"
    if suffix and suffix not in words:
        words.append(suffix)
    return "_".join([*words, "total"] if metric.kind is MetricKind.COUNTER else words)


def sent(state, gen_ai=None, at=2**62, **options):
    """Name -> metric of the SDK."""
    data = Translation(state, at, **options).metrics_data(Resources().of(state), gen_ai)
    return {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}


@pytest.mark.parametrize("metric", CATALOG, ids=lambda metric: metric.name)
def test_a_name_translated_by_prometheus_is_the_catalogues_own(metric):
    assert translated(metric) == metric.name
    assert re.fullmatch(r"batchscope\.[a-z0-9_]+", otlp_name(metric))


def test_names_are_unique_and_units_are_ucum():
    assert len({otlp_name(metric) for metric in CATALOG}) == len(CATALOG)
    assert {otlp_unit(metric) for metric in CATALOG} == {
        "", "1", "s", "By", "Cel", "Hz", "J", "W", "{request}", "{token}", "{iteration}", "{preemption}", "{error}",
        "{record}", "{block}",
    }  # fmt: skip


def test_every_point_carries_the_collectors_labels_and_its_own():
    collector = SchedulerMetricsCollector(labels={"model_name": "llama"})
    collector.record_request_completion(request())
    for metric in sent(collector.read_totals()).values():
        for point in metric.data.data_points:
            assert point.attributes["model_name"] == "llama"
    (point,) = sent(collector.read_totals())["batchscope.e2e_request_latency"].data.data_points
    assert point.attributes == {"model_name": "llama", "class": "default"}


def test_what_is_not_known_is_not_sent():
    names = sent(SchedulerMetricsCollector().read_totals())
    assert "batchscope.kv_cache_usage" not in names
    assert "batchscope.gpu_power" not in names
    assert "batchscope.requests_received" in names


def test_gauges_have_no_start_and_numbers_keep_their_type():
    collector = SchedulerMetricsCollector()
    collector.record_iteration(iteration(running_requests=4, kv_cache_usage=0.5))
    found = sent(collector.read_totals())
    (running,) = found["batchscope.requests_running"].data.data_points
    (usage,) = found["batchscope.kv_cache_usage"].data.data_points
    assert (running.value, type(running.value), running.start_time_unix_nano) == (4, int, None)
    assert (usage.value, type(usage.value)) == (0.5, float)


def test_a_clock_set_back_gives_no_point_before_its_start():
    state = SchedulerMetricsCollector().read_totals()
    (point,) = sent(state, at=5)["batchscope.iterations"].data.data_points
    assert point.time_unix_nano == point.start_time_unix_nano > 5


def test_the_classes_of_a_histogram_are_one_in_the_semantic_conventions():
    from batchscope import MetricsConfiguration, SloTargets

    classes = {"interactive": SloTargets(e2e_latency=2.0), "batch": SloTargets(e2e_latency=60.0)}
    collector = SchedulerMetricsCollector(MetricsConfiguration(slo=classes), clock=FakeClock())
    collector.engine = EngineInfo("vllm", "1.0")
    for name, seconds in (("interactive", 1.0), ("batch", 30.0), ("batch", 40.0)):
        collector.record_request_completion(request(processing_time=seconds, request_class=name))
    found = sent(collector.read_totals(), GenAiAttributes())
    (point,) = found["gen_ai.server.request.duration"].data.data_points
    assert (point.count, point.min, point.max) == (3, 1.0, 40.0)
    assert point.attributes == {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm"}
    assert len(found["batchscope.e2e_request_latency"].data.data_points) == 3  # with ``other``


def test_an_empty_histogram_has_a_count_of_0_and_neither_minimum_nor_maximum():
    (point,) = sent(SchedulerMetricsCollector().read_totals())["batchscope.batch_size_requests"].data.data_points
    assert (point.count, point.sum, point.zero_count, list(point.positive.bucket_counts)) == (0, 0, 0, [])
    assert (point.min, point.max) == (None, None)


def test_a_state_without_histograms_is_sent_without_them():
    snapshot = decode_snapshot(SchedulerMetricsCollector().get_snapshot().to_json())
    found = sent(cumulative_of(snapshot), GenAiAttributes())
    assert "batchscope.requests_received" in found
    assert not [name for name in found if name.startswith("gen_ai") or "latency" in name]


def test_what_is_as_good_as_0_is_in_the_zero_bucket():
    collector = SchedulerMetricsCollector()
    for seconds in (0.0, 1e-12, 0.25):
        collector.record_request_completion(request(processing_time=seconds))
    (point,) = sent(collector.read_totals())["batchscope.e2e_request_latency"].data.data_points
    assert (point.count, point.zero_count, list(point.positive.bucket_counts)) == (3, 2, [1])
    assert (point.min, point.max) == (0.0, 0.25)


def test_the_largest_values_are_in_the_bucket_of_1e9_so_that_counts_add_up():
    histogram = ExponentialHistogram(6)
    histogram.record_many([0.0, 1e-12, 0.5, 5e8, 1e9, 3e12])
    scale, offset, counts = otlp_buckets(histogram)
    assert scale == 6
    assert sum(counts) + histogram.zero_count == histogram.count == 6
    last = offset + len(counts) - 1
    assert counts[-1] == 2
    assert 2 ** (last / 64) < 1e9 <= 2 ** ((last + 1) / 64)
    alone = ExponentialHistogram(6)
    alone.record(2e9, 3)
    assert otlp_buckets(alone).counts == [3]
    assert otlp_buckets(alone).offset == last


@given(
    st.lists(st.floats(0, 1e10), min_size=1, max_size=50), st.integers(8, 400), st.sampled_from([2, 6, 9])
)  # fmt: skip
def test_a_limit_of_buckets_is_kept_and_loses_no_observation(observed, max_buckets, scale):
    histogram = ExponentialHistogram(scale)
    histogram.record_many(observed)
    limited = otlp_buckets(histogram, max_buckets)
    assert len(limited.counts) <= max_buckets
    assert sum(limited.counts) + histogram.zero_count == histogram.count
    coarser = histogram.downscaled(limited.scale)
    if not histogram.overflow_count:
        assert (limited.offset if limited.counts else 0, limited.counts) == (coarser.offset, coarser.counts.tolist())
    whole = otlp_buckets(histogram)
    if len(whole.counts) <= max_buckets:
        assert limited == whole


def test_the_limit_of_buckets_reaches_every_histogram():
    collector = SchedulerMetricsCollector()
    for seconds in np.geomspace(1e-3, 1e3, 200):
        collector.record_request_completion(request(processing_time=float(seconds)))
    (fine,) = sent(collector.read_totals())["batchscope.e2e_request_latency"].data.data_points
    found = sent(collector.read_totals(), GenAiAttributes(), max_buckets=160)
    for name in ("batchscope.e2e_request_latency", "gen_ai.server.request.duration"):
        (coarse,) = found[name].data.data_points
        assert len(coarse.positive.bucket_counts) <= 160 < len(fine.positive.bucket_counts)
        assert (coarse.count, coarse.scale < fine.scale) == (200, True)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("protocol", {"protocol": "http/json"}),
        ("compression", {"compression": "brotli"}),
        ("compression", {"compression": "deflate", "protocol": "grpc"}),
        ("interval", {"interval": 0}),
        ("timeout", {"timeout": -1.0}),
        ("max_buckets", {"max_buckets": 7}),
    ],
)
def test_a_wrong_argument_is_refused_by_name(field, options):
    with pytest.raises(ConfigurationError, match=field):
        OtlpExporter(SchedulerMetricsCollector(), **options)


def test_a_wrong_protocol_in_a_variable_is_refused_with_the_variables_name(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_PROTOCOL = 'http/json': expected http/protobuf"):
        chosen_protocol(None)
    assert chosen_protocol("grpc") == "grpc"


@pytest.mark.parametrize("said", ["soon", "-5", "0", "nan", "inf"])
def test_a_wrong_interval_in_a_variable_is_ignored_with_a_warning(said, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", said)
    assert chosen_interval(None) == 60.0
    assert said in caplog.text
    assert chosen_interval(2.5) == 2.5


def test_the_interval_in_a_variable_is_in_milliseconds(monkeypatch):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "250")
    assert chosen_interval(None) == 0.25


def test_a_wish_for_delta_is_answered_in_the_log(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    with caplog.at_level(logging.WARNING, "batchscope"):
        OtlpExporter(SchedulerMetricsCollector(), interval=3600, timeout=0.05, endpoint="http://127.0.0.1:9").close(0.1)
    assert any("batchscope sends cumulative metrics" in record.getMessage() for record in caplog.records)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics.export", None)
    for name in [name for name in sys.modules if name.startswith("batchscope.exporters.otlp.")]:
        if name.endswith((".points", ".sdk")):
            monkeypatch.delitem(sys.modules, name)
    import batchscope.exporters.otlp as package

    for part in ("points", "sdk"):
        monkeypatch.delattr(package, part, raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'batchscope\[otlp\]'"):
        OtlpExporter(SchedulerMetricsCollector())


def test_importing_the_exporter_does_not_load_the_sdk():
    code = "import sys, batchscope.exporters.otlp; sys.exit(any(n.startswith(('opentelemetry', 'grpc')) for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_resource_of_a_merge_says_nothing_that_changes_with_who_lives():
    collector = SchedulerMetricsCollector(role="decode", labels={"model_name": "m"})
    collector.engine = EngineInfo("vllm", "1")
    own = Resources().of(collector.read_totals()).attributes
    assert (own["batchscope.role"], own["batchscope.engine.kind"]) == ("decode", "vllm")
    merged = cumulative_of(MetricsSnapshot.merge(collector.get_snapshot(), SchedulerMetricsCollector().get_snapshot()))
    attributes = Resources().of(merged).attributes
    assert not [name for name in attributes if name.startswith(("batchscope.role", "batchscope.engine"))]
