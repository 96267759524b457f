"""A view as text, for stdout (a terminal with its colors, a pipe without), and as a picture."""

from __future__ import annotations

import html
import io
import re

from rich.console import Console, RenderableType

PAGE_WIDTH = 100
"""Columns of what is not written to a terminal."""
NARROWEST, WIDEST = 80, 140


def page_width() -> int:
    """The columns of the terminal that stdout is, within bounds; else those of a page."""
    console = Console()
    return min(max(console.width, NARROWEST), WIDEST) if console.is_terminal else PAGE_WIDTH


def for_stdout(content: RenderableType) -> bytes:
    """``content`` in stdout's encoding, ending in a newline."""
    console = Console(width=page_width(), emoji=False, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(content)
    text = captured.get() if console.is_terminal else without_trailing_blanks(captured.get())
    return text.encode(console.encoding, errors="replace")


def plain(content: RenderableType, width: int = PAGE_WIDTH) -> str:
    """``content`` without colors and trailing blanks; each line ends in a newline."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=False, color_system=None,
        emoji=False, highlight=False, markup=False, legacy_windows=False, force_jupyter=False,
    )  # fmt: skip
    with console.capture() as captured:
        console.print(content)
    return without_trailing_blanks(captured.get())


def without_trailing_blanks(text: str) -> str:
    """The same lines, to be compared and pasted."""
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def picture(content: RenderableType, width: int = PAGE_WIDTH) -> str:
    """``content`` as SVG."""
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor",
        emoji=False, highlight=False, markup=False, legacy_windows=False, force_jupyter=False,
    )  # fmt: skip
    console.print(content)
    return _aligned(console.export_svg(title="batchscope", unique_id="batchscope"))


_PADDED_TEXT = re.compile(r'x="([\d.]+)"([^>]*) textLength="([\d.]+)"([^>]*)>((?:&#160;)*)([^<]*?)((?:&#160;)*)</text>')


def _aligned(svg: str) -> str:
    """The picture with its texts placed by position: some viewers drop the blanks that rich places them by."""

    def place(found: re.Match[str]) -> str:
        x, before, length, after, left, text, right = found.groups()
        blanks, trailing = len(left) // len("&#160;"), len(right) // len("&#160;")
        characters = len(html.unescape(text))
        width = float(length) / max(1, blanks + characters + trailing)
        return f'x="{float(x) + width * blanks:.1f}"{before} textLength="{width * characters:.1f}"{after}>{text}</text>'

    return _PADDED_TEXT.sub(place, svg)
