"""One HTML file that asks no network for anything: its head in the page's style, and the panels and tables of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from importlib import resources
from typing import Any

import msgspec

from batchscope.dashboard.colors import stylesheet
from batchscope.dashboard.files import CHARTS, files
from batchscope.text import readable_document
from batchscope.version import __version__

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""Nothing is asked for off the file, whatever a name in it says."""
_MODULE = re.compile(r"^(?:import .*\n|export )", re.MULTILINE)
_WORDS = {"which is", "targets"}
"""Headings of columns of text."""


def html_file(title: str, body: Iterable[str], data: Any = None) -> str:
    """The document; with ``data`` the script that draws the charts of a run is in it, and finds them there."""
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n",
            *body,
            *(() if data is None else _drawn(data)),
            "</body>\n</html>\n",
        ]
    )


def _style() -> str:
    found = files()
    of_page = [found[name].content.decode() for name in (CHARTS[1], "page.css")]
    return "\n".join([stylesheet(), *of_page, _asset("run.css")])


def _drawn(data: Any) -> Iterable[str]:
    """What no name can end (inside of a script element ``<`` is written in another way), and what draws it."""
    text = msgspec.json.encode(readable_document(data)).decode().replace("<", "\\u003c")
    yield f'<script type="application/json" id="data">{text}</script>\n'
    yield f"<script>{_script()}</script>\n"


def _script() -> str:
    """The chart library and our own code, whose parts are modules elsewhere: here they are one script."""
    found = files()
    own = "".join(_MODULE.sub("", module) for module in (found["format.js"].content.decode(), _asset("run.js")))
    return f"{found[CHARTS[0]].content.decode()}\n(() => {{\n{own}}})();"


def _asset(name: str) -> str:
    return resources.files("batchscope.dashboard").joinpath("run_assets").joinpath(name).read_text(encoding="utf-8")


def header(whose: str, sentence: str, about: str, problems: Iterable[str] = ()) -> str:
    """The first lines: whose it is, what it comes to, and what to know of it at once."""
    notices = "".join(f'<p class="notice">{escape(text)}</p>' for text in problems)
    return (
        f"<header class=bar><h1>batchscope <span>{escape(whose)}</span></h1></header>\n<main>\n"
        f'<section class="verdict" data-tone="calm"><p class="sentence">{escape(sentence)}</p>'
        f'<p class="asof">{escape(about)}</p></section>\n{notices}'
    )


def footer() -> str:
    """The last lines."""
    return (
        f"</main>\n<footer><p class=quiet>batchscope {escape(__version__)}; no part of this file asks a network for "
        "anything. Ratios are of 1, durations in their units; - where nothing was measured.</p></footer>\n"
    )


def tiles(*made: str) -> str:
    """The figures that people look for first."""
    return f'<section class="tiles" aria-label="In short">{"".join(made)}</section>\n'


def tile(name: str, value: str, more: str) -> str:
    """One figure."""
    return (
        f'<div class="tile"><h2>{escape(name)}</h2><p class="value">{escape(value)}</p>'
        f'<p class="more">{escape(more)}</p></div>'
    )


def panel(title: str, about: str, body: Iterable[str], kind: str = "panel") -> str:
    """A part of the page; ``body`` is HTML."""
    content = "".join(body)
    return (
        f'<section class="{kind}"><header><h2>{escape(title)}</h2><p class="reading">{escape(about)}</p></header>'
        f"{scrolling(title, content)}</section>\n"
    )


def scrolling(name: str, content: str) -> str:
    """What may be wider than a screen: it scrolls, by the keyboard, too."""
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(name)}">{content}</div>'


def note(text: str) -> str:
    """A small line."""
    return f'<p class="note">{escape(text)}</p>'


def table(headings: Iterable[str], rows: Iterable[str]) -> str:
    """A table of ``row``s."""
    return f"{head(*headings)}{''.join(rows)}{TABLE_END}"


def head(*names: str) -> str:
    """How a table begins."""
    cells = "".join(f"<th scope=col{' class=words' * (name in _WORDS)}>{escape(name)}</th>" for name in names)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>"


TABLE_END = "</tbody></table>"


def row(name: str, *cells: str, words: str | None = None) -> str:
    """``name`` is HTML, the others are texts."""
    last = "" if words is None else f"<td class=words>{escape(words)}</td>"
    return f"<tr><th scope=row>{name}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}{last}</tr>"
