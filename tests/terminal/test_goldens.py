"""Whole screens, as text and a map of roles: what changed is seen in a diff, whatever textual does.

Written anew by ``python tests/terminal/test_goldens.py``; then read the diff.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scenes import scenes

from batchscope.terminal.frame import frame
from batchscope.terminal.lines import width_of
from batchscope.terminal.styles import Colors, style_of

GOLDENS = Path(__file__).parent / "goldens"
SIZES = {"small": (80, 24), "middle": (120, 40), "large": (200, 60), "ascii": (80, 24)}
FEW = {"large": ("live", "fleet", "stale"), "ascii": ("live", "fleet")}
"""Sizes whose layout is another one only for some; at 80x24 and 120x40 there is every scene."""
NAMES = [(name, size) for size in SIZES for name in FEW.get(size, scenes())]
_CODES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def picture(name, size):
    """The lines between bars, then which role each cell has, and how that looks in no, 16, 256 and all colours.

    ``ascii``: as a terminal gets it that has no block characters.
    """
    scene, viewing = scenes()[name]
    lines = frame(scene, viewing, *SIZES[size], ascii_only=size == "ascii").lines
    roles = {"": "."}
    grid = []
    for line in lines:
        cells = ""
        for text, role in line:
            roles.setdefault(role, _CODES[len(roles) - 1])
            cells += roles[role] * width_of([(text, role)])
        grid.append(cells)
    legend = [
        f"{code} {role or 'text':<24} " + "  |  ".join(f"{colors}: {style_of(role, colors)}" for colors in Colors)
        for role, code in roles.items()
    ]
    shown = ["|" + "".join(text for text, _ in line) + "|" for line in lines]
    return "\n".join([*shown, "", *grid, "", *legend, ""])


@pytest.mark.parametrize(("name", "size"), NAMES)
def test_a_screen_is_what_was_reviewed(name, size):
    assert picture(name, size) == (GOLDENS / f"{name}-{size}.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "size", [*SIZES.values(), (60, 12), (61, 13), (100, 30), (160, 50), (59, 12), (60, 11), (3, 1), (1, 1)]
)
def test_every_line_is_as_wide_as_the_screen_and_there_are_as_many_as_it_has(size):
    for name, (scene, viewing) in scenes().items():
        for ascii_only in (False, True):
            lines = frame(scene, viewing, *size, ascii_only=ascii_only).lines
            assert [len(lines), *{width_of(line) for line in lines}] == [size[1], size[0]], name
            if ascii_only:
                text = "".join(text for line in lines for text, _ in line)
                assert text.replace("…", "").isascii(), name


def first_lines(name, number=4):
    scene, viewing = scenes()[name]
    return "\n".join("".join(text for text, _ in line) for line in frame(scene, viewing, 80, 24).lines[:number])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("live", "● LIVE  Batch"), ("starting", "◔ STARTING  Starting: no request yet."), ("stalled", "■ STALLED  Stalled: 7 waiting"),
        ("stale", "◌ STALE  Stale: no answer"), ("gone", "✕ GONE  Gone: nobody answers any more"),
        ("restarted", "↻ RESTARTED  Restarted:"), ("down", "▽ DOWN  No figures yet from http://e1:9464/metrics: [Errno 111]"),
        ("fleet", "▽ 1 DOWN  1 down, 1 gone"),
    ],
)  # fmt: skip
def test_the_first_line_says_how_it_stands_by_a_sign_and_a_word(name, words):
    assert first_lines(name).lstrip().startswith(words)


@pytest.mark.parametrize("name", ["stale", "gone"])
def test_from_stale_on_no_figure_looks_live_and_its_age_is_said(name):
    scene, viewing = scenes()[name]
    lines = frame(scene, viewing, 80, 24).lines
    assert "NOT LIVE: everything below is" in first_lines(name, 7)
    below = next(place for place, line in enumerate(lines) if "NOT LIVE" in line[0][0])
    assert not {role for line in lines[below + 1 :] for _, role in line} & {"value", "good", "warning", "bad"}
    band = next(line for line in lines if "".join(text for text, _ in line).startswith("held by"))
    assert "".join(text for text, _ in band).rstrip().endswith("/////" if name == "stale" else "//////////")


def test_a_paused_view_says_since_when_and_its_verdict_is_of_now():
    assert "PAUSED at 11:59:22, 38 s behind" in first_lines("paused", 7)
    assert first_lines("paused", 1) == first_lines("live", 1)


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    for old in GOLDENS.glob("*.txt"):
        old.unlink()
    for each in NAMES:
        (GOLDENS / "{}-{}.txt".format(*each)).write_text(picture(*each), "utf-8")
