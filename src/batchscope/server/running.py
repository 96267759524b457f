"""``serve``: the application in a thread of its own, beside an engine that never waits for a reader."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.types import ASGIApp

from batchscope.background import Closing, RateLimitedLog, forked
from batchscope.checks import check_whole
from batchscope.dashboard.recorder import Recorder
from batchscope.errors import BatchscopeError, ConfigurationError
from batchscope.server.app import HostChecked
from batchscope.server.connection import guarded_protocol
from batchscope.server.guard import ConnectionLimits, Guard
from batchscope.server.hosts import allowed_hosts

logger = logging.getLogger("batchscope.server")

_BACKLOG = 128
_GRACE_SECONDS = 2  # for answers under way when the server ends
_START_SECONDS = 30.0
_TURNS_TO_KNOW = 3  # of the loop: accepted, its transport made, its protocol told


class ServerHandle(Closing):
    """A running endpoint: its ``url``, and ``close()``. Also a context manager."""

    def __init__(self, listener: socket.socket, server: _Server, url: str, beside: Recorder | None = None) -> None:
        self.url = url
        self._beside = beside
        self._listener = listener
        self._server = server
        self._thread = threading.Thread(target=self._run, name="batchscope-server", daemon=True)
        self._thread.start()
        forked(self)

    @property
    def port(self) -> int:
        """Where it listens; the one that was found free for port 0."""
        return int(self.url.rpartition(":")[2])

    def close(self) -> None:
        """Stop listening, finish what is being answered (2 s at most), end the thread; it can be called again."""
        if self._beside is not None:
            self._beside.close()
        self._server.end()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._server.serve(sockets=[self._listener]))
        except Exception:  # the engine goes on without its endpoint
            logger.exception("batchscope: the endpoint %s has ended", self.url)
        finally:
            self._server.listening.set()

    def wait_until_listening(self) -> None:
        """Return when requests are answered; BatchscopeError if that fails."""
        self._server.listening.wait(_START_SECONDS)
        if not self._server.started:
            self.close()
            raise BatchscopeError(f"the endpoint {self.url} did not start: expected a log line that says why")

    def _after_fork(self) -> None:
        """The thread is the parent's; a socket kept open here would hold the port after it has ended."""
        with contextlib.suppress(OSError):
            os.close(self._listener.detach())


def start(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    certificate: str | None,
    key: str | None,
    limits: ConnectionLimits,
    hosts: frozenset[str] | None,
    protected: bool,
    beside: Recorder | None = None,
) -> ServerHandle:
    """Bind, serve in a thread, return when it answers; ConfigurationError for what cannot be.

    ``beside`` is started and closed with it.
    """
    guard = Guard(limits)
    where = _resolved(host, port)
    allowed = allowed_hosts(host, where.address[0], hosts, protected=protected)
    config = _configuration(HostChecked(app, allowed), guard, _tls(certificate, key))
    listener = _bind(where, host, port)
    scheme = "http" if certificate is None else "https"
    handle = ServerHandle(listener, _Server(config, guard), f"{scheme}://{_address(listener)}", beside)
    handle.wait_until_listening()
    if beside is not None:
        beside.start()
    return handle


def beyond_loopback(handle: ServerHandle) -> bool:
    """Whether other machines can reach it."""
    return not ipaddress.ip_address(handle._listener.getsockname()[0]).is_loopback  # noqa: SLF001


class _Server(uvicorn.Server):
    """Says when it listens, and tells its guard when it ends. With nobody asking it never wakes up.

    uvicorn's own loop wakes ten times a second, to see whether it shall end and what time it is: each time it takes the
    GIL from the engine. Here the end is told, and the guard looks at the clock when there is something to answer.
    """

    def __init__(self, config: uvicorn.Config, guard: Guard) -> None:
        super().__init__(config)
        self.guard = guard
        self.listening = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._log = RateLimitedLog(logger)

    async def main_loop(self) -> None:
        """Wait for ``end``."""
        await self._ended.wait()

    def end(self) -> None:
        """Stop serving; from any thread, at any time, any number of times."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._ended.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._complain)
        await super().startup(sockets=sockets)
        if self.should_exit:  # told to end before there was a loop to tell
            self._ended.set()
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.guard.closed = True
        await self._settle(sockets or [])
        await super().shutdown(sockets=sockets)

    async def _settle(self, listeners: list[socket.socket]) -> None:
        """Accept nobody from now on, and let who was accepted become known, to be dropped by the guard.

        asyncio forgets an accepted connection whose server is closed before its transport is made: it stays open.
        """
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(_TURNS_TO_KNOW):
            await asyncio.sleep(0)

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught, a line a minute.

        In a process without a descriptor left asyncio would log a traceback a second for each place of the backlog.
        """
        self._log.log(
            logging.ERROR, "loop", "batchscope: the endpoint: %s: %r", context["message"], context.get("exception")
        )


def _configuration(app: ASGIApp, guard: Guard, tls: ssl.SSLContext | None) -> uvicorn.Config:
    """The settings of uvicorn; ``log_config`` None and no ``log_level``: the application's logging is its own."""
    return uvicorn.Config(
        app,
        loop="none",
        http=guarded_protocol(guard, tls),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=guard.limits.keep_alive,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """TLS 1.2 or later with these files; None without them."""
    for field, path in (("tls_certificate", certificate), ("tls_key", key)):
        _check_readable(field, path)
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # SSLError is one
        if key is None:
            allowed = f"a PEM file with a certificate and its key, or tls_key beside it ({error})"
            raise ConfigurationError("tls_certificate", certificate, allowed) from None
        raise ConfigurationError("tls_key", key, f"the key of {certificate}, both PEM files ({error})") from None
    return context


def _check_readable(field: str, path: str | None) -> None:
    if path is not None:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ConfigurationError(field, path, f"a readable PEM file ({error.strerror or error})") from None


class _Where(NamedTuple):
    """What a host and a port are to the system."""

    family: int
    kind: int
    protocol: int
    address: Any


def _resolved(host: str, port: int) -> _Where:
    check_whole("port", port, 0, 65_535, "; 0 finds a free one")
    if not isinstance(host, str) or not host:  # None would be everywhere
        raise ConfigurationError("host", host, "an address of this machine, as text; 0.0.0.0 is everywhere")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError("host", host, f"an address of this machine ({error})") from None
    family, kind, protocol, _, address = found[0]
    return _Where(family, kind, protocol, address)


def _bind(where: _Where, host: str, port: int) -> socket.socket:
    listener = socket.socket(where.family, where.kind, where.protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where.address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        if isinstance(error, PermissionError) or "in use" in reason:
            raise ConfigurationError("port", port, f"one that is free on {host} ({reason}); 0 finds one") from None
        raise ConfigurationError("host", host, f"an address of this machine ({reason})") from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
