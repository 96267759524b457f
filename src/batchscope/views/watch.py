"""A round of a watch as tables that fit the screen: targets, what held them, their SLO, latencies."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from batchscope.scraping.documents import Interval, ScrapedSnapshot, ScrapeWindow, TargetReport, WatchDocument
from batchscope.scraping.table import DURATIONS, Quantity
from batchscope.text import shown_document
from batchscope.views import palette
from batchscope.views.board import Board, Latency, Slo, board
from batchscope.views.numbers import MISSING, count, duration, per_second, percent, percent_range
from batchscope.views.words import MOST_SHOWN, limiter_name, missed_by, origin, short_name, within

_ITL, _GAP = Quantity.INTER_TOKEN_LATENCY, Quantity.INTER_EMISSION_LATENCY
_GAPS: dict[str, str] = {_ITL: "ITL, a token", _GAP: "gap, an output"}
_ITL_IS_GAP = "ITL = gap"
"""One token an output: both are the same observations."""
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

    name: str
    latency: Latency


class _Target(NamedTuple):
    """What a look says of a target, and its figures where it could be read."""

    report: TargetReport
    name: str
    board: Board | None


class _Looked(NamedTuple):
    """A round: its targets, and all together."""

    time: dt.datetime
    targets: list[_Target]
    fleet: Board | None

    @property
    def up(self) -> list[tuple[str, Board]]:
        """The targets that could be read, by name."""
        return [(target.name, target.board) for target in self.targets if target.board is not None]


def view(document: WatchDocument, height: int | None = None) -> RenderableType:
    """The whole round; with ``height`` as much of it as these lines have room for, and what is left out is said."""
    return _Round(shown_document(document), height)


class _Round:
    def __init__(self, document: WatchDocument, height: int | None) -> None:
        targets = [_Target(one, _short(one.url), _board(one.scraped)) for one in document.targets]
        self._looked = _Looked(document.time, targets, _board(document.fleet))
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def lines(part: RenderableType) -> int:
            return len(console.render_lines(part, options, pad=False))

        dense = len(self._looked.targets) > _EACH_UP_TO
        above = list(self._above(console, options, dense=dense))
        if self._height is not None and sum(map(lines, above)) + _LEAST_LATENCIES > self._height:
            above = list(self._above(console, options, dense=True))
        yield from above
        yield from self._latencies_that_fit(console, options, above, lines)

    def _above(self, console: Console, options: ConsoleOptions, *, dense: bool) -> Iterator[RenderableType]:
        """All but latencies. ``dense``: what held each target is a column, and in words for the fleet only."""
        looked = self._looked
        sets = _DENSE_COLUMNS if dense and len(looked.targets) > 1 else _TARGET_COLUMNS
        yield _head(looked)
        yield _fitting(console, options, [_targets(looked, *one) for one in sets])
        for target in looked.targets:
            if target.report.error:
                yield Text(f"{target.name}: {_trouble(target.report)}", style=palette.BAD)
        yield from (
            Text(f"{one.name}: {note}", style=palette.WARNING) for one in looked.targets for note in one.report.notes
        )
        yield from _holders(looked, dense=dense)
        if len(looked.up) > 1 and looked.fleet is not None:
            yield from _notes(looked.fleet)

    def _latencies_that_fit(
        self,
        console: Console,
        options: ConsoleOptions,
        above: Sequence[RenderableType],
        lines: Callable[[RenderableType], int],
    ) -> Iterator[RenderableType]:
        """Those for which there is room below ``above``; of a table without room for all its rows some."""
        room = math.inf if self._height is None else self._height - _SPARE_LINES - sum(map(lines, above))
        left_out, tables = 0, list(_with_durations(self._looked))
        for place, (title, one) in enumerate(tables, start=1):
            rows = list(_rows(one.latencies))
            most = room - lines(title) - _HEADER_LINES
            whole = place == len(tables) and not left_out and most + _SPARE_LINES >= len(rows)
            shown = rows if whole else _first(rows, most)
            left_out += len(rows) - len(shown)
            if shown:
                table = _fitting(console, options, [_latencies(shown, columns) for columns in _LATENCY_COLUMNS])
                room -= lines(title) + lines(table)
                yield Group(title, table)
        if left_out:
            yield Text(
                f"rows of latencies not shown: {left_out}; a higher screen has them, or --json", style=palette.WARNING
            )


def _first(rows: Sequence[Row], most: float) -> list[Row]:
    """The ``most`` important of ``rows``, in their order; none where there is no room for a few."""
    if most >= len(rows):
        return list(rows)
    if most < _FEWEST_ROWS:
        return []
    rank: dict[str, int] = {quantity: place for place, quantity in enumerate(_IMPORTANCE)}
    kept = sorted(rows, key=lambda row: rank.get(row.latency.quantity, len(rank)))[: int(most)]
    return [row for row in rows if row in kept]


def _board(scraped: ScrapedSnapshot | None) -> Board | None:
    return None if scraped is None else board(scraped)


def _fitting(console: Console, options: ConsoleOptions, tables: Sequence[Table]) -> Table:
    """The first that needs no more than there is: nothing in it is cut."""
    endless = options.update(max_width=_ENDLESS)
    wanted = (table for table in tables if console.measure(table, options=endless).maximum <= options.max_width)
    return next(wanted, tables[-1])


def _head(looked: _Looked) -> Text:
    time = looked.time.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    answer = f"  {len(looked.up)} of {len(looked.targets)} targets answer  {time}"
    return Text.assemble(("batchscope", palette.NAME), answer)


# The targets.


def _targets(looked: _Looked, name_width: int, columns: Sequence[str]) -> Table:
    table = _table("target", *columns)
    table.columns[0].overflow = "fold"
    table.columns[0].no_wrap = False
    table.columns[0].max_width = name_width
    table.columns[1].justify = "left"
    for target in looked.targets:
        report = target.report
        mark = palette.STATES[report.state]
        state = Text(f"{mark.sign} {report.state}", style=mark.style)
        if report.since is not None:
            state.append(f"\nsince {_clock(report.since, looked.time)}")
        table.add_row(_named(target), state, *(_cell(target.board, column) for column in columns[1:]))
    if len(looked.up) > 1:
        table.add_section()
        table.add_row("fleet", "", *(_cell(looked.fleet, column) for column in columns[1:]))
    return table


def _named(target: _Target) -> Text:
    name = Text(target.name)
    if target.board is not None:
        name.append(f"\n{target.board.engine.kind or 'batchscope'}", style="dim")
    return name


def _cell(board: Board | None, column: str) -> str:
    return MISSING if board is None else _CELLS[column](board)


def _waiting(board: Board) -> str:
    deferred = board.waiting.deferred
    return count(board.waiting.now) + (f"\n+{count(deferred)} def." if deferred else "")


def _requests(board: Board) -> str:
    return per_second(board.recent.requests) + _of_some(board, Quantity.REQUESTS_FINISHED)


def _tokens(board: Board) -> str:
    return per_second(board.recent.output_tokens) + _of_some(board, Quantity.GENERATION_TOKENS)


def _of_some(board: Board, quantity: Quantity) -> str:
    """A fleet's number that only some of its targets give says so."""
    return f"\n{board.partial[quantity]} targets'" if quantity in board.partial else ""


