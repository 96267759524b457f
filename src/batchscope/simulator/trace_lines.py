"""The lines of a file, one at a time, plain or gzip; whatever is wrong with it is a ``WorkloadError``."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from batchscope.errors import WorkloadError

MAX_LINE_BYTES = 2**20
"""Far more than the longest row of a trace; a file without newlines is not read into memory."""
MAX_BLANK_BYTES = 2**20
"""Of blank lines in a row: a small packed file may hold gigabytes of them."""
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 2**16


class BadRowError(Exception):
    """What is wrong with one row, and what was expected; whoever knows file and line adds them."""


class Line:
    """A line of the file, with its number from 1; ``text`` raises ``BadRowError`` where it is not text."""

    __slots__ = ("_data", "number")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self._data = data

    @property
    def text(self) -> str:
        """The line without its end and without a byte order mark."""
        if len(self._data) > MAX_LINE_BYTES:
            raise BadRowError(f"the line is too long, expected at most {MAX_LINE_BYTES} bytes")
        try:
            return self._data.decode("utf-8-sig" if self.number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            byte = self._data[error.start]
            raise BadRowError(f"byte 0x{byte:02x} is not text, expected UTF-8") from None


def read_lines(path: Path) -> Generator[Line, None, None]:
    """The lines of the file that are not blank; compression is seen by content, not by name.

    What is left of a line that is too long is read only when the next one is asked for.
    """
    blank = 0
    with _one_error_type(path) as position, _open(path) as file:
        while data := file.readline(MAX_LINE_BYTES + 1):
            position.number += 1
            if data.isspace():
                blank += len(data)
                if blank > MAX_BLANK_BYTES:
                    wrong = f"more than {MAX_BLANK_BYTES} bytes of blank lines, expected a row"
                    raise WorkloadError(f"{path}, line {position.number}: {wrong}")
                continue
            blank = 0
            yield Line(position.number, data)
            if len(data) > MAX_LINE_BYTES:
                _skip_line(file, data)


class _Position:
    number = 0


def is_packed(path: Path) -> bool:
    """Whether the file is gzip. OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def _open(path: Path) -> IO[bytes]:
    if "\0" in str(path):
        raise WorkloadError(f"{str(path)!r}: a path cannot contain a NUL, expected a trace")
    if path.exists() and not path.is_file():
        raise WorkloadError(f"{path}: not a regular file, expected a trace")
    return cast("IO[bytes]", gzip.GzipFile(path)) if is_packed(path) else path.open("rb")


@contextmanager
def _one_error_type(path: Path) -> Iterator[_Position]:
    position = _Position()
    try:
        yield position
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such file, expected a trace") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        wrong = f"the gzip data is cut off or damaged ({error}), expected a whole gzip file"
        raise WorkloadError(f"{path}, line {position.number + 1}: {wrong}") from None
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror or error}") from None


def _skip_line(file: IO[bytes], data: bytes) -> None:
    while data and not data.endswith(b"\n"):
        data = file.readline(_CHUNK_BYTES)
