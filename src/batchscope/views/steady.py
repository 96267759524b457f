"""The main figures of a run beside those of its steady part: without its warm-up and its drain."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchscope.ledger.analysis.report import RunReport
from batchscope.scraping.table import Quantity
from batchscope.views.board import Board, Latency, board
from batchscope.views.numbers import MISSING, count, duration, per_second, percent
from batchscope.views.samples import tells
from batchscope.views.words import short_name

COLUMNS = ("figure", "all of it", "steady part")


def steady_section(report: RunReport) -> RenderableType:
    """For a terminal: both, or why there is no steady part."""
    title = Text.assemble("\n", ("Steady state", "bold"), ("   " + about_steady(report), "dim"))
    if report.steady is None:
        return title
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="dim")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == COLUMNS[0] else "right", no_wrap=True)
    for row in compared(report):
        table.add_row(*row)
    return Group(title, table)


def about_steady(report: RunReport) -> str:
    """Where it is steady and what was cut, or why nothing is steady."""
    part = report.steady_part
    if not part.found:
        return part.missing
    first, last = part.start - report.origin, part.end - report.origin
    return (
        f"{first:.1f} s to {duration(last)}: without warm-up (MSER-5) and drain; "
        f"backlog {part.backlog_slope:+.3g} requests a second"
    )


def compared(report: RunReport) -> Iterator[tuple[str, ...]]:
    """A row a figure: its name, of all, of the steady part; percentiles and shares with their n."""
    boards = [board(one) for one in (report.snapshot, report.steady) if one is not None]
    yield "time", *(duration(each.elapsed_seconds) for each in boards)
    yield "requests finished", *(count(each.requests.finished) for each in boards)
    yield "requests a second", *(per_second(each.throughput.requests) for each in boards)
    yield "output tokens a second", *(per_second(each.throughput.output_tokens) for each in boards)
    yield "batch full", *(percent(each.batch.full_by_time) for each in boards)
    for name in (Quantity.TIME_TO_FIRST_TOKEN, Quantity.TIME_PER_OUTPUT_TOKEN, Quantity.TOTAL_TIME):
        for percentile in ("p50", "p95", "p99"):
            yield f"{short_name(name)} {percentile}", *(_told(each.latencies[name], percentile) for each in boards)
    for slo in boards[0].slo:
        yield f"SLO met, {slo.request_class}", *(_met(each, slo.request_class) for each in boards)


def _told(latency: Latency, percentile: str) -> str:
    known = tells(percentile, latency.count)
    return f"{duration(getattr(latency, percentile).value)}, n={count(latency.count)}" if known else MISSING


def _met(of: Board, request_class: str) -> str:
    found = [slo for slo in of.slo if slo.request_class == request_class]
    return f"{percent(found[0].attainment)}, n={count(found[0].evaluated)}" if found else MISSING
