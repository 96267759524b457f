"""The server over real loopback: answers, its beginning and its end."""

import contextlib
import datetime as dt
import email.utils
import http.client
import logging
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest
from server_doubles import WAIT, Source, connect, ended, fetch

from batchscope import ConfigurationError, SchedulerMetricsCollector
from batchscope.server import ConnectionLimits, serve

TOKEN = "s3cret"  # noqa: S105  (of this test)
EVERYWHERE = "0.0.0.0"  # noqa: S104  (for a moment)


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch):
    monkeypatch.delenv("BATCHSCOPE_TOKEN", raising=False)


@pytest.fixture
def handle():
    with serve(Source(), port=0) as running:
        yield running


def test_it_answers_as_soon_as_serve_returns_on_loopback_only(handle):
    parts = urlsplit(handle.url)
    assert (parts.scheme, parts.hostname, parts.port) == ("http", "127.0.0.1", handle.port)
    answer = fetch(handle)
    assert answer.status == 200
    assert b"batchscope_iterations_total 0" in answer.body
    assert "server" not in answer.headers


def test_a_collector_is_a_source():
    with SchedulerMetricsCollector() as collector, serve(collector, port=0) as running:
        assert fetch(running, "/healthz").status == 200
        collector.close()
        assert fetch(running, "/healthz").status == 503


