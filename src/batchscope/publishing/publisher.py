"""SnapshotPublisher: one process's counts, for whoever reads many processes."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Protocol

from batchscope.background import Closing, Periodic, RateLimitedLog, forked
from batchscope.clock import Clock
from batchscope.errors import ConfigurationError
from batchscope.publishing.carried_counts import Continuation
from batchscope.publishing.directory_writer import DirectoryWriter
from batchscope.publishing.files import usable_path
from batchscope.publishing.publication import INSTANCE
from batchscope.statistics.snapshot import MetricsSnapshot

logger = logging.getLogger("batchscope")
_ATTEMPTS = 5
_SILENT_SECONDS = 4.0
"""How long nothing is published where nothing was recorded; a publication says so, and readers wait twice as long."""


class SnapshotSource(Protocol):
    """What is published: a collector."""

    def get_snapshot(self) -> MetricsSnapshot:
        """Everything, with histograms; each call gives a higher ``sequence``."""


class SnapshotPublisher(Closing):
    """Publishes ``source``'s snapshot into ``target`` every ``interval`` seconds, from a thread of its own.

    Where the source tells whether anything was recorded (``drain()``, as a collector does) and nothing was, it waits
    until 4 s have passed since the last one: an idle engine costs next to nothing.

    ``target`` is a directory, which is made if need be and written to at once: ConfigurationError says here what
    would be wrong with it later. A failure (disk full, directory removed) is counted in ``failures``, logged once
    a minute at most, and tried again after the next interval; it never reaches the engine's threads. ``close()``,
    leaving the context or the interpreter's normal end publishes once more and says that it was the last. After a
    fork the child's is closed: make a new one there, or make them only in children. Without an ``interval`` (None)
    there is no thread: call ``publish_now()``.
    """

    def __init__(
        self,
        source: SnapshotSource,
        target: str | os.PathLike[str],
        *,
        interval: float | None = 1.0,
        clock: Clock = time.monotonic,
    ) -> None:
        where = usable_path("target", target)
        self._source = source
        self._continuation = Continuation()
        self._lock = threading.Lock()
        self._closing = self._closed = False
        self._log = RateLimitedLog(logger, clock=clock)
        self._where = where
        self._clock = clock
        self._seen: int | None = None
        self._published_at = clock()
        self._periodic = None if interval is None else Periodic(self._publish_news, interval, "batchscope-publish")
        self._quiet_seconds = 0.0 if self._periodic is None else max(self._periodic.interval, _SILENT_SECONDS)
        self.failures = 0
        _check_instance(source.get_snapshot().instance_id)
        self._writer = DirectoryWriter(Path(where))
        self._publish_first(where)
        if self._periodic is not None:
            self._periodic.start()
            atexit.register(self.close)  # after the thread's own, so that it comes before it
        forked(self)

    def _publish_first(self, directory: str) -> None:
        try:
            self._publish(final=False)
        except OSError as error:
            raise ConfigurationError(
                "directory", directory, f"a directory that this process can write to ({error}); choose another one"
            ) from error

    @property
    def closed(self) -> bool:
        """Whether it has published for the last time."""
        return self._closed

    def _publish_news(self) -> None:
        """Publish, unless nothing was recorded and the last publication is not old."""
        drain = getattr(self._source, "drain", None)
        seen = drain() if callable(drain) else None
        now = self._clock()
        if seen is not None and seen == self._seen and now - self._published_at < _SILENT_SECONDS:
            return
        if self.publish_now():
            self._seen, self._published_at = seen, now

    def publish_now(self) -> bool:
        """Publish, on the calling thread; whether it succeeded. Does nothing when closed."""
        with self._lock:
            if self._closed:
                return False
            try:
                self._publish(final=self._closing)
            except Exception as error:  # noqa: BLE001  (metrics never hurt the engine; the next interval retries)
                self.failures += 1
                self._log.warning(
                    "publish", "batchscope: could not publish to %s (%d so far): %r", self._where, self.failures, error
                )
                return False
            self._closed = self._closing
            return True

    def _publish(self, *, final: bool) -> None:
        """Put the present snapshot, without what a reader says it holds."""
        for _ in range(_ATTEMPTS):
            snapshot = self._source.get_snapshot()
            publication = self._continuation.publication(snapshot, final=final)
            publication = publication._replace(quiet_seconds=self._quiet_seconds)
            try:
                taken = self._writer.put(publication)
                if taken is not None:
                    self._continuation.folded(taken)
            finally:
                self._continuation.keep(self._writer.outstanding)
            if taken is None:
                return
        raise OSError("a reader took every publication for that of a dead process: raise its dead_after")

    def close(self) -> None:
        """Publish for the last time and end the thread; it can be called again."""
        with contextlib.suppress(Exception):
            self._end()

    def _end(self) -> None:
        if self._closed:
            return
        atexit.unregister(self.close)
        self._closing = True
        if self._periodic is not None:
            self._periodic.stop()
        self.publish_now()
        self._closed = True
        if self._periodic is not None:
            self._periodic.close()

    def _after_fork(self) -> None:
        """In the child: off. The parent's lock may be held, and its files are not ours."""
        self._lock = threading.Lock()
        self._closed = True


def _check_instance(instance: str) -> None:
    if not INSTANCE.fullmatch(instance):
        raise ConfigurationError("source", instance, "one collector, whose instance_id is letters, digits and _")
