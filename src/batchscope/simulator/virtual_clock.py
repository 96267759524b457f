"""The simulator's time: a clock that somebody sets, and the pace at which it follows the real one."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchscope.checks import check_positive
from batchscope.clock import Clock

LONGEST_SLEEP = 0.05
"""Seconds: how late a request to stop may be noticed, and how far a live view may lag behind."""
SHORTEST_SLEEP = 1e-6
"""Seconds: no machine sleeps less."""


class VirtualClock:
    """A clock in seconds that goes on only when it is told to; share it with the collector.

    Reading it from another thread is safe; one thread sets it. ``simulated`` tells whoever keeps its instants that they
    are of no day.
    """

    simulated = True

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def advance_to(self, instant: float) -> None:
        """Go on to ``instant``; a clock never goes back, so an earlier one changes nothing."""
        if instant > self._now:  # noqa: PLR1730  (the hottest line of a simulation)
            self._now = instant


class Pacer:
    """Advances the virtual clock: at once, or ``speed`` times as fast as real time passes."""

    def __init__(
        self,
        clock: VirtualClock,
        speed: float | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        real_clock: Clock = time.monotonic,
    ) -> None:
        if speed is not None:
            check_positive("speed", speed, "None for as fast as possible, or a factor")
        self._clock = clock
        self._speed = speed
        self._sleep = sleep
        self._real_clock = real_clock
        self._origin: tuple[float, float] | None = None

    def wait_until(self, instant: float, stopped: Callable[[], bool]) -> None:
        """Return when the clock shows ``instant``, or earlier when ``stopped()``."""
        if self._speed is None:
            self._clock.advance_to(instant)
        else:
            while (ahead := (instant - self._follow(instant, self._speed)) / self._speed) > SHORTEST_SLEEP:
                if stopped():
                    return
                self._sleep(min(ahead, LONGEST_SLEEP))
            self._clock.advance_to(instant)

    def _follow(self, instant: float, speed: float) -> float:
        """Let the clock show what real time says, but not past ``instant``; returns what it shows."""
        real = self._real_clock()
        virtual_origin, real_origin = self._origin = self._origin or (self._clock(), real)
        self._clock.advance_to(min(instant, virtual_origin + (real - real_origin) * speed))
        return self._clock()
