"""One process's connection to the reader of a Unix socket.

A message is its length (4 bytes, big-endian) and a publication; the reader answers each with 8 bytes: 0, or the
sequence up to which it holds this process's counts for good.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

from batchscope.errors import ConfigurationError
from batchscope.publishing.publication import Publication, encode

LENGTH = struct.Struct(">I")
ANSWER = struct.Struct(">Q")
LONGEST_PATH = 107
"""Bytes of a Unix socket's path: sun_path has 108, one of them ends it (unix(7))."""
_TIMEOUT = 2.0


class _Sent(NamedTuple):
    sequence: int
    message: bytes


def checked_path(path: str) -> str:
    """``path``; ConfigurationError where the kernel would not take it."""
    length = len(os.fsencode(path))
    if not 0 < length <= LONGEST_PATH:
        raise ConfigurationError("path", path, f"a socket's path of 1..{LONGEST_PATH} bytes (this has {length})")
    return path


class SocketWriter:
    """Puts publications to a socket, one at a time: the next only when the last was answered.

    After a failure it connects again and first repeats what was not answered. So only two publications are
    ever those that a reader may hold.
    """

    def __init__(self, path: str) -> None:
        self._path = checked_path(path)
        self._socket: socket.socket | None = None
        self._answered: int | None = None
        self._unanswered: _Sent | None = None

    @property
    def outstanding(self) -> set[int]:
        """The sequences of the publications that a reader may hold or take."""
        unanswered = None if self._unanswered is None else self._unanswered.sequence
        return {sequence for sequence in (self._answered, unanswered) if sequence is not None}

    def put(self, publication: Publication) -> int | None:
        """Publish; None, or the sequence up to which a reader holds this process's counts. OSError if it failed."""
        if self._unanswered is not None:
            taken = self._exchange(self._unanswered)
            if taken is not None:
                return taken
        frame = encode(publication)
        return self._exchange(_Sent(publication.sequence, LENGTH.pack(len(frame)) + frame))

    def _exchange(self, sent: _Sent) -> int | None:
        try:
            connection = self._connected()
            self._unanswered = sent
            connection.sendall(sent.message)
            held = self._answer(connection)
        except OSError:
            self.close()
            raise
        known = self.outstanding
        if held and held not in known:
            self.close()
            raise OSError(f"{self._path} holds publication {held}: expected one of {sorted(known)}")
        if held:
            if held != sent.sequence:  # refused: it is put again, without what is held
                self._unanswered = None
            return held
        self._answered, self._unanswered = sent.sequence, None
        return None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(_TIMEOUT)
            try:
                connection.connect(self._path)
            except OSError:
                connection.close()
                raise
            self._socket = connection
        return self._socket

    def _answer(self, connection: socket.socket) -> int:
        answer = b""
        while len(answer) < ANSWER.size:
            part = connection.recv(ANSWER.size - len(answer))
            if not part:
                raise ConnectionResetError(f"{self._path}: the reader closed the connection")
            answer += part
        return int(ANSWER.unpack(answer)[0])

    def forget(self) -> None:
        """In a forked child: the connection is the parent's; only this descriptor of it is closed."""
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
