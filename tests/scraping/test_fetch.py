"""One bounded GET: whatever a server does, it ends in time, in bounded memory, with a message that says what it was."""

import asyncio
import contextlib
import gzip
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc

import pytest
from scrape_doubles import A_LONG_TIME, Site

from batchscope.errors import ConfigurationError
from batchscope.scraping import fetch as fetching
from batchscope.scraping.fetch import Fetcher, ScrapeError, ScrapeLimits, metrics_url, wait_for
from batchscope.scraping.watcher import UnknownEngineError, scrape

PAGE = b"vllm:num_requests_running 3\n"
MIB = 2**20
AN_EIGHTH = {"max_bytes": 2 * MIB, "max_lines": 25_000, "max_samples": 6_000, "max_labels": 30_000}
"""Of the limits that hold by default, so that reaching them does not take long."""


def limited(timeout_seconds=A_LONG_TIME, **limits):
    return ScrapeLimits(timeout_seconds=timeout_seconds, **limits)


def read(url, **limits):
    return wait_for(Fetcher(limited(**limits)).get(metrics_url(url)))


def refused(url, *parts, **limits):
    with pytest.raises(ScrapeError) as caught:
        wait_for(scrape(metrics_url(url), Fetcher(limited(**limits))))
    message = str(caught.value)
    assert message.startswith(url)
    assert len(message) < 500
    for part in parts:
        assert part in message, message
    return True


def headers(handler, status=200, **fields):
    handler.send_response(status)
    for name, value in fields.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def serving(*pieces, **fields):
    """An answer without a length, ended by closing: the pieces may be endless."""

    def answer(handler):
        headers(handler, **fields)
        for piece in itertools.chain.from_iterable(pieces):
            handler.wfile.write(piece)

    return answer


def test_a_page_is_read_whole_and_asked_for_plainly():
    with Site({"/metrics": PAGE * 10_000}) as site:
        assert read(site.url) == PAGE * 10_000
        assert read(f"{site.url}/metrics") == PAGE * 10_000
    path, sent = site.asked[0]
    assert path == "/metrics"
    assert sent["Accept-Encoding"] == "identity"
    assert sent["Accept"].startswith("text/plain")
    assert sent["User-Agent"].startswith("batchscope/")


def test_another_path_and_a_query_are_kept():
    with Site({"/prometheus/metrics?a=b": PAGE}) as site:
        assert read(f"{site.url}/prometheus/metrics?a=b") == PAGE


def test_a_chunked_and_a_compressed_page_are_read():
    def chunked(handler):
        headers(handler, Transfer_Encoding="chunked")
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE))

    with Site(answer=chunked) as site:
        assert read(site.url) == PAGE
    with Site(answer=serving([gzip.compress(PAGE * 1000)], Content_Encoding="gzip")) as site:
        assert read(site.url) == PAGE * 1000


@pytest.mark.parametrize(
    "text",
    ["", "ftp://host", "http://", "http:///metrics", "http://host:port", "http://host:70000", "http://h:0",
     "http://ho st", "http://host/\n", "http://h\u00f6st", "file:///etc/passwd", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address_is_refused_before_anything_is_sent(text):
    with pytest.raises(ConfigurationError, match="expected http://HOST"):
        metrics_url(text)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigurationError, match="without a user name and password") as caught:
        metrics_url("http://me:secret@host:8000/metrics")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("http://h", "http://h/metrics"), ("http://h:8000/", "http://h:8000/metrics"), ("https://h/x?y=1", "https://h/x?y=1"),
     ("http://[::1]:8000", "http://[::1]:8000/metrics"), ("localhost:8000", "http://localhost:8000/metrics"),
     ("gpu1", "http://gpu1/metrics"), ("[::1]:80/x", "http://[::1]:80/x")],
)  # fmt: skip
def test_a_bare_address_means_its_metrics_page(text, shown):
    assert metrics_url(text).text == shown


def test_nobody_there_is_said():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/metrics"
    assert refused(url, "connection refused")
    assert refused(url.replace("127.0.0.1", "localhost"), "connection refused")
    assert refused(f"http://{'x' * 64}.invalid/metrics", "no such host")
    assert refused("http://no-such-host.invalid/metrics", "no such host")


def test_another_status_says_what_to_do():
    with Site() as site:
        assert refused(f"{site.url}/metrics", "HTTP 404", "--enable-metrics")


def test_a_redirect_is_not_followed():
    with Site({"/metrics": PAGE}) as other:
        with Site(answer=lambda handler: headers(handler, 302, Location=f"{other.url}/metrics")) as site:
            assert refused(f"{site.url}/metrics", f"redirects to {other.url}/metrics", "not followed")
        assert other.asked == []


