"""A round of a watch as tables: the targets, the fleet, and latencies as the intervals that buckets allow."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchscope.engines.scraped.documents import (
    Interval,
    IntervalSummary,
    RatioSpan,
    ScrapedSnapshot,
    ScrapeWindow,
    TargetReport,
    WatchDocument,
)
from batchscope.engines.scraped.quantities import DURATIONS, Quantity
from batchscope.text import shown_document
from batchscope.views.numbers import MISSING, count, duration, percent

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
_STATE_STYLE = {"up": "green", "stale": "bold yellow", "vanished": "bold red", "down": "bold red", "unknown": "yellow"}
_EACH_UP_TO = 4
"""So many targets have their latencies shown one by one, beside the fleet's."""


def view(document: WatchDocument) -> RenderableType:
    """The whole round."""
    document = shown_document(document)
    parts: list[RenderableType] = [_head(document), _targets(document)]
    parts += [Text(f"{target.url}: {_trouble(target)}", style="red") for target in document.targets if target.error]
    parts += [Text(f"{target.url}: {note}", style="yellow") for target in document.targets for note in target.notes]
    several = len(document.targets) > 1
    if several and document.fleet is not None:
        parts += _of_fleet(document.fleet)
    if len(document.targets) <= _EACH_UP_TO:
        parts += [
            _latencies(_short(target.url), target.scraped)
            for target in document.targets
            if target.scraped is not None and _has_durations(target.scraped)
        ]
    return Group(*parts)


def _of_fleet(fleet: ScrapedSnapshot) -> Iterator[RenderableType]:
    if _has_durations(fleet):
        yield _latencies("fleet", fleet)
    if names := [_NAMES.get(Quantity(name), name) for name in fleet.not_merged]:
        reason = "not merged, because these engines mean different things by it: "
        yield Text(f"\n{reason}{'; '.join(names)}", style="yellow")


def _has_durations(scraped: ScrapedSnapshot) -> bool:
    return not scraped.intervals.keys().isdisjoint(DURATIONS)


def _head(document: WatchDocument) -> Text:
    up = sum(target.scraped is not None for target in document.targets)
    time = document.time.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Text.assemble(("batchscope", "bold cyan"), f"  {up} of {len(document.targets)} targets answer  {time}")


def _targets(document: WatchDocument) -> Table:
    table = _table("target", "state", "run", "wait", "KV cache", "req/s", "tok/s", "over")
    table.columns[1].justify = "left"
    table.columns[0].overflow = "fold"
    table.columns[0].no_wrap = False
    table.columns[0].min_width = 20
    for target in document.targets:
        state = Text(target.state, style=_STATE_STYLE[target.state])
        if target.since is not None:
            state.append(f"\nsince {_clock(target.since, document.time)}")
        table.add_row(_named(target), state, *_figures(target.scraped))
    if len(document.targets) > 1:
        table.add_section()
        table.add_row("fleet", "", *_figures(document.fleet))
    return table


def _named(target: TargetReport) -> Text:
    name = Text(_short(target.url))
    if target.scraped is not None:
        name.append(f"\n{target.scraped.snapshot.engine.kind}", style="dim")
    return name


def _figures(scraped: ScrapedSnapshot | None) -> Iterator[str]:
    if scraped is None:
        yield from [MISSING] * 6
        return
    gauges, requests = scraped.snapshot.gauges, scraped.snapshot.request_stats
    deferred = f" +{count(gauges.requests_deferred)} def." if gauges.requests_deferred else ""
    yield _running(scraped)
    yield count(gauges.requests_waiting) + deferred
    yield _usage(scraped.ratios.get(Quantity.KV_CACHE_USAGE))
    yield _number(requests.requests_per_second) + _of_some(scraped, Quantity.REQUESTS_FINISHED)
    yield _number(requests.tokens_per_second) + _of_some(scraped, Quantity.GENERATION_TOKENS)
    yield covered(scraped.window).replace("start ", "start\n")


def _of_some(scraped: ScrapedSnapshot, quantity: Quantity) -> str:
    """A fleet's number that only some of its targets give says so."""
    return f"\n{scraped.partial[quantity]} targets'" if quantity in scraped.partial else ""


def _running(scraped: ScrapedSnapshot) -> str:
    """Of how many places where that is known; the average batch of the window where the engine tells it."""
    limit, average = scraped.snapshot.limits.max_running_requests, scraped.snapshot.iteration_stats
    running = count(scraped.snapshot.gauges.requests_running) + (f" of {count(limit)}" if limit else "")
    batch = average.average_requests_per_iteration
    return running if math.isnan(batch) else f"{running}\nbatch {batch:.1f}"


def _usage(span: RatioSpan | None) -> str:
    """Of several ranks the lowest and the highest: their mean hides the full one."""
    if span is None:
        return MISSING
    return percent(span.low) if span.low == span.high else f"{100 * span.low:.0f}..{100 * span.high:.0f} %"


def covered(window: ScrapeWindow) -> str:
    """What rates and latencies cover, said in words where it is not the time between two scrapes."""
    age = "" if math.isnan(window.seconds) else f" {duration(window.seconds)}"
    if window.restarted:
        return f"since restart{age}"
    return f"since start{age}" if window.since_start else f"last{age}"


def _latencies(title: str, scraped: ScrapedSnapshot) -> RenderableType:
    table = _table("", "count", "mean", "p50", "p90", "p95", "p99")
    for quantity in DURATIONS:
        if quantity in scraped.intervals:
            table.add_row(_NAMES[quantity], *_summary(scraped.intervals[quantity]))
    about = f"   {covered(scraped.window)}; percentiles lie within these intervals"
    return Group(Text.assemble("\n", (f"Latency  {title}", "bold"), (about, "dim")), table)


def _summary(summary: IntervalSummary) -> Iterator[str]:
    yield count(summary.count)
    yield duration(summary.mean)
    for interval in (summary.p50, summary.p90, summary.p95, summary.p99):
        yield interval_text(interval)


def interval_text(interval: Interval) -> str:
    """``40..60 ms``; ``<= 10 ms`` from 0 on; ``> 80 s`` above the last edge; of nothing a dash."""
    low, high = interval
    if math.isnan(low):
        return MISSING
    scale, unit = (1e3, "ms") if (low if math.isinf(high) else high) < 1 else (1.0, "s")
    if math.isinf(high):
        return f"> {scale * low:.4g} {unit}"
    return f"<= {scale * high:.4g} {unit}" if low == 0 else f"{scale * low:.4g}..{scale * high:.4g} {unit}"


def _trouble(target: TargetReport) -> str:
    return target.error.removeprefix(f"{target.url}: ")


def _short(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/metrics")


def _clock(since: dt.datetime, now: dt.datetime) -> str:
    return since.strftime("%H:%M:%S" if since.date() == now.date() else "%m-%d %H:%M")


def _number(value: float) -> str:
    if math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(first: str, *rest: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, header_style="dim")
    table.add_column(first, no_wrap=True)
    for name in rest:
        table.add_column(name, justify="right", no_wrap=True)
    return table
