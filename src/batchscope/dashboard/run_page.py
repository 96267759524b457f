"""The report of a run as one HTML file: no network, every number with its definition, its n and its window."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from importlib import resources
from typing import Any

import msgspec

from batchscope.dashboard.colors import stylesheet
from batchscope.dashboard.files import CHARTS, charts_present, files
from batchscope.dashboard.run_data import chart_data
from batchscope.dashboard.run_tables import (
    latency_rows,
    limiter_rows,
    slo_rows,
    slowest_panel,
    steady_rows,
    tiles,
)
from batchscope.ledger.analysis.report import RunReport
from batchscope.text import readable_document, shown, shown_document
from batchscope.version import __version__
from batchscope.views.board import board
from batchscope.views.numbers import count, duration
from batchscope.views.steady import about_steady
from batchscope.views.verdict import verdict
from batchscope.views.words import MOST_SHOWN, origin

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""Nothing is asked for off the file, whatever a name in it says."""
_MODULE = re.compile(r"^(?:import .*\n|export )", re.MULTILINE)
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
    title = f"batchscope: {shown(report.name) or 'a run'}"
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n",
            *_body(told),
            f'<script type="application/json" id="data">{_json(chart_data(report))}</script>\n',
            f"<script>{_script()}</script>\n</body>\n</html>\n",
        ]
    )


def _style() -> str:
    found = files()
    of_page = [found[name].content.decode() for name in (CHARTS[1], "page.css")]
    return "\n".join([stylesheet(), *of_page, _asset("run.css")])


def _script() -> str:
    """The chart library and our own code, whose parts are modules elsewhere: here they are one script."""
    found = files()
    own = "".join(_MODULE.sub("", module) for module in (found["format.js"].content.decode(), _asset("run.js")))
    return f"{found[CHARTS[0]].content.decode()}\n(() => {{\n{own}}})();"


def _asset(name: str) -> str:
    return resources.files("batchscope.dashboard").joinpath("run_assets").joinpath(name).read_text(encoding="utf-8")


def _json(document: Any) -> str:
    """What no name can end: inside of a script element ``<`` is written in another way."""
    return msgspec.json.encode(readable_document(document)).decode().replace("<", "\\u003c")


def _body(report: RunReport) -> Iterable[str]:
    snapshot, figures = report.snapshot, board(report.snapshot)
    judged = verdict(snapshot, ended=True)
    yield f"<header class=bar><h1>batchscope <span>{escape(_whose(report))}</span></h1></header>\n<main>\n"
    yield f'<section class="verdict" data-tone="calm"><p class="sentence">{escape(judged.sentence)}</p>'
    yield f'<p class="asof">{escape(_when(report))}</p></section>\n'
    yield from (f'<p class="notice">{escape(shown(text))}</p>' for text in report.problems)
    if not charts_present():
        yield '<p class="notice">The line charts are missing: this batchscope was installed without uPlot.</p>'
    yield f'<section class="tiles" aria-label="In short">{"".join(tiles(figures, snapshot))}</section>\n'
    yield f'<section class="charts">{_figure(*_FIGURES[0])}</section>\n'
    yield _panel("Latency", _populations(report), latency_rows(figures))
    yield _panel("What held the batch", f"share of busy time; {origin(figures.reported_ratio)}", limiter_rows(figures))
    if figures.slo:
        yield _panel(
            "SLO", "all targets met by the same request; 95 % range: Wilson, as if requests were independent",
            slo_rows(figures),
        )  # fmt: skip
    yield '<section class="charts" aria-label="Over time">\n'
    yield from (_figure(*each) for each in _FIGURES[1:])
    yield "</section>\n"
    for explanation in report.explanations:
        yield _panel(*slowest_panel(explanation))
    yield _panel("Steady state", about_steady(report), steady_rows(report), "panel few")
    yield _facts(report)
    yield f"</main>\n<footer><p class=quiet>batchscope {escape(__version__)}; no part of this file asks a network for "
    yield "anything. Ratios are of 1, durations in their units; - where nothing was measured.</p></footer>\n"


def _panel(title: str, about: str, body: Iterable[str], kind: str = "panel") -> str:
    content = "".join(body)
    return (
        f'<section class="{kind}"><header><h2>{escape(title)}</h2><p class="reading">{escape(about)}</p></header>'
        f'<div class="scroll">{content}</div></section>\n'
    )


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
    return (
        f"{snapshot.started_at:%Y-%m-%d %H:%M:%S} to {snapshot.snapshot_time:%H:%M:%S %Z}, "
        f"{duration(snapshot.elapsed_seconds)}{stretch}: {counted}"
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
    return _panel("Limits, and how this engine measures", "", [f"<table><tbody>{body}</tbody></table>"], "panel few")
