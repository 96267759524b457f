"""A round of a watch as tables that fit the screen: targets, what held them, their SLO, latencies."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from batchscope.scraping.documents import (
    Interval,
    IntervalSummary,
    ScrapedSnapshot,
    ScrapeWindow,
    TargetReport,
    WatchDocument,
)
from batchscope.scraping.table import DURATIONS, Quantity
from batchscope.statistics.summaries import SloStatistics
from batchscope.text import shown_document
from batchscope.views.numbers import MISSING, count, duration, per_second, percent, percent_range
from batchscope.views.words import TARGETS, by_share, limiter_name, origin

_NAMES = {
    Quantity.QUEUE_TIME: "queue",
    Quantity.TIME_TO_FIRST_TOKEN: "TTFT",
    Quantity.TIME_PER_OUTPUT_TOKEN: "TPOT",
    Quantity.INTER_TOKEN_LATENCY: "ITL, a token",
    Quantity.INTER_EMISSION_LATENCY: "gap, an output",
    Quantity.PREFILL_TIME: "prefill",
    Quantity.DECODE_TIME: "decode",
    Quantity.PREEMPTED_TIME: "preempted",
    Quantity.PROCESSING_TIME: "processing",
    Quantity.TOTAL_TIME: "e2e",
    Quantity.ITERATION_DURATION: "iteration",
}
_ITL, _GAP = Quantity.INTER_TOKEN_LATENCY, Quantity.INTER_EMISSION_LATENCY
_ITL_IS_GAP = "ITL = gap"
"""One token an output: both are the same observations."""
_STATE_STYLE = {"up": "green", "stale": "bold yellow", "vanished": "bold red", "down": "bold red", "unknown": "yellow"}
_TARGET_COLUMNS = (
    (40, ("state", "run", "wait", "KV cache", "req/s", "tok/s", "over")),
    (28, ("state", "run", "wait", "KV cache", "req/s", "tok/s")),
    (20, ("state", "run", "wait", "KV cache", "req/s", "tok/s")),
    (20, ("state", "run", "wait", "KV cache", "tok/s")),
    (16, ("state", "run", "wait", "tok/s")),
)
"""Sets of columns, the widest that fits whole is shown; before each how wide a target's name may be."""
_DENSE_COLUMNS = (
    (40, ("state", "run", "wait", "KV cache", "req/s", "tok/s", "over", "limited by", "SLO")),
    (28, ("state", "run", "wait", "KV cache", "req/s", "tok/s", "limited by", "SLO")),
    (20, ("state", "run", "wait", "tok/s", "limited by", "SLO")),
    *_TARGET_COLUMNS[2:],
)
_EACH_UP_TO = 4
"""So many targets have their latencies, and what held them, shown one by one, beside the fleet's."""
_LATENCY_COLUMNS = (
    ("count", "mean", "p50", "p90", "p95", "p99"),
    ("count", "mean", "p50", "p90", "p99"),
    ("count", "mean", "p50", "p99"),
    ("mean", "p50", "p99"),
    ("p50", "p99"),
)
_IMPORTANCE = (
    Quantity.TIME_TO_FIRST_TOKEN, _ITL, _GAP, Quantity.TOTAL_TIME, Quantity.TIME_PER_OUTPUT_TOKEN, Quantity.QUEUE_TIME,
)  # fmt: skip
"""The rows that are shown first where there is no room for all."""
_FEWEST_ROWS = 3
_HEADER_LINES = 2
_SPARE_LINES = 1  # for what is said of the rows left out
_LEAST_LATENCIES = 2 + _HEADER_LINES + _FEWEST_ROWS + _SPARE_LINES
_EXACT = 0.025
"""An interval that is narrower, of its upper edge, is shown as one number."""
_ENDLESS = 100_000


class Row(NamedTuple):
    """A line of a table of latencies."""

    quantity: Quantity
    name: str
    summary: IntervalSummary


def view(document: WatchDocument, height: int | None = None) -> RenderableType:
    """The whole round; with ``height`` as much of it as these lines have room for, and what is left out is said."""
    return _Board(shown_document(document), height)


