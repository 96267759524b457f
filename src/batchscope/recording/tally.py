"""Counts of what was not taken, by reason, that a nested call of the same thread cannot make wrong."""

from __future__ import annotations

from collections import Counter

WRONG_TYPE = "wrong_type"
DROPPED = "dropped"


class Tally(Counter[str]):
    """One thread adds, others read. ``counts[x] = counts.get(x, 0) + 1`` loses what is added in its middle; a
    ``Counter`` adds in one step of C.
    """

    def add(self, reason: str, count: int = 1) -> None:
        """Count ``reason``, ``count`` times."""
        self.update((reason,) * count)
