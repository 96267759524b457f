"""Wrong OTEL_* variables and arguments: said by name, never a traceback; and a failure's log line has its reason."""

import socket
import socketserver
import threading

import pytest

from batchscope import ConfigurationError, SchedulerMetricsCollector
from batchscope.exporters.otlp import OtlpExporter
from batchscope.exporters.otlp.environment import chosen_compression, chosen_timeout

VARIABLES = ("TIMEOUT", "METRICS_TIMEOUT", "COMPRESSION", "METRICS_COMPRESSION", "ENDPOINT", "PROTOCOL")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)


@pytest.mark.parametrize("said", ["soon", "5s", "-1", "0", "nan", "inf"])
@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"])
def test_a_wrong_timeout_in_a_variable_is_ignored_with_a_warning(variable, said, monkeypatch, caplog):
    monkeypatch.setenv(variable, said)
    assert chosen_timeout(None) == 10.0
    assert f"{variable} = {said!r}: expected seconds > 0; taking 10" in caplog.text
    assert chosen_timeout(2.5) == 2.5


def test_a_right_timeout_is_taken_that_of_metrics_first(monkeypatch, caplog):
    assert chosen_timeout(None) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    assert chosen_timeout(None) == 3.0
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "4")
    assert chosen_timeout(None) == 4.0
    assert not caplog.records


def test_an_unknown_compression_over_grpc_is_ignored_with_a_warning(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")
    assert chosen_compression("grpc", None) == "none"
    assert "OTEL_EXPORTER_OTLP_COMPRESSION = 'zstd': expected one of ('none', 'gzip')" in caplog.text
    assert chosen_compression("grpc", "gzip") == "gzip"
    assert chosen_compression("http/protobuf", None) is None  # the SDK says it itself
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP")
    assert chosen_compression("grpc", None) is None


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_with_wrong_variables_it_starts_all_the_same(protocol, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5s")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")
    exporter = OtlpExporter(SchedulerMetricsCollector(), protocol=protocol, interval=3600)
    exporter._periodic.stop()  # nothing is to be sent
    exporter.close()
    assert "'5s'" in caplog.text
    assert "zstd" in caplog.text


@pytest.mark.parametrize(
    "endpoint", ["localhost:4318", "collector", "ftp://collector", "http://", "http://[::1", "http://x:y", 5]
)
def test_an_endpoint_that_is_no_url_is_refused_at_once(endpoint):
    with pytest.raises(ConfigurationError, match=r"endpoint = .*: expected http://HOST"):
        OtlpExporter(SchedulerMetricsCollector(), endpoint=endpoint, protocol="http/protobuf")


@pytest.mark.parametrize("timeout", ["5", float("nan")])
def test_a_timeout_that_is_no_number_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="timeout"):
        OtlpExporter(SchedulerMetricsCollector(), timeout=timeout)


def test_a_refused_connection_is_the_reason_that_is_given(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        port = taken.getsockname()[1]
        collector = SchedulerMetricsCollector()
        exporter = OtlpExporter(collector, endpoint=f"http://127.0.0.1:{port}", interval=3600, timeout=2.0)
        assert not exporter.export()
        exporter._periodic.stop()
        exporter.close()
    assert "refused" in exporter.last_error
    assert str(port) in exporter.last_error
    assert exporter.last_error in caplog.text


def test_what_the_other_side_says_is_one_short_printable_line(caplog):
    class Answer(socketserver.StreamRequestHandler):
        def handle(self):
            self.request.recv(65536)
            self.wfile.write(b"HTTP/1.1 400 \x1b[31mred" + b"x" * 5000 + b"\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        exporter = OtlpExporter(SchedulerMetricsCollector(), endpoint=endpoint, interval=3600, timeout=5.0)
        assert not exporter.export()
        exporter._periodic.stop()
        exporter.close()
        server.shutdown()
    assert "code: 400, reason: \\x1b[31mred" in exporter.last_error
    assert len(exporter.last_error) < 600
    assert "\x1b" not in caplog.text


def test_a_source_that_cannot_be_read_is_no_failed_send():
    class Source:
        closed = False

        def __init__(self):
            self.collector = SchedulerMetricsCollector()
            self.error = None

        def read_totals(self):
            if self.error is not None:
                raise self.error
            return self.collector.read_totals()

    source = Source()
    exporter = OtlpExporter(source, endpoint="http://127.0.0.1:1", interval=3600, timeout=0.01)
    exporter.export()
    source.error = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        exporter.export()
    assert (exporter.exported, exporter.failures) == (0, 1)
    exporter._periodic.stop()
    exporter.close()
