"""Whether somebody still writes a run: its writer holds a lock that the kernel lets go of when the process ends.

No process id says that: numbers are used again, and differ from container to container.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK = ".writing"


class RunLock:
    """Held by the writer of the run in ``folder`` until ``release``, or its process ends, however it does."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.leave()
            raise

    def release(self) -> None:
        """The run is written."""
        self._path.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """In a forked child: the lock stays the parent's."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def being_written(folder: Path) -> bool:
    """Whether a process that lives writes the run in ``folder``; also where that cannot be known: it is left alone."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # it is held, or this file system has no locks
        return True
    finally:
        os.close(file)
    return False
