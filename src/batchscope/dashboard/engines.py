"""What is remembered of each engine of a source: the looks of a minute, a strip and a history of ten minutes.

A look comes every ten seconds. Of each engine, 0.12 MiB at most: 24 MiB at 200, 31 MiB at the 256 that are remembered.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from batchscope.background import forked
from batchscope.dashboard.counts import LIMITERS
from batchscope.dashboard.history import TENS, History
from batchscope.dashboard.ring import Ring
from batchscope.statistics.cumulative import cumulative_of
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.views.palette import LIMITERS as MARKS
from batchscope.views.recent import since

MOST_ENGINES = 256
STRIP = 60
"""Looks that a strip, and a history, go back, and for which an engine that has left is still told of: ten minutes."""
_MINUTE = 7
NOTHING = " "
Found = tuple[MetricsSnapshot, bool]


class Counted(NamedTuple):
    """Of an engine at one look: what adds up over time."""

    busy: tuple[float, ...]
    lost: tuple[float, ...]
    used: float
    slots: float
    met: int
    missed: int

    def since(self, before: Counted) -> Counted:
        """What came after ``before``."""

        def each(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(max(0.0, mine - its) for mine, its in zip(one, other, strict=True))

        return Counted(
            each(self.busy, before.busy), each(self.lost, before.lost), max(0.0, self.used - before.used),
            max(0.0, self.slots - before.slots), max(0, self.met - before.met), max(0, self.missed - before.missed),
        )  # fmt: skip


class Engine:
    """One of them. ``letters``: what held it longest between two looks; ``levels``: tenths of its places in use."""

    __slots__ = ("_judged", "history", "last", "left", "letters", "levels", "looks")

    def __init__(self) -> None:
        self.looks: deque[Counted] = deque(maxlen=_MINUTE)
        self.letters: deque[str] = deque(maxlen=STRIP)
        self.levels: deque[str] = deque(maxlen=STRIP)
        self.history: History | None = None
        self.last: MetricsSnapshot | None = None
        self.left = 0
        self._judged: deque[MetricsSnapshot] = deque(maxlen=_MINUTE)

    def look(self, now: Counted) -> None:
        """It was looked at."""
        between = now.since(self.looks[-1]) if self.looks else None
        self._strip(NOTHING if between is None else _letter(between), NOTHING if between is None else _level(between))
        self.looks.append(now)

    def silent(self) -> None:
        """It was not there to be looked at."""
        self._strip(NOTHING, NOTHING)

    def _strip(self, letter: str, level: str) -> None:
        self.letters.append(letter)
        self.levels.append(level)

    def minute(self, now: Counted) -> Counted:
        """What came in the last minute; everything, before there was one, or where counting began anew."""
        first = self.looks[0] if self.looks else None
        return now if first is None or sum(now.busy) < sum(first.busy) else now.since(first)

    def remember(self, snapshot: MetricsSnapshot, number: int, now: float) -> None:
        """Its counts as they are at the end of the second ``number``."""
        if self.history is None:
            self.history = History({TENS: Ring(STRIP, TENS, narrow=True, precision=np.float32)})
        self.history.take(cumulative_of(snapshot), now, 0.0, number)

    def judge(self, snapshot: MetricsSnapshot) -> MetricsSnapshot | None:
        """``snapshot`` of the last minute, as far as somebody has asked for this engine in it."""
        known = self._judged
        if not known or snapshot.elapsed_seconds - known[-1].elapsed_seconds >= TENS:
            known.append(slim(snapshot))
        return next(filter(None, (since(before, snapshot) for before in known)), None)


class Engines:
    """The engines of one source. Safe to use from any number of threads. ``salt``: it is not that of another server."""

    def __init__(self) -> None:
        self.looks = 0
        self.salt = secrets.randbits(32)
        self._engines: dict[str, Engine] = {}
        self._whole = Engine()
        self._lock = threading.Lock()
        forked(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def look(
        self, found: Iterable[Found], whole: MetricsSnapshot, number: int | None = None, now: float | None = None
    ) -> None:
        """Remember how all stand, and their merge: call it at the end of every cell of ten seconds.

        ``number``: of the second that ends; ``now`` is monotonic. Who is no longer found was archived: it has ended.
        """
        with self._lock:
            self.looks += 1
            number = self.looks * TENS if number is None else number
            now = float(number) if now is None else now
            self._whole.look(counted(whole))
            present = {snapshot.instance_id: (snapshot, lives) for snapshot, lives in found}
            for name in [*self._engines]:
                if name not in present:
                    self._leave(name)
            for name, (snapshot, lives) in present.items():
                self._look(name, snapshot, number, now, lives=lives)

    def _leave(self, name: str) -> None:
        engine = self._engines[name]
        engine.left += 1
        engine.silent()
        if engine.left > STRIP:
            del self._engines[name]

    def _look(self, name: str, snapshot: MetricsSnapshot, number: int, now: float, *, lives: bool) -> None:
        engine = self._engines.get(name)
        if engine is None:
            if not self._room():
                return
            engine = self._engines[name] = Engine()
        engine.left, engine.last = 0, slim(snapshot)
        if lives:
            engine.look(counted(snapshot))
            engine.remember(snapshot, number, now)
        else:
            engine.silent()

    def _room(self) -> bool:
        """Whether one more can be remembered; who has left makes room, the longest gone first."""
        if len(self._engines) < MOST_ENGINES:
            return True
        name = max(self._engines, key=lambda one: self._engines[one].left)
        if not self._engines[name].left:
            return False
        del self._engines[name]
        return True

    def told(self, found: Iterable[Found]) -> list[tuple[Engine, MetricsSnapshot, bool]]:
        """All that are there or were within ten minutes: what is remembered of each, how it stands, if it lives."""
        with self._lock:
            present = {snapshot.instance_id: (snapshot, lives) for snapshot, lives in found}
            rows = [(self._engines.get(name) or Engine(), *one) for name, one in present.items()][:MOST_ENGINES]
            ended = [(one, one.last, False) for name, one in self._engines.items() if one.last and name not in present]
            return [*rows, *ended]

    def together(self) -> Engine:
        """What is remembered of their merge."""
        return self._whole

    @property
    def nbytes(self) -> int:
        """The memory of their histories."""
        with self._lock:
            return sum(one.history.nbytes for one in self._engines.values() if one.history is not None)


def slim(snapshot: MetricsSnapshot) -> MetricsSnapshot:
    """Without its distributions, nine tenths of its memory."""
    return msgspec.structs.replace(snapshot, histograms={}, windowed_histograms={})


def counted(snapshot: MetricsSnapshot) -> Counted:
    """What it has counted so far."""
    totals = snapshot.totals

    def by_limiter(values: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(values.get(name, 0.0) for name in LIMITERS)

    results = totals.slo_requests.values()
    return Counted(
        by_limiter(totals.busy_seconds_by_limiter),
        by_limiter(totals.lost_slot_seconds_by_limiter),
        0.0 if math.isnan(totals.used_slot_seconds) else totals.used_slot_seconds,
        0.0 if math.isnan(totals.slot_seconds) else totals.slot_seconds,
        sum(result.get("met", 0) for result in results),
        sum(result.get("missed", 0) for result in results),
    )


def _letter(between: Counted) -> str:
    """Of the limiter that held it longest; a blank of none."""
    busy = between.busy
    return MARKS[LIMITERS[busy.index(max(busy))]].letter if max(busy) > 0 else NOTHING


def _level(between: Counted) -> str:
    """0 to 9: the tenth in which the share of places in use was."""
    return str(min(9, int(10 * between.used / between.slots))) if between.slots > 0 else NOTHING
