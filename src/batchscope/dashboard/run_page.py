"""The report of a run as one HTML file: no network, every number with its definition, its n and its window."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import msgspec

from batchscope.dashboard.files import charts_present
from batchscope.dashboard.html_file import footer, header, html_file, panel, tiles
from batchscope.dashboard.run_data import chart_data
from batchscope.dashboard.run_tables import (
    latency_rows,
    limiter_rows,
    main_tiles,
    slo_rows,
    slowest_panel,
    steady_rows,
)
from batchscope.ledger.analysis.report import RunReport
from batchscope.text import shown, shown_document
from batchscope.views.board import board
from batchscope.views.numbers import count, duration
from batchscope.views.steady import about_steady
from batchscope.views.verdict import verdict
from batchscope.views.words import MOST_SHOWN, origin

_FIGURES = (
    ("band", "Why the batch was not fuller", "share of each part of the run by what held the batch; the rest: idle"),
    ("requests", "Requests in the batch and waiting", "means over busy time"),
    ("room", "Token budget and KV cache", "means over busy time, of what there is"),
    ("arrivals", "Arrivals and ends", "requests a second"),
    ("preemptions", "Preemptions", "requests evicted from the batch, a second"),
    ("time_to_first_token", "TTFT over time", "arrival to first token, of completed requests, when they finished"),
    ("time_per_output_token", "TPOT over time", "time per output token after the first, one value a request"),
    ("inter_token_latency", "ITL over time", "between tokens, every token, when it was emitted"),
    ("total_time", "e2e latency over time", "arrival to end, of completed requests, when they finished"),
    ("attainment", "SLO attainment over time", "of the requests that finished then, all targets by the same request"),
    ("heat_time_to_first_token", "TTFT, every request", "the stronger, the more requests"),
    ("heat_inter_token_latency", "ITL, every token", "the stronger, the more tokens"),
    ("cdf", "Distributions", "share of requests (ITL: of tokens) that took at most so long"),
)


def run_page(report: RunReport) -> str:
    """The document, some 100 to 300 kB whatever the length of the run."""
    told = report._replace(
        snapshot=shown_document(report.snapshot),
        steady=None if report.steady is None else shown_document(report.steady),
    )
    return html_file(f"batchscope: {shown(report.name) or 'a run'}", _body(told), chart_data(report))


def _body(report: RunReport) -> Iterable[str]:
    snapshot, figures = report.snapshot, board(report.snapshot)
    judged = verdict(snapshot, ended=True)
    yield header(_whose(report), judged.sentence, _when(report), map(shown, report.problems))
    if not charts_present():
        yield '<p class="notice">The line charts are missing: this batchscope was installed without uPlot.</p>'
    yield tiles(*main_tiles(figures, snapshot))
    yield f'<section class="charts">{_figure(*_FIGURES[0])}</section>\n'
    yield panel("Latency", _populations(report), latency_rows(figures))
    yield panel("What held the batch", f"share of busy time; {origin(figures.reported_ratio)}", limiter_rows(figures))
    if figures.slo:
        yield panel(
            "SLO", "all targets met by the same request; 95 % range: Wilson, as if requests were independent",
            slo_rows(figures),
        )  # fmt: skip
    yield '<section class="charts" aria-label="Over time">\n'
    yield from (_figure(*each) for each in _FIGURES[1:])
    yield "</section>\n"
    for explanation in report.explanations:
        yield panel(*slowest_panel(explanation))
    yield panel("Steady state", about_steady(report), steady_rows(report), "panel few")
    yield _facts(report)
    yield footer()


def _figure(name: str, title: str, about: str) -> str:
    wide = ' class="wide"' if name == "band" else ""
    return (
        f'<figure{wide} id="{name}" hidden><figcaption><h2>{escape(title)}</h2>'
        f'<p class="reading">{escape(about)}</p></figcaption>'
        f'<div class="plot" tabindex="0" role="img" aria-label="{escape(title)}"></div></figure>\n'
    )


def _whose(report: RunReport) -> str:
    snapshot = report.snapshot
    engine = f"{snapshot.engine.kind} {snapshot.engine.version}".strip()
    labels = [f"{name}={value}" for name, value in list(snapshot.labels.items())[:MOST_SHOWN]]
    return ", ".join(filter(None, [shown(report.name), engine, *labels]))


def _when(report: RunReport) -> str:
    snapshot = report.snapshot
    first, last = report.began - report.origin, report.ended - report.origin
    stretch = "" if first == 0 else f"; from {duration(first)} to {duration(last)} of the run"
    counted = f"{count(snapshot.request_stats.total_requests)} requests, {count(snapshot.totals.iterations)} iterations"
    times = f"{snapshot.started_at:%Y-%m-%d %H:%M:%S} to {snapshot.snapshot_time:%H:%M:%S %Z}"
    return (
        f"{'simulated time' if report.simulated else times}, {duration(snapshot.elapsed_seconds)}{stretch}: {counted}"
    )


def _populations(report: RunReport) -> str:
    return (
        f"exact, linear interpolation, over all {count(report.snapshot.request_stats.completed_requests)} completed "
        f"requests of {duration(report.snapshot.elapsed_seconds)}; ITL over every token"
    )


def _facts(report: RunReport) -> str:
    """The limits, and what the engine's own figures start and end at."""
    limits = msgspec.to_builtins(report.snapshot.limits)
    rows = [(name, "-" if value is None else count(value)) for name, value in limits.items()]
    rows += list(report.snapshot.definitions.items())[:100]
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td class=words>{escape(text)}</td></tr>" for name, text in rows
    )
    return panel("Limits, and how this engine measures", "", [f"<table><tbody>{body}</tbody></table>"], "panel few")
