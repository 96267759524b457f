"""What rich would print, as bytes: for a terminal with its colors, for a pipe plain and without trailing blanks."""

from __future__ import annotations

from rich.console import Console, RenderableType

PIPE_WIDTH = 100
NARROWEST, WIDEST = 80, 140


def rendered(content: RenderableType) -> bytes:
    """``content`` in stdout's encoding, ending in a newline."""
    console = Console()
    width = min(max(console.width, NARROWEST), WIDEST) if console.is_terminal else PIPE_WIDTH
    console = Console(width=width, emoji=False, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(content)
    text = captured.get()
    if not console.is_terminal:
        text = "".join(line.rstrip() + "\n" for line in text.splitlines())
    return text.encode(console.encoding, errors="replace")