class _Board:
    def __init__(self, document: WatchDocument, height: int | None) -> None:
        self._document = document
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def lines(part: RenderableType) -> int:
            return len(console.render_lines(part, options, pad=False))

        dense = len(self._document.targets) > _EACH_UP_TO
        above = list(self._above(console, options, dense=dense))
        if self._height is not None and sum(map(lines, above)) + _LEAST_LATENCIES > self._height:
            above = list(self._above(console, options, dense=True))
        yield from above
        yield from self._latencies_that_fit(console, options, above, lines)

    def _above(self, console: Console, options: ConsoleOptions, *, dense: bool) -> Iterator[RenderableType]:
        """All but latencies. ``dense``: what held each target is a column, and in words for the fleet only."""
        document = self._document
        sets = _DENSE_COLUMNS if dense and len(document.targets) > 1 else _TARGET_COLUMNS
        yield _head(document)
        yield _fitting(console, options, [_targets(document, *one) for one in sets])
        for target in document.targets:
            if target.error:
                yield Text(f"{_short(target.url)}: {_trouble(target)}", style="red")
        yield from (
            Text(f"{_short(one.url)}: {note}", style="yellow") for one in document.targets for note in one.notes
        )
        yield from _holders(document, dense=dense)
        if len(_up(document)) > 1 and document.fleet is not None:
            yield from _notes(document.fleet)

    def _latencies_that_fit(
        self,
        console: Console,
        options: ConsoleOptions,
        above: Sequence[RenderableType],
        lines: Callable[[RenderableType], int],
    ) -> Iterator[RenderableType]:
        """Those for which there is room below ``above``; of a table without room for all its rows some."""
        room = math.inf if self._height is None else self._height - _SPARE_LINES - sum(map(lines, above))
        left_out, tables = 0, list(_with_durations(self._document))
        for place, (title, scraped) in enumerate(tables, start=1):
            rows = list(_rows(scraped.intervals))
            most = room - lines(title) - _HEADER_LINES
            whole = place == len(tables) and not left_out and most + _SPARE_LINES >= len(rows)
            shown = rows if whole else _first(rows, most)
            left_out += len(rows) - len(shown)
            if shown:
                table = _fitting(console, options, [_latencies(shown, columns) for columns in _LATENCY_COLUMNS])
                room -= lines(title) + lines(table)
                yield Group(title, table)
        if left_out:
            yield Text(f"rows of latencies not shown: {left_out}; a higher screen has them, or --json", style="yellow")


def _first(rows: Sequence[Row], most: float) -> list[Row]:
    """The ``most`` important of ``rows``, in their order; none where there is no room for a few."""
    if most >= len(rows):
        return list(rows)
    if most < _FEWEST_ROWS:
        return []
    rank = {quantity: place for place, quantity in enumerate(_IMPORTANCE)}
    kept = sorted(rows, key=lambda row: rank.get(row.quantity, len(rank)))[: int(most)]
    return [row for row in rows if row in kept]


def _up(document: WatchDocument) -> list[TargetReport]:
    return [target for target in document.targets if target.scraped is not None]


def _fitting(console: Console, options: ConsoleOptions, tables: Sequence[Table]) -> Table:
    """The first that needs no more than there is: nothing in it is cut."""
    endless = options.update(max_width=_ENDLESS)
    wanted = (table for table in tables if console.measure(table, options=endless).maximum <= options.max_width)
    return next(wanted, tables[-1])


def _head(document: WatchDocument) -> Text:
    time = document.time.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    answer = f"  {len(_up(document))} of {len(document.targets)} targets answer  {time}"
    return Text.assemble(("batchscope", "bold cyan"), answer)


# The targets.


def _targets(document: WatchDocument, name_width: int, columns: Sequence[str]) -> Table:
    table = _table("target", *columns)
    table.columns[0].overflow = "fold"
    table.columns[0].no_wrap = False
    table.columns[0].max_width = name_width
    table.columns[1].justify = "left"
    for target in document.targets:
        state = Text(target.state, style=_STATE_STYLE[target.state])
        if target.since is not None:
            state.append(f"\nsince {_clock(target.since, document.time)}")
        table.add_row(_named(target), state, *(_cell(target.scraped, column) for column in columns[1:]))
    if len(_up(document)) > 1:
        table.add_section()
        table.add_row("fleet", "", *(_cell(document.fleet, column) for column in columns[1:]))
    return table


def _named(target: TargetReport) -> Text:
    name = Text(_short(target.url))
    if target.scraped is not None:
        name.append(f"\n{target.scraped.snapshot.engine.kind or 'batchscope'}", style="dim")
    return name


def _cell(scraped: ScrapedSnapshot | None, column: str) -> str:
    return MISSING if scraped is None else _CELLS[column](scraped)


def _waiting(scraped: ScrapedSnapshot) -> str:
    deferred = scraped.snapshot.gauges.requests_deferred
    return count(scraped.snapshot.gauges.requests_waiting) + (f"\n+{count(deferred)} def." if deferred else "")


