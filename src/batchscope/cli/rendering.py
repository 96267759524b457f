"""A view on stdout: for a terminal with its colors, for a pipe plain; and as a picture in a file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, RenderableType

from batchscope.cli.options import CommandError
from batchscope.views.rendering import page_width, picture, without_trailing_blanks


def rendered(content: RenderableType) -> bytes:
    """``content`` in stdout's encoding, ending in a newline."""
    console = Console(width=page_width(), emoji=False, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(content)
    text = captured.get() if console.is_terminal else without_trailing_blanks(captured.get())
    return text.encode(console.encoding, errors="replace")


def write_svg(content: RenderableType, path: Path) -> None:
    """``content`` as a picture; ``CommandError`` where it cannot be written."""
    try:
        path.write_text(picture(content), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--svg {path}: cannot be written: {error.strerror or error}") from None
