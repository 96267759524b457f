"""What goes wrong around a server: sources that hang, no descriptors left, settings that would open it unasked."""

import errno
import logging
import os
import subprocess
import sys
import threading

import pytest
from server_doubles import WAIT, Source, connect, fetch

from batchscope import ConfigurationError
from batchscope.server import running, serve

EVERYWHERE = "0.0.0.0"  # noqa: S104  (for a moment)


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch):
    monkeypatch.delenv("BATCHSCOPE_TOKEN", raising=False)


def test_closing_does_not_wait_for_a_source_that_hangs(monkeypatch, caplog):
    monkeypatch.setattr(running, "_GRACE_SECONDS", 1)
    source = Source()
    source.gate.clear()
    handle = serve(source, port=0)
    with connect(handle) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert source.reading.wait(WAIT)
        closer = threading.Thread(target=handle.close)
        closer.start()
        closer.join(WAIT / 2)  # the source would hang for longer
        assert not closer.is_alive()
    source.gate.set()
    assert not any(record.exc_info for record in caplog.records)


HANGING = """
import os, socket, threading
from batchscope.server import serve
class Source:
    closed = False
    def read_totals(self):
        reading.set()
        threading.Event().wait()
    get_snapshot = read_totals
reading = threading.Event()
handle = serve(Source(), port=0)
client = socket.create_connection(("127.0.0.1", handle.port))
client.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
assert reading.wait(20)
"""


def test_a_process_ends_although_its_source_hangs_in_a_scrape():
    run = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_without_descriptors_left_it_says_so_in_one_line(caplog):
    problem = {
        "message": "socket.accept() out of system resource",
        "exception": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    }
    with serve(Source(), port=0) as handle:
        loop = handle._server._loop
        for _ in range(100):
            loop.call_soon_threadsafe(loop.call_exception_handler, problem)
        assert fetch(handle).status == 200
    [record] = caplog.records
    assert (record.name, record.levelno) == ("batchscope.server", logging.ERROR)
    assert "Too many open files" in record.getMessage()


@pytest.mark.parametrize("host", [None, "", 5])
def test_only_who_says_so_in_letters_listens_everywhere(host):
    with pytest.raises(ConfigurationError, match="host"):
        serve(Source(), host, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls_certificate": ""}, "tls_certificate = '': expected a readable PEM file"),
        ({"tls_certificate": "missing"}, "tls_certificate = 'missing': expected a readable PEM file .No such file"),
        ({"tls_certificate": __file__}, "tls_certificate = .*: expected a PEM file with a certificate and its key"),
        ({"tls_certificate": __file__, "tls_key": "missing"}, "tls_key = 'missing': expected a readable PEM file"),
        ({"tls_certificate": __file__, "tls_key": __file__}, "tls_key = .*: expected the key of .*, both PEM files"),
        ({"tls_key": __file__}, "tls_key = .*: expected tls_certificate beside it"),
    ],
)
def test_tls_that_cannot_be_is_refused_and_never_served_in_the_clear(options, message):
    with pytest.raises(ConfigurationError, match=message):
        serve(Source(), port=0, **options)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no /dev/fd here")
def test_a_token_may_come_through_a_pipe_because_it_is_read_once(caplog):
    reading, writing = os.pipe()
    os.write(writing, b"secret\n")
    os.close(writing)
    try:
        with serve(Source(), EVERYWHERE, 0, token_file=f"/dev/fd/{reading}") as handle:
            url = handle.url.replace(EVERYWHERE, "127.0.0.1")
            handle.url = url
            assert fetch(handle).status == 401
            assert fetch(handle, headers={"Authorization": "Bearer secret"}).status == 200
    finally:
        os.close(reading)
    assert not caplog.records