def _requests(scraped: ScrapedSnapshot) -> str:
    rate = per_second(scraped.snapshot.request_stats.requests_per_second)
    return rate + _of_some(scraped, Quantity.REQUESTS_FINISHED)


def _tokens(scraped: ScrapedSnapshot) -> str:
    return per_second(scraped.snapshot.request_stats.tokens_per_second) + _of_some(scraped, Quantity.GENERATION_TOKENS)


def _of_some(scraped: ScrapedSnapshot, quantity: Quantity) -> str:
    """A fleet's number that only some of its targets give says so."""
    return f"\n{scraped.partial[quantity]} targets'" if quantity in scraped.partial else ""


def _running(scraped: ScrapedSnapshot) -> str:
    """Of how many places where that is known; the average batch of the window where the engine tells it."""
    limit, average = scraped.snapshot.limits.max_running_requests, scraped.snapshot.iteration_stats
    running = count(scraped.snapshot.gauges.requests_running) + (f" of {count(limit)}" if limit else "")
    batch = average.average_requests_per_iteration
    return running if math.isnan(batch) else f"{running}\nbatch {batch:.1f}"


def _usage(scraped: ScrapedSnapshot) -> str:
    """Of several ranks the lowest and the highest: their mean hides the full one."""
    span = scraped.ratios.get(Quantity.KV_CACHE_USAGE)
    if span is None:
        return MISSING
    return percent(span.low) if span.low == span.high else f"{100 * span.low:.0f}..{100 * span.high:.0f} %"


def covered(window: ScrapeWindow) -> str:
    """What rates and latencies cover, said in words where it is not the time between two scrapes."""
    age = "" if math.isnan(window.seconds) else f" {duration(window.seconds)}"
    if window.restarted:
        return f"since restart{age}"
    return f"since start{age}" if window.since_start else f"last{age}"


def _over(scraped: ScrapedSnapshot) -> str:
    return covered(scraped.window).replace("start ", "start\n")


# What only batchscope's own endpoints tell.


def _holders(document: WatchDocument, *, dense: bool) -> Iterator[RenderableType]:
    """What held each batch and how many met their targets, a line each; ``dense``: of all together."""
    several = len(document.targets) > 1
    up = _up(document)
    rows = [(_short(target.url), target.scraped) for target in up if not dense or len(up) == 1]
    if len(up) > 1 and document.fleet is not None:
        rows.append(("fleet", document.fleet))
    lines = Table.grid(padding=(0, 2), collapse_padding=True)
    lines.add_column(overflow="fold", style="dim", max_width=28)
    lines.add_column(no_wrap=True, style="dim")
    lines.add_column()
    for name, scraped in rows:
        for place, (what, text) in enumerate(_told(scraped)):
            lines.add_row(name if several and not place else "", what, text)
    if lines.row_count:
        yield lines


def _told(scraped: ScrapedSnapshot | None) -> Iterator[tuple[str, str]]:
    if scraped is None or not scraped.exact:
        return
    shares = by_share(scraped.limited_by)
    held = ", ".join(f"{limiter_name(name)} {percent(share)}" for name, share in shares) or MISSING
    told = origin(scraped.snapshot.iteration_stats.limiter_reported_ratio).removesuffix(" by the scheduler")
    who = told if shares else "no iteration"
    yield "limited by", f"{held}  ({covered(scraped.limited_over)}; {who})"
    for name, slo in scraped.snapshot.slo_stats.items():
        if slo.targets or slo.evaluated:
            yield "SLO", f"{name}: {_attained(slo)}"


def _most_held(scraped: ScrapedSnapshot) -> str:
    shares = by_share(scraped.limited_by)
    return f"{limiter_name(shares[0][0])} {percent(shares[0][1])}" if shares else MISSING


def _worst(scraped: ScrapedSnapshot) -> str:
    """The attainment of the class that fares worst."""
    known = [slo.attainment for slo in scraped.snapshot.slo_stats.values() if not math.isnan(slo.attainment)]
    return percent(min(known)) if scraped.exact and known else MISSING


def _attained(slo: SloStatistics) -> str:
    low, high = slo.attainment_low, slo.attainment_high
    between = "" if math.isnan(low) else f" ({percent_range(low, high)})"
    missed = ", ".join(f"{TARGETS.get(name, name)} {count(number)}" for name, number in slo.missed_by.items() if number)
    goodput = f", {per_second(slo.goodput_per_second)}/s now" if not math.isnan(slo.goodput_per_second) else ""
    by = f"; missed by {missed}" if missed else ""
    return f"{percent(slo.attainment)} of {count(slo.evaluated)} met{between}{goodput}{by}"


