"""Whole files: written under another name and renamed, read up to a limit."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from batchscope.publishing.frame import MAX_BYTES, OVERSIZED, FrameError
from batchscope.publishing.names import temporary_name


def write_whole(directory: Path, name: str, data: bytes, *, durable: bool = False) -> None:
    """Write ``name``: a reader finds all of it or nothing. OSError, and then nothing is left behind.

    ``durable`` waits until the disk has it. Publications do not: a page cache survives its process, the next
    publication comes in a second, and after a power failure the processes that counted are gone as well.
    """
    temporary = directory / temporary_name()
    try:
        with temporary.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(directory / name)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_whole(path: Path) -> bytes:
    """The file's bytes; FrameError beyond the limit, OSError if it cannot be read."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FrameError(OVERSIZED, f"more than {MAX_BYTES} bytes: no snapshot is that large")
    return data


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names in ``path``, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def discard(path: Path) -> None:
    """Delete a file, or a directory of files; what is gone already or cannot be deleted is left so."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            for inner in path.iterdir():
                inner.unlink(missing_ok=True)
            path.rmdir()
        else:
            path.unlink()
