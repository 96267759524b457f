"""How a role looks in a terminal of so many colours: the one way to colour, or to do without.

A word that must be seen (a state, a missed SLO) is a badge with a ground of its own, and a letter of the band, too: so
its contrast is ours, 4.5:1 at least, whatever the terminal's ground. All other text has the terminal's own colours,
which its user chose. Without colours (``NO_COLOR``, a monochrome terminal) bold, reverse and underline alone tell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

from rich.style import Style

from batchscope.records import BatchLimiter
from batchscope.views.palette import LIMITERS, NEWER


class Colors(StrEnum):
    """What a terminal can show."""

    MONO = "mono"
    STANDARD = "16"
    EIGHT_BIT = "256"
    TRUE = "true"


LIMITER = "limiter:"
"""Before a limiter's name: the role of its letters, its share, its bar."""

_BADGES = {
    "good": ("#ffffff", "#00703c"), "warning": ("#000000", "#f0b429"), "bad": ("#ffffff", "#b3001b"),
    "calm": ("#ffffff", "#505050"),
}  # fmt: skip
# Of 16 colours a terminal has its own; these grounds are light, or dark, in the palettes that terminals come with.
_BADGES_OF_16 = {
    "good": ("black", "bright_green"), "warning": ("black", "bright_yellow"), "bad": ("bright_white", "red"),
    "calm": ("black", "white"),
}  # fmt: skip
_LIMITERS_OF_16 = {
    BatchLimiter.REQUEST_SLOTS: ("bright_white", "magenta"), BatchLimiter.TOKEN_BUDGET: ("black", "bright_yellow"),
    BatchLimiter.KV_CACHE: ("bright_white", "red"), BatchLimiter.DEFERRED: ("bright_white", "blue"),
    BatchLimiter.POLICY: ("black", "bright_cyan"), BatchLimiter.PAUSED: ("black", "bright_magenta"),
    BatchLimiter.DEMAND: ("black", "bright_green"), BatchLimiter.UNKNOWN: ("black", "white"),
}  # fmt: skip
_MONO = {
    "good": "bold", "warning": "bold underline", "bad": "bold reverse", "calm": "bold", "value": "bold",
    "title": "bold underline", "select": "reverse", "key": "reverse",
}  # fmt: skip
_PLAIN = {"value": "bold", "title": "bold", "select": "reverse", "key": "reverse", "old": "italic"}


def colors_of(environment: Mapping[str, str] = os.environ) -> Colors:
    """What the terminal can show, by ``NO_COLOR``, ``COLORTERM`` and ``TERM``, as programs commonly read them."""
    if environment.get("NO_COLOR"):
        return Colors.MONO
    if environment.get("COLORTERM", "").strip().lower() in {"truecolor", "24bit"}:
        return Colors.TRUE
    term = environment.get("TERM", "").strip().lower()
    if term in {"", "dumb", "unknown"} or term.startswith(("vt1", "vt2")) or term.endswith(("-m", "-mono")):
        return Colors.MONO
    return Colors.EIGHT_BIT if "256" in term else Colors.STANDARD


@lru_cache(maxsize=1024)
def style_of(role: str, colors: Colors) -> Style:
    """The style of a role, ``a+b`` of both."""
    style = Style()
    for one in role.split("+"):
        style += _one(one, colors)
    return style


def _one(role: str, colors: Colors) -> Style:
    if colors is Colors.MONO:
        return Style.parse(_MONO.get(role, ""))
    if role.startswith(LIMITER):
        return _of_limiter(role.removeprefix(LIMITER), colors)
    badges = _BADGES_OF_16 if colors is Colors.STANDARD else _BADGES
    if role in badges:
        ink, ground = badges[role]
        return Style(color=ink, bgcolor=ground, bold=True)
    return Style.parse(_PLAIN.get(role, ""))


def _of_limiter(name: str, colors: Colors) -> Style:
    if colors is Colors.STANDARD:
        ink, ground = _LIMITERS_OF_16.get(name, ("black", "white"))  # type: ignore[call-overload]
    else:
        ground = LIMITERS.get(name, NEWER).color
        ink = ink_on(ground)
    return Style(color=ink, bgcolor=ground)


def ink_on(ground: str) -> str:
    """Black or white, whichever stands out more from ``ground``: 4.5:1 at least, for one of them always does."""
    parts = [int(ground[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"
