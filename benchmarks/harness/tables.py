"""Documents as plain tables: what the terminal and docs/performance.md both show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.document import Document, Figure, Target

MARKS = {True: "met", False: "NOT MET", None: "absent"}


class Grid(NamedTuple):
    """``numbers``: which columns hold figures."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numbers: frozenset[int]


def targets_of(targets: Iterable[Target]) -> Grid:
    rows: list[tuple[str, ...]] = [
        (
            target.what,
            f"{target.relation} {target.limit:.4g} {target.unit}",
            amount(target.measured, target.unit),
            amount(target.median, target.unit),
            MARKS[target.met] + (f": {target.note}" if target.note else ""),
        )
        for target in targets
    ]
    return Grid(("target", "limit", "measured", "median", ""), rows, frozenset({1, 2, 3}))


def figures_of(document: Document) -> Grid:
    return _crossed(document.figures) if document.benchmark == "accuracy" else _listed(document.figures)


def _listed(figures: Sequence[Figure]) -> Grid:
    """A line a figure; columns that would stay empty are left out."""
    rows = []
    group = ""
    for figure in figures:
        heading, group = ("" if figure.group == group else figure.group), figure.group
        best = amount(figure.best, figure.unit) or f"absent: {figure.absent}"
        rows.append((heading, figure.name, best, amount(figure.median, figure.unit), amount(figure.cheaper, "x")))
    header = ("figure", "", "best", "median", "cheaper")
    used = [column for column in range(len(header)) if column < 3 or any(row[column] for row in rows)]
    kept = [tuple(row[column] for column in used) for row in rows]
    return Grid(tuple(header[column] for column in used), kept, frozenset(range(2, len(used))))


def _crossed(figures: Sequence[Figure]) -> Grid:
    """A line a group, a column a name: for figures of one unit."""
    groups = list(dict.fromkeys(figure.group for figure in figures))
    names = list(dict.fromkeys(figure.name for figure in figures))
    cells = {(each.group, each.name): "absent" if each.best is None else f"{each.best:.3f}" for each in figures}
    rows = [(group, *(cells[group, name] for name in names)) for group in groups]
    return Grid((f"worst error, {figures[0].unit}", *names), rows, frozenset(range(1, len(names) + 1)))


def amount(value: float | None, unit: str = "") -> str:
    """Three significant digits, or all of a whole number's."""
    if value is None:
        return ""
    digits = f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:,.3g}"
    return f"{digits} {unit}".rstrip()


def markdown(grid: Grid) -> str:
    """As a table of GitHub's Markdown."""
    dashes = tuple("---:" if column in grid.numbers else "---" for column in range(len(grid.header)))
    return "\n".join(f"| {' | '.join(row)} |" for row in (grid.header, dashes, *grid.rows))
