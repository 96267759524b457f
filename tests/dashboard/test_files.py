"""The page's files: small, without anything inline, in the colours of the palette."""

import gzip
import re

import pytest

from batchscope.dashboard.colors import stylesheet
from batchscope.dashboard.files import CHARTS, INDEX, charts_present, files
from batchscope.views.palette import GROUNDS, LIMITERS

UPLOT_GZIP = 22_800
"""Bytes of uPlot, counted where this checkout was made without npm."""


def test_html_style_and_modules_are_sixty_kilobytes_at_most():
    packed = sum(len(gzip.compress(one.content, 9)) for one in files().values() if "svg" not in one.kind)
    assert packed + (0 if charts_present() else UPLOT_GZIP) <= 60_000


def test_nothing_is_inline_and_nothing_comes_from_elsewhere():
    html = files()[INDEX].content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", html)
    for name, one in files().items():
        if name not in CHARTS and name != "icon.svg":
            assert not re.search(rb"https?://|innerHTML|insertAdjacentHTML|\beval\(|new Function", one.content), name


def test_every_file_that_the_page_names_is_there():
    html = files()[INDEX].content.decode()
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', html))
    for one in files().values():
        named |= set(re.findall(r'from "\./([^"]+)"', one.content.decode()))
    assert named <= files().keys()


def test_no_colour_is_written_but_in_the_palette():
    for name in set(files()) - {"colors.css", "icon.svg", *CHARTS}:
        assert not re.search(rb"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b(?![-\w])", files()[name].content), name
    for color in (LIMITERS["token_budget"].color, GROUNDS["dark"].panel):
        assert color in stylesheet()


@pytest.mark.parametrize("name", CHARTS)
def test_without_uplot_its_files_are_empty_and_not_missing(name):
    assert files()[name].content
