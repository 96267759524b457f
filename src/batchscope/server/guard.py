"""Who has a place at the server, and for how long: clients that are slow, silent or many.

uvicorn (0.54) serves them all for ever; it has a timeout only between an answer and the next request's first byte; a
client that never says anything, sends a byte a minute or does not take its answer keeps its place, and
``limit_concurrency`` then refuses the others. Here silent ones make room instead: a new connection displaces the one
that has been silent longest. ``connection.py`` gives each of them its deadlines.
"""

from __future__ import annotations

import math
from typing import Protocol

import msgspec

from batchscope.checks import check_positive, check_whole


class ConnectionLimits(msgspec.Struct, frozen=True):
    """``header_seconds``: from connecting, or a request's first byte, to the end of its headers; TLS included.

    ``answer_seconds``: from there until the client has taken the answer. ``idle_seconds``: between two requests.
    ``header_bytes``: of a request line and headers together, however they arrive.
    ``connections``: open at the same time, those whose handshake is not over included.
    """

    connections: int = 100
    header_seconds: float = 10.0
    answer_seconds: float = 30.0
    idle_seconds: float = 120.0
    header_bytes: int = 16_384

    def __post_init__(self) -> None:
        check_whole("connections", self.connections, 1)
        check_whole("header_bytes", self.header_bytes, 1024)
        for field in ("header_seconds", "answer_seconds", "idle_seconds"):
            check_positive(field, getattr(self, field), "seconds")

    @property
    def keep_alive(self) -> int:
        """``idle_seconds`` as uvicorn takes them, which then ends the connection politely; a second later we do."""
        return math.ceil(self.idle_seconds)


class Connection(Protocol):
    """What the guard holds."""

    def drop(self) -> None:
        """End it now, and forget it."""


class Guard:
    """The connections of one server: who is silent, in order, and who is being answered. Lives in the loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.closed = False  # the server ends: who is accepted only now would hold it up
        self._silent: dict[Connection, None] = {}
        self._busy: set[Connection] = set()

    @property
    def count(self) -> int:
        """Open connections."""
        return len(self._silent) + len(self._busy)

    def admit(self, connection: Connection) -> None:
        """Take a new connection in; where all places are taken the most silent one goes, or it itself."""
        full = self.count >= self.limits.connections
        if self.closed or (full and not self._silent):
            connection.drop()
            return
        if full:
            next(iter(self._silent)).drop()
        self._silent[connection] = None

    def busy(self, connection: Connection) -> None:
        """It asked for something."""
        self._silent.pop(connection, None)
        self._busy.add(connection)

    def silent(self, connection: Connection) -> None:
        """It was answered."""
        self._busy.discard(connection)
        self._silent[connection] = None

    def forget(self, connection: Connection) -> None:
        """It is gone."""
        self._busy.discard(connection)
        self._silent.pop(connection, None)
