"""The files of the page, which carry no data: HTML, style, modules, and the colours of the palette as style."""

from __future__ import annotations

import gzip
import zlib
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from batchscope.dashboard.colors import stylesheet

_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
INDEX = "index.html"
COLORS = "colors.css"
CHARTS = ("uplot.js", "uplot.css")
"""uPlot's own files: they come from the npm registry when the package is built (``make assets`` in a checkout)."""
_ABSENT = b"/* uPlot is not in this installation: it was built without npm */\n"


class PageFile(NamedTuple):
    """What a browser is given, ``packed`` by gzip; ``tag`` differs where the content does."""

    content: bytes
    packed: bytes
    kind: str
    tag: str


@lru_cache(maxsize=1)
def files() -> dict[str, PageFile]:
    """All files of the page by name; without uPlot its two are empty, and the page says that charts are missing."""
    found = dict.fromkeys(CHARTS, _ABSENT)
    for one in resources.files("batchscope.dashboard").joinpath("assets").iterdir():
        if one.name.rpartition(".")[2] in _KINDS:
            found[one.name] = one.read_bytes()
    found[COLORS] = stylesheet().encode()
    return {name: _file(name, content) for name, content in found.items()}


def _file(name: str, content: bytes) -> PageFile:
    packed = gzip.compress(content, 9, mtime=0)
    return PageFile(content, packed, _KINDS[name.rpartition(".")[2]], f'"{zlib.crc32(content):x}-{len(content)}"')


def charts_present() -> bool:
    """Whether uPlot is in this installation."""
    return files()[CHARTS[0]].content != _ABSENT
