"""The report: what people read first. It answers: was the batch full, if not why, were users served in time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from batchscope.rows import IterationColumn
from batchscope.scraping.table import Quantity
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import shown, shown_document
from batchscope.views import palette
from batchscope.views.board import Latency, Slo, board
from batchscope.views.head import Head
from batchscope.views.numbers import (
    MISSING,
    amount,
    bar,
    count,
    duration,
    in_one_unit,
    per_second,
    percent,
    percent_range,
    sparkline,
)
from batchscope.views.timeline import Timeline
from batchscope.views.verdict import verdict
from batchscope.views.words import MOST_SHOWN, limiter_name, missed_by, origin, short_name, what_it_is, within

_ROOM = 100
"""Columns from which on there is room for words beside the figures."""
_PLENTY = 120
_BEFORE = (Quantity.QUEUE_TIME, Quantity.TIME_TO_FIRST_TOKEN, Quantity.TIME_PER_OUTPUT_TOKEN)
_ABOUT = {
    "time_to_first_token": "to the first token",
    "time_per_output_token": "per output token",
    "inter_token_latency": "between tokens",
    "inter_emission_latency": "between outputs",
    "total_time": "arrival to end",
}
_OF_TOKENS = {"inter_token_latency": "every token", "inter_emission_latency": "every output"}
"""Rows that are not of the completed requests."""


class Report:
    """Renders with rich; ``-`` stands where nothing was measured.

    What only somebody who watched the run knows is left out where it is not given: the ``timeline`` of its iterations,
    and ``why_refused``: why requests were refused at admission, and what would change that.
    """

    def __init__(
        self,
        snapshot: MetricsSnapshot,
        timeline: Timeline | None = None,
        *,
        title: str = "",
        why_refused: str = "",
        interrupted: bool = False,
    ) -> None:
        self.snapshot = snapshot
        self.interrupted = interrupted
        self._board = board(shown_document(snapshot))
        self._verdict = verdict(snapshot, ended=timeline is not None)
        self._timeline = timeline
        self._head = Head(self._board, shown(title), why_refused, interrupted=interrupted)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, ascii_only = options.max_width, options.ascii_only
        yield Text(self._verdict.sentence, palette.STATES[self._verdict.state].style)
        yield self._head.panel(width)
        yield _section("Latency", self._population(), _latency(self._latencies, width))
        if self._timeline is None:
            yield _section("Batch", self._span(), self._batch(width, ascii_only))
        else:
            yield _section("Batch over time", self._span(), self._over_time(self._timeline, width, ascii_only))
        yield _section("Why the batch was not fuller", self._whose_shares(), self._limiters(width, ascii_only))
        if self._board.slo:
            yield _section(
                "SLO",
                "all targets met by the same request; 95 % range: Wilson, as if requests were independent",
                _slo(self._board.slo, width),
            )

    @property
    def _latencies(self) -> list[Latency]:
        """Of an engine that tells its outputs and not how many tokens each has, the gap instead of the ITL."""
        latencies = self._board.latencies
        between = Quantity.INTER_TOKEN_LATENCY
        if latencies[Quantity.INTER_EMISSION_LATENCY].count and not latencies[between].count:
            between = Quantity.INTER_EMISSION_LATENCY
        return [latencies[name] for name in (*_BEFORE, between, Quantity.TOTAL_TIME)]

    def _population(self) -> str:
        """Which requests the rows are of, and which of their percentiles are estimates."""
        rows = [row for row in self._latencies if row.count]
        kept = max((row.count for row in rows if row.quantity not in _OF_TOKENS), default=0)
        completed = self._board.requests.completed
        last = f"the last {count(kept)} of {count(completed)} " if 0 < kept < completed else ""
        between = [f"{short_name(name)}: {whose}" for name, whose in _OF_TOKENS.items()
                   if name in [row.quantity for row in rows]]  # fmt: skip
        return "; ".join(filter(None, [f"{last}completed requests", *between, _error(rows)]))

    def _span(self) -> str:
        batch, preemptions = self._board.batch, self._board.kv_cache.preemptions
        busy = "" if math.isnan(batch.busy_ratio) else f", busy {percent(batch.busy_ratio)}"
        preempted = f", {count(preemptions)} preemptions" if preemptions else ""
        return f"{duration(self._board.elapsed_seconds)}{busy}, {count(batch.iterations)} iterations{preempted}"

    def _over_time(self, timeline: Timeline, width: int, ascii_only: bool) -> RenderableType:
        limit = self._board.batch.places
        cells = max(10, width - 34)
        table = _rows(cells)
        for name, quantity, top, color in (
            ("batch", IterationColumn.REQUEST_COUNT, float(limit or math.nan), palette.BATCH),
            ("KV cache", IterationColumn.KV_CACHE_USAGE, 1.0, palette.KV_CACHE),
            ("waiting", IterationColumn.WAITING_REQUESTS, math.nan, palette.WAITING),
        ):
            means, peak = [float(value) for value in timeline.means(quantity, cells)], timeline.peak(quantity)
            highest = max((value for value in means if not math.isnan(value)), default=1.0)
            scale = top if not math.isnan(top) else max(highest, 1.0)
            label = f"peak {count(peak)}" if math.isnan(top) else f"peak {percent(peak / top)}"
            table.add_row(f" {name}", Text(sparkline(means, scale, ascii_only=ascii_only), color), label)
        return table

    def _batch(self, width: int, ascii_only: bool) -> RenderableType:
        """What there is without a timeline: means, and how it is now."""
        batch, kv_cache, waiting = self._board.batch, self._board.kv_cache, self._board.waiting
        cells = max(10, width - 70)
        table = _rows(cells)
        places = f" of {count(batch.places)}" if batch.places else ""
        for name, ratio, color, words in (
            ("batch", batch.full_by_time, palette.BATCH,
             [f"mean {percent(batch.full_by_time)}{places}", f"largest {count(batch.largest)}",
              f"now {count(batch.running)} running"]),
            ("KV cache", kv_cache.mean, palette.KV_CACHE,
             [f"mean {percent(kv_cache.mean)}", f"now {percent(kv_cache.highest)}"]),
            ("waiting", math.nan, palette.WAITING,
             [f"mean {amount(waiting.mean)}", f"now {count(waiting.now)}",
              f"oldest {duration(waiting.oldest_seconds)}"]),
        ):  # fmt: skip
            known = "" if math.isnan(ratio) else bar(min(max(ratio, 0.0), 1.0), cells, ascii_only=ascii_only)
            table.add_row(f" {name}", Text(known, color), ", ".join(filter(_known, words)) or MISSING)
        return table

    def _whose_shares(self) -> str:
        whose = f"; {origin(self._board.reported_ratio)}" if self._board.held else ""
        return f"share of busy time{whose}"

    def _limiters(self, width: int, ascii_only: bool) -> RenderableType:
        held = self._board.held
        unit, seconds = in_one_unit(one.seconds for one in held)
        table = _grid(width)
        if width >= _ROOM:
            table.add_column("", no_wrap=True, style="dim")  # the letter of the band in a live view
        table.add_column("held by", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column(f"for, {unit or 's'}", justify="right", no_wrap=True)
        for name, short in (("lost slot-seconds", "lost slot-s"), ("waited request-seconds", "wait req-s")):
            table.add_column(name if width >= _PLENTY else short, justify="right", no_wrap=True)
        table.add_column("which is", overflow="fold")
        cells = 11 if width >= _PLENTY else 5 if width >= _ROOM else 0
        for one, lasted in zip(held, seconds, strict=True):
            mark = palette.LIMITERS.get(one.limiter, palette.NEWER)
            chart = Text(bar(min(one.share, 1.0), cells, ascii_only=ascii_only) if cells else "", style=mark.color)
            cost = (amount(one.lost_slot_seconds), amount(one.waiting_request_seconds))
            what = what_it_is(one.limiter, self._board.limits)
            letter = [mark.lettered(self._board.reported_ratio)] * (width >= _ROOM)
            table.add_row(*letter, limiter_name(one.limiter), percent(one.share), chart, lasted, *cost, what)
        if not held:
            table.add_row(*[""] * (width >= _ROOM), MISSING, MISSING, "", *[MISSING] * 4)
        return table


def _slo(classes: Sequence[Slo], width: int) -> RenderableType:
    table = _table(width, "class", "targets", "n", "met", "95 % range", "goodput", "missed by")
    table.columns[0].min_width = 7
    for slo in classes[:MOST_SHOWN]:
        lines = [f"{short_name(name)} <= {duration(value)}" for name, value in slo.targets.items()] or [MISSING]
        left_out = ((slo.not_evaluated, "not evaluated"), (slo.unmeasured, "not measured"))
        lines += [f"({count(number)} {words})" for number, words in left_out if number]
        table.add_row(
            slo.request_class,
            "\n".join(lines),
            count(slo.evaluated),
            Text(percent(slo.attainment), style=f"bold {palette.grade(slo.attainment)}"),
            percent_range(*slo.attainment_range),
            f"{per_second(slo.goodput)}/s",
            "\n".join(missed_by(slo)) or MISSING,
        )
    if len(classes) > MOST_SHOWN:
        table.add_row(f"and {len(classes) - MOST_SHOWN:,} more")
    for column in (table.columns[1], table.columns[6]):
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
    return table


def _section(title: str, about: str, body: RenderableType) -> RenderableType:
    return Group(Text.assemble("\n", (title, "bold"), ("   " + about, "dim")), body)


def _rows(cells: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, width=cells)
    table.add_column(style="dim")
    return table


def _grid(width: int) -> Table:
    narrow = width < _ROOM
    return Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1),
        collapse_padding=narrow,
        pad_edge=not narrow,
        header_style="dim",
    )


def _table(width: int, first: str, *rest: str) -> Table:
    table = _grid(width)
    table.add_column(first, overflow="fold")  # what gives way where figures are long
    for name in rest:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _latency(rows: Sequence[Latency], width: int) -> RenderableType:
    table = _table(width, "", "count", "", "mean", "p50", "p90", "p95", "p99", "max")
    for row in rows:
        percentiles = (row.p50, row.p90, row.p95, row.p99, row.max)
        unit, texts = in_one_unit((row.mean, *(percentile.value for percentile in percentiles)))
        name = short_name(row.quantity)
        if width >= _ROOM:
            name = f"{name:<6}{_ABOUT.get(row.quantity, '')}".rstrip()
        table.add_row(name, count(row.count), unit, *texts)
    return table


def _error(rows: Sequence[Latency]) -> str:
    """What the estimates among them guarantee; the exact ones need no word."""
    errors = [row.relative_error for row in rows if row.relative_error]
    if not errors:
        return ""
    return f"{'percentiles' if len(errors) == len(rows) else 'its percentiles'} {within(max(errors))}"


def _known(words: str) -> bool:
    return MISSING not in words.split()
