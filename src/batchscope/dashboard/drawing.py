"""A chart of points as SVG in a page: drawn here, so that it needs no script, in the colours of the page's palette.

What a mark stands for is told by its shape as well as by its colour; what stands at it, by its title.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

from batchscope.dashboard.html_file import scrolling

WIDTH, HEIGHT = 600, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 40
FEWEST_TICKS, MOST_TICKS = 3, 8
MARGIN = 0.04
"""Of an axis, beside what is farthest out."""
MARKS = {
    "other": '<circle r="3.2" style="fill:none;stroke:var(--quiet);stroke-width:1.3"/>',
    "alike": '<circle r="4" style="fill:var(--series-0)"/>',
    "now": '<rect x="-5.5" y="-5.5" width="11" height="11" style="fill:none;stroke:var(--series-1);stroke-width:2.6"/>',
    "best": '<path d="M0-8.5L8.5 0L0 8.5L-8.5 0Z" style="fill:none;stroke:var(--series-2);stroke-width:2.6"/>',
}


class Axis(NamedTuple):
    """What is along one side: its title, how a value is worded, from where to where, by ratios where ``log``."""

    title: str
    form: Callable[[float], str]
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """0 at ``low``, 1 at ``high``."""
        low, high, at = (math.log(each) for each in (self.low, self.high, value)) if self.log else (*self[2:4], value)
        return (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values between its ends: at powers of ten and their parts where it is logarithmic and wide."""
        for steps in ((1,), (1, 2, 5)) if self.log else ():
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [step * 10.0**power for power in powers for step in steps]
            found = [each for each in found if self.low <= each <= self.high]
            if FEWEST_TICKS <= len(found) <= MOST_TICKS:
                return found
        return _round_values(self.low, self.high)


def axis_over(title: str, form: Callable[[float], str], values: Iterable[float], *, log: bool = False) -> Axis:
    """An axis that holds the ``values``, from 0 on where it is not logarithmic."""
    known = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    low, high = min(known), max(known)
    if not log:
        return Axis(title, form, min(0.0, low), (high or 1.0) * (1 + MARGIN))
    stretch = (max(high / low, 1.5)) ** MARGIN * (1.0 if high > low else 1.25)
    return Axis(title, form, low / stretch, high * stretch, log=True)


def _round_values(low: float, high: float) -> list[float]:
    size = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(size * times for times in (1, 2, 5, 10) if (high - low) / (size * times) <= MOST_TICKS - 2)
    return [step * count for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class Drawing:
    """Marks, lines and regions between two axes; whatever lies outside of them is left out."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y
        self._below: list[str] = []
        self._above: list[str] = []

    def region(self, low: float, high: float) -> None:
        """What lies between two values of the vertical axis."""
        bottom, top = (self._at_y(min(max(each, self._y.low), self._y.high)) for each in (low, high))
        self._below.append(
            f'<rect x="{LEFT}" y="{top:.1f}" width="{WIDTH - LEFT - RIGHT}" height="{max(bottom - top, 1):.1f}" '
            'style="fill:var(--series-0);opacity:.13"/>'
        )

    def level(self, value: float, *, vertical: bool = False) -> None:
        """A dashed line at a value of the vertical axis, or of the horizontal one where it is ``vertical``."""
        axis = self._x if vertical else self._y
        if axis.low <= value <= axis.high:
            at = self._at_x(value) if vertical else self._at_y(value)
            ends = (at, TOP, at, HEIGHT - BOTTOM) if vertical else (LEFT, at, WIDTH - RIGHT, at)
            self._below.append(_line(ends, "stroke:var(--bad);stroke-width:1.4;stroke-dasharray:5 4"))

    def line(self, points: Sequence[tuple[float, float]]) -> None:
        """Through the points, in their order."""
        path = "L".join(f"{self._at_x(x):.1f} {self._at_y(y):.1f}" for x, y in points if self._holds(x, y))
        if path:
            self._below.append(f'<path d="M{path}" style="fill:none;stroke:var(--series-0);stroke-width:1.6"/>')

    def between(self, x: float, low: float, high: float) -> None:
        """An interval of the vertical axis at ``x``."""
        if self._holds(x, low) and self._holds(x, high):
            at = self._at_x(x)
            self._below.append(_line((at, self._at_y(low), at, self._at_y(high)), "stroke:var(--quiet)"))

    def mark(self, x: float, y: float, kind: str, title: str) -> None:
        """One of ``MARKS``."""
        if self._holds(x, y):
            place = f'transform="translate({self._at_x(x):.1f} {self._at_y(y):.1f})"'
            self._above.append(f"<g {place}><title>{escape(title)}</title>{MARKS[kind]}</g>")

    def svg(self) -> str:
        """The element; those who do not see it have the table beside it."""
        parts = [*self._axes(), *self._below, *self._above]
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>'

    def _holds(self, x: float, y: float) -> bool:
        return self._x.low <= x <= self._x.high and self._y.low <= y <= self._y.high

    def _at_x(self, value: float) -> float:
        return LEFT + self._x.place(value) * (WIDTH - LEFT - RIGHT)

    def _at_y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self._y.place(value) * (HEIGHT - BOTTOM - TOP)

    def _axes(self) -> Iterable[str]:
        bottom = HEIGHT - BOTTOM
        for value in self._y.ticks():
            at = self._at_y(value)
            yield _line((LEFT, at, WIDTH - RIGHT, at), "stroke:var(--grid)")
            yield _text(LEFT - 7, at + 4, self._y.form(value), "end")
        for value in self._x.ticks():
            at = self._at_x(value)
            yield _line((at, TOP, at, bottom), "stroke:var(--grid)")
            yield _text(at, bottom + 16, self._x.form(value), "middle")
        yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, self._x.title, "middle")


def figure(name: str, title: str, about: str, drawing: Drawing, legend: str, told: str, data: str) -> str:
    """A chart in the page: ``about`` says what is along its sides, ``told`` what it shows, ``data`` is its table."""
    label = escape(f"{title}: {told}")
    return (
        f'<figure id="{name}"><figcaption><h2>{escape(title)}</h2><p class="reading">{escape(about)}</p></figcaption>'
        f'<div class="plot drawn" tabindex="0" role="img" aria-label="{label}">{drawing.svg()}</div>'
        f'<ul class="legend">{legend}</ul>'
        f"<details><summary>{escape(title)}: the data</summary>{scrolling(title, data)}</details></figure>\n"
    )


def key(kind: str, name: str) -> str:
    """An entry of a legend: one of ``MARKS``, ``region`` or ``level``."""
    marks = {
        **MARKS,
        "region": '<rect x="-8" y="-8" width="16" height="16" style="fill:var(--series-0);opacity:.25"/>',
        "level": _line((-9, 0, 9, 0), "stroke:var(--bad);stroke-width:1.6;stroke-dasharray:5 3"),
    }
    icon = f'<svg class="icon" viewBox="-10 -10 20 20" aria-hidden="true">{marks[kind]}</svg>'
    return f"<li>{icon}{escape(name)}</li>"


def _line(ends: tuple[float, float, float, float], style: str) -> str:
    x1, y1, x2, y2 = ends
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{style}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
