"""Takes a sample a second for a history, and says how a source stands to everybody who asks in that second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from batchscope.background import Closing, Periodic, forked
from batchscope.clock import Clock
from batchscope.dashboard.document import Cursor, Told, Wanted, document, present
from batchscope.dashboard.history import SECONDS, History
from batchscope.errors import BatchscopeError
from batchscope.statistics.cumulative import StateSource
from batchscope.statistics.snapshot import MetricsSnapshot

_RESTART_SHOWN = 10.0
"""Seconds for which a restart is said."""


class Recorder(Closing):
    """A history of ``source`` and the thread that writes it; ``start()`` begins.

    Without a reader that thread is all it costs: one reading of cumulative counts a second.
    """

    def __init__(
        self,
        source: StateSource,
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        cpu: Clock = time.thread_time,
    ) -> None:
        self.history = History()
        self._source = source
        self._clock, self._wall, self._cpu = clock, wall, cpu
        self._periodic = Periodic(self.sample, float(SECONDS), "batchscope-history")
        self._earlier: tuple[float, MetricsSnapshot] | None = None
        self._spent, self._since = 0.0, clock()
        self._lock = threading.Lock()
        forked(self)

    def start(self) -> None:
        """Begin, in the thread: a source that hangs holds nobody up. Does nothing where it has begun."""
        with self._lock:
            if not self._periodic.running:
                self._since, self._spent = self._clock(), 0.0
                self._periodic.start()

    def close(self) -> None:
        """End the thread; it is not waited for, since the source may hang."""
        self._periodic.stop()
        self._periodic.close(timeout=0.0)

    def sample(self) -> None:
        """Keep what was counted since the sample before; what cannot be read now (an empty directory) is a gap."""
        if self._source.closed:
            self._periodic.stop()
            return
        with self._costing(), contextlib.suppress(BatchscopeError):
            self.history.take(self._source.read_totals(), self._clock(), self._wall())

    def present(self) -> Told:
        """How it stands now."""
        with self._costing():
            snapshot, now = self._source.get_snapshot(), self._clock()
            if self._earlier is None or now - self._earlier[0] > _RESTART_SHOWN:
                self._earlier = (now, snapshot)
            return present(snapshot, self._earlier[1], float(SECONDS))

    def answer(self, told: Told, cursor: Cursor, wanted: Wanted) -> bytes:
        """The document for who has ``cursor``, as ``wanted``."""
        with self._costing():
            return document(self.history, told, cursor, wanted, self.cost)

    @property
    def cost(self) -> float:
        """Of a core, for samples and answers, since the start."""
        elapsed = self._clock() - self._since
        return self._spent / elapsed if elapsed > 0 else 0.0

    @contextlib.contextmanager
    def _costing(self) -> Iterator[None]:
        before = self._cpu()
        try:
            yield
        finally:
            self._spent += self._cpu() - before

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
