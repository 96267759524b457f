"""One writer a file: a lock beside it, across processes and within one.

The lock is a POSIX record lock: the kernel frees it when its process dies, however it dies, and a forked child
does not have it, so that a worker that outlives its parent does not keep the next one out.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from batchscope.errors import ConfigurationError

_held: dict[str, int] = {}  # path of a lock -> the process that took it: a process's own locks do not conflict


class WriterLock:
    """Held from construction until ``release()``; ConfigurationError if another writer has it."""

    def __init__(self, path: Path) -> None:
        lock = path.with_name(path.name + ".lock")
        self._key = os.path.realpath(lock)
        if _held.get(self._key) == os.getpid():
            raise _taken(path)  # before opening: closing any handle of the file would free the other's lock
        self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise _taken(path) from error
        _held[self._key] = os.getpid()

    def release(self) -> None:
        """Let the next writer in. The lock's file stays: removing it would let two writers in."""
        if _held.get(self._key) == os.getpid():
            del _held[self._key]
            os.close(self._descriptor)


def _taken(path: Path) -> ConfigurationError:
    return ConfigurationError("path", str(path), "a file that no other exporter writes; give each process its own")