def test_what_a_server_says_of_itself_never_steers_a_terminal():
    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 500 \x1b[2Jgone\r\n\r\n")

    with Site(answer=answer) as site:
        assert refused(f"{site.url}/metrics", "HTTP 500 \\x1b[2Jgone")


def test_a_hundred_megabytes_are_cut_off_by_their_announcement():
    with Site(answer=lambda handler: headers(handler, Content_Length=100 * MIB)) as site:
        assert refused(f"{site.url}/metrics", "larger than 16 MiB")


ENDLESS = {
    "unknown lines": itertools.repeat(b"go_goroutines 5\n" * 4096),
    "known lines": itertools.repeat(PAGE * 2048),
    "new names": (b"".join(b"name_%d 1\n" % n for n in range(k, k + 4096)) for k in itertools.count(0, 4096)),
    "one line": itertools.repeat(b"x" * 65536),
    "labels": itertools.chain([b"vllm:num_requests_running{"], itertools.repeat(b'a="b",' * 8192)),
    "zeros": itertools.repeat(b"\0" * 65536),
    "blank lines": itertools.repeat(b"\n" * 65536),
    "labelled series": (
        b"".join(b'vllm:num_requests_running{engine="%d"} 1\n' % n for n in range(k, k + 2048))
        for k in itertools.count(0, 2048)
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_page_is_cut_off_in_bounded_memory_and_time(name):
    with Site(answer=serving(ENDLESS[name])) as site:
        tracemalloc.start()
        begin = time.monotonic()
        try:
            assert refused(f"{site.url}/metrics", timeout_seconds=30, **AN_EIGHTH)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 10 * MIB
    assert time.monotonic() - begin < 31


def test_a_bomb_is_cut_off_while_it_unpacks():
    bomb = gzip.compress(b"go_goroutines 5\n" * (50 * MIB // 16))
    with Site(answer=serving([bomb], Content_Encoding="gzip")) as site:
        tracemalloc.start()
        try:
            assert refused(f"{site.url}/metrics", "more than 25,000 lines", timeout_seconds=60, **AN_EIGHTH)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < len(bomb) + 5 * MIB


@pytest.mark.parametrize(
    ("body", "fields", "parts"),
    [
        (b"not gzip", {"Content_Encoding": "gzip"}, ("compressed answer is broken",)),
        (gzip.compress(PAGE * 99, mtime=0)[:-9], {"Content_Encoding": "gzip"}, ("compressed answer was cut short",)),
        (PAGE, {"Content_Encoding": "br"}, ("Content-Encoding 'br'",)),
        (PAGE, {"Content_Length": 1000}, ("not a complete HTTP answer", "received 28 bytes, expected 1000")),
        (b"5\r\nvllm:", {"Transfer_Encoding": "chunked"}, ("not a complete HTTP answer",)),
        (b"zz\r\n", {"Transfer_Encoding": "chunked"}, ("not a complete HTTP answer",)),
        (b"vllm:num_requests_running 12", {}, ("cut short",)),
        (b"", {}, ("the page is empty",)),
    ],
)
def test_a_broken_answer_is_named(body, fields, parts):
    with Site(answer=serving([body], **fields)) as site:
        assert refused(f"{site.url}/metrics", *parts)


@pytest.mark.parametrize("first", [b"SSH-2.0-OpenSSH_9\r\n", b"\x16\x03\x01\x02\x00" * 10, b"", b"HTTP/1.1 abc\r\n\r\n",
                                   b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
                                   b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"])  # fmt: skip
def test_what_does_not_speak_http_is_said(first):
    def answer(handler):
        handler.wfile.write(first)

    with Site(answer=answer) as site:
        assert refused(f"{site.url}/metrics", "")


@pytest.mark.parametrize("where", ["headers", "body", "nothing"])
def test_a_drip_of_bytes_ends_at_the_deadline(where):
    over = threading.Event()

    def answer(handler):
        if where == "body":
            headers(handler)
        elif where == "headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not over.wait(0.02):
            if where != "nothing":
                handler.wfile.write(b"v")

    with Site(answer=answer) as site:
        begin = time.monotonic()
        try:
            assert refused(f"{site.url}/metrics", "no complete answer within 0.3 s", timeout_seconds=0.3)
        finally:
            over.set()
    assert time.monotonic() - begin < 5


def test_a_page_of_no_engine_says_which_are_known():
    with Site({"/metrics": b"node_load1 0.5\n"}) as site, pytest.raises(UnknownEngineError) as caught:
        wait_for(scrape(metrics_url(site.url), Fetcher()))
    assert "expected vLLM, SGLang, TGI, llama.cpp" in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not there")
def test_a_page_behind_tls_is_read_only_with_a_certificate_that_is_trusted(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Site({"/metrics": PAGE * 9999}, tls=context) as site:
        assert refused(f"{site.url}/metrics", "certificate verify failed")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert read(site.url) == PAGE * 9999


def test_a_page_that_is_too_much_is_let_go_at_once():
    def endless(handler):
        headers(handler)
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(PAGE * 1000)
        left.set()

    left = threading.Event()
    with Site(answer=endless) as site:
        assert refused(f"{site.url}/metrics", "larger than 1 MiB", max_bytes=MIB)
        assert left.wait(A_LONG_TIME)


def test_a_look_that_ends_at_any_step_of_its_connection_leaves_no_socket_open():
    async def ended_after(steps):
        look = asyncio.create_task(fetcher.read(url, bytes))
        for _ in range(steps):
            await asyncio.sleep(0)
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)

    fetcher = Fetcher(limited())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = metrics_url(f"127.0.0.1:{silent.getsockname()[1]}")
        for steps in range(40):
            wait_for(ended_after(steps))
        silent.setblocking(False)
        came = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                client = silent.accept()[0]
                came += 1
                with client, contextlib.suppress(ConnectionResetError):
                    client.settimeout(A_LONG_TIME)
                    while client.recv(4096):  # the request, if it was sent; then the end, within a long time
                        pass
    assert came > 10


def test_threads_that_begin_at_once_and_forked_children_each_have_one_loop(monkeypatch):
    monkeypatch.setattr(fetching, "_loops", {})
    together, found, before = threading.Barrier(8), [], set(threading.enumerate())

    def begin():
        together.wait()
        found.append(fetching._loop())

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert fetching._loop() is not found[0]
    for loop in fetching._loops.values():
        loop.call_soon_threadsafe(loop.stop)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    for loop in fetching._loops.values():
        loop.close()
