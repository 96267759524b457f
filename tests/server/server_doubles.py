"""A source that counts how often it is read, an ASGI caller, and plain sockets."""

import asyncio
import http.client
import socket
import threading
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from batchscope import SchedulerMetricsCollector

WAIT = 20.0  # seconds until a test gives up on another thread


class Source:
    """A collector's state, with gauges to choose; ``gate`` holds readers up until it is set."""

    def __init__(self, **gauges):
        self.collector = SchedulerMetricsCollector()
        self.gauges = gauges
        self.closed = False
        self.error = None
        self.reads = 0
        self.reading = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def read_totals(self):
        self._read()
        state = self.collector.read_totals()
        return state._replace(gauges=msgspec.structs.replace(state.gauges, **self.gauges))

    def get_snapshot(self):
        self._read()
        return self.collector.get_snapshot()

    def _read(self):
        self.reads += 1
        self.reading.set()
        assert self.gate.wait(WAIT)
        if self.error is not None:
            raise self.error


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes

    def json(self):
        return msgspec.json.decode(self.body)


async def call(app, path="/metrics", *, method="GET", headers=(), query=""):
    """One request, as a server hands it to the application."""
    sent = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 9464),
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent))


def ask(app, path="/metrics", **options):
    return asyncio.run(call(app, path, **options))


def fetch(handle, path="/metrics", method="GET", headers=None):
    """One request over a connection of its own."""
    parts = urlsplit(handle.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=WAIT)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def connect(handle):
    """A connection that has said nothing yet."""
    parts = urlsplit(handle.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=WAIT)


def ended(connection):
    """Waits until the other side has ended the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True
