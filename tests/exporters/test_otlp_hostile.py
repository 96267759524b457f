"""Receivers that are none, over real loopback: whatever they answer is bounded, in bytes and in time, and no success."""

import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from batchscope import SchedulerMetricsCollector
from batchscope.exporters.otlp import OtlpExporter

TIMEOUT = 0.5
LATEST = 15.0
"""Seconds for an export with ``TIMEOUT``, on a machine that is busy."""
MOST_SENT = 16 * 2**20
"""What a receiver may get rid of before its connection ends: mostly the kernel's buffers."""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    bundles = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # requests takes them before the SDK's own certificate
    for name in [name for name in os.environ if name.startswith("OTEL_") or name in bundles]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector():
    with SchedulerMetricsCollector() as collector:
        yield collector


class Receiver:
    """Takes connections; ``behave(connection, receiver)`` does the rest in a thread each."""

    def __init__(self, behave, tls=None):
        self._behave = behave
        self._tls = tls
        self.connections = 0
        self.sent = 0
        self.closing = threading.Event()

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if self._tls is None else "https"
        self.endpoint = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                self._behave(connection, self)
        except OSError:
            pass  # the exporter has ended it

    def send(self, connection, data):
        connection.sendall(data)
        self.sent += len(data)

    def for_ever(self, connection, data, pause=0.0):
        while not self.closing.wait(pause) if pause else not self.closing.is_set():
            self.send(connection, data)


