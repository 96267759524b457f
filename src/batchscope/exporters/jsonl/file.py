"""An append-only file of lines that is whole after a crash or a full disk, and rotates by size."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Literal

import msgspec

from batchscope.errors import ConfigurationError
from batchscope.exporters.jsonl.lock import WriterLock

Fsync = Literal["always", "rotate", "never"]
FSYNC: tuple[Fsync, ...] = ("always", "rotate", "never")
_BLOCK = 65_536


class LinesFile:
    """Appends lines to ``path``; past ``max_bytes`` it becomes ``path.1``, that one ``path.2``, up to ``keep``.

    A line is written whole or not at all: what a full disk left of one is cut off at once, what a crash left when
    the file is next opened (``recovered_bytes`` of it). ``fsync``: ``always`` - a written line survives a power
    failure; ``rotate`` - a file does once it was rotated or closed, while a line of the present one survives the
    process but not the machine; ``never`` - that is left to the system. A file that was moved or deleted under it
    is made anew. Where rotating fails it goes on in the same file (``rotation_problem``). Not thread-safe.
    Of a symbolic link it is the file that the link leads to: two ways to one file have one lock.
    ConfigurationError if another writer has ``path``, or it is no regular file or holds no JSON lines; OSError as
    the system has it.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int, fsync: Fsync) -> None:
        self.path = path = Path(os.path.realpath(path))
        self.recovered_bytes = 0
        self.rotation_problem: OSError | None = None
        self._max_bytes = max_bytes
        self._keep = keep
        self._fsync = fsync
        self._descriptor = -1
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))  # before there is a lock in it
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = WriterLock(path)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def append(self, line: bytes) -> None:
        """Write ``line`` and its newline, or raise OSError and leave the file as it was.

        With ``always`` an OSError may also mean that the line is there and not known to be safe.
        """
        if self._moved():
            self._open()
        if self._torn:
            self._cut(self._size)
        if self._size and self._size + len(line) >= self._max_bytes:
            self._rotate()
        self._append(line + b"\n")
        if self._fsync == "always":
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Make what was written safe, as ``fsync`` says, and let the next writer in."""
        try:
            self._sync()
        finally:
            os.close(self._descriptor)
            self._lock.release()

    def _open(self) -> None:
        """Open ``path``, and put right what a crash left; only then the file before it is let go."""
        before = self._descriptor
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        try:
            self._descriptor, self._size, self._torn = descriptor, _size_of_ours(descriptor, self.path), False
            self._recover()
        except BaseException:
            self._descriptor = before
            os.close(descriptor)
            raise
        if before >= 0:
            os.close(before)

    def _recover(self) -> None:
        """Give a last line its newline if that is all it lacks; cut off one that is torn."""
        tail = self._tail()
        if not tail:
            return
        try:
            msgspec.json.decode(tail)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self._cut(self._size - len(tail))
            self.recovered_bytes += len(tail)
        else:
            self._append(b"\n")

    def _tail(self) -> bytes:
        """What follows the last complete line."""
        tail, end = b"", self._size
        while end > 0:
            start = max(end - _BLOCK, 0)
            block = os.pread(self._descriptor, end - start, start)
            newline = block.rfind(b"\n")
            tail = block[newline + 1 :] + tail
            if newline >= 0:
                break
            end = start
        return tail

    def _moved(self) -> bool:
        """Whether ``path`` is no longer the open file."""
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True

    def _append(self, data: bytes) -> None:
        try:
            _write_all(self._descriptor, data)
        except OSError:
            self._torn = True
            with contextlib.suppress(OSError):  # else before the next line
                self._cut(self._size)
            raise
        self._size += len(data)

    def _cut(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self._size = size
        self._torn = False

    def _rotate(self) -> None:
        try:
            self._sync()
            self._shift()
            self._open()
            if self._fsync != "never":
                _sync_directory(self.path.parent)
        except OSError as problem:
            self.rotation_problem = problem
        else:
            self.rotation_problem = None

    def _shift(self) -> None:
        """``path`` becomes ``path.1``; those before it make room up to the first number that is free."""
        numbered = [self.path, *(numbered_path(self.path, number) for number in range(1, self._keep + 1))]
        free = next((place for place, path in enumerate(numbered) if place and not path.exists()), self._keep)
        for place in range(free, 0, -1):
            numbered[place - 1].replace(numbered[place])

    def _sync(self) -> None:
        if self._fsync != "never":
            os.fsync(self._descriptor)


_BEGINNINGS = (b"", b"{", b"\0")  # new, ours, or a block that a power failure left empty


def _size_of_ours(descriptor: int, path: Path) -> int:
    """The size of a file that may hold lines of ours: what is in any other is not ours to cut."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or os.pread(descriptor, 1, 0) not in _BEGINNINGS:
        raise ConfigurationError("path", str(path), "a file of JSON lines, or one that does not exist")
    return found.st_size


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


def numbered_path(path: Path, number: int) -> Path:
    """``path.number``: the file that was rotated ``number`` times."""
    return path.with_name(f"{path.name}.{number}")


def _sync_directory(directory: Path) -> None:
    """Renames are safe only with their directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