def _running(board: Board) -> str:
    """Of how many places where that is known; the average batch of the window where the engine tells it."""
    batch = board.batch
    running = count(batch.running) + (f" of {count(batch.places)}" if batch.places else "")
    return running if math.isnan(batch.mean_requests) else f"{running}\nbatch {batch.mean_requests:.1f}"


def _usage(board: Board) -> str:
    """Of several ranks the lowest and the highest: their mean hides the full one."""
    low, high = board.kv_cache.lowest, board.kv_cache.highest
    return f"{100 * low:.0f}..{100 * high:.0f} %" if low < high else percent(low)


def covered(window: ScrapeWindow) -> str:
    """What rates and latencies cover, said in words where it is not the time between two scrapes."""
    age = "" if math.isnan(window.seconds) else f" {duration(window.seconds)}"
    if window.restarted:
        return f"since restart{age}"
    return f"since start{age}" if window.since_start else f"last{age}"


def _over(board: Board) -> str:
    return covered(board.over).replace("start ", "start\n")


# What only batchscope's own endpoints tell.


def _holders(looked: _Looked, *, dense: bool) -> Iterator[RenderableType]:
    """What held each batch and how many met their targets, a line each; ``dense``: of all together."""
    several, up = len(looked.targets) > 1, looked.up
    rows = [] if dense and len(up) > 1 else list(up)
    if len(up) > 1 and looked.fleet is not None:
        rows.append(("fleet", looked.fleet))
    lines = Table.grid(padding=(0, 2), collapse_padding=True)
    lines.add_column(overflow="fold", style="dim", max_width=28)
    lines.add_column(no_wrap=True, style="dim")
    lines.add_column()
    for name, one in rows:
        for place, (what, text) in enumerate(_told(one)):
            lines.add_row(name if several and not place else "", what, text)
    if lines.row_count:
        yield lines


