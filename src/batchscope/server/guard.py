"""Clients that are slow, silent or many: uvicorn serves them all for ever, so each connection gets deadlines.

uvicorn (0.54) has a timeout only between an answer and the next request's first byte; a client that never says
anything, sends a byte a minute or does not take its answer keeps its place, and ``limit_concurrency`` then refuses
the others. Here silent ones make room instead: a new connection displaces the one that has been silent longest.

And two things about requests: h11 bounds only headers that are not complete yet, and uvicorn takes a target in
absolute form (RFC 9112, 3.2.2), which a server has to accept, for a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import struct
import time
from email.utils import formatdate
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from batchscope.server.limits import ConnectionLimits

logger = logging.getLogger("batchscope.server.connections")
logger.setLevel(logging.ERROR)  # what clients do wrong is theirs: nobody fills our log


def _worth_saying(record: logging.LogRecord) -> bool:
    """All but an answer that was cut off because the server ends: ``close()`` meant that."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


logger.addFilter(_worth_saying)

_AT_ONCE = struct.pack("ii", 1, 0)  # a linger of 0 s: reset, and what was to be sent is dropped


_ABSOLUTE = re.compile(rb"https?://([^/?#]+)(.*)", re.IGNORECASE)
_REQUEST_LINE = len("  HTTP/1.1\r\n")
_FIELD = len(": \r\n")


class Requests(h11.Connection):
    """h11's side of a connection; requests of more than ``header_bytes`` are a protocol error."""

    def __init__(self, header_bytes: int) -> None:
        super().__init__(h11.SERVER, header_bytes)
        self._header_bytes = header_bytes

    def next_event(self) -> Any:
        """h11's next event; a request has its target in origin form."""
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        if _size(event) > self._header_bytes:
            raise h11.RemoteProtocolError("request line and headers are too long", error_status_hint=431)
        return _in_origin_form(event)


def _size(request: h11.Request) -> int:
    """Bytes of request line and headers."""
    fields = sum(len(name) + len(value) + _FIELD for name, value in request.headers)
    return len(request.method) + len(request.target) + _REQUEST_LINE + fields


def _in_origin_form(request: h11.Request) -> h11.Request:
    """``request``; where its target names the host, without it, and that in the place of the Host header's."""
    found = _ABSOLUTE.fullmatch(request.target)
    if found is None:
        return request
    host, rest = found.groups()
    return h11.Request(
        method=request.method,
        target=rest if rest.startswith(b"/") else b"/" + rest,
        headers=[(b"host", host), *((name, value) for name, value in request.headers if name != b"host")],
        http_version=request.http_version,
    )


class Guard:
    """The connections of one server: who is silent, in order, and who is being answered. Lives in the loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.closed = False  # the server ends: who is accepted only now would hold it up
        self._silent: dict[GuardedProtocol, None] = {}
        self._busy: set[GuardedProtocol] = set()

    @property
    def count(self) -> int:
        """Open connections."""
        return len(self._silent) + len(self._busy)

    def admit(self, connection: GuardedProtocol) -> None:
        """Take a new connection in; where all places are taken the most silent one goes, or it itself."""
        full = self.count >= self.limits.connections
        if self.closed or (full and not self._silent):
            connection.drop()
            return
        if full:
            next(iter(self._silent)).drop()
        self._silent[connection] = None

    def busy(self, connection: GuardedProtocol) -> None:
        """It asked for something."""
        self._silent.pop(connection, None)
        self._busy.add(connection)

    def silent(self, connection: GuardedProtocol) -> None:
        """It was answered."""
        self._busy.discard(connection)
        self._silent[connection] = None

    def forget(self, connection: GuardedProtocol) -> None:
        """It is gone."""
        self._busy.discard(connection)
        self._silent.pop(connection, None)


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines; ``guarded_protocol`` gives it the guard of its server."""

    guard: Guard

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Requests(self.guard.limits.header_bytes)
        self.logger = logger
        self.access_log = False  # of this server alone: the option would silence the application's as well
        self._deadline: asyncio.TimerHandle | None = None
        self._begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self.guard.admit(self)
        self._within(self.guard.limits.header_seconds)
        self._begun = True

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, not necessarily all of its headers."""
        if not self._begun:
            self._begun = True
            self._within(self.guard.limits.header_seconds)
        before = self.cycle
        date = formatdate(time.time(), usegmt=True).encode()
        self.server_state.default_headers = [(b"date", date), *self.config.encoded_headers]
        super().data_received(data)
        self._note_request(before)

    def on_response_complete(self) -> None:
        """The answer is written, though perhaps not taken yet."""
        self.guard.silent(self)
        self._begun = False
        limits = self.guard.limits
        self._within(limits.keep_alive + 1 if self._taken() else limits.answer_seconds)
        before = self.cycle
        super().on_response_complete()
        self._note_request(before)  # one that was sent ahead of this answer

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self.guard.forget(self)
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def drop(self) -> None:
        """End the connection now, whatever is still to be sent: the kernel forgets it as well."""
        self.guard.forget(self)
        with contextlib.suppress(OSError):  # gone already
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()

    def _note_request(self, before: object) -> None:
        """Whether a request has begun to be answered: then uvicorn has made a cycle for it."""
        if self.cycle is not before and not self.cycle.response_complete:
            self.guard.busy(self)
            self._within(self.guard.limits.answer_seconds)

    def _taken(self) -> bool:
        return not self.transport.get_write_buffer_size()

    def _within(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.drop)


def guarded_protocol(guard: Guard) -> type[GuardedProtocol]:
    """The protocol class of one server: uvicorn makes an instance a connection."""
    return type("GuardedProtocol", (GuardedProtocol,), {"guard": guard})