def _notes(fleet: ScrapedSnapshot) -> Iterator[RenderableType]:
    yield from (Text(note, style="yellow") for note in fleet.notes)
    if names := [_NAMES.get(Quantity(name), name) for name in fleet.not_merged]:
        reason = "not merged, because these engines mean different things by it: "
        yield Text(f"{reason}{'; '.join(names)}", style="yellow")


_CELLS: dict[str, Callable[[ScrapedSnapshot], str]] = {
    "run": _running, "wait": _waiting, "KV cache": _usage, "req/s": _requests, "tok/s": _tokens, "over": _over,
    "limited by": _most_held, "SLO": _worst,
}  # fmt: skip


# Latencies.


def _with_durations(document: WatchDocument) -> Iterator[tuple[RenderableType, ScrapedSnapshot]]:
    """The fleet's first, where it is more than one target; then each target's."""
    up = _up(document)
    found = [("fleet", document.fleet)] if len(up) > 1 else []
    found += [(_short(target.url), target.scraped) for target in up if len(document.targets) <= _EACH_UP_TO]
    for name, scraped in found:
        if scraped is not None and not scraped.intervals.keys().isdisjoint(DURATIONS):
            yield _title(name, scraped), scraped


def _title(name: str, scraped: ScrapedSnapshot) -> RenderableType:
    about = f"percentiles within {_error(scraped)}" if scraped.exact else "percentiles lie within these intervals"
    return Text.assemble("\n", (f"Latency  {name}", "bold"), (f"   {covered(scraped.window)}; {about}", "dim"))


def _error(scraped: ScrapedSnapshot) -> str:
    """The largest relative error that the histograms behind the intervals guarantee."""
    summaries = [summary for window in scraped.snapshot.windowed.values() for summary in window.summaries.values()]
    error = max((summary.relative_error for summary in summaries), default=math.nan)
    return MISSING if math.isnan(error) else f"{100 * error:.2g} %"


def _latencies(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    table = _table("", *columns)
    for row in rows:
        table.add_row(row.name, *(_figure(row.summary, column) for column in columns))
    return table


def _rows(intervals: dict[str, IntervalSummary]) -> Iterator[Row]:
    """A row a quantity; one for both gaps where each output carried one token, because then they are the same."""
    itl, gap = intervals.get(_ITL), intervals.get(_GAP)
    same = itl is not None and gap is not None and _observed(itl) == _observed(gap)
    for quantity in DURATIONS:
        if quantity in intervals and not (same and quantity is _GAP):
            name = _ITL_IS_GAP if same and quantity is _ITL else _NAMES[quantity]
            yield Row(quantity, name, intervals[quantity])


def _observed(summary: IntervalSummary) -> tuple[object, ...]:
    return summary.count, f"{summary.mean:.9g}", *map(interval_text, (summary.p50, summary.p90, summary.p99))


def _figure(summary: IntervalSummary, column: str) -> str:
    if column == "count":
        return count(summary.count)
    return duration(summary.mean) if column == "mean" else interval_text(getattr(summary, column))


def interval_text(interval: Interval) -> str:
    """``40..60 ms``; ``<= 10 ms`` from 0 on; ``> 80 s`` above the last edge; a number where it is narrow; or a dash."""
    low, high = interval
    if math.isnan(low):
        return MISSING
    if high - low <= _EXACT * high < math.inf:
        return duration((low + high) / 2)
    scale, unit = (1e3, "ms") if (low if math.isinf(high) else high) < 1 else (1.0, "s")
    if math.isinf(high):
        return f"> {_digits(scale * low)} {unit}"
    return (
        f"<= {_digits(scale * high)} {unit}" if low == 0 else f"{_digits(scale * low)}..{_digits(scale * high)} {unit}"
    )


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _trouble(target: TargetReport) -> str:
    return target.error.removeprefix(f"{target.url}: ")


def _short(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/metrics")


def _clock(since: dt.datetime, now: dt.datetime) -> str:
    return since.strftime("%H:%M:%S" if since.date() == now.date() else "%m-%d %H:%M")


def _table(first: str, *rest: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, header_style="dim")
    table.add_column(first, no_wrap=True)
    for name in rest:
        table.add_column(name, justify="right", no_wrap=True)
    return table
