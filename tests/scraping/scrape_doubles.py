"""A server on loopback that answers as a test wants, and the captured pages of real engines."""

import asyncio
import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from batchscope.scraping import fetch
from batchscope.scraping.fetch import ScrapeLimits
from batchscope.scraping.page import PageReader
from batchscope.scraping.series import known_samples, read
from batchscope.scraping.window import Scrape

CAPTURES = Path(__file__).resolve().parents[3] / "shared" / "captures"
A_LONG_TIME = 60.0
"""Seconds: what nobody waits for, however busy the machine is."""
NOW = 1_800_000_000.0
"""Wall clock at instant 0."""
needs_captures = pytest.mark.skipif(not CAPTURES.exists(), reason=f"the captured pages {CAPTURES} are not there")


def captured(name):
    return (CAPTURES / f"{name}.txt").read_bytes()


def read_page(pieces, known=None, limits=None, origin="the page"):
    """The page that comes in these pieces, read."""
    reader = PageReader(known or known_samples().__contains__, limits or ScrapeLimits(), origin)
    for piece in pieces:
        reader.take(piece)
    return reader.page()


def page(text):
    """The text as the reader sees it."""
    return read_page([text.encode() if isinstance(text, str) else text])


def reading(text):
    return read(page(text))


def scrape(text, at=0.0):
    return Scrape(reading(text), at, NOW + at)


def tokens(number, running=0, started=None):
    start = "" if started is None else f"process_start_time_seconds {started}\n"
    return f"vllm:generation_tokens_total {number}\nvllm:num_requests_running {running}\n{start}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            self.server.answer(self)

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, *_):
        """A client that has seen enough leaves."""


class Site:
    """Serves ``pages`` by path; ``answer`` can be replaced by a function of the request's handler."""

    def __init__(self, pages=None, answer=None, tls=None):
        self.pages = dict(pages or {})
        self.asked = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.answer = answer or self._page
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def _page(self, handler):
        self.asked.append((handler.path, dict(handler.headers)))
        body = self.pages.get(handler.path)
        if callable(body):
            body = body()
        handler.send_response(404 if body is None else 200)
        handler.send_header("Content-Length", str(len(body or b"")))
        handler.end_headers()
        handler.wfile.write(body or b"")

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def round_of(watching, hanging):
    """A round of ``watching``; the time of those that hang is over as soon as only they have not answered."""
    loop = fetch._loop()
    real, ahead, over = loop.time, [0.0], threading.Event()

    def look():
        unanswered = [task for task in asyncio.all_tasks(loop) if task.get_coro().__name__ == "_report"]
        if len(unanswered) == hanging:
            ahead[0] = 10.0 * A_LONG_TIME
        elif not over.is_set():
            loop.call_later(0.001, look)

    loop.time = lambda: real() + ahead[0]
    loop.call_soon_threadsafe(look)
    try:
        return watching.round()
    finally:
        over.set()
        del loop.time
