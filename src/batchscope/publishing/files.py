"""The files of a directory of snapshots: their names, and how they are written, read and deleted.

A name says what is in the file, and its content never changes:

* ``<instance>-<sequence>.snapshot``: what a process published last; its next publication has another name.
* ``<instance>-<sequence>.claimed``: the same file, taken by a reader that holds the process for dead.
* ``archive-<revision>/counts``: the counts of the dead; the highest revision is valid. A directory, because
  renaming one onto another that is not empty fails: of several writers of a revision exactly one succeeds.
* ``.batchscope-<32 hexadecimal digits>.tmp``: being written.

Files are whole: written under another name and renamed, read up to a limit. Others may be able to write into the
directory: nothing here follows a link, waits for a FIFO, or deletes what cannot be ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from batchscope.errors import ConfigurationError
from batchscope.publishing.frame import MAX_BYTES, OVERSIZED, UNREADABLE, FrameError

_PUBLISHED = re.compile(r"(?P<instance>[A-Za-z0-9_]{1,64})-(?P<sequence>\d{12,18})\.(?P<state>snapshot|claimed)")
_ARCHIVE = re.compile(r"archive-(?P<revision>\d{12,18})")
_TEMPORARY = re.compile(r"\.batchscope-[0-9a-f]{32}\.tmp")
_COUNTS = "counts"
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MODE = 0o775
"""Of a directory that is made here, less the umask: even without one, not everybody can write to it."""


class Published(NamedTuple):
    """A published file."""

    instance: str
    sequence: int
    claimed: bool = False

    @property
    def name(self) -> str:
        """Its name in the directory."""
        return f"{self.instance}-{self.sequence:012d}.{'claimed' if self.claimed else 'snapshot'}"


class Listing(NamedTuple):
    """What a directory holds; ``foreign`` are files that end like ours and are not."""

    published: frozenset[Published]
    archives: tuple[int, ...]
    temporary: frozenset[str]
    foreign: frozenset[str]


def archive_name(revision: int) -> str:
    """The name of an archive."""
    return f"archive-{revision:012d}"


def temporary_name() -> str:
    """A name that nobody else uses."""
    return f".batchscope-{uuid.uuid4().hex}.tmp"


def listing(directory: Path) -> Listing:
    """What is in ``directory``, archives ascending; OSError if it cannot be listed."""
    published, archives, temporary, foreign = set(), [], set(), set()
    for name in os.listdir(directory):  # noqa: PTH208  (the names are all that is needed)
        if found := _PUBLISHED.fullmatch(name):
            published.add(Published(found["instance"], int(found["sequence"]), found["state"] == "claimed"))
        elif found := _ARCHIVE.fullmatch(name):
            archives.append(int(found["revision"]))
        elif _TEMPORARY.fullmatch(name):
            temporary.add(name)
        elif name.endswith((".snapshot", ".claimed")):
            foreign.add(name)
    return Listing(frozenset(published), tuple(sorted(archives)), frozenset(temporary), frozenset(foreign))


def usable_path(field: str, path: str | os.PathLike[str]) -> str:
    """``path`` as text; ConfigurationError, with ``field`` in it, for what can be no directory's."""
    try:
        text = os.fsdecode(path)
        encoded = os.fsencode(text)
    except (TypeError, UnicodeError):
        encoded = b""
    if not encoded or b"\0" in encoded:
        raise ConfigurationError(field, path, "a path: not empty, without a NUL")
    if text.startswith("unix:"):
        raise ConfigurationError(
            field, path, "a directory, such as /run/batchscope, here and in all processes: Unix sockets are gone"
        )
    return text


def make_directory(path: Path) -> None:
    """Make it unless it is there. OSError if it cannot be made."""
    path.mkdir(_MODE, parents=True, exist_ok=True)


def writable_by_everybody(path: Path) -> bool:
    """Whether every user of the machine can write to it. OSError if it is not there."""
    return bool(path.stat().st_mode & stat.S_IWOTH)


def write_whole(directory: Path, name: str, data: bytes) -> None:
    """Write ``name``: a reader finds all of it or nothing. OSError, and then nothing is left behind.

    It does not wait for the disk: a page cache survives its process, the next publication comes in a second, and
    after a power failure the processes that counted are gone as well.
    """
    temporary = directory / temporary_name()
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(directory / name)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_counts(folder: Path, data: bytes) -> None:
    """Make ``folder`` with the file ``counts`` in it and wait until the disk has both. OSError if that fails."""
    folder.mkdir(_MODE)
    with _opened_folder(folder) as descriptor:
        file = os.open(_COUNTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=descriptor)
        with os.fdopen(file, "wb") as counts:
            counts.write(data)
            counts.flush()
            os.fsync(counts.fileno())
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(descriptor)


def read_whole(path: Path) -> bytes:
    """The file's bytes; FrameError beyond the limit and for what is no file, other OSErrors if it cannot be read."""
    return _read(_opened_file(path))


def read_counts(folder: Path) -> bytes:
    """The bytes of ``counts`` in ``folder``; errors as ``read_whole``."""
    try:
        with _opened_folder(folder) as descriptor:
            return _read(_opened_file(_COUNTS, descriptor))
    except NotADirectoryError:
        raise FrameError(UNREADABLE, "not a directory: expected one with counts in it") from None


def holds_counts(folder: Path) -> bool:
    """Whether ``folder`` is a directory with a file ``counts``, or may be: it cannot be looked into."""
    try:
        with _opened_folder(folder) as descriptor:
            return stat.S_ISREG(os.stat(_COUNTS, dir_fd=descriptor, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names in ``path``, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def discard_file(path: Path) -> None:
    """Delete a file; what is something else, gone already or cannot be deleted is left so."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


def discard_folder(path: Path) -> None:
    """Delete a directory with ``counts`` in it or nothing; with anything else in it, it is left there."""
    with contextlib.suppress(OSError), _opened_folder(path) as descriptor:
        if stat.S_ISREG(os.stat(_COUNTS, dir_fd=descriptor, follow_symlinks=False).st_mode):
            os.unlink(_COUNTS, dir_fd=descriptor)
    with contextlib.suppress(OSError):
        path.rmdir()  # of a link to one it fails


def discard_own(path: Path) -> None:
    """Delete a file or directory of ours; one of another user is left there."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if status.st_uid == os.geteuid():
            (discard_folder if stat.S_ISDIR(status.st_mode) else discard_file)(path)


def _opened_file(name: Path | str, folder: int | None = None) -> int:
    """A descriptor of a regular file; the caller closes it."""
    try:
        descriptor = os.open(name, _READING, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise FrameError(UNREADABLE, "a link: it is not followed") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FrameError(UNREADABLE, "not a regular file")


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FrameError(OVERSIZED, f"more than {MAX_BYTES} bytes: no snapshot is that large")
    return data


@contextlib.contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    """A descriptor of a directory, not of what a link leads to: NotADirectoryError for anything else."""
    descriptor = os.open(path, _READING | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
