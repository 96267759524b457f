"""The report: what people read first. It answers: was the batch full, if not why, were users served in time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from batchscope.configuration import OTHER_CLASS
from batchscope.records import BatchLimiter
from batchscope.rows import IterationColumn
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import DistributionSummary, SloStatistics
from batchscope.text import shown, shown_document
from batchscope.views.head import Head
from batchscope.views.numbers import (
    MISSING,
    amount,
    bar,
    count,
    duration,
    in_one_unit,
    percent,
    percent_range,
    rate,
    sparkline,
)
from batchscope.views.timeline import Timeline
from batchscope.views.words import TARGETS, by_share, limiter_name, origin, what_it_is

_COLOR = {
    BatchLimiter.REQUEST_SLOTS: "magenta",
    BatchLimiter.TOKEN_BUDGET: "yellow",
    BatchLimiter.KV_CACHE: "red",
    BatchLimiter.DEMAND: "green",
}
_ROOM = 100
"""Columns from which on there is room for words beside the figures."""
_PLENTY = 120
_OF_TOKENS = {"ITL": "every token", "gap": "every output"}
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
        self._shown: MetricsSnapshot = shown_document(snapshot)
        self._timeline = timeline
        self._head = Head(self._shown, shown(title), why_refused, interrupted=interrupted)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, ascii_only = options.max_width, options.ascii_only
        yield self._head.panel(width)
        yield _section("Latency", self._population(), _latency(self._shown, width))
        if self._timeline is None:
            yield _section("Batch", self._span(), self._batch(width, ascii_only))
        else:
            yield _section("Batch over time", self._span(), self._over_time(self._timeline, width, ascii_only))
        yield _section("Why the batch was not fuller", self._whose_shares(), self._limiters(width, ascii_only))
        if any(slo.targets or slo.evaluated for slo in self._shown.slo_stats.values()):
            yield _section(
                "SLO",
                "all targets met by the same request; 95 % range: Wilson, as if requests were independent",
                self._slo(width),
            )

    def _population(self) -> str:
        """Which requests the rows are of, and which of their percentiles are estimates."""
        rows = [(name.split()[0], summary) for name, summary in _latencies(self._shown) if summary.count]
        kept = max((summary.count for name, summary in rows if name not in _OF_TOKENS), default=0)
        completed = self._shown.request_stats.completed_requests
        last = f"the last {count(kept)} of {count(completed)} " if 0 < kept < completed else ""
        between = next((f"{name}: {whose}" for name, whose in _OF_TOKENS.items() if name in dict(rows)), "")
        parts = [f"{last}completed requests", between, _error([summary for _, summary in rows])]
        return "; ".join(filter(None, parts))

    def _span(self) -> str:
        totals, ratio = self._shown.totals, self._shown.iteration_stats.busy_ratio
        busy = "" if math.isnan(ratio) else f", busy {percent(ratio)}"
        preemptions = f", {count(totals.preemptions)} preemptions" if totals.preemptions else ""
        return f"{duration(self._shown.elapsed_seconds)}{busy}, {count(totals.iterations)} iterations{preemptions}"

    def _over_time(self, timeline: Timeline, width: int, ascii_only: bool) -> RenderableType:
        limit = self._shown.limits.max_running_requests
        cells = max(10, width - 34)
        table = _rows(cells)
        for name, quantity, top, color in (
            ("batch", IterationColumn.REQUEST_COUNT, float(limit or math.nan), "cyan"),
            ("KV cache", IterationColumn.KV_CACHE_USAGE, 1.0, "red"),
            ("waiting", IterationColumn.WAITING_REQUESTS, math.nan, "yellow"),
        ):
            means, peak = [float(value) for value in timeline.means(quantity, cells)], timeline.peak(quantity)
            highest = max((value for value in means if not math.isnan(value)), default=1.0)
            scale = top if not math.isnan(top) else max(highest, 1.0)
            label = f"peak {count(peak)}" if math.isnan(top) else f"peak {percent(peak / top)}"
            table.add_row(f" {name}", Text(sparkline(means, scale, ascii_only=ascii_only), color), label)
        return table

    def _batch(self, width: int, ascii_only: bool) -> RenderableType:
        """What there is without a timeline: means, and how it is now."""
        iterations, gauges, limits = self._shown.iteration_stats, self._shown.gauges, self._shown.limits
        cells = max(10, width - 70)
        table = _rows(cells)
        utilization, largest = iterations.time_weighted_utilization, self._shown.batch_stats.max_batch_size
        places = f" of {count(limits.max_running_requests)}" if limits.max_running_requests else ""
        for name, ratio, color, words in (
            ("batch", utilization, "cyan",
             [f"mean {percent(utilization)}{places}", f"largest {count(largest)}",
              f"now {count(gauges.requests_running)} running"]),
            ("KV cache", iterations.average_kv_cache_usage, "red",
             [f"mean {percent(iterations.average_kv_cache_usage)}", f"now {percent(gauges.kv_cache_usage)}"]),
            ("waiting", math.nan, "yellow",
             [f"mean {amount(iterations.average_waiting_requests)}", f"now {count(gauges.requests_waiting)}",
              f"oldest {duration(gauges.oldest_waiting_seconds)}"]),
        ):  # fmt: skip
            known = "" if math.isnan(ratio) else bar(min(max(ratio, 0.0), 1.0), cells, ascii_only=ascii_only)
            table.add_row(f" {name}", Text(known, color), ", ".join(filter(_known, words)) or MISSING)
        return table

    def _whose_shares(self) -> str:
        statistics = self._shown.iteration_stats
        known = by_share(statistics.limited_by)
        return f"share of busy time; {origin(statistics.limiter_reported_ratio)}" if known else "share of busy time"

    def _limiters(self, width: int, ascii_only: bool) -> RenderableType:
        statistics, totals = self._shown.iteration_stats, self._shown.totals
        shares = by_share(statistics.limited_by)
        unit, held = in_one_unit(totals.busy_seconds_by_limiter.get(limiter, math.nan) for limiter, _ in shares)
        table = _grid(width)
        table.add_column("held by", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column(f"for, {unit or 's'}", justify="right", no_wrap=True)
        for name, short in (("lost slot-seconds", "lost slot-s"), ("waited request-seconds", "wait req-s")):
            table.add_column(name if width >= _PLENTY else short, justify="right", no_wrap=True)
        table.add_column("which is", overflow="fold")
        cells = 11 if width >= _PLENTY else 5 if width >= _ROOM else 0
        for (limiter, share), seconds in zip(shares, held, strict=True):
            lost = statistics.lost_slot_seconds.get(limiter, math.nan)
            waited = totals.waiting_request_seconds_by_limiter.get(limiter, math.nan)
            color = _COLOR.get(limiter, "blue")  # type: ignore[call-overload]
            chart = Text(bar(min(share, 1.0), cells, ascii_only=ascii_only) if cells else "", style=color)
            what = what_it_is(limiter, self._shown.limits)
            table.add_row(limiter_name(limiter), percent(share), chart, seconds, amount(lost), amount(waited), what)
        if not shares:
            table.add_row(MISSING, MISSING, "", *[MISSING] * 4)
        return table

    def _slo(self, width: int) -> RenderableType:
        table = _table(width, "class", "targets", "n", "met", "95 % range", "goodput", "missed by")
        table.columns[0].min_width = 7
        for name, slo in self._shown.slo_stats.items():
            if name != OTHER_CLASS or slo.evaluated:
                table.add_row(name, *self._slo_figures(name, slo))
        for column in (table.columns[1], table.columns[6]):
            column.justify, column.no_wrap, column.overflow = "left", False, "fold"
        return table

    def _slo_figures(self, of: str, slo: SloStatistics) -> Iterator[RenderableType]:
        lines = [f"{TARGETS.get(name, name)} <= {duration(value)}" for name, value in slo.targets.items()] or [MISSING]
        results = self._shown.totals.slo_requests.get(of, {})
        left_out = (("not_evaluated", "not evaluated"), ("unmeasured", "not measured"))
        lines += [f"({count(results[name])} {words})" for name, words in left_out if results.get(name)]
        yield "\n".join(lines)
        yield count(slo.evaluated)
        yield Text(percent(slo.attainment), style=_grade(slo.attainment))
        yield percent_range(slo.attainment_low, slo.attainment_high)
        yield f"{rate(slo.met, self._shown.elapsed_seconds)}/s"
        yield "\n".join(f"{TARGETS.get(name, name)} {count(n)}" for name, n in slo.missed_by.items() if n) or MISSING


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


def _latencies(snapshot: MetricsSnapshot) -> Sequence[tuple[str, DistributionSummary]]:
    """The rows; of an engine that tells its outputs and not how many tokens each has, the gap instead of the ITL."""
    requests = snapshot.request_stats
    between = ("ITL   between tokens", requests.inter_token_latency)
    if requests.inter_emission_latency.count and not requests.inter_token_latency.count:
        between = ("gap   between outputs", requests.inter_emission_latency)
    return (
        ("queue", requests.queue_time),
        ("TTFT  to the first token", requests.time_to_first_token),
        ("TPOT  per output token", requests.time_per_output_token),
        between,
        ("e2e   arrival to end", requests.total_time),
    )


def _latency(snapshot: MetricsSnapshot, width: int) -> RenderableType:
    table = _table(width, "", "count", "", "mean", "p50", "p90", "p95", "p99", "max")
    for name, summary in _latencies(snapshot):
        figures = (summary.mean, summary.p50, summary.p90, summary.p95, summary.p99, summary.max)
        unit, texts = in_one_unit(figures)
        table.add_row(name if width >= _ROOM else name.split()[0], count(summary.count), unit, *texts)
    return table


def _error(summaries: Sequence[DistributionSummary]) -> str:
    """What the estimates among them guarantee; the exact ones need no word."""
    errors = [summary.relative_error for summary in summaries if summary.relative_error]
    if not errors:
        return ""
    which = "percentiles" if len(errors) == len(summaries) else "its percentiles"
    return f"{which} within {100 * max(errors):.2g} %"


def _known(words: str) -> bool:
    return MISSING not in words.split()


def _grade(attainment: float) -> str:
    if math.isnan(attainment):
        return ""
    return "bold green" if attainment >= 0.99 else "bold yellow" if attainment >= 0.9 else "bold red"
