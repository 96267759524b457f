"""How many connections, and how long each may take."""

from __future__ import annotations

import math

import msgspec

from batchscope.errors import ConfigurationError


class ConnectionLimits(msgspec.Struct, frozen=True):
    """``header_seconds``: from connecting, or a request's first byte, to the end of its headers.

    ``answer_seconds``: from there until the client has taken the answer. ``idle_seconds``: between two requests.
    ``header_bytes``: of a request line and headers together, however they arrive.
    ``connections``: open at the same time.
    """

    connections: int = 100
    header_seconds: float = 10.0
    answer_seconds: float = 30.0
    idle_seconds: float = 120.0
    header_bytes: int = 16_384

    def __post_init__(self) -> None:
        for field, least in (("connections", 1), ("header_bytes", 1024)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(field, value, f"a whole number >= {least}")
        for field in ("header_seconds", "answer_seconds", "idle_seconds"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigurationError(field, value, "seconds > 0")

    @property
    def keep_alive(self) -> int:
        """``idle_seconds`` as uvicorn takes them, which then ends the connection politely; a second later we do."""
        return math.ceil(self.idle_seconds)
