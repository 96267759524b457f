"""The palette, proved: what its docstring promises of contrast and of distance is computed here."""

import itertools
import math

import numpy as np
import pytest

from batchscope import BatchLimiter
from batchscope.views.palette import GROUNDS as GROUNDS_OF_PAGES
from batchscope.views.palette import HEAT, LIMITERS, LINES, NEWER, SERIES, STATES, TONES, grade
from batchscope.views.verdict import State

# Machado, Oliveira, Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency", severity 1.
SIGHT = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ.sum(axis=1)
GROUNDS = {"white": "#ffffff", "near black": "#121212", "black": "#000000"}


def linear(color):
    values = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2: (lighter + 0.05) / (darker + 0.05), of relative luminances."""
    low, high = sorted(float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(color, sight):
    parts = TO_XYZ @ np.clip(np.array(SIGHT[sight]) @ linear(color), 0, 1) / WHITE
    x, y, z = np.where(parts > 216 / 24389, np.cbrt(parts), (24389 / 27 * parts + 16) / 116)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(one, other):
    """Sharma, Wu, Dalal 2005, "The CIEDE2000 color-difference formula"."""
    (light, a1, b1), (light2, a2, b2) = one, other
    stretch = _seventh((math.hypot(a1, b1) + math.hypot(a2, b2)) / 2)
    a1, a2 = a1 * (1.5 - stretch / 2), a2 * (1.5 - stretch / 2)
    chroma, chroma2 = math.hypot(a1, b1), math.hypot(a2, b2)
    hue, hue2 = (math.degrees(math.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (hue2 - hue + 180) % 360 - 180 if chroma and chroma2 else 0.0
    middle = hue + hue2
    if chroma and chroma2:
        middle = middle / 2 if abs(hue - hue2) <= 180 else (middle + 360) / 2 if middle < 360 else (middle - 360) / 2
    mean_light, mean = (light + light2) / 2, (chroma + chroma2) / 2
    weights = ((1, 0, 0), (-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    shape = sum(weight * math.cos(math.radians(times * middle + shift)) for weight, times, shift in weights)
    by_light = (light2 - light) / (1 + 0.015 * (mean_light - 50) ** 2 / math.sqrt(20 + (mean_light - 50) ** 2))
    by_chroma = (chroma2 - chroma) / (1 + 0.045 * mean)
    by_hue = 2 * math.sqrt(chroma * chroma2) * math.sin(math.radians(turn / 2)) / (1 + 0.015 * mean * shape)
    blue = -2 * _seventh(mean) * math.sin(math.radians(60 * math.exp(-(((middle - 275) / 25) ** 2))))
    return math.sqrt(by_light**2 + by_chroma**2 + by_hue**2 + blue * by_chroma * by_hue)


def _seventh(chroma):
    return math.sqrt(chroma**7 / (chroma**7 + 25**7))


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [  # of the paper's table of test data
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_is_the_published_one(one, other, distance):
    assert ciede2000(one, other) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_limiters_are_told_apart_by_every_eye(sight):
    near = {
        (one, other): ciede2000(lab(LIMITERS[one].color, sight), lab(LIMITERS[other].color, sight))
        for one, other in itertools.combinations(LIMITERS, 2)
    }
    assert {pair: distance for pair, distance in near.items() if distance < 10} == {}


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_every_limiter_stands_out_from_light_and_dark(ground):
    assert [mark for mark in LIMITERS.values() if contrast(mark.color, ground) < 3] == []


def test_without_colour_a_letter_tells_each_limiter():
    assert set(LIMITERS) == set(BatchLimiter)
    letters = [mark.letter for mark in (*LIMITERS.values(), NEWER)]
    assert len(set(letters)) == len(letters)
    assert all(letter.isascii() and len(letter) == 1 for letter in letters)


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_every_series_stands_out_from_light_and_dark(ground):
    assert [color for color in SERIES.values() if contrast(color, ground) < 3] == []


@pytest.mark.parametrize("tone", TONES)
def test_text_on_a_page_is_read_on_its_ground(tone):
    assert contrast(TONES[tone].light, "#ffffff") >= 4.5
    assert min(contrast(TONES[tone].dark, ground) for ground in ("#121212", "#000000")) >= 4.5


def test_every_state_has_a_word_a_sign_and_a_tone_and_no_two_the_same_sign():
    assert set(State) <= STATES.keys()
    for signs in ([mark.sign for mark in STATES.values()], [mark.ascii for mark in STATES.values()]):
        assert len(set(signs)) == len(STATES)
        assert all(len(sign) == 1 for sign in signs)
    assert all(mark.ascii.isascii() for mark in STATES.values())
    assert [grade(value) for value in (math.nan, 1.0, 0.95, 0.5)] == ["", "green", "yellow", "red"]


@pytest.mark.parametrize("theme", GROUNDS_OF_PAGES)
def test_text_and_marks_of_a_page_stand_out_from_its_grounds(theme):
    page = GROUNDS_OF_PAGES[theme]
    for ground in (page.ground, page.panel):
        texts = {"text": page.text, "quiet": page.quiet, "accent": page.accent}
        texts |= {name: getattr(tone, theme) for name, tone in TONES.items()}
        assert {name: contrast(text, ground) for name, text in texts.items() if contrast(text, ground) < 4.5} == {}
    marks = [*LINES[theme], *(mark.color for mark in LIMITERS.values())]
    assert [color for color in marks if contrast(color, page.panel) < 3] == []


@pytest.mark.parametrize("theme", HEAT)
def test_more_is_ever_further_from_the_ground_in_one_hue(theme):
    lightness = [lab(color, "normal")[0] for color in HEAT[theme]]
    assert lightness == sorted(lightness, reverse=theme == "light")
    assert min(abs(one - other) for one, other in itertools.pairwise(lightness)) > 4


def test_a_letter_is_a_capital_where_the_scheduler_itself_said_it():
    mark = LIMITERS[BatchLimiter.TOKEN_BUDGET]
    assert [mark.lettered(reported) for reported in (0.0, 0.49, 0.5, 1.0)] == ["t", "t", "T", "T"]
