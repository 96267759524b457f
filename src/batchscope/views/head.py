"""The head of a report: what came, what became of it, what held the batch, and what should not be there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from batchscope.records import BatchLimiter
from batchscope.views import palette
from batchscope.views.board import Board, Throughput
from batchscope.views.numbers import MISSING, amount, count, duration, per_second, percent
from batchscope.views.words import MOST_SHOWN, holders, trouble

_FRAME = 18
"""Columns of the head that are not its figures: the frame and the names of its lines."""


class Head:
    """``board`` as it may be shown; ``why_refused``: why requests were refused at admission, where that is known."""

    def __init__(self, board: Board, title: str, why_refused: str, *, interrupted: bool) -> None:
        self._board = board
        self._title = title or _identity(board)
        self._why_refused = why_refused
        self._interrupted = interrupted

    def panel(self, width: int) -> Panel:
        """A frame of ``width`` columns around a line for each answer; the title is in it where it has room."""
        interrupted = "  INTERRUPTED: what ran so far" if self._interrupted else ""
        title = Text.assemble(("batchscope", palette.NAME), f"  {self._title}", (interrupted, f"bold {palette.BAD}"))
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="dim", no_wrap=True)
        lines.add_column(overflow="fold")
        if title.cell_len > width - 8:
            title = Text.assemble(("batchscope", palette.NAME), (interrupted, f"bold {palette.BAD}"))
            lines.add_row("of", self._title)
        for name, items in self._lines():
            lines.add_row(name, _flow(items, width - _FRAME))
        color = palette.BAD if self._interrupted else palette.BATCH
        return Panel(lines, title=title, title_align="left", border_style=color, box=box.ROUNDED)

    def _lines(self) -> Iterator[tuple[str, list[Text]]]:
        requests, recent = self._board.requests, self._board.recent
        yield "requests", list(self._requests())
        if requests.refused:
            yield "refused", list(self._refusal())
        yield "throughput", list(self._throughput())
        if not recent.whole_run:
            yield f"last {recent.seconds:g} s", list(_rates(recent))
        yield "batch", [self._fullness()]
        demand_tells = not requests.mostly_refused
        held_by = [text for name, text in holders(self._board) if name != BatchLimiter.DEMAND or demand_tells]
        if held_by:
            yield "held by", [Text(text, "bold") for text in held_by]
        if troubles := [Text(trouble(one), palette.WARNING) for one in self._board.troubles]:
            yield "to note", troubles

    def _requests(self) -> Iterator[Text]:
        requests = self._board.requests
        yield Text.assemble(
            (count(requests.arrived), "bold"),
            " arrived:  ",
            (f"{count(requests.completed)} completed", palette.GOOD),
        )
        reasons = ", ".join(f"{reason} {count(number)}" for reason, number in requests.failed_by_reason.items())
        yield Text(f"{count(requests.failed)} failed" + (f" ({reasons})" if reasons else ""))
        yield Text(f"{count(requests.cancelled)} cancelled")
        if requests.in_flight:
            yield Text(f"{count(requests.in_flight)} still in flight", "bold")

    def _refusal(self) -> Iterator[Text]:
        """Said in the head, since what was never admitted shows nowhere else."""
        requests = self._board.requests
        most = "most requests: " if requests.mostly_refused else ""
        yield Text(
            f"{most}{count(requests.refused)} of {count(requests.finished)}, at admission", f"bold {palette.BAD}"
        )
        if self._why_refused:
            yield Text(self._why_refused, "bold")

    def _throughput(self) -> Iterator[Text]:
        throughput = self._board.throughput
        yield from _rates(throughput)
        cached = "" if math.isnan(throughput.cached_ratio) else f" ({percent(throughput.cached_ratio)} cached)"
        yield Text(f"{per_second(throughput.prompt_tokens)} prompt tokens/s{cached}")
        if self._board.elapsed_seconds > 0:
            yield Text(f"all that ended, over {duration(self._board.elapsed_seconds)}", "dim")

    def _fullness(self) -> Text:
        batch = self._board.batch
        if not math.isnan(batch.full_by_time):
            return Text.assemble((percent(batch.full_by_time), "bold"), " full while busy")
        if math.isnan(batch.mean_requests):
            return Text(MISSING)
        return Text.assemble(
            (amount(batch.mean_requests), "bold"),
            " requests an iteration; of how many is not known (max_running_requests)",
        )


def _rates(throughput: Throughput) -> Iterator[Text]:
    yield Text(f"{per_second(throughput.requests)} requests/s")
    yield Text(f"{per_second(throughput.output_tokens)} output tokens/s")


def _flow(items: Sequence[Text], room: int) -> Text:
    """The items beside each other, and on the next line what has no room: an item is not torn."""
    text, used = Text(), 0
    for item in items:
        begins = not used or used + 3 + item.cell_len > room
        if used:
            text.append("\n" if begins else "   ")
        text.append(item)
        used = item.cell_len if begins else used + 3 + item.cell_len
    return text


def _identity(board: Board) -> str:
    """Whose figures, and of when."""
    engine = f"{board.engine.kind} {board.engine.version}".strip()
    labels = [f"{name}={value}" for name, value in islice(board.labels.items(), MOST_SHOWN)]
    if len(board.labels) > MOST_SHOWN:
        labels.append(f"{len(board.labels) - MOST_SHOWN:,} more labels")
    merged = [f"{board.processes} processes"] if board.processes > 1 else []
    return ", ".join([*filter(None, [engine]), *labels, *merged, f"{board.time:%Y-%m-%d %H:%M:%S %Z}"])
