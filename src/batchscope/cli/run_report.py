"""What ``batchscope report RUN`` does: a recorded run, or a stretch of it, as text, as JSON or as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group

from batchscope.cli import stdout
from batchscope.cli.explain import remarks
from batchscope.cli.instants import instant_of
from batchscope.cli.options import CommandError, write_html, write_svg
from batchscope.cli.simulation import note
from batchscope.ledger import Run, open_run
from batchscope.ledger.analysis.opening import open_tables, reading
from batchscope.ledger.analysis.report import RunReport, report_of
from batchscope.ledger.analysis.snapshot import snapshot_of
from batchscope.ledger.analysis.tables import RunTables
from batchscope.ledger.explain import Explainer, Explanation, Metric, NotToldError
from batchscope.ledger.instants import instant_to_time
from batchscope.sinks import RunHeader
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.views.numbers import duration
from batchscope.views.rendering import for_stdout
from batchscope.views.report import Report
from batchscope.views.steady import steady_section
from batchscope.views.timeline import Timeline, timeline_of

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING_RECORDED = 3
MOST_EXPLAINED = 300_000
"""Requests whose way through the iterations is held in memory for a page."""
_DRAWN = ("finished_at", "busy_time", "request_count", "kv_cache_usage", "waiting_requests")
_ROWS = 100_000


class Wanted(NamedTuple):
    """How a run is to be shown: as text unless said otherwise."""

    as_json: bool
    html: Path | None
    svg: Path | None
    first: str | None
    last: str | None


def report_run(path: Path, wanted: Wanted) -> int:
    """Show it; the exit code."""
    run = open_run(path)
    for remark in remarks(run):
        note(f"{run.path.name}: {remark}")
    if not run.headers:
        note(f"{run.path.name}: nothing was recorded in this run")
        return NOTHING_RECORDED
    with reading(run):
        tables = stretch(open_tables(run), wanted.first, wanted.last)
        snapshot = _json(tables) if wanted.as_json else _shown(run, tables, wanted)
    if not (snapshot.request_stats.total_requests or snapshot.totals.iterations):
        note("nothing was recorded in this time")
        return NOTHING_RECORDED
    return 0


def _json(tables: RunTables) -> MetricsSnapshot:
    snapshot = snapshot_of(tables)
    stdout.write(snapshot.to_json() + b"\n")
    return snapshot


def _shown(run: Run, tables: RunTables, wanted: Wanted) -> MetricsSnapshot:
    report = report_of(tables, problems=remarks(run), name=run.path.name)
    if wanted.html is not None:
        _write_html(report._replace(explanations=_explained(run, tables)), wanted.html)
        return report.snapshot
    text = Group(Report(report.snapshot, _timeline(tables), title=_title(report)), steady_section(report))
    if wanted.svg is not None:
        write_svg(text, wanted.svg)
    stdout.write(for_stdout(text))
    return report.snapshot


class _Stretch(NamedTuple):
    """A run, of whose requests only those that finished in a stretch are looked at."""

    run: Run
    tables: RunTables

    @property
    def headers(self) -> list[RunHeader]:
        """All of them."""
        return self.run.headers

    def requests(self) -> pa.Table:
        """Those that finished in it."""
        return self.tables.requests.to_pyarrow()

    def iterations(self) -> pa.Table:
        """All: a request may have begun before."""
        return self.run.iterations()

    def spans(self) -> pa.Table:
        """All, too."""
        return self.run.spans()


def _explained(run: Run, tables: RunTables) -> list[Explanation]:
    """Why the slowest were slow; nothing where that cannot be told, or takes more memory than a report should."""
    if tables.requests.count().to_pyarrow().as_py() > MOST_EXPLAINED:
        note(f"more than {MOST_EXPLAINED:,} requests: why the slowest were slow, tells batchscope explain")
        return []
    try:
        explainer = Explainer(_Stretch(run, tables))
        return [explainer.worst(metric) for metric in (Metric.TTFT, Metric.TPOT, Metric.E2E)]
    except NotToldError:
        return []


def _title(report: RunReport) -> str:
    first, last = report.began - report.origin, report.ended - report.origin
    part = "" if report.began == report.origin else f", {duration(first)} to {duration(last)}"
    engine = f"{report.snapshot.engine.kind} {report.snapshot.engine.version}".strip()
    return ", ".join(filter(None, [report.name, engine, "simulated time" if report.simulated else ""])) + part


def _timeline(tables: RunTables) -> Timeline:
    batches = tables.iterations.order_by("at").select(*_DRAWN).to_pyarrow().to_batches(max_chunksize=_ROWS)
    parts = ({name: batch[name].to_numpy(zero_copy_only=False) for name in _DRAWN} for batch in batches)
    return timeline_of(parts, tables.began)


def _write_html(report: RunReport, path: Path) -> None:
    from batchscope.dashboard.run_page import run_page  # noqa: PLC0415  (its files are read when it is)

    note(write_html(run_page(report), path))


def stretch(tables: RunTables, first: str | None, last: str | None) -> RunTables:
    """What lies between two texts, each seconds from the run's start or an instant of the wall clock."""
    begin = None if first is None else instant_of("--from", first, tables.header, tables.began)
    end = None if last is None else instant_of("--to", last, tables.header, tables.began)
    lower, upper = tables.began if begin is None else begin, tables.ended if end is None else end
    if begin is not None and end is not None and begin >= end:
        raise CommandError(f"--from {first} is not before --to {last}: expected an earlier time")
    outside = (begin is not None and lower >= tables.ended) or (end is not None and upper <= tables.began)
    if outside:
        option = f"--from {first}" if lower >= tables.ended else f"--to {last}"
        raise CommandError(f"{option} is outside of the run, which lasted {_lasted(tables)}")
    return tables.between(begin, end)


def _lasted(tables: RunTables) -> str:
    if tables.header.simulated:
        return f"{tables.seconds:.6g} s of simulated time"
    first, last = (instant_to_time(tables.header, each) for each in (tables.began, tables.ended))
    return f"{tables.seconds:.6g} s, {first:%Y-%m-%dT%H:%M:%S} to {last:%Y-%m-%dT%H:%M:%S%z}"