def asked(connection):
    """Read one request to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)


def answering(*parts, then=b"", pause=0.0):
    def behave(connection, receiver):
        while True:
            asked(connection)
            for part in parts:
                receiver.send(connection, part)
            if then:
                receiver.for_ever(connection, then, pause)

    return behave


def silent(connection, receiver):
    receiver.closing.wait()


def resetting(connection, receiver):
    asked(connection)
    connection.close()


OK = b"HTTP/1.1 200 OK\r\n"
PIECE = b"x" * 65536
COMPRESSOR = zlib.compressobj(wbits=31)
BOMB = COMPRESSOR.compress(b"\0" * (64 * 2**20)) + COMPRESSOR.flush()
NEVER = {
    "a body without an end": answering(OK + b"\r\n", then=PIECE),
    "a body of a terabyte": answering(OK + b"Content-Length: 1000000000000\r\n\r\n", then=PIECE),
    "chunks without an end": answering(OK + b"Transfer-Encoding: chunked\r\n\r\n", then=b"10000\r\n" + PIECE + b"\r\n"),
    "a body that drips": answering(OK + b"Content-Length: 60000\r\n\r\n", then=b"x", pause=0.02),
    "headers that drip": answering(OK + b"X-Slow: ", then=b"x", pause=0.02),
    "headers without an end": answering(OK, then=b"X-Many: " + b"x" * 60_000 + b"\r\n"),
    "a header without an end": answering(OK + b"X-Long: ", then=PIECE),
    "go on, for ever": answering(then=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "nothing": silent,
    "a body that stops": answering(OK + b"Content-Length: 100\r\n\r\nhalf"),
    "a reset": resetting,
    "garbage": answering(b"\x16\x03\x01\x02\x00\x01\x00" * 100, then=PIECE),
    "a failure without an end": answering(b"HTTP/1.1 500 No\r\n\r\n", then=PIECE),
    "too busy for ever": answering(b"HTTP/1.1 503 No\r\nRetry-After: 100000000000\r\nContent-Length: 0\r\n\r\n"),
}


def exporter_of(collector, endpoint, **options):
    return OtlpExporter(collector, endpoint=endpoint, interval=3600, **{"timeout": TIMEOUT, **options})


@pytest.mark.parametrize("what", NEVER)
def test_no_answer_takes_memory_or_time_and_none_of_these_is_a_success(collector, what, caplog):
    with Receiver(NEVER[what]) as receiver:
        exporter = exporter_of(collector, receiver.endpoint)
        began = time.monotonic()
        assert exporter.export() is False
        assert exporter.close(timeout=LATEST) is False
        assert time.monotonic() - began < 2 * LATEST
        assert receiver.sent < MOST_SENT * receiver.connections
    assert (exporter.exported, exporter.failures) == (0, 2)
    assert exporter.last_error.isprintable()
    assert len(exporter.last_error) < 1500
    ours = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.name for one in ours] == ["batchscope"]


def test_a_compressed_answer_is_not_unpacked(collector):
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)
    assert len(BOMB) > 60_000
    with Receiver(answering(head, BOMB)) as receiver, exporter_of(collector, receiver.endpoint) as exporter:
        exporter.export()
        assert exporter._exporter is not None
        assert exporter.exported + exporter.failures == 1


@pytest.mark.parametrize(
    ("status", "taken"),
    [(status, True) for status in (200, 201, 202, 204, 206)]
    + [(status, False) for status in (300, 301, 302, 303, 304, 305, 307, 308, 399, 400, 401, 404, 413, 500, 501)],
)
def test_success_is_a_status_of_2xx_alone(collector, status, taken, caplog):
    head = b"HTTP/1.1 %d What\r\nLocation: http://127.0.0.1:1/\x1b[2J\r\nContent-Length: 0\r\n\r\n" % status
    with Receiver(answering(head)) as receiver, exporter_of(collector, receiver.endpoint, timeout=10.0) as exporter:
        assert exporter.export() is taken
        assert (exporter.exported, exporter.failures) == ((1, 0) if taken else (0, 1))
        if 300 <= status < 400:
            assert f"HTTP {status}, a redirect to http://127.0.0.1:1/" in exporter.last_error
            assert "give the final address" in exporter.last_error
            assert "\x1b" not in exporter.last_error + caplog.text
            assert not exporter.export()  # counted each time, logged once
            assert exporter.failures == 2
            assert len(caplog.records) == 1


def test_a_redirect_is_not_followed(collector):
    with Receiver(answering(OK + b"Content-Length: 0\r\n\r\n")) as target:
        head = b"HTTP/1.1 307 There\r\nLocation: %s/v1/metrics\r\nContent-Length: 0\r\n\r\n" % target.endpoint.encode()
        with Receiver(answering(head)) as receiver, exporter_of(collector, receiver.endpoint) as exporter:
            assert not exporter.export()
        assert target.connections == 0


def test_a_connection_is_kept_from_send_to_send(collector):
    with Receiver(answering(OK + b"Content-Length: 5\r\n\r\nhello")) as receiver:
        with exporter_of(collector, receiver.endpoint, timeout=10.0) as exporter:
            assert all(exporter.export() for _ in range(3))
        assert (receiver.connections, exporter.exported) == (1, 4)


def test_a_connection_that_was_closed_meanwhile_is_made_again(collector):
    def once(connection, receiver):
        asked(connection)
        receiver.send(connection, OK + b"Content-Length: 0\r\n\r\n")

    with Receiver(once) as receiver, exporter_of(collector, receiver.endpoint, timeout=10.0) as exporter:
        assert all(exporter.export() for _ in range(3))
        assert (exporter.exported, exporter.failures, receiver.connections) == (3, 0, 3)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the test's certificate")
def test_all_this_holds_over_tls(collector, tmp_path, monkeypatch):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    good = answering(OK + b"Content-Length: 0\r\n\r\n")
    with Receiver(good, tls) as receiver, exporter_of(collector, receiver.endpoint, timeout=10.0) as exporter:
        assert exporter.export()
        assert exporter.export()
        assert receiver.connections == 1
    for what in ("a body without an end", "headers that drip", "nothing"):
        with Receiver(NEVER[what], tls) as receiver:
            exporter = exporter_of(collector, receiver.endpoint)
            began = time.monotonic()
            assert not exporter.export()
            assert time.monotonic() - began < LATEST
            assert receiver.sent < MOST_SENT * receiver.connections
            exporter.close(timeout=LATEST)


# gRPC


class Answers(grpc.GenericRpcHandler):
    """A server of gRPC that answers every call with ``behave(request, context)``."""

    def __init__(self, behave):
        self._behave = behave

    def service(self, _details):
        return grpc.unary_unary_rpc_method_handler(self._behave)


@pytest.fixture
def grpc_receiver():
    servers = []

    def start(behave):
        server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])
        server.add_generic_rpc_handlers((Answers(behave),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"http://127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(grace=0).wait(20)


def aborting(details="no", metadata=()):
    def behave(_request, context):
        context.set_trailing_metadata(metadata)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, details)

    return behave


GRPC = {
    "a message of 1 MiB": lambda *_: b"\0" * 2**20,
    "a message that is none": lambda *_: b"\xff" * 1000,
    "a reason of 4 kB with escapes": aborting("\x1b[2J\n" * 1000),
    "advice that cannot be read": aborting(metadata=(("google.rpc.retryinfo-bin", b"\xff" * 100),)),
    "advice to wait for 3000 years": aborting(
        metadata=(("google.rpc.retryinfo-bin", b"\x0a\x06\x08\x80\xd0\xdb\xc3\xf4\x02"),)
    ),
}


@pytest.mark.parametrize("what", GRPC)
def test_no_grpc_answer_takes_memory_or_time_and_none_of_these_is_a_success(collector, grpc_receiver, what, caplog):
    exporter = exporter_of(collector, grpc_receiver(GRPC[what]), protocol="grpc")
    began = time.monotonic()
    assert exporter.export() is False
    exporter.close(timeout=LATEST)
    assert time.monotonic() - began < 3 * LATEST
    assert exporter.exported == 0
    assert exporter.failures >= 1
    assert exporter.last_error.isprintable()
    assert len(exporter.last_error) < 1500
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    "behave",
    [silent, lambda connection, receiver: receiver.for_ever(connection, PIECE),
     lambda connection, receiver: receiver.for_ever(connection, OK + b"\r\n" + PIECE),
     lambda connection, receiver: receiver.for_ever(connection, b"x", 0.02)],
    ids=["nothing", "garbage", "http/1", "a drip"],
)  # fmt: skip
def test_what_does_not_speak_grpc_costs_no_more_than_the_timeout(collector, behave):
    with Receiver(behave) as receiver:
        exporter = exporter_of(collector, receiver.endpoint, protocol="grpc")
        began = time.monotonic()
        assert exporter.export() is False
        exporter.close(timeout=LATEST)
        assert time.monotonic() - began < 3 * LATEST
        assert exporter.exported == 0
        assert receiver.sent < MOST_SENT * max(receiver.connections, 1)
