"""What a comparison says, as its JSON document has it."""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

from batchscope.ledger.comparison.student import quantile

SCHEMA = "batchscope.comparison/1"


class Verdict(StrEnum):
    """What can be said of a figure."""

    DIFFERS = "differs"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


class Difference(msgspec.Struct, kw_only=True):
    """A figure on both sides, in its ``unit``; ``relative`` and the 95 % interval ``low``..``high``: shares of ``a``.

    They are nan where ``a`` is 0; ``difference`` never is. ``floor``: the relative difference up to which two runs say
    nothing (0 where repeats do). ``within``: with ``equivalent``, the bound that it holds for. ``needed_requests`` a
    side, or ``needed_repeats``: about what would decide it; ``None``: that much does not help. ``better``: whether the
    difference is for the better; ``None`` where there is no better.
    """

    figure: str
    meaning: str
    unit: str
    a: float
    b: float
    difference: float
    relative: float
    low: float
    high: float
    floor: float
    p: float
    verdict: Verdict
    n_a: int
    n_b: int
    error: float
    """The standard error: of ``difference``, or of the logarithm of b / a where these are ``positive`` throughout."""
    freedom: float
    """Degrees of freedom that it is known with."""
    positive: bool
    better: bool | None = None
    within: float | None = None
    needed_requests: int | None = None
    needed_repeats: int | None = None

    def interval(self, confidence: float) -> tuple[float, float]:
        """What the difference lies between."""
        half = quantile(confidence, self.freedom) * self.error
        if self.positive:
            return self.b * math.exp(-half) - self.a, self.b * math.exp(half) - self.a
        return self.difference - half, self.difference + half

    @property
    def leans(self) -> bool:
        """Whether it is inconclusive though beyond its floor, with an interval on one side of 0: of too little."""
        beyond = self.low * self.high > 0 and abs(self.relative) > self.floor
        return self.verdict is Verdict.INCONCLUSIVE and beyond

    @property
    def needs(self) -> str:
        """What would decide it, in words."""
        parts = []
        if self.needed_requests is not None:
            parts.append(f"about {self.needed_requests:,} requests")
        if self.needed_repeats is not None:
            parts.append(f"{self.needed_repeats} repeats a side")
        return f"needs {' or '.join(parts)}" if parts else "it lies at the threshold"


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of a run: the ``requests`` (``of`` all) that arrived from ``start`` to ``end``, seconds of the run.

    Rates count what ended in that time, levels and steps the iterations that began in it.
    """

    run: str
    start: float
    end: float
    requests: int
    of: int


class Answer(msgspec.Struct, frozen=True):
    """What became of a condition (``pass``, ``fail``, ``inconclusive``), and why."""

    condition: str
    outcome: str
    why: str


class Comparison(msgspec.Struct, kw_only=True):
    """Two sides, figure by figure. ``paired``: how requests were paired (``id``, ``order``, or ``no``)."""

    schema: str = SCHEMA
    a: list[str]
    b: list[str]
    paired: str
    pairs: int
    only_in_a: int
    only_in_b: int
    method: str
    seed: int
    notes: list[str]
    figures: list[Difference]
    conditions: list[Answer]
    counted: str = ""
    """Which part of the runs is compared, and why, in a line."""
    windows: list[Window] = []

    @property
    def repeats(self) -> bool:
        """Whether runs were compared, not the requests of one pair of them."""
        return self.method == "repeats"
