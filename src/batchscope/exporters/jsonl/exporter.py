"""JsonLinesExporter: one snapshot a line, from a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from batchscope.background import Closing, Periodic, RateLimitedLog, forked
from batchscope.checks import check_whole
from batchscope.errors import ConfigurationError
from batchscope.exporters.jsonl.file import FSYNC, Fsync, LinesFile
from batchscope.statistics.cumulative import StateSource

logger = logging.getLogger("batchscope")


class JsonLinesExporter(Closing):
    """Appends a snapshot of ``source`` to ``path`` every ``interval`` seconds, and a last one at ``close()``.

    Past ``max_bytes`` the file is rotated to ``path.1`` ... ``path.<keep>``. ``fsync``: ``always`` - a written line
    survives a power failure; ``rotate`` - it does once its file was rotated or closed, before that it survives the
    death of the process only; ``never`` - that is left to the system. ``histograms``: with them, so that lines can
    be merged. A line torn by a crash is cut off when the file is opened, and its size logged (``recovered_bytes``).
    A snapshot that could not be written (a full disk) is counted in ``dropped`` and logged once a minute at most;
    no part of it stays, and what it counted is in the next one. One writer a file: another one, in this process or
    not, is a ConfigurationError, as is a file that holds something else or cannot be opened.
    It ends with its source, after a last line. In a forked child it is off.
    """

    def __init__(
        self,
        source: StateSource,
        path: str | os.PathLike[str],
        *,
        interval: float = 10.0,
        max_bytes: int = 64 * 1024 * 1024,
        keep: int = 5,
        fsync: Fsync = "rotate",
        histograms: bool = False,
    ) -> None:
        _check(max_bytes, keep, fsync)
        self.written = 0
        self.dropped = 0
        self._source = source
        self._histograms = histograms
        self._lock = threading.Lock()  # one line at a time: the timer's, or a caller's of write()
        self._log = RateLimitedLog(logger)
        self._closed = False
        self._periodic = Periodic(self.write, interval, "batchscope-jsonl", log=self._log)
        try:
            self._file = LinesFile(Path(path), max_bytes, keep, fsync)
        except OSError as error:
            allowed = f"a file that can be made or written ({error.strerror or error}); choose another one"
            raise ConfigurationError("path", str(path), allowed) from error
        self._recovered = 0
        self._report()
        self._periodic.start()
        forked(self)

    @property
    def recovered_bytes(self) -> int:
        """What a crash had left of a line and was cut off."""
        return self._file.recovered_bytes

    def write(self) -> bool:
        """Write a snapshot now, in the calling thread; says whether it is in the file."""
        with self._lock:
            if self._closed:
                return False
            last = self._source.closed
            done = self._append(self._source.get_snapshot().to_json(histograms=self._histograms))
            self._report()
        if last and done:
            self._periodic.stop()
        return done

    def _append(self, line: bytes) -> bool:
        try:
            self._file.append(line)
        except (OSError, ConfigurationError) as error:  # the latter: something else was put in the file's place
            self.dropped += 1
            self._log.warning(
                "append", "batchscope: cannot write to %s (%d snapshots dropped so far): %s",
                self._file.path, self.dropped, error,
            )  # fmt: skip
            return False
        self.written += 1
        return True

    def _report(self) -> None:
        """Say what the file had to put up with."""
        found, self._recovered = self._file.recovered_bytes - self._recovered, self._file.recovered_bytes
        if found:
            logger.warning("batchscope: %d bytes of a torn last line were cut off %s", found, self._file.path)
        if self._file.rotation_problem is not None:
            problem = self._file.rotation_problem
            self._log.warning("rotate", "batchscope: cannot rotate %s, it grows: %s", self._file.path, problem)

    def close(self, timeout: float = 5.0) -> bool:
        """Write a last snapshot and end, within ``timeout`` seconds; says whether the file is closed."""
        if not self._periodic.close(timeout):
            return False  # the disk hangs: the file is its thread's
        with self._lock:
            if not self._closed:
                self._closed = True
                try:
                    self._file.close()
                except OSError as error:
                    logger.warning("batchscope: %s is closed, but not known to be on disk: %s", self._file.path, error)
        return True

    def _after_fork(self) -> None:
        """In the child: off. The lock may be held there, and the file is the parent's."""
        self._lock = threading.Lock()
        self._closed = True


def _check(max_bytes: int, keep: int, fsync: str) -> None:
    check_whole("max_bytes", max_bytes, 1)
    check_whole("keep", keep, 1)
    if fsync not in FSYNC:
        raise ConfigurationError("fsync", fsync, f"one of {FSYNC}")
