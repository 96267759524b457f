"""Lines of styled text, as wide as a terminal has cells for them: what every panel is made of.

A span is a text and its role; ``styles`` says how a role looks. Widths are cells, not characters: a wide character
takes two, a combining one none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len as _cell_len
from rich.cells import set_cell_size

Styled = tuple[str, str]
Line = list[Styled]
CUT = "…"


class Cells(NamedTuple):
    """A part of a row: its text within ``width`` cells, to the left or the right of them."""

    text: str
    width: int
    role: str = ""
    right: bool = True


def cell_len(text: str) -> int:
    """Cells that a text takes: of ASCII, which most of it is, its characters; thousands are asked for in a drawing."""
    return len(text) if text.isascii() and text.isprintable() else _cell_len(text)


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells; what was cut off is seen to be."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + CUT if width > 1 else CUT * max(0, width)


def cut_inside(text: str, width: int) -> str:
    """The same, of a name: its begin and its end are what tells it from others."""
    if cell_len(text) <= width or width < 5:
        return cut(text, width)
    head, tail = set_cell_size(text, (width - 1) // 2).rstrip(), text
    while cell_len(tail) > width - 1 - cell_len(head):
        tail = tail[1:]
    return head + CUT + tail


def row(parts: Iterable[Cells], gap: int = 1) -> Line:
    """The parts beside each other, ``gap`` cells between them."""
    line: Line = []
    for part in parts:
        text = cut(part.text, part.width)
        blank = " " * (part.width - cell_len(text))
        if line:
            line.append((" " * gap, ""))
        line += [(blank, ""), (text, part.role)] if part.right else [(text, part.role), (blank, "")]
    return [span for span in line if span[0]]


def width_of(line: Line) -> int:
    """Cells that it takes."""
    return sum(cell_len(text) for text, _ in line)


def fitted(line: Line, width: int, fill: str = "") -> Line:
    """Exactly ``width`` cells: cut, or filled with blanks of the role ``fill``."""
    kept: Line = []
    room = width
    for text, role in line:
        taken = cell_len(text)
        if taken > room:
            if room > 0:
                kept.append((set_cell_size(cut(text, room), room), role))
            return kept
        kept.append((text, role))
        room -= taken
    return [*kept, (" " * room, fill)] if room else kept


def wrapped(words: str, width: int, most: int) -> list[str]:
    """The text in lines of at most ``width`` cells, ``most`` of them; the last one is cut where it goes on."""
    lines, line = [], ""
    for word in words.split(" "):
        longer = f"{line} {word}" if line else word
        if cell_len(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while cell_len(word) > width:
            head = set_cell_size(word, width).rstrip()
            lines.append(head)
            word = word[len(head) :] if head else ""  # noqa: PLW2901  (the rest of a word that no line holds)
        line = word
    lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], cut(" ".join(lines[most - 1 :]), width)]
    return lines


def beside(left: Sequence[Line], right: Sequence[Line], width: int, gap: int = 2) -> list[Line]:
    """Two columns of lines; the left one ``width`` cells wide."""
    height = max(len(left), len(right))
    columns = [list(column) + [[]] * (height - len(column)) for column in (left, right)]
    return [[*fitted(one, width), (" " * gap, ""), *other] for one, other in zip(*columns, strict=True)]
