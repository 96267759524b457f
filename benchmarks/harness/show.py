"""Documents on the terminal, and the options that all benchmarks have."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.document import Document, write
from harness.tables import Grid, figures_of, targets_of

WIDTH = 160


def options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, with ``--quick`` and ``--json FILE`` beside the parser's own options."""
    parser.add_argument("--quick", action="store_true", help="fewer rounds and records: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine, every figure and every target")
    return parser.parse_args()


def finish(document: Document, path: Path | None) -> None:
    """Show ``document``, and save it if that was asked for."""
    show(document)
    if path:
        write(document, path)


def show(document: Document) -> None:
    """Targets, figures, notes."""
    console = Console(width=WIDTH, highlight=False)
    machine = document.machine
    quick = ", QUICK: a look, not a result" if document.quick else ""
    where = f"{machine.cpu}, {machine.cores} cores, {machine.python}"
    console.print(f"\n{document.benchmark}: {where}{quick}", style="bold")
    if document.targets:
        console.print(_table(targets_of(document.targets)))
        console.print()
    console.print(_table(figures_of(document)))
    for note in document.notes:
        console.print(note)


def _table(grid: Grid) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column, name in enumerate(grid.header):
        number = column in grid.numbers
        table.add_column(name, justify="right" if number else "left", no_wrap=not number and column < 2)
    for row in grid.rows:
        table.add_row(*row)
    return table
