"""Recorded runs, a line each: of which engine, when, how long, and how it went.

Plain text of our own: a thousand lines take a table of rich's a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import nan

from batchscope.ledger.document import State
from batchscope.ledger.listing import ListedRun, Listing
from batchscope.text import shown
from batchscope.views.numbers import MISSING, count, duration, percent

_HEADS = ("run (UTC)", "state", "engine", "lasted", "n", "TTFT p99", "TPOT p99", "e2e p99", "met SLO")
_TEXTS = 3  # the first columns; what follows are numbers
_LONGEST_ENGINE = 24


def view(listing: Listing) -> str:
    """All of it, as it may be shown; each line ends in a newline."""
    if not listing.runs:
        return f"{shown(listing.root)}: no runs; batchscope demo --record DIR makes one\n"
    rows = [_HEADS, *(_cells(run) for run in listing.runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    problems = (f"{shown(run.name)}: {shown(run.problem)}" for run in listing.runs if run.problem)
    told = ["percentiles within 0.07 % of a report's"]
    if any(run.at_least for run in listing.runs):
        told.append(">=: the process was killed, and this is of its last summary; batchscope report counts the rows")
    if any(run.state == State.STOPPED for run in listing.runs):
        told.append("stopped: with what came last and could not be written; batchscope report counts the rows")
    return "".join(f"{line}\n" for line in (*_aligned(rows, widths), *problems, "; ".join(told)))


def _aligned(rows: list[tuple[str, ...]], widths: list[int]) -> Iterator[str]:
    for row in rows:
        texts = [cell.ljust(width) for cell, width in zip(row[:_TEXTS], widths, strict=False)]
        numbers = [cell.rjust(width) for cell, width in zip(row[_TEXTS:], widths[_TEXTS:], strict=True)]
        yield "  ".join((*texts, *numbers)).rstrip()


def _cells(run: ListedRun) -> tuple[str, ...]:
    summary, least = run.summary, ">=" if run.at_least else ""
    latencies = (summary.p99_time_to_first_token, summary.p99_time_per_output_token, summary.p99_total_time)
    return (
        shown(run.name),
        run.state,
        shown(" ".join(part for part in (run.engine.kind, run.engine.version) if part), _LONGEST_ENGINE) or MISSING,
        f"{least}{duration(_number(run.seconds))}{' simulated' if run.simulated else ''}",
        f"{least}{count(summary.requests)}",
        *(duration(_number(value)) for value in latencies),
        percent(_number(summary.attainment)),
    )


def _number(value: float | None) -> float:
    return nan if value is None else value
