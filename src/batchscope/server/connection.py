"""One connection: uvicorn's HTTP/1.1 with deadlines, a handshake of its own and two bounds that h11 lacks.

With TLS the handshake begins here, on a connection that the guard and uvicorn know already: one that never ends is
silent like any other. (Given the certificate, asyncio would tell nobody of a connection before its handshake is over.)

h11 bounds only headers that are not complete yet, and uvicorn takes a target in absolute form (RFC 9112, 3.2.2), which
a server has to accept, for a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import struct
import time
from email.utils import formatdate
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from batchscope.server.guard import Guard

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


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines; ``guarded_protocol`` gives it the guard and the TLS of its server."""

    guard: Guard
    tls: ssl.SSLContext | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Requests(self.guard.limits.header_bytes)
        self.logger = logger
        self.access_log = False  # of this server alone: the option would silence the application's as well
        self._deadline: asyncio.TimerHandle | None = None
        self._begun = False
        self._handshake: asyncio.Task[None] | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; with TLS, before its handshake."""
        super().connection_made(transport)
        self.guard.admit(self)
        self._within(self.guard.limits.header_seconds)
        self._begun = True
        if self.tls is not None and not transport.is_closing():
            transport.pause_reading()  # not a byte in the clear may pass for one of the encrypted stream
            self._handshake = self.loop.create_task(self._shake_hands(transport, self.tls))

    async def _shake_hands(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Go on over TLS; what was read with the end of the handshake was held back until now."""
        limit = self.guard.limits.header_seconds
        try:
            encrypted = await self.loop.start_tls(transport, self, tls, server_side=True, ssl_handshake_timeout=limit)
        except OSError:  # SSLError is one
            encrypted = None
        self._handshake = None
        if encrypted is None:  # asyncio tells the end only of what had begun
            self.connection_lost(None)
            return
        super().connection_made(encrypted)
        if self._early:
            self.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, not necessarily all of its headers."""
        if self._handshake is not None:
            self._early += data
            return
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


def guarded_protocol(guard: Guard, tls: ssl.SSLContext | None) -> type[GuardedProtocol]:
    """The protocol class of one server: uvicorn makes an instance a connection."""
    return type("GuardedProtocol", (GuardedProtocol,), {"guard": guard, "tls": tls})
