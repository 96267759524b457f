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

    def lettered(self, reported: float) -> str:
        """The letter, a capital where the scheduler itself said it for at least half (``reported``) of the time."""
        return self.letter.upper() if reported >= 0.5 else self.letter


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
SERIES = {"batch": "#0e8fb0", "KV cache": KV_CACHE, "waiting": "#b87d00"}
"""The same marks where colours are not the terminal's own: on a page."""


class Tone(NamedTuple):
    """``name``, and how a text is coloured: in a terminal, and on a page's light and dark ground (4.5:1 at least)."""

    name: str
    style: str
    light: str
    dark: str


TONES = {
    "calm": Tone("calm", "bold", "#303030", "#d0d0d0"),
    "good": Tone("good", "bold green", "#00703c", "#4cc38a"),
    "warning": Tone("warning", "bold yellow", "#7d4c00", "#f0b429"),
    "bad": Tone("bad", "bold red", "#b3001b", "#ff8178"),
}


class StateMark(NamedTuple):
    """A sign beside a state's word, the same in plain ASCII, and its tone: never the colour alone."""

    sign: str
    ascii: str
    tone: Tone

    @property
    def style(self) -> str:
        """In a terminal."""
        return self.tone.style


STATES = {
    "starting": StateMark("◔", "^", TONES["warning"]),
    "live": StateMark("●", "*", TONES["good"]),
    "idle": StateMark("○", "o", TONES["calm"]),
    "stalled": StateMark("■", "#", TONES["bad"]),
    "stale": StateMark("◌", "~", TONES["warning"]),
    "gone": StateMark("✕", "x", TONES["bad"]),
    "restarted": StateMark("↻", "@", TONES["warning"]),
    "down": StateMark("▽", "v", TONES["bad"]),
    "unknown": StateMark("?", "?", TONES["warning"]),
}
"""The verdict's seven; and of an address that never answered, or not as any known engine does."""


def grade(attainment: float) -> str:
    """The style of an SLO attainment."""
    if math.isnan(attainment):
        return ""
    return GOOD if attainment >= 0.99 else WARNING if attainment >= 0.9 else BAD


class Ground(NamedTuple):
    """What a page is drawn on: its ground and the panels on it, text and quiet text (4.5:1 on both), lines, and accent.

    ``accent``, 4.5:1 too, is for what can be pressed and for what was selected; ``shade`` is behind a text in a tone.
    """

    ground: str
    panel: str
    text: str
    quiet: str
    line: str
    grid: str
    accent: str
    shade: str


GROUNDS = {
    "light": Ground("#f6f7f9", "#ffffff", "#15181d", "#565d6b", "#d9dde4", "#eceff3", "#1a56c4", "#eef1f6"),
    "dark": Ground("#0c0e12", "#12151a", "#e8ebf0", "#9aa3b2", "#2a303a", "#1f242c", "#7fb0ff", "#1f252e"),
}
LINES = {
    "light": ("#1a56c4", "#b4530a", "#7a3fb0", "#0b7a75"),
    "dark": ("#7fb0ff", "#f2a35e", "#c99bf0", "#58c9c2"),
}
"""Of a chart on a page, 3:1 at least on its panel; each line also has dashes of its own."""
HEAT = {
    "light": ("#e6eefb", "#b9d0f5", "#83a9ea", "#4c7fd6", "#2358b0", "#0e336f"),
    "dark": ("#182742", "#1f3d70", "#2a5aa6", "#4a83d6", "#86b2f2", "#d3e5ff"),
}
"""One hue, from few to many: ever darker on a light ground, ever lighter on a dark one."""