def test_head_and_other_methods_over_the_wire(handle):
    answer = fetch(handle, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 1000
    answer = fetch(handle, method="POST")
    assert (answer.status, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert fetch(handle, "/nothing").status == 404


def test_a_connection_serves_scrape_after_scrape(handle):
    connection = http.client.HTTPConnection("127.0.0.1", handle.port, timeout=WAIT)
    for _ in range(3):
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        kept = connection.sock
    assert connection.sock is kept
    connection.close()


def test_with_nobody_asking_it_sleeps_without_a_timer(handle):
    """A tick takes the GIL from the engine, ten times a second in uvicorn's own loop."""
    woken = threading.Event()
    timers = []

    def look():
        timers.extend(handle._server._loop._scheduled)
        woken.set()

    handle._server._loop.call_soon_threadsafe(look)
    assert woken.wait(WAIT)
    assert timers == []


def test_an_answer_says_when_it_was_given(handle):
    said = email.utils.parsedate_to_datetime(fetch(handle).headers["date"])
    assert abs((dt.datetime.now(dt.UTC) - said).total_seconds()) < WAIT


def test_closing_ends_thread_and_port_and_can_be_repeated():
    running = serve(Source(), port=0)
    assert "batchscope-server" in {thread.name for thread in threading.enumerate()}
    idle = connect(running)
    running.close()
    running.close()
    assert "batchscope-server" not in {thread.name for thread in threading.enumerate()}
    assert ended(idle)
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        connect(running)
    with serve(Source(), port=running.port) as again:
        assert fetch(again).status == 200


def test_a_port_that_is_taken_is_said_clearly(handle):
    with pytest.raises(ConfigurationError, match=rf"port = {handle.port}: expected one that is free on 127.0.0.1"):
        serve(Source(), port=handle.port)


@pytest.mark.parametrize("port", [-1, 65_536, True, "9464", None])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigurationError, match="port"):
        serve(Source(), port=port)


@pytest.mark.parametrize("host", ["192.0.2.1", "ä" * 70])
def test_an_address_that_is_not_ours_is_refused(host):
    with pytest.raises(ConfigurationError, match="host"):
        serve(Source(), host, 0)


def test_ipv6_has_brackets_in_its_url():
    try:
        running = serve(Source(), "::1", 0)
    except ConfigurationError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with running:
        assert running.url.startswith("http://[::1]:")
        assert fetch(running).status == 200


def test_beyond_loopback_without_a_token_it_warns(caplog):
    with serve(Source(), EVERYWHERE, 0):
        assert "without a token" in caplog.text
    caplog.clear()
    with serve(Source(), EVERYWHERE, 0, token=TOKEN), serve(Source(), port=0):
        assert not caplog.records


def test_the_token_is_asked_for_and_never_logged(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with serve(Source(), port=0, token=TOKEN) as running:
        assert fetch(running).status == 401
        assert fetch(running, f"/metrics?token={TOKEN}").status == 401
        assert fetch(running, headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
        assert TOKEN not in repr(running)
    written = capfd.readouterr()
    assert TOKEN not in caplog.text + written.out + written.err


def test_the_applications_signals_and_logging_stay_its_own(capfd):
    names = ("uvicorn", "uvicorn.access", "uvicorn.error", "uvicorn.asgi")
    handler = logging.NullHandler()
    logging.getLogger("uvicorn.access").addHandler(handler)

    def present():
        found = map(logging.getLogger, names)
        return [(one.level, list(one.handlers), one.propagate, one.disabled) for one in found]

    before, signals = present(), [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    try:
        with serve(Source(), port=0) as running:
            fetch(running)
            assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == signals
        assert present() == before
        assert capfd.readouterr() == ("", "")
    finally:
        logging.getLogger("uvicorn.access").removeHandler(handler)


def test_a_defect_is_answered_500_and_logged(caplog):
    source = Source()
    source.error = RuntimeError("a defect")
    with serve(source, port=0) as running:
        answer = fetch(running)
    assert (answer.status, answer.json()) == (500, {"error": "internal error: RuntimeError"})
    assert "a defect" in caplog.text


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the test's certificate")


@pytest.fixture
def certificate(tmp_path):
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", paths[0], "-keyout", paths[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return paths


@needs_openssl
def test_tls_serves_https_and_nothing_else(certificate):
    with serve(Source(), port=0, tls_certificate=certificate[0], tls_key=certificate[1]) as running:
        assert running.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate[0]))
        connection = http.client.HTTPSConnection("127.0.0.1", running.port, timeout=WAIT, context=context)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        connection.close()
        with connect(running) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert ended(plain)


@needs_openssl
def test_who_does_not_finish_its_handshake_is_let_go(certificate, caplog):
    limits = ConnectionLimits(header_seconds=0.2)
    with (
        serve(Source(), port=0, tls_certificate=certificate[0], tls_key=certificate[1], limits=limits) as running,
        connect(running) as silent,
    ):
        assert ended(silent)
    assert not caplog.records


@needs_openssl
def test_unfinished_handshakes_are_bounded_and_do_not_hold_up_the_end(certificate, caplog):
    limits = ConnectionLimits(connections=10, header_seconds=60.0)
    context = ssl.create_default_context(cafile=certificate[0])
    with contextlib.ExitStack() as clients:
        running = serve(Source(), port=0, tls_certificate=certificate[0], tls_key=certificate[1], limits=limits)
        clients.callback(running.close)
        silent = [clients.enter_context(connect(running)) for _ in range(30)]
        connection = http.client.HTTPSConnection("127.0.0.1", running.port, context=context, timeout=WAIT)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
        assert all(ended(one) for one in silent[:20])
        running.close()
        assert all(ended(one) for one in silent)
    assert not caplog.records


def served(certificate, **limits):
    pem, key = certificate
    return serve(Source(), port=0, tls_certificate=pem, tls_key=key, limits=ConnectionLimits(**limits))


def shake_hands(connection):
    """A client's side of TLS: its object, what it hears, what it says; the last of the handshake is not sent yet."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    received, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(received, said)
    while True:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            connection.sendall(said.read())
            received.write(connection.recv(65536))
        else:
            return client, received, said


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@needs_openssl
def test_a_request_that_comes_in_one_piece_with_the_end_of_the_handshake_is_answered(certificate):
    with served(certificate) as running, connect(running) as connection:
        client, received, said = shake_hands(connection)
        client.write(REQUEST)
        connection.sendall(said.read())
        answer = b""
        while not answer:
            received.write(connection.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):  # a session ticket only
                answer = client.read(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK")


@needs_openssl
def test_what_comes_in_the_clear_before_a_handshake_is_no_part_of_what_follows(certificate, caplog):
    with served(certificate) as running, connect(running) as connection:
        connection.sendall(REQUEST)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake_hands(connection)
        assert fetch_over_tls(running, certificate) == 200
    assert not caplog.records


def fetch_over_tls(running, certificate):
    context = ssl.create_default_context(cafile=certificate[0])
    connection = http.client.HTTPSConnection("127.0.0.1", running.port, context=context, timeout=WAIT)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status


@needs_openssl
def test_a_client_that_leaves_within_its_handshake_leaves_no_place_taken(certificate, caplog):
    with served(certificate, header_seconds=60.0) as running:
        for sent in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00" + bytes(600), b"no TLS at all\r\n\r\n"):
            with connect(running) as leaving:
                leaving.sendall(sent)
        assert fetch_over_tls(running, certificate) == 200
        server = running._server
        while server.guard.count or server.server_state.connections:  # until the loop has seen the last one go
            assert fetch_over_tls(running, certificate) == 200
    assert not caplog.records


@needs_openssl
def test_a_handshake_and_the_headers_after_it_have_one_deadline(certificate):
    with served(certificate, header_seconds=0.5, connections=2) as running, connect(running) as connection:
        began = time.monotonic()
        _, _, said = shake_hands(connection)
        connection.sendall(said.read())
        assert ended(connection)  # without a byte of a request
        assert time.monotonic() - began < WAIT / 2
        assert running._server.guard.count == 0


@needs_openssl
def test_files_that_do_not_fit_are_refused(certificate, tmp_path):
    pem, key = certificate
    for given in ({"tls_certificate": pem}, {"tls_certificate": tmp_path}):
        with pytest.raises(ConfigurationError, match="tls_certificate = "):
            serve(Source(), port=0, **given)
    with pytest.raises(ConfigurationError, match=f"tls_key = '{pem}': expected the key of {key}"):
        serve(Source(), port=0, tls_certificate=key, tls_key=pem)


FORKING = """
import os, sys, urllib.request
from batchscope import SchedulerMetricsCollector
from batchscope.server import ConnectionLimits, serve
collector = SchedulerMetricsCollector()
handle = serve(collector, port=0)
told, tell = os.pipe()
child = os.fork()
if not child:
    os.close(tell)
    os.read(told, 1)  # lives until its parent is done
    os._exit(0)
handle.close()
with serve(collector, port=handle.port) as again:
    assert urllib.request.urlopen(again.url + "/metrics").status == 200
os.close(tell)
assert os.waitpid(child, 0)[1] == 0
print("fine")
"""


def test_a_forked_child_does_not_hold_the_port():
    quiet = ("-W", "ignore::DeprecationWarning")  # of Python 3.12: a fork beside threads is what this is about
    run = subprocess.run([sys.executable, *quiet, "-c", FORKING], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "fine\n", "")


def test_a_process_ends_although_it_still_serves():
    program = (
        "from batchscope import SchedulerMetricsCollector; from batchscope.server import serve\n"
        "serve(SchedulerMetricsCollector(), port=0)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
