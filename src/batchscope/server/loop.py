"""The event loop of ``serve``: TLS handshakes with a deadline and a limit, and complaints that cannot flood a log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

from batchscope.background import RateLimitedLog
from batchscope.server.limits import ConnectionLimits

logger = logging.getLogger("batchscope.server")


class ServerLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, where who does not finish a handshake cannot take all file descriptors of the engine.

    uvicorn knows a connection only after its TLS handshake, for which it leaves asyncio's minute. Here it has
    ``header_seconds``, and of more than ``connections`` handshakes at once the oldest is ended. In a process that has
    no descriptor left asyncio logs a traceback for each place of the backlog, each second: here a line a minute.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__()
        self._limits = limits
        self._handshakes: dict[asyncio.Future[None], socket.socket] = {}
        self._log = RateLimitedLog(logger)
        self.set_exception_handler(self._complain)

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        """asyncio's, with our deadline for handshakes."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", self._limits.header_seconds)
        return await super().create_server(*arguments, **options)

    def drop_handshakes(self) -> None:
        """End those under way: the server ends."""
        for connection in self._handshakes.values():
            _end(connection)

    def _make_ssl_transport(
        self, rawsock: socket.socket, *arguments: Any, waiter: asyncio.Future[None], **options: Any
    ) -> asyncio.Transport:
        """Asyncio's own step between accepting and the handshake, whose end ``waiter`` tells."""
        make = super()._make_ssl_transport  # type: ignore[misc]  # not public, the same from Python 3.7 to 3.14
        if len(self._handshakes) >= self._limits.connections:
            _end(self._handshakes.pop(next(iter(self._handshakes))))
        self._handshakes[waiter] = rawsock
        waiter.add_done_callback(lambda done: self._handshakes.pop(done, None))
        transport: asyncio.Transport = make(rawsock, *arguments, waiter=waiter, **options)
        return transport

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught: our connections' troubles."""
        self._log.log(
            logging.ERROR, "loop", "batchscope: the endpoint: %s: %r", context["message"], context.get("exception")
        )


def _end(connection: socket.socket) -> None:
    """Both directions: asyncio finds the end of the stream and closes. Its transport may not have begun yet."""
    with contextlib.suppress(OSError):  # gone already
        connection.shutdown(socket.SHUT_RDWR)
