"""A view while it runs: engines and their memory, what the user chose, what a key does. It knows no terminal."""

from __future__ import annotations

import datetime as dt
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.terminal.engine import WINDOWS, Engine, Shown
from batchscope.terminal.fleet import MERGED, SORTS, mergeable, merged, ranked, short_names
from batchscope.terminal.frame import Scene, Viewing
from batchscope.terminal.polling import Looked, Poller
from batchscope.terminal.sources import Look, Watched

_PAGE = 10
_FEW = 20
"""Engines whose figures of another window are there at once."""
_COST_SECONDS = 5.0
_FIRST_ANSWERS = 3.0
"""Seconds for which all engines together wait for the first answer of each."""
_MOVES = {"up": -1, "down": 1, "pageup": -_PAGE, "pagedown": _PAGE, "home": -(10**6), "end": 10**6, "k": -1, "j": 1}


class _Held(NamedTuple):
    """What a paused view goes on showing."""

    at: dt.datetime
    engines: Sequence[Shown]
    merged: Shown | None


class Session:
    """``start()``, then ``update()`` and ``scene()`` at every tick; ``press()`` for a key; ``close()``."""

    def __init__(
        self,
        sources: Sequence[Watched],
        interval: float,
        *,
        label: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], dt.datetime] = lambda: dt.datetime.now().astimezone(),
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.interval, self.label = interval, label
        self.viewing = Viewing(detail=len(sources) == 1)
        self.interrupted = False
        names = short_names([source.name for source in sources])
        self.engines = [Engine(name, one.address, interval) for name, one in zip(names, sources, strict=True)]
        self._clock, self._wall_clock, self._cpu_clock = clock, wall_clock, cpu_clock
        self._poller = Poller(sources, interval, merging=len(sources) > 1, clock=clock)
        self._merged = Engine(MERGED, MERGED, interval) if len(sources) > 1 else None
        self._merges: queue.SimpleQueue[tuple[float, MetricsSnapshot | str]] = queue.SimpleQueue()
        self._merge_due, self._merging, self._begun = -math.inf, False, clock()
        self._notes: list[str] = []
        self._held: _Held | None = None
        self._cost = math.nan
        self._measured = (clock(), cpu_clock())

    def start(self) -> None:
        """Begin to look."""
        self._poller.start()

    def close(self) -> None:
        """Look no more; waits for nobody."""
        self._poller.close()

    @property
    def answered(self) -> bool:
        """Whether every engine was looked at once, with success or without."""
        return all(engine.last is not None or engine.error for engine in self.engines)

    @property
    def merging(self) -> bool:
        """Whether all engines together are still being added up for the first time."""
        return self._merging and self._merged is not None and self._merged.last is None and not self._merged.error

    def update(self) -> None:
        """Take what was found since the last call."""
        for found in self._poller.found():
            self._take(found)
        self._merge()
        self._measure()

    def _take(self, found: Looked) -> None:
        engine = self.engines[found.place]
        if found.look is None:
            engine.failed(found.error, late=found.late)
        else:
            engine.looked(found.look, found.at)

    def _merge(self) -> None:
        """All engines as one, in a thread of its own: 200 take a tenth of a second."""
        if self._merged is None:
            return
        while not self._merges.empty():
            at, found = self._merges.get()
            self._merging = False
            self._notes = [f"not merged: {found}"] if isinstance(found, str) else []
            if isinstance(found, str):
                self._merged.failed(found, late=True)
            else:
                self._merged.looked(Look(found), at)
        now = self._clock()
        ready = self.answered or now - self._begun > _FIRST_ANSWERS
        parts = mergeable(self.engines) if ready and now >= self._merge_due and not self._merging else []
        if parts:
            self._merge_due, self._merging = now + self.interval, True
            work = threading.Thread(target=lambda: self._merges.put((now, merged(parts))), daemon=True)
            work.start()

    def _measure(self) -> None:
        now, cpu = self._clock(), self._cpu_clock()
        if now - self._measured[0] >= _COST_SECONDS:
            self._cost = (cpu - self._measured[1]) / (now - self._measured[0])
            self._measured = now, cpu

    def scene(self) -> Scene:
        """What there is to draw now."""
        now = self._clock()
        told = [engine.shown(now) for engine in self.engines]
        whole = self._merged.shown(now) if self._merged is not None and self._merged.last is not None else None
        held = self._held
        return Scene(
            engines=told if held is None else held.engines,
            merged=whole if held is None else held.merged,
            told=told,
            told_merged=whole,
            clock=self._wall_clock(),
            interval=self.interval,
            cost=self._cost,
            paused_at=None if held is None else held.at,
            label=self.label,
            notes=self._notes,
        )

    # What keys do.

    def press(self, key: str, character: str | None = None) -> bool:
        """Do what a key means; False where the view is to end."""
        viewing = self.viewing
        if viewing.typing and key != "ctrl+c":
            self._type(key, character)
        elif key in {"q", "ctrl+c"}:
            self.interrupted = key == "ctrl+c"
            return False
        elif key in {"question_mark", "f1"} or character == "?":
            self.viewing = viewing._replace(help=not viewing.help)
        elif key == "escape":
            self._back()
        elif key in {"p", "space"}:
            self.pause()
        elif key == "w":
            self._widen()
        elif len(self.engines) > 1:
            self._of_fleet(key, character)
        return True

    def _of_fleet(self, key: str, character: str | None) -> None:
        viewing = self.viewing
        if key == "s":
            names = list(SORTS)
            following = names[(names.index(viewing.sort) + 1) % len(names)]
            self.viewing = viewing._replace(sort=following)
        elif key == "slash" or character == "/":
            self.viewing = viewing._replace(typing=True, detail=False)
        elif key == "enter":
            self.viewing = viewing._replace(detail=True)
        elif key in _MOVES:
            self._move(_MOVES[key])

    def _type(self, key: str, character: str | None) -> None:
        viewing = self.viewing
        if key == "enter":
            self.viewing = viewing._replace(typing=False)
        elif key == "escape":
            self.viewing = viewing._replace(typing=False, wanted="")
        elif key == "backspace":
            self.viewing = viewing._replace(wanted=viewing.wanted[:-1])
        elif character and character.isprintable():
            self.viewing = viewing._replace(wanted=(viewing.wanted + character)[:100])

    def _back(self) -> None:
        viewing = self.viewing
        if viewing.help:
            self.viewing = viewing._replace(help=False)
        elif viewing.detail and len(self.engines) > 1:
            self.viewing = viewing._replace(detail=False)
        else:
            self.viewing = viewing._replace(wanted="")

    def _move(self, by: int) -> None:
        engines = self.scene().engines
        found = [one.address for one in ranked(engines, self.viewing.sort, self.viewing.wanted)]
        if found:
            place = found.index(self.viewing.selected) + by if self.viewing.selected in found else 0
            self.viewing = self.viewing._replace(selected=found[min(max(place, 0), len(found) - 1)])

    def select(self, address: str) -> None:
        """The engine of the line that the mouse was pressed on; opened where it is selected already."""
        again = self.viewing.selected == address
        self.viewing = self.viewing._replace(selected=address, detail=again)

    def pause(self) -> None:
        """Let the view stand; or go on. What is looked at goes on in any case."""
        if self._held is None:
            scene = self.scene()
            self._held = _Held(scene.clock, scene.engines, scene.merged)
        else:
            self._held = None

    def _widen(self) -> None:
        window = WINDOWS[(WINDOWS.index(self.engines[0].window) + 1) % len(WINDOWS)]
        for engine in self.engines:
            many = len(self.engines) > _FEW and engine.address != self.viewing.selected
            engine.choose(window, at_next_look=many)
        if self._merged is not None:
            self._merged.choose(window)