def _told(board: Board) -> Iterator[tuple[str, str]]:
    if not board.exact:
        return
    held = ", ".join(f"{limiter_name(one.limiter)} {percent(one.share)}" for one in board.held) or MISSING
    who = origin(board.reported_ratio).removesuffix(" by the scheduler") if board.held else "no iteration"
    yield "limited by", f"{held}  ({covered(board.held_over)}; {who})"
    for slo in board.slo[:MOST_SHOWN]:
        yield "SLO", f"{slo.request_class}: {_attained(slo)}"
    if len(board.slo) > MOST_SHOWN:
        yield "SLO", f"and {len(board.slo) - MOST_SHOWN:,} more classes"


def _most_held(board: Board) -> str:
    return f"{limiter_name(board.held[0].limiter)} {percent(board.held[0].share)}" if board.held else MISSING


def _worst(board: Board) -> str:
    """The attainment of the class that fares worst."""
    known = [slo.attainment for slo in board.slo if not math.isnan(slo.attainment)]
    return percent(min(known)) if board.exact and known else MISSING


def _attained(slo: Slo) -> str:
    between = "" if math.isnan(slo.attainment_range[0]) else f" ({percent_range(*slo.attainment_range)})"
    goodput = f", {per_second(slo.recent_goodput)}/s now" if not math.isnan(slo.recent_goodput) else ""
    missed = f"; missed by {', '.join(missed_by(slo))}" if slo.missed_by else ""
    return f"{percent(slo.attainment)} of {count(slo.evaluated)} met{between}{goodput}{missed}"


def _notes(fleet: Board) -> Iterator[RenderableType]:
    yield from (Text(note, style=palette.WARNING) for note in fleet.notes)
    if fleet.not_merged:
        reason = "not merged, because these engines mean different things by it: "
        yield Text(f"{reason}{'; '.join(map(_row_name, fleet.not_merged))}", style=palette.WARNING)


_CELLS: dict[str, Callable[[Board], str]] = {
    "run": _running, "wait": _waiting, "KV cache": _usage, "req/s": _requests, "tok/s": _tokens, "over": _over,
    "limited by": _most_held, "SLO": _worst,
}  # fmt: skip


# Latencies.


def _with_durations(looked: _Looked) -> Iterator[tuple[RenderableType, Board]]:
    """The fleet's first, where it is more than one target; then each target's."""
    found = list(looked.up) if len(looked.targets) <= _EACH_UP_TO else []
    if len(looked.up) > 1 and looked.fleet is not None:
        found.insert(0, ("fleet", looked.fleet))
    for name, one in found:
        if not one.latencies.keys().isdisjoint(DURATIONS):
            yield _title(name, one), one


def _title(name: str, board: Board) -> RenderableType:
    about = "lie within these intervals"
    if board.exact:
        known = (one.relative_error for one in board.latencies.values() if not math.isnan(one.relative_error))
        about = f"{within(max(known, default=math.nan))}; TTFT, queue: of all requests"
    return Text.assemble("\n", (f"Latency  {name}", "bold"), (f"   {covered(board.over)}; percentiles {about}", "dim"))


def _latencies(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    table = _table("", *columns)
    for row in rows:
        table.add_row(row.name, *(_figure(row.latency, column) for column in columns))
    return table


def _rows(latencies: Mapping[str, Latency]) -> Iterator[Row]:
    """A row a quantity; one for both gaps where each output carried one token, because then they are the same."""
    itl, gap = latencies.get(_ITL), latencies.get(_GAP)
    same = itl is not None and gap is not None and _observed(itl) == _observed(gap)
    for quantity in DURATIONS:
        if quantity in latencies and not (same and quantity is _GAP):
            name = _ITL_IS_GAP if same and quantity is _ITL else _row_name(quantity)
            yield Row(name, latencies[quantity])


def _row_name(quantity: str) -> str:
    return _GAPS.get(quantity) or short_name(quantity)


def _observed(latency: Latency) -> tuple[object, ...]:
    percentiles = (latency.p50, latency.p90, latency.p99)
    return latency.count, f"{latency.mean:.9g}", *(interval_text(one.interval) for one in percentiles)


def _figure(latency: Latency, column: str) -> str:
    if column == "count":
        return count(latency.count)
    return duration(latency.mean) if column == "mean" else interval_text(getattr(latency, column).interval)


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
