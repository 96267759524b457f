"""Takes a sample a second for a history, and says how a source stands to everybody who asks in that second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator

from batchscope.background import Closing, Periodic, forked
from batchscope.clock import Clock
from batchscope.dashboard.document import Cursor, Told, Wanted, document, present
from batchscope.dashboard.engines import Engine, Engines, slim
from batchscope.dashboard.fleet import EngineReader, Known, LivingSource, table
from batchscope.dashboard.history import SECONDS, TENS, History
from batchscope.dashboard.ring import Ring
from batchscope.errors import BatchscopeError
from batchscope.statistics.cumulative import StateSource
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.views.recent import since

_LOOKS = 7
"""Looks at everything, one at the end of each ten seconds, which tell the last minute and a restart."""
_YOUNG = 60.0
_LAST_SAMPLE = 1.0
"""Seconds that the end waits for a sample that is being taken: a source that hangs holds nobody up for longer."""


class Recorder(Closing):
    """A history of ``source`` and the thread that writes it; ``start()`` begins.

    Without a reader that thread is all it costs: cumulative counts each second, a snapshot every tenth, and of several
    engines each one's counts then.
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
        self.engines = Engines() if isinstance(source, EngineReader) else None
        self._source = source
        self._clock, self._wall, self._cpu = clock, wall, cpu
        self._periodic = Periodic(self.sample, float(SECONDS), "batchscope-history")
        self._looks: deque[MetricsSnapshot] = deque(maxlen=_LOOKS)
        self._looked = -1
        self._spent, self._since = 0.0, clock()
        self._lock = threading.Lock()
        self._closed = False
        forked(self)

    def start(self) -> None:
        """Begin, in the thread: a source that hangs holds nobody up. Does nothing where it runs, or one is closed."""
        with self._lock:
            if not (self._closed or self._source.closed or self._periodic.running):
                self.history.passed(int(self._wall()))  # so that there is a time before the first sample
                self._since, self._spent = self._clock(), 0.0
                self._periodic.start()

    def close(self) -> None:
        """End the thread, for good: who asks while the server ends does not begin it anew."""
        with self._lock:
            self._closed = True
        self._periodic.stop()
        self._periodic.close(timeout=_LAST_SAMPLE)

    def sample(self) -> None:
        """Keep what was counted since the sample before; what cannot be read now (an empty directory) is a gap."""
        if self._source.closed:
            self._periodic.stop()
            return
        with self._costing(), contextlib.suppress(BatchscopeError):
            now = self._clock()
            self.history.take(self._source.read_totals(), now, self._wall())
            tens = self.history.newest // TENS
            if tens != self._looked:
                self._looked, look = tens, self._source.get_snapshot()
                self._looks.append(slim(look))
                if self.engines is not None and isinstance(self._source, EngineReader):
                    self.engines.look(self._source.snapshots(), look, tens * TENS, now)

    def present(self, engine: str = "") -> Told:
        """How it stands now, or one ``engine`` of several; KeyError where that is none."""
        with self._costing():
            if engine:
                return self._present_engine(engine)
            snapshot, looks = self._source.get_snapshot(), list(self._looks)
            young = snapshot.elapsed_seconds <= _YOUNG  # then the last minute is all that ever was
            recent = None if young else next(filter(None, (since(look, snapshot) for look in looks)), None)
            before = looks[max(len(looks) - 2, 0)] if looks else None
            silent = self._wall() - snapshot.snapshot_time.timestamp() if self._all_gone() else None
            return present(snapshot, float(SECONDS), before, recent, silent=silent)

    def _present_engine(self, name: str) -> Told:
        one, snapshot, lives = self._engine(name)
        silent = None if lives else self._wall() - snapshot.snapshot_time.timestamp()
        return present(snapshot, float(SECONDS), None, one.judge(snapshot), silent=silent)

    def _engine(self, name: str) -> tuple[Engine, MetricsSnapshot, bool]:
        if self.engines is None or not isinstance(self._source, EngineReader):
            raise KeyError(name)
        self._source.get_snapshot()  # the merge looks
        told = self.engines.told(self._source.snapshots())
        return {snapshot.instance_id: (one, snapshot, lives) for one, snapshot, lives in told}[name]

    def _all_gone(self) -> bool:
        """Of several processes: whether none lives any more; their counts can be read as ever."""
        found = self._source.processes() if isinstance(self._source, LivingSource) else None
        return found is not None and not found.living and found.gone > 0

    def answer(self, told: Told, cursor: Cursor, wanted: Wanted, engine: str = "") -> bytes:
        """The document for who has ``cursor``, as ``wanted``; of one ``engine`` in cells of ten seconds."""
        with self._costing():
            if not engine:
                return document(self.history, told, cursor, wanted, self.cost)
            # Until its first look none is kept: under no name, else the one to come looks like another server's.
            history = self._engine(engine)[0].history or History({TENS: Ring(1, TENS)}, identity="")
            history.passed(self.history.newest)
            return document(history, told, cursor, wanted._replace(seconds=history.widths[0]), self.cost)

    def fleet(self, known: Known) -> bytes:
        """The table of engines, for who has what is ``known``."""
        assert isinstance(self._source, EngineReader)  # noqa: S101  (else nobody asks)
        with self._costing():
            whole, found = self._source.get_snapshot(), self._source.snapshots()  # in this order: the merge looks
            gone = self._source.processes().gone if isinstance(self._source, LivingSource) else 0
            return table(self.engines or Engines(), found, whole, gone, known)

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
            with self._lock:  # samples and answers are of several threads
                self._spent += self._cpu() - before

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
