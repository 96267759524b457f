"""The report: what people read first. It answers: was the batch full, if not why, were users served in time."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from batchscope.cli.figures import MISSING, bar, count, duration, percent, rate, sparkline
from batchscope.cli.options import OPTION_OF
from batchscope.cli.timeline import Timeline
from batchscope.configuration import OTHER_CLASS
from batchscope.recording.rows import IterationColumn
from batchscope.records import BatchLimiter, CompletionReason, Outcome
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import DistributionSummary, SloStatistics

_ADVICE = {
    BatchLimiter.REQUEST_SLOTS: "max_running_requests",
    BatchLimiter.TOKEN_BUDGET: "max_scheduled_tokens",
    BatchLimiter.KV_CACHE: "kv_cache_blocks",
}
_NOT_A_SETTING = {
    BatchLimiter.DEFERRED: "what requests wait for (grammar, adapter, KV transfer)",
    BatchLimiter.POLICY: "the scheduler's admission policy",
    BatchLimiter.PAUSED: "admission was paused",
    BatchLimiter.DEMAND: "nothing: there was no more to do",
    BatchLimiter.UNKNOWN: "the scheduler did not say",
}
_COLOR = {
    BatchLimiter.REQUEST_SLOTS: "magenta",
    BatchLimiter.TOKEN_BUDGET: "yellow",
    BatchLimiter.KV_CACHE: "red",
    BatchLimiter.DEMAND: "green",
}
_TARGETS = {
    "time_to_first_token": "TTFT",
    "time_per_output_token": "TPOT",
    "e2e_latency": "e2e",
    "max_emission_gap": "gap",
}
_WORTH_NAMING = 0.1
_ROOM = 100
"""Columns from which on there is room for words beside the figures."""


class Report:
    """Renders with rich; ``-`` stands where nothing was measured."""

    def __init__(self, snapshot: MetricsSnapshot, timeline: Timeline, *, title: str, interrupted: bool = False) -> None:
        self.snapshot = snapshot
        self.interrupted = interrupted
        self._timeline = timeline
        self._title = title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, ascii_only = options.max_width, options.ascii_only
        yield self._head()
        yield _section("Latency", "completed requests; ITL: every token", self._latency(width))
        yield _section("Batch over time", self._span(), self._over_time(width, ascii_only))
        yield _section("Why the batch was not fuller", "share of busy time", self._limiters(width, ascii_only))
        if self.snapshot.slo_stats and any(slo.targets for slo in self.snapshot.slo_stats.values()):
            yield _section(
                "SLO",
                "all targets met by the same request; 95 % range: Wilson, as if requests were independent",
                self._slo(width),
            )

    def _head(self) -> RenderableType:
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="dim", no_wrap=True)
        lines.add_column()
        lines.add_row("requests", self._requests())
        lines.add_row("throughput", self._throughput())
        lines.add_row("batch", self._verdict())
        title = Text.assemble(("batchscope", "bold cyan"), f"  {self._title}")
        if self.interrupted:
            title.append("  INTERRUPTED: what ran so far", style="bold red")
        return Panel(
            lines, title=title, title_align="left", border_style="red" if self.interrupted else "cyan", box=box.ROUNDED
        )

    def _requests(self) -> Text:
        requests, totals = self.snapshot.request_stats, self.snapshot.totals
        text = Text.assemble((count(totals.requests_received), "bold"), " arrived:  ")
        text.append(f"{count(requests.completed_requests)} completed", style="green")
        text.append(_separated(requests.failed_requests, "failed", self._reasons(Outcome.FAILED)))
        text.append(_separated(requests.cancelled_requests, "cancelled"))
        if in_flight := self.snapshot.gauges.requests_in_flight:
            text.append(_separated(in_flight, "still in flight"), style="bold")
        return text

    def _reasons(self, outcome: Outcome) -> str:
        by_reason = self.snapshot.totals.requests_by_reason
        named = [f"{reason} {count(by_reason[reason])}" for reason in CompletionReason
                 if reason.outcome is outcome and by_reason.get(reason)]  # fmt: skip
        return f" ({', '.join(named)})" if named else ""

    def _throughput(self) -> str:
        totals, seconds = self.snapshot.totals, self.snapshot.elapsed_seconds
        prompt = (totals.prompt_tokens_computed or 0) + (totals.prompt_tokens_cached or 0)
        return (
            f"{rate(self.snapshot.request_stats.total_requests, seconds)} requests/s   "
            f"{rate(totals.generation_tokens, seconds)} output tokens/s   "
            f"{rate(prompt, seconds)} prompt tokens/s"
        )

    def _verdict(self) -> Text:
        iterations = self.snapshot.iteration_stats
        text = Text.assemble((percent(iterations.time_weighted_utilization), "bold"), " full while busy")
        for limiter, share in _by_share(iterations.limited_by):
            if limiter in _ADVICE and share >= _WORTH_NAMING:
                text.append(f"; limited {percent(share)} of the time by ")
                text.append(_name(limiter), style=f"bold {_COLOR[limiter]}")
                break
        else:
            text.append("; mostly there was no more to do" if iterations.limited_by else "")
        return text

    def _latency(self, width: int) -> RenderableType:
        table = _table(width, "", "count", "mean", "p50", "p90", "p95", "p99", "max")
        requests = self.snapshot.request_stats
        for name, summary in (
            ("queue", requests.queue_time),
            ("TTFT  to the first token", requests.time_to_first_token),
            ("TPOT  per output token", requests.time_per_output_token),
            ("ITL   between tokens", requests.inter_token_latency),
            ("e2e   arrival to end", requests.total_time),
        ):
            table.add_row(name if width >= _ROOM else name.split()[0], *_figures(summary))
        return table

    def _span(self) -> str:
        totals = self.snapshot.totals
        return f"{duration(self.snapshot.elapsed_seconds)}, {count(totals.iterations)} iterations"

    def _over_time(self, width: int, ascii_only: bool) -> RenderableType:
        limit = self.snapshot.limits.max_running_requests
        cells = max(10, width - 34)
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, width=cells)
        table.add_column(style="dim", no_wrap=True)
        for name, quantity, top, color in (
            ("batch", IterationColumn.REQUEST_COUNT, float(limit or math.nan), "cyan"),
            ("KV cache", IterationColumn.KV_CACHE_USAGE, 1.0, "red"),
            ("waiting", IterationColumn.WAITING_REQUESTS, math.nan, "yellow"),
        ):
            means = [float(value) for value in self._timeline.means(quantity, cells)]
            peak = max((value for value in means if not math.isnan(value)), default=math.nan)
            scale = top if not math.isnan(top) else max(peak, 1.0)
            label = f"peak {count(peak)}" if math.isnan(top) else f"peak {percent(peak / top)}"
            table.add_row(f" {name}", Text(sparkline(means, scale, ascii_only=ascii_only), color), label)
        return table

    def _limiters(self, width: int, ascii_only: bool) -> RenderableType:
        table = _grid(width)
        table.add_column("limited by", no_wrap=True)
        table.add_column("share", justify="right")
        table.add_column("", no_wrap=True)
        table.add_column("lost slot-seconds", justify="right")
        table.add_column("what to turn")
        statistics = self.snapshot.iteration_stats
        for limiter, share in _by_share(statistics.limited_by):
            lost = statistics.lost_slot_seconds.get(limiter, math.nan)
            color = _COLOR.get(limiter, "blue")
            chart = Text(bar(share, 20 if width >= _ROOM else 8, ascii_only=ascii_only), style=color)
            table.add_row(_name(limiter), percent(share), chart, count(lost), self._advice(limiter))
        if not statistics.limited_by:
            table.add_row(MISSING, MISSING, "", MISSING, MISSING)
        return table

    def _advice(self, limiter: BatchLimiter) -> Text:
        if limiter not in _ADVICE:
            return Text(_NOT_A_SETTING[limiter], style="dim")
        field = _ADVICE[limiter]
        present = getattr(self.snapshot.limits, field)
        return Text.assemble((OPTION_OF[field], "bold"), (f"  now {present}" if present else "", "dim"))

    def _slo(self, width: int) -> RenderableType:
        table = _table(width, "class", "targets", "n", "met", "95 % range", "goodput", "missed by")
        for name, slo in self.snapshot.slo_stats.items():
            if name != OTHER_CLASS or slo.evaluated:
                table.add_row(name, *self._slo_figures(slo))
        for column in (1, 6):
            table.columns[column].justify = "left"
        return table

    def _slo_figures(self, slo: SloStatistics) -> Iterator[RenderableType]:
        yield "\n".join(f"{_TARGETS[name]} <= {duration(value)}" for name, value in slo.targets.items()) or MISSING
        yield count(slo.evaluated)
        yield Text(percent(slo.attainment), style=_grade(slo.attainment))
        yield (
            MISSING
            if math.isnan(slo.attainment_low)
            else f"{100 * slo.attainment_low:.1f}..{100 * slo.attainment_high:.1f} %"
        )
        yield f"{rate(slo.met, self.snapshot.elapsed_seconds)}/s"
        yield "\n".join(f"{_TARGETS.get(name, name)} {count(n)}" for name, n in slo.missed_by.items() if n) or MISSING


def _section(title: str, about: str, body: RenderableType) -> RenderableType:
    return Group(Text.assemble("\n", (title, "bold"), ("   " + about, "dim")), body)


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
    table.add_column(first, no_wrap=True)
    for name in rest:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _figures(summary: DistributionSummary) -> Iterator[str]:
    yield count(summary.count)
    for value in (summary.mean, summary.p50, summary.p90, summary.p95, summary.p99, summary.max):
        yield duration(value)


def _by_share(shares: dict[str, float]) -> list[tuple[BatchLimiter, float]]:
    pairs = ((BatchLimiter(name), share) for name, share in shares.items() if share > 0)
    return sorted(pairs, key=lambda pair: -pair[1])


def _name(limiter: BatchLimiter) -> str:
    return limiter.replace("_", " ").replace("kv", "KV")


def _separated(number: int, what: str, details: str = "") -> str:
    return f"   {count(number)} {what}{details}"


def _grade(attainment: float) -> str:
    if math.isnan(attainment):
        return ""
    return "bold green" if attainment >= 0.99 else "bold yellow" if attainment >= 0.9 else "bold red"
