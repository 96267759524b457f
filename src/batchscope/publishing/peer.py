"""One connection of a reader's socket: bytes in, whole frames out."""

from __future__ import annotations

import socket

from batchscope.publishing.frame import FOREIGN, MAX_BYTES, OVERSIZED, TRUNCATED, FrameError
from batchscope.publishing.socket_writer import ANSWER, LENGTH

_AT_ONCE = 2**18


class Peer:
    """What a connection has sent so far; ``instance`` is whose publications it carries, once that is known."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.instance = ""
        self.buffer = bytearray()
        self._since: float | None = None

    def frames(self, now: float) -> list[bytes]:
        """Read what is there, at most 256 KiB; the frames it completes. FrameError, or OSError when it has ended."""
        data = self.connection.recv(_AT_ONCE)
        if not data:
            if self.buffer:
                raise FrameError(TRUNCATED, f"the connection ended within a message, after {len(self.buffer)} bytes")
            raise ConnectionResetError("closed by the peer")
        self.buffer += data
        found = []
        while (frame := self._next()) is not None:
            found.append(frame)
        if found or self._since is None:
            self._since = now
        if not self.buffer:
            self._since = None
        return found

    def _next(self) -> bytes | None:
        if len(self.buffer) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self.buffer)
        if not length:
            raise FrameError(FOREIGN, "a message of no bytes")
        if length > MAX_BYTES:
            raise FrameError(OVERSIZED, f"a message of {length} bytes: expected at most {MAX_BYTES}")
        end = LENGTH.size + length
        if len(self.buffer) < end:
            return None
        frame = bytes(self.buffer[LENGTH.size : end])
        del self.buffer[:end]
        return frame

    def late(self, now: float, timeout: float) -> bool:
        """Whether an unfinished message has been waited for longer than ``timeout`` seconds."""
        return self._since is not None and now - self._since > timeout

    def answer(self, held: int) -> None:
        """Answer a publication. OSError when the peer does not read its answers."""
        self.connection.sendall(ANSWER.pack(held))
