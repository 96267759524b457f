"""The last two hours of a source: ten minutes by the second, two hours by ten seconds, in less than 4 MiB.

It lives where the figures are made, so whoever opens the page late sees what was before; no database is needed. Each
cell holds what was counted in its time (see ``counts``), so sums over cells are exact.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from batchscope.background import forked
from batchscope.dashboard.counts import MOST_CLASSES, Read, nothing, place, read
from batchscope.dashboard.ring import Cells, Ring
from batchscope.statistics.cumulative import CumulativeState

SECONDS, TENS = 1, 10
FINE_CELLS, COARSE_CELLS = 600, 720
_MOST_MARKS = 50
_CLOCK = place("rank_seconds")
RESTARTED = "restarted"


class Mark(NamedTuple):
    """Something that happened: in the cell ``number`` of a second, counting began anew."""

    number: int
    what: str


class Extract(NamedTuple):
    """A part of a history: its cells, and what their rows stand for."""

    history: str
    seconds: int
    cells: Cells
    newest: int
    marks: list[Mark]
    classes: list[str]


class History:
    """Takes a state a second and keeps what was counted in between. Safe to use from any number of threads.

    ``identity`` names this history; it is new in each server, where no other is given. Cells are numbered in seconds
    (or tens of them) since 1970, by the wall clock as it was at the first sample and a monotonic clock from there on.
    ``rings``: by their width in seconds, where they are others than the two.
    """

    def __init__(self, rings: Mapping[int, Ring] | None = None, identity: str | None = None) -> None:
        self.identity = secrets.token_hex(4) if identity is None else identity
        self._rings = rings or {SECONDS: Ring(FINE_CELLS, SECONDS, narrow=True), TENS: Ring(COARSE_CELLS, TENS)}
        self._lock = threading.Lock()
        self._classes: list[str] = []
        self._marks: deque[Mark] = deque(maxlen=_MOST_MARKS)
        self._first: tuple[float, int] | None = None
        self._last: tuple[Read, tuple[str, int], float] | None = None
        self._newest = self._silent = 0
        forked(self)

    @property
    def nbytes(self) -> int:
        """The memory of its cells, which does not grow."""
        return sum(ring.nbytes for ring in self._rings.values())

    @property
    def cut_off(self) -> int:
        """Requests that found no room in a bucket of a second."""
        return sum(ring.cut_off for ring in self._rings.values())

    @property
    def newest(self) -> int:
        """The second of the last sample, as a cell's number; 0 with none."""
        return self._newest

    @property
    def widths(self) -> tuple[int, ...]:
        """Seconds that its cells are wide, the finest first."""
        return tuple(self._rings)

    def take(self, state: CumulativeState, now: float, wall: float, number: int | None = None) -> None:
        """Keep what was counted since the call before; ``now`` is monotonic, ``wall`` seconds since 1970,
        ``number`` the second that ends now, where somebody else counts them.

        The first call only begins: what was counted before it has no time of its own. Where the source's own clock
        stands still (who publishes has told nothing new) no cell is kept: a count of 0 would be a guess. The next
        cell then covers that time, too, and its ``samples`` say how many calls it is of.
        """
        with self._lock:
            self._name(state)
            found = read(state, self._classes)
            identity = (state.instance_id, state.generation)
            number = self._number(now, wall) if number is None else number
            self._newest = max(self._newest, number)
            if self._last is not None:
                last, known, before = self._last
                self._silent += 1
                if identity != known:
                    self._marks.append(Mark(number, RESTARTED))
                    last = nothing()
                elif found.counts[_CLOCK] == last.counts[_CLOCK] and not (found.counts != last.counts).any():
                    return
                self._keep(number, _added(found, last, now - before, self._silent, state))
            self._last, self._silent = (found, identity, now), 0

    def _name(self, state: CumulativeState) -> None:
        """Give each class that has none a row, as long as there are rows."""
        for name in state.totals.slo_requests:
            if name not in self._classes and len(self._classes) < MOST_CLASSES:
                self._classes.append(name)

    def _number(self, now: float, wall: float) -> int:
        if self._first is None:
            self._first = (now, math.floor(wall))
        return self._first[1] + round(now - self._first[0])

    def _keep(self, number: int, added: Read) -> None:
        for seconds, ring in self._rings.items():
            ring.add(-(-number // seconds), added)  # a cell ends at its number's instant, of whichever width

    def passed(self, number: int) -> None:
        """Somebody else's clock has come to the second ``number``."""
        with self._lock:
            self._newest = max(self._newest, number)

    def since(self, number: int = 0, *, seconds: int = SECONDS) -> Extract:
        """The cells of ``seconds`` seconds from ``number`` on."""
        with self._lock:
            return Extract(
                self.identity, seconds, self._rings[seconds].since(number), self._newest, list(self._marks),
                list(self._classes),
            )  # fmt: skip

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


def _added(found: Read, last: Read, seconds: float, samples: int, state: CumulativeState) -> Read:
    """What came since ``last``, ``seconds`` and ``samples`` ago, with the present values and the budget of now.

    Counts never fall; what a process that leaves a fleet takes with it (its time so far) is not taken back.
    """
    counts = np.maximum(found.counts - last.counts, 0.0)
    counts[place("wall_seconds")], counts[place("samples")] = seconds, samples
    for name, value in found.present.items():
        counts[place(f"{name}.sum")], counts[place(f"{name}.count")] = value, 1.0
    budget = state.limits.max_scheduled_tokens
    if budget and state.instance_id:  # the limits of several engines together are of no iteration
        counts[place("budget_tokens")] = counts[place("iterations")] * budget
    return Read(
        counts,
        np.maximum(found.slo - last.slo, 0),
        np.maximum(found.latencies - last.latencies, 0),
        found.present,
        found.gpus,
    )
