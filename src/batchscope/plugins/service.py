"""What a plug-in starts around a collector inside an engine's process, as its settings ask: none of it may fail it."""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections.abc import Mapping
from typing import Any

from batchscope.asked import record_as_asked
from batchscope.background import Periodic
from batchscope.collector import SchedulerMetricsCollector
from batchscope.plugins.settings import Settings

_DRAIN_SECONDS = 2.0


def drain_regularly(collector: SchedulerMetricsCollector, seconds: float = _DRAIN_SECONDS) -> Periodic:
    """Drain ``collector`` every few ``seconds`` in a thread, so that the engine's own never has to, however seldom
    somebody reads. It ends when the collector is closed, or gone.
    """
    reference = weakref.ref(collector)

    def drain() -> None:
        present = reference()
        if present is None or present.closed:
            periodic.stop()
        else:
            present.drain()

    periodic = Periodic(drain, seconds, "batchscope-drain")
    return periodic.start()


class Service:
    """Serves a collector, publishes its snapshots and records its run; ``close()`` ends all, and its draining.

    ``configuration``: the engine's settings, for the record. What cannot be started (a port that is taken, a directory
    that cannot be written) is told in one log line, and the rest goes on. ``url`` is where it is served, None where it
    is not.
    """

    def __init__(
        self,
        collector: SchedulerMetricsCollector,
        settings: Settings,
        log: logging.Logger,
        *,
        drain_seconds: float = _DRAIN_SECONDS,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        self._log = log
        self._parts: list[Any] = []
        self.url: str | None = None
        self._parts.append(drain_regularly(collector, drain_seconds))
        self._record(collector, settings, configuration)
        if settings.snapshot_directory is not None:
            self._publish(collector, settings.snapshot_directory)
        if settings.port is not None:
            self._serve(collector, settings, settings.port)

    def _record(
        self, collector: SchedulerMetricsCollector, settings: Settings, configuration: Mapping[str, Any] | None
    ) -> None:
        recording = record_as_asked(
            collector, settings.record, lambda line: self._log.warning("batchscope: %s", line), configuration
        )
        if recording is not None:
            self._parts.append(recording)
            self._log.info("batchscope: recording a run to %s", recording.path)

    def _publish(self, collector: SchedulerMetricsCollector, directory: str) -> None:
        try:
            from batchscope.publishing.publisher import SnapshotPublisher  # noqa: PLC0415  (only where asked for)

            self._parts.append(SnapshotPublisher(collector, directory))
        except Exception as error:  # noqa: BLE001  (the engine goes on, whatever it is)
            self._log.warning("batchscope: no snapshots in BATCHSCOPE_SNAPSHOT_DIR = %r: %s", directory, error)
        else:
            self._log.info("batchscope: publishing snapshots of process %d to %s", os.getpid(), directory)

    def _serve(self, collector: SchedulerMetricsCollector, settings: Settings, port: int) -> None:
        try:
            from batchscope.server import serve  # noqa: PLC0415  (only where asked for)

            handle = serve(collector, host=settings.host, port=port, token_file=settings.token_file)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (a server may exit where it cannot listen)
            self._log.warning(
                "batchscope: not serving on %s:%d: %s; recording goes on; set BATCHSCOPE_PORT (0: any free port, off:"
                " none) or BATCHSCOPE_SNAPSHOT_DIR", settings.host, port, error,
            )  # fmt: skip
        else:
            self._parts.append(handle)
            self.url = str(handle.url)
            self._log.info("batchscope: serving metrics on %s", self.url)

    def close(self) -> None:
        """End what was started, the last first."""
        while self._parts:
            with contextlib.suppress(Exception):
                self._parts.pop().close()
