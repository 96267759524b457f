"""Texts that no file and no protocol takes as they are: one of them must not cost the others, in any exporter."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from batchscope import SchedulerMetricsCollector, decode_snapshot
from batchscope.exporters.jsonl import JsonLinesExporter, read_json_lines
from batchscope.exporters.otlp.points import Translation
from batchscope.exporters.otlp.sdk import Resources
from batchscope.exporters.prometheus import render_text
from batchscope.records import EngineInfo
from batchscope.text import readable

ONE, OTHER = "cannot open \udc80", "cannot open \udc81"  # file names that are no UTF-8, as os.fsdecode gives them


@pytest.fixture
def collector():
    with SchedulerMetricsCollector(labels={"model_name": ONE}) as collector:
        collector.engine = EngineInfo("\ud800", "1")
        collector.definitions = {"arrival": ONE}
        collector.record_error(ONE)
        collector.record_error(OTHER)
        yield collector


@pytest.mark.parametrize(("text", "expected"), [("plain", "plain"), ("grün", "grün"), (ONE, "cannot open \\udc80")])
def test_only_lone_surrogates_are_spelled_out(text, expected):
    assert readable(text) == expected


def test_a_snapshot_is_json_all_the_same_and_different_names_stay_different(collector):
    collector.record_error("plain")
    document = collector.get_snapshot().to_json(histograms=True)
    snapshot = decode_snapshot(document)
    assert snapshot.error_stats.errors_by_type == {"cannot open \\udc80": 1, "cannot open \\udc81": 1, "plain": 1}
    assert snapshot.labels == {"model_name": "cannot open \\udc80"}
    assert (
        snapshot.histograms
        == decode_snapshot(SchedulerMetricsCollector().get_snapshot().to_json(histograms=True)).histograms
    )
    assert json.loads(document)["definitions"] == {"arrival": "cannot open \\udc80"}


def test_json_lines_lose_nothing(collector, tmp_path):
    with JsonLinesExporter(collector, tmp_path / "lines", interval=3600) as exporter:
        assert exporter.write()
    assert [snapshot.error_stats.total_errors for snapshot in read_json_lines(tmp_path / "lines")] == [2, 2]
    assert exporter.dropped == 0


def test_prometheus_gets_a_series_for_each_of_them(collector):
    [family] = [
        one for one in parse_text(render_text(collector.read_totals()).decode()) if one.name == "batchscope_errors"
    ]
    assert sorted(sample.labels["type"] for sample in family.samples) == ["cannot open \\udc80", "cannot open \\udc81"]


def test_otlp_sends_every_attribute_so_that_no_two_series_become_one(collector):
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

    state = collector.read_totals()
    encoded = encode_metrics(Translation(state, 2**62).metrics_data(Resources().of(state), None))
    [resource] = encoded.resource_metrics
    of_resource = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert of_resource["model_name"] == "cannot open \\udc80"
    assert of_resource["batchscope.engine.kind"] == "\\ud800"
    [errors] = [metric for metric in resource.scope_metrics[0].metrics if metric.name == "batchscope.errors"]
    points = [{one.key: one.value.string_value for one in point.attributes} for point in errors.sum.data_points]
    assert sorted(point["type"] for point in points) == ["cannot open \\udc80", "cannot open \\udc81"]
