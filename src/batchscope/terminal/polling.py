"""All engines asked again and again, each in its own time: one that hangs delays neither the others nor the screen.

Looks are spread evenly over the interval. A few dozen threads do them; an engine that has not answered is not asked
again meanwhile. What they find lies in a queue that the view empties when it draws.
"""

from __future__ import annotations

import heapq
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from batchscope.terminal.sources import Look, LookError, Watched

MOST_THREADS = 48
HISTOGRAMS_EVERY = 0.3
"""Seconds, times engines: to read histograms takes ten times as long, and only what is merged needs them."""


class Looked(NamedTuple):
    """What came of one look at the source in this ``place``, answered at ``at``: ``look``, or why there is none."""

    place: int
    at: float
    look: Look | None
    error: str = ""
    late: bool = False


class Poller:
    """Asks ``sources`` every ``interval`` seconds from ``start()`` on until ``close()``, which waits for nobody."""

    def __init__(
        self,
        sources: Sequence[Watched],
        interval: float,
        *,
        merging: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources, self._interval, self._merging, self._clock = sources, interval, merging, clock
        self._work: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[Looked] = queue.SimpleQueue()
        self._with_histograms = [-math.inf] * len(sources)
        self._in_flight = [False] * len(sources)
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin; the first looks are asked for at once, spread over a part of the interval."""
        for number in range(min(MOST_THREADS, len(self._sources))):
            threading.Thread(target=self._ask, name=f"batchscope-look-{number}", daemon=True).start()
        threading.Thread(target=self._schedule, name="batchscope-looks", daemon=True).start()

    def close(self) -> None:
        """Ask nobody any more."""
        self._closed.set()
        for _ in range(MOST_THREADS):
            self._work.put(None)

    def found(self) -> list[Looked]:
        """What came since the last call."""
        found = []
        while not self._found.empty():
            found.append(self._found.get())
        return found

    def _schedule(self) -> None:
        begin, count = self._clock(), len(self._sources)
        due = [(begin + min(self._interval, 1.0) * index / count, index) for index in range(count)]
        spread = [begin + self._interval * index / count for index in range(count)]
        while not self._closed.is_set():
            at, index = due[0]
            if self._closed.wait(at - self._clock()):
                return
            if not self._in_flight[index]:
                self._in_flight[index] = True
                self._work.put(index)
            now = self._clock()
            rounds = max(1, int((now - spread[index]) // self._interval) + 1)
            heapq.heapreplace(due, (spread[index] + rounds * self._interval, index))

    def _ask(self) -> None:
        while (index := self._work.get()) is not None and not self._closed.is_set():
            try:
                look = self._look(index, self._clock())
                self._found.put(Looked(index, self._clock(), look))
            except LookError as error:
                self._found.put(Looked(index, self._clock(), None, str(error), error.late))
            except Exception as error:  # noqa: BLE001  (one engine's figures must not end the view of the others)
                self._found.put(Looked(index, self._clock(), None, f"{type(error).__name__}: {error}"))
            finally:
                self._in_flight[index] = False

    def _look(self, index: int, at: float) -> Look:
        count, last = len(self._sources), self._with_histograms[index]
        spacing = HISTOGRAMS_EVERY * count
        wanted = self._merging and at - last >= spacing
        look = self._sources[index].look(histograms=wanted)
        if wanted and look.snapshot.histograms:  # after the first time, when all are read, they take turns
            self._with_histograms[index] = at if math.isfinite(last) else at - spacing * index / count
        return look
