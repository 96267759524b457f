"""Time: instants are float seconds of one monotonic clock; wall-clock time exists only in what is shown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

Clock = Callable[[], float]
"""A function without arguments that gives seconds of a clock that never goes back, e.g. ``time.monotonic``."""

WENT_BACK = "clock_went_back"
"""The name of the error that a collector counts, and its run keeps, where its clock went back between two drains."""

_EARLIEST = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
_LATEST = dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC)


class WallClock:
    """Translates instants of a monotonic clock to aware UTC datetimes.

    The pair (instant, UTC) is taken once, at construction: a later step of the system's
    wall clock does not bend a run's timeline. ``instant`` and ``utc`` are that pair.
    """

    def __init__(self, clock: Clock) -> None:
        self.instant = clock()
        self.utc = dt.datetime.now(dt.UTC)

    def at(self, instant: float) -> dt.datetime:
        """The UTC time of ``instant``, as ``later``."""
        return later(self.utc, instant - self.instant)


def later(time: dt.datetime, seconds: float) -> dt.datetime:
    """The time in UTC so many seconds later; outside datetime's years, 1 to 9999, it is the nearest end of them."""
    try:
        return time + dt.timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return _EARLIEST if seconds < 0 else _LATEST
