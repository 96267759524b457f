"""Colours: proved to be read, and none at all where none are wanted."""

import pytest
from rich.color import Color
from scenes import scenes

from batchscope import BatchLimiter
from batchscope.terminal.frame import frame
from batchscope.terminal.styles import LIMITER, Colors, colors_of, ink_on, style_of
from batchscope.views.palette import LIMITERS


def luminance(triplet):
    parts = [value / 255 for value in triplet]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def roles():
    found = {f"{LIMITER}{limiter}" for limiter in [*BatchLimiter, "a newer one"]}
    for scene, viewing in scenes().values():
        for size in ((80, 24), (160, 50)):
            found |= {role for line in frame(scene, viewing, *size).lines for _, role in line}
    return sorted(found)


def palette(plain, bright):
    """The 16 colours of a terminal whose parts are ``plain``, and (dark, full) where bright."""
    dark, full = bright
    parts = [[(number >> bit) & 1 for bit in (0, 1, 2)] for number in range(8)]
    return [tuple(plain * on for on in one) for one in parts] + [
        tuple(full if on else dark for on in one) for one in parts
    ]


VGA = palette(170, (85, 255))
VGA[3] = (170, 85, 0)
PALETTES = {"VGA": VGA, "xterm": palette(205, (0, 255)), "plain": palette(128, (0, 255))}


def seen(color, colors, ansi):
    if colors is Colors.STANDARD:
        return ansi[color.number]
    return (
        Color.from_ansi(color.downgrade(2).number).get_truecolor()
        if colors is Colors.EIGHT_BIT
        else color.get_truecolor()
    )


@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("colors", [Colors.STANDARD, Colors.EIGHT_BIT, Colors.TRUE])
def test_a_coloured_text_has_a_ground_of_its_own_and_is_read_on_it(colors, name):
    for role in roles():
        style = style_of(role, colors)
        assert (style.color is None) == (style.bgcolor is None), role
        if style.color is not None:
            assert contrast(*(seen(color, colors, PALETTES[name]) for color in (style.color, style.bgcolor))) >= 4.5, (
                role
            )


def test_text_without_a_badge_has_the_terminals_own_colours():
    plain = [
        role for role in roles() if not role.startswith(LIMITER) and role not in {"good", "warning", "bad", "calm"}
    ]
    for colors in Colors:
        assert {
            (style_of(role, colors).color, style_of(role, colors).bgcolor) for role in plain if "+" not in role
        } == {(None, None)}


def test_without_colours_bold_reverse_and_underline_tell():
    for role in roles():
        style = style_of(role, Colors.MONO)
        assert style.color is None
        assert style.bgcolor is None
        assert not style.dim
        assert not style.italic
    told = {role: str(style_of(role, Colors.MONO)) for role in ("good", "warning", "bad", "value", "old", "title")}
    assert len({told["good"], told["warning"], told["bad"], told["old"]}) == 4
    assert told["value"] != told["old"]


@pytest.mark.parametrize("mark", LIMITERS.values())
def test_ink_on_any_limiters_ground_is_read(mark):
    parts = [
        tuple(int(color[place : place + 2], 16) for place in (1, 3, 5)) for color in (mark.color, ink_on(mark.color))
    ]
    assert contrast(*parts) >= 4.5


@pytest.mark.parametrize(
    ("environment", "colors"),
    [
        ({"TERM": "xterm-256color"}, Colors.EIGHT_BIT),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, Colors.TRUE),
        ({"TERM": "xterm"}, Colors.STANDARD),
        ({"TERM": "linux"}, Colors.STANDARD),
        ({"TERM": "vt100"}, Colors.MONO),
        ({"TERM": "xterm-mono"}, Colors.MONO),
        ({"TERM": "dumb"}, Colors.MONO),
        ({}, Colors.MONO),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": "1"}, Colors.MONO),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, Colors.EIGHT_BIT),
    ],
)
def test_what_a_terminal_can_show_is_read_from_its_environment(environment, colors):
    assert colors_of(environment) is colors
