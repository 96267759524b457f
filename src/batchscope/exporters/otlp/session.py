"""The HTTP session that the SDK sends with: no receiver makes an answer long, slow, or a success that is none.

The SDK reads a whole answer before it looks at it, waits anew for each piece of it, and takes every status below 400
for a success. Here one deadline, what is left of the SDK's ``timeout``, ends every wait on the socket; an answer has at
most 64 kB (OTLP's own has a few bytes); and a redirect, which nobody follows, is a failure. Imports requests.
"""

from __future__ import annotations

import io
import socket
import time
from http import HTTPStatus
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from batchscope.text import shown

LARGEST_ANSWER = 65_536
_LONGEST_ADDRESS = 200
_LONGEST_WAIT = 86_400.0


class AnswerError(requests.RequestException):
    """An answer that no receiver of OTLP gives: there is no use in trying again at once."""


def bounded_session() -> requests.Session:
    """A session for one thread at a time."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


class _Deadline:
    """When the present request has to be over, by the monotonic clock."""

    def __init__(self) -> None:
        self.end = 0.0

    def remaining(self) -> float:
        """The seconds that are left; TimeoutError when none are."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no complete answer in time")
        return min(left, _LONGEST_WAIT)


class _Adapter(HTTPAdapter):
    """Sends over sockets that keep to a deadline and reads no more than is wanted."""

    def __init__(self) -> None:
        self._deadline = _Deadline()
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """The pools of requests, with our connections in them."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._deadline)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        """The same behind a proxy."""
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = _pools(self._deadline)
        return manager

    def send(self, request: Any, *_: Any, timeout: Any = None, **options: Any) -> requests.Response:
        """As requests, whose errors it raises; AnswerError for a redirect and for an answer that is too long."""
        self._deadline.end = time.monotonic() + (_LONGEST_WAIT if timeout is None else timeout)
        response = super().send(request, timeout=timeout, **{**options, "stream": True})
        try:
            _check_status(response)
            _take_body(response)
        except BaseException:
            response.close()
            raise
        return response


def _check_status(response: requests.Response) -> None:
    if HTTPStatus.MULTIPLE_CHOICES <= response.status_code < HTTPStatus.BAD_REQUEST:
        target = shown(response.headers.get("Location", "nowhere"), _LONGEST_ADDRESS)
        reason = f"HTTP {response.status_code}, a redirect to {target}, which is not followed: give the final address"
        raise AnswerError(reason, response=response)


def _take_body(response: requests.Response) -> None:
    """Read what there is if it is not too long; compressed, it is of no use to anybody."""
    try:
        body = response.raw.read(LARGEST_ANSWER + 1, decode_content=False)
    except (HTTPError, OSError) as error:
        raise requests.ConnectionError(error, response=response) from error
    if len(body) > LARGEST_ANSWER:
        reason = f"HTTP {response.status_code} with an answer of more than {LARGEST_ANSWER} bytes: no receiver of OTLP"
        raise AnswerError(reason, response=response)
    response._content = b"" if "Content-Encoding" in response.headers else body  # noqa: SLF001  (as requests does)
    response._content_consumed = True  # noqa: SLF001
    response.raw.release_conn()


def _pools(deadline: _Deadline) -> dict[str, type]:
    """The classes of urllib3's pools, by scheme, whose connections keep to ``deadline``."""
    return {"http": _timed(HTTPConnectionPool, deadline), "https": _timed(HTTPSConnectionPool, deadline)}


def _timed(pool: Any, deadline: _Deadline) -> type:
    connection = type("TimedConnection", (_Timed, pool.ConnectionCls), {"deadline": deadline})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


class _Timed:
    """What is put before a connection of urllib3: once connected, its socket keeps to the deadline."""

    deadline: _Deadline
    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock = _TimedSocket(self.sock, self.deadline)


class _TimedSocket:
    """A socket, every wait of which ends at the deadline; all else is the socket's own."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, _seconds: float | None) -> None:
        """The deadline decides."""

    def sendall(self, data: Any) -> None:
        self._sock.settimeout(self._deadline.remaining())
        self._sock.sendall(data)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline))


class _TimedReader(io.RawIOBase):
    """Reads what is there; holds the connection open until it is closed itself, as ``socket.makefile`` does."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.remaining())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
