"""Colours and letters: the one place that every view takes them from.

A limiter's colour is for marks (bars, bands), not for text. It stands out from white and from near black alike, 3:1
at least, so one set serves light and dark grounds; any two are told apart with normal, deutan, protan and tritan
sight, CIEDE2000 10 at least. Okabe and Ito's own colours do not do that: their yellow is 1.3:1 on white. The letter
tells limiters apart where there is no colour: a monochrome terminal, a pasted log. Text takes the terminal's own
colours, which its user chose, and always says in words what its colour says.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from batchscope.records import BatchLimiter


class Mark(NamedTuple):
    """How a limiter is drawn: in this colour, or as this letter."""

    letter: str
    color: str


LIMITERS: dict[str, Mark] = {
    BatchLimiter.REQUEST_SLOTS: Mark("s", "#bb1199"),
    BatchLimiter.TOKEN_BUDGET: Mark("t", "#ee5511"),
    BatchLimiter.KV_CACHE: Mark("k", "#cc1100"),
    BatchLimiter.DEFERRED: Mark("d", "#4444ff"),
    BatchLimiter.POLICY: Mark("p", "#8888ee"),
    BatchLimiter.PAUSED: Mark("z", "#cc66aa"),
    BatchLimiter.DEMAND: Mark("-", "#009955"),
    BatchLimiter.UNKNOWN: Mark("u", "#777777"),
}
NEWER = Mark("?", LIMITERS[BatchLimiter.UNKNOWN].color)
"""A limiter of a later version."""

BATCH, KV_CACHE, WAITING = "cyan", LIMITERS[BatchLimiter.KV_CACHE].color, "yellow"
NAME, GOOD, WARNING, BAD = "bold cyan", "green", "yellow", "red"

STATES = {
    "starting": "bold yellow", "live": "bold", "idle": "bold", "stalled": "bold red", "stale": "bold yellow",
    "gone": "bold red", "restarted": "bold yellow",
    "up": "green", "vanished": "bold red", "down": "bold red", "unknown": "yellow",
}  # fmt: skip
"""What is watched, by the verdict's word for it or the watch's."""


def grade(attainment: float) -> str:
    """The style of an SLO attainment."""
    if math.isnan(attainment):
        return ""
    return GOOD if attainment >= 0.99 else WARNING if attainment >= 0.9 else BAD
