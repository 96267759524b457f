"""When to try again what failed: soon, then later and later, then no more."""

from __future__ import annotations

import math

_FIRST_WAIT = 5.0
_LIMIT = 7
_GOOD_AFTER = 60.0


class Attempts:
    """Waits of 5, 10, 20 ... s between attempts, seven of them at most; a minute of success starts anew.

    Time is an argument: seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next = -math.inf
        self._good_since = math.nan

    @property
    def given_up(self) -> bool:
        """Whether no further attempt will be made."""
        return self._next == math.inf

    @property
    def made(self) -> int:
        """Attempts that failed, since it last worked well."""
        return self._failures

    def due(self, now: float) -> bool:
        """Whether to try."""
        return now >= self._next

    def failed(self, now: float, *, forever: bool = False) -> None:
        """An attempt failed, or what worked no longer does; ``forever``: it is no use to try again."""
        self._failures += 1
        self._good_since = math.nan
        wait = _FIRST_WAIT * 2 ** (self._failures - 1)
        self._next = math.inf if forever or self._failures >= _LIMIT else now + wait

    def succeeded(self, now: float) -> None:
        """It works; failures are forgotten when it has worked for a minute."""
        if math.isnan(self._good_since):
            self._good_since = now
        elif now - self._good_since >= _GOOD_AFTER:
            self._failures = 0
