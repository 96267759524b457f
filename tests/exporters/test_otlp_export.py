"""OTLP to real receivers: what is decoded there equals what was recorded, and no receiver can hurt the engine."""

import logging
import os
import socket
import subprocess
import sys
import time
import warnings
from fractions import Fraction

import grpc
import numpy as np
import pytest
from opentelemetry import context
from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData

from batchscope import CompletionReason, SchedulerMetricsCollector
from batchscope.exporters.otlp import GenAiAttributes, OtlpExporter
from exporters.otlp_receivers import GrpcReceiver, HttpReceiver, attributes, metrics_of, resource
from spec.fakes import iteration, request

QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
BOTH = pytest.mark.parametrize(
    ("receiver", "protocol"), [(HttpReceiver, "http/protobuf"), (GrpcReceiver, "grpc")], ids=["http", "grpc"]
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector():
    with SchedulerMetricsCollector(labels={"model_name": "llama", "rank": "0"}, role="decode") as collector:
        random = np.random.default_rng(7)
        for number, seconds in enumerate(random.lognormal(0.0, 1.5, 500)):
            collector.record_request_completion(
                request(number, tokens=20, processing_time=seconds, queue_time=seconds / 8, decode_time=seconds / 2)
            )
        collector.record_request_completion(request("late", reason=CompletionReason.TIMEOUT))
        collector.record_iteration(iteration(waiting_requests=2, inter_token_latencies=random.exponential(0.02, 4000)))
        yield collector


def exporter_of(collector, receiver, protocol="http/protobuf", **options):
    return OtlpExporter(collector, endpoint=receiver.endpoint, protocol=protocol, interval=3600, **options)


def quantile(point, q):
    """The nearest-rank estimate of section 4 of the design, from nothing but an OTLP point."""
    rank = max(1, -(-Fraction(str(q)) * point.count // 1))
    reached = point.zero_count
    if rank <= max(1, reached):
        return point.min
    if rank == point.count:
        return point.max
    for place, count in enumerate(point.positive.bucket_counts):
        reached += count
        if reached >= rank:
            low, high = (2.0 ** ((point.positive.offset + place + end) / 2.0**point.scale) for end in (0, 1))
            return min(max(2 * low * high / (low + high), point.min), point.max)
    raise AssertionError(rank)


@BOTH
def test_a_receiver_decodes_the_same_counts_and_the_same_quantiles(collector, receiver, protocol):
    with receiver() as received, exporter_of(collector, received, protocol) as exporter:
        assert exporter.export()
        (sent,) = received.requests
    found, state = metrics_of(sent), collector.read_totals()
    for name, source in (
        ("batchscope.e2e_request_latency", state.histograms["total_time"]["default"]),
        ("batchscope.request_queue_time", state.histograms["queue_time"]["default"]),
        ("batchscope.inter_token_latency", state.histograms["inter_token_latency"][""]),
        ("gen_ai.server.request.duration", state.histograms["total_time"]["default"]),
    ):
        (point,) = found[name].exponential_histogram.data_points
        assert found[name].unit == "s"
        assert (point.count, point.sum, point.scale) == (source.count, source.sum, source.scale)
        assert sum(point.positive.bucket_counts) + point.zero_count == point.count
        assert [quantile(point, q) for q in QUANTILES] == pytest.approx(source.quantiles(QUANTILES), rel=1e-12)
    by_reason = {attributes(point)["reason"]: point.as_int for point in found["batchscope.requests"].sum.data_points}
    assert {reason: count for reason, count in by_reason.items() if count} == {"eos_token_reached": 500, "timeout": 1}
    assert exporter.exported == 2  # close() sends the last
    assert exporter.failures == 0


@BOTH
def test_a_busy_receiver_is_tried_again_within_the_same_export(collector, receiver, protocol):
    busy = 503 if protocol != "grpc" else grpc.StatusCode.UNAVAILABLE
    with receiver(busy) as received, exporter_of(collector, received, protocol) as exporter:
        assert exporter.export()
        assert len(received.headers) == 2
        assert len(received.requests) == 1
        assert exporter.failures == 0


def test_what_could_not_be_sent_is_contained_in_what_is_sent_next(collector):
    with HttpReceiver(400, 400) as received, exporter_of(collector, received) as exporter:
        assert not exporter.export()
        collector.record_error("oom")
        assert not exporter.export()
        assert (exporter.exported, exporter.failures, len(received.requests)) == (0, 2, 0)
        assert "400" in exporter.last_error
        assert exporter.export()
        assert (exporter.exported, exporter.failures) == (1, 2)
    first = metrics_of(received.requests[0])
    assert [point.as_int for point in first["batchscope.errors"].sum.data_points] == [1]
    (received_total,) = first["batchscope.requests_received"].sum.data_points
    assert received_total.as_int == 501
    assert received_total.start_time_unix_nano < received_total.time_unix_nano


def test_a_source_that_has_ended_is_sent_until_it_is_taken(collector):
    with HttpReceiver(400) as received, exporter_of(collector, received) as exporter:
        collector.close()
        assert not exporter.export()
        assert exporter._periodic.running
        assert exporter.export()
        assert exporter.close()
    assert len(received.requests) == 1


@BOTH
def test_a_receiver_that_is_down_costs_one_log_line_and_close_ends_in_bounded_time(
    collector, receiver, protocol, caplog
):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        exporter = OtlpExporter(collector, endpoint=endpoint, protocol=protocol, interval=3600, timeout=0.2)
        with caplog.at_level(logging.DEBUG):
            for _ in range(3):
                assert not exporter.export()
            began = time.monotonic()
            assert not exporter.close(timeout=5)
    assert time.monotonic() - began < 15
    ours = [record for record in caplog.records if record.name.startswith(("batchscope", "opentelemetry"))]
    assert [record.name for record in ours if record.levelno >= logging.WARNING] == ["batchscope"]
    assert " failed (1 failures so far): " in ours[-1].getMessage()
    assert (exporter.exported, exporter.failures) == (0, 4)
    assert exporter.last_error


@BOTH
def test_a_receiver_that_hangs_does_not_hold_up_recording_nor_close(collector, receiver, protocol):
    with receiver(*[HttpReceiver.HANG] * 5) as received:
        exporter = OtlpExporter(collector, endpoint=received.endpoint, protocol=protocol, interval=0.01)
        received.wait_for(1)
        collector.record_request_completion(request("while it hangs"))
        assert collector.get_request_statistics().total_requests == 502
        began = time.monotonic()
        assert not exporter.close(timeout=0.2)
        assert time.monotonic() - began < 8  # a send would take 10
    exporter._periodic._thread.join(20)


def test_close_wakes_a_send_that_waits_to_try_again_and_says_where_and_why(collector, caplog):
    with HttpReceiver(*[503] * 20) as received:
        exporter = OtlpExporter(collector, endpoint=received.endpoint, interval=0.01, timeout=60)
        received.wait_for(1)
        assert not exporter.close(timeout=0.1)
        exporter._periodic._thread.join(20)  # all its retries would take 31 seconds
        assert not exporter._periodic.running
        lines = [record.getMessage() for record in caplog.records]
        assert any(received.endpoint in line and exporter.last_error in line for line in lines), lines
        assert "at first" in exporter.last_error or "first one failed" in exporter.last_error
        assert not any(record.name.startswith("opentelemetry") for record in caplog.records)


def test_no_password_of_the_endpoint_is_in_the_log(collector, caplog):
    with OtlpExporter(
        collector, endpoint="http://me:secret@127.0.0.1:1/v1/metrics?key=secret", timeout=0.1
    ) as exporter:
        assert not exporter.export()
    ours = [record.getMessage() for record in caplog.records if record.name == "batchscope"]
    assert any("export to http://127.0.0.1:1/v1/metrics failed" in line for line in ours), ours


def test_states_come_every_interval_from_a_thread_of_ours_and_close_sends_the_last(collector):
    with HttpReceiver() as received:
        exporter = OtlpExporter(collector, endpoint=received.endpoint, interval=0.01)
        received.wait_for(3)
        collector.record_error("oom")
        assert exporter.close()
        last = metrics_of(received.requests[-1])["batchscope.errors"].sum.data_points
        assert [(attributes(point)["type"], point.as_int) for point in last] == [("oom", 1)]
        assert exporter.close()
        assert not exporter.export()


def test_it_ends_after_a_last_send_when_its_source_is_closed(collector):
    with HttpReceiver() as received:
        exporter = exporter_of(collector, received)
        collector.close()
        assert exporter.export()
        exporter._periodic._thread.join(20)
        assert not exporter._periodic.running
        assert exporter.close()
        assert len(received.requests) == 1


def test_a_reset_and_a_restart_are_new_starts_of_everything_cumulative(collector):
    with HttpReceiver() as received, exporter_of(collector, received) as exporter:
        exporter.export()
        collector.reset()
        exporter.export()
    starts, names = [], ("batchscope.iterations", "batchscope.e2e_request_latency")
    for sent in received.requests[:2]:
        found = metrics_of(sent)
        iterations, latency = found[names[0]].sum, found[names[1]].exponential_histogram
        assert iterations.is_monotonic
        assert iterations.aggregation_temporality == latency.aggregation_temporality == 2  # CUMULATIVE
        (point,) = iterations.data_points
        assert point.start_time_unix_nano == latency.data_points[0].start_time_unix_nano <= point.time_unix_nano
        starts.append(point.start_time_unix_nano)
    assert starts[0] < starts[1]


def test_arguments_win_over_variables_and_those_over_what_is_ours(collector, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-variable")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,model_name=other")
    with HttpReceiver() as received:
        with exporter_of(collector, received) as exporter:
            exporter.export()
        with exporter_of(collector, received, service_name="chat", resource_attributes={"rank": "7"}) as exporter:
            exporter.export()
    first, second = resource(received.requests[0]), resource(received.requests[2])
    assert (first["service.name"], second["service.name"]) == ("from-variable", "chat")
    assert first["deployment.environment.name"] == "test"
    assert (first["model_name"], first["rank"], second["rank"]) == ("llama", "0", "7")
    assert first["service.instance.id"] == collector.read_totals().instance_id
    assert first["batchscope.role"] == "decode"


def test_variables_say_where_how_and_with_which_headers_it_is_sent(collector, monkeypatch):
    with HttpReceiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
        with OtlpExporter(collector):
            received.wait_for(2)
    headers = received.headers[0]
    assert (headers["path"], headers["x-tenant"], headers["Content-Encoding"]) == ("/v1/metrics", "blue", "gzip")


def test_the_protocol_is_a_variable_too(collector, monkeypatch):
    with GrpcReceiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", received.endpoint)
        with OtlpExporter(collector, headers={"x-tenant": "blue"}, compression="gzip", interval=3600) as exporter:
            assert exporter.export()
        assert received.headers[0]["x-tenant"] == "blue"


def test_an_endpoint_with_a_path_is_taken_as_it_is(collector):
    with HttpReceiver() as received:
        endpoint = f"{received.endpoint}/api/v1/otlp/v1/metrics"
        with OtlpExporter(collector, endpoint=endpoint, headers={"authorization": "Bearer x"}, compression="gzip"):
            pass
    assert received.headers[0]["path"] == "/api/v1/otlp/v1/metrics"
    assert received.headers[0]["authorization"] == "Bearer x"


def test_otel_sdk_disabled_means_no_thread_and_nothing_sent(collector, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with HttpReceiver() as received:
        exporter = OtlpExporter(collector, endpoint=received.endpoint, interval=0.001)
        assert not exporter.export()
        assert exporter.close()
        assert not received.headers
    assert not exporter._periodic.running


def test_an_exporter_of_the_sdk_can_be_handed_over_and_may_raise(collector, caplog):
    class Refusing(MetricExporter):
        def __init__(self):
            super().__init__()
            self.shut = False

        def export(self, metrics_data, timeout_millis=10_000, **kwargs):
            assert context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY)  # what SDK readers do
            raise ConnectionRefusedError("nobody there")

        def force_flush(self, timeout_millis=10_000):
            return True

        def shutdown(self, timeout_millis=30_000, **kwargs):
            self.shut = True

    refusing = Refusing()
    exporter = OtlpExporter(collector, metric_exporter=refusing, interval=3600)
    assert not exporter.export()
    assert exporter.last_error == "ConnectionRefusedError('nobody there')"
    assert not exporter.close()
    assert refusing.shut
    assert "nobody there" in caplog.text


def test_what_others_send_through_the_same_sdk_is_logged_as_ever(collector, caplog):
    with HttpReceiver(400, 400) as received, exporter_of(collector, received) as exporter:
        exporter.export()
        exporter._exporter.export(MetricsData([]))  # not through us
        assert [record.name.split(".")[0] for record in caplog.records] == ["batchscope", "opentelemetry"]
        filtered = [logger for logger in exporter._quiet._loggers if exporter._quiet in logger.filters]
        assert filtered
    assert not [logger for logger in filtered if exporter._quiet in logger.filters]


ENDS = """
import sys
from batchscope import SchedulerMetricsCollector
from batchscope.exporters.otlp import OtlpExporter
collector = SchedulerMetricsCollector()
exporter = OtlpExporter(collector, endpoint=sys.argv[1], protocol=sys.argv[2], interval=3600)
collector.record_error("at the end")
"""


@BOTH
def test_a_process_that_ends_without_closing_it_sends_the_last_state(receiver, protocol):
    with receiver() as received:
        command = [sys.executable, "-c", ENDS, received.endpoint, protocol]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, "")
        (sent,) = received.requests
    assert [point.as_int for point in metrics_of(sent)["batchscope.errors"].sum.data_points] == [1]


def test_in_a_forked_child_it_is_off_and_can_be_closed(collector):
    with HttpReceiver() as received, exporter_of(collector, received) as exporter:
        with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads
            child = os.fork()
        if child == 0:
            os._exit(0 if not exporter.export() and exporter.close() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not received.headers
        assert exporter.export()


def test_the_semantic_conventions_names_can_be_told_and_left_out(collector):
    given = GenAiAttributes("text_completion", "acme", "acme-7b")
    with HttpReceiver() as received:
        exporter_of(collector, received, gen_ai=given).close()
        exporter_of(collector, received, gen_ai=None).close()
    with_them, without = (metrics_of(sent) for sent in received.requests)
    (point,) = with_them["gen_ai.server.time_per_output_token"].exponential_histogram.data_points
    assert attributes(point) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "acme",
        "gen_ai.request.model": "acme-7b",
    }
    assert set(with_them) - set(without) == {name for name in with_them if name.startswith("gen_ai.server.")}
    assert len(with_them) == len(without) + 3
