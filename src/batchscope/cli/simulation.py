"""What ``demo`` and ``replay`` have in common: serve a workload through a collector, show what came of it."""

from __future__ import annotations

import html
import io
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.cli import LONGEST_LINE, stdout
from batchscope.cli.options import CommandError
from batchscope.cli.report import Report
from batchscope.cli.timeline import Timeline
from batchscope.simulator import (
    Disturbances,
    RequestSpec,
    SchedulerOptions,
    SimulationResult,
    Simulator,
    VirtualClock,
    Workload,
)
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import shown

SAMPLES = 100_000
"""Requests whose exact latencies the report is about; of a longer run the last ones."""
LONGEST_WINDOW = 86_400
REPORT_WIDTH = 100
"""Of the picture, and where stdout is no terminal."""
NARROWEST, WIDEST = 80, 120


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A workload, what serves it, and how the report calls it; ``total`` requests, ``None`` = not known."""

    title: str
    workload: Workload
    options: SchedulerOptions
    slo: SloTargets | Mapping[str, SloTargets] | None
    disturbances: Disturbances = Disturbances()
    total: int | None = None
    seed: int = 0
    speed: float | None = None


def serve(plan: Plan) -> tuple[SimulationResult, Report]:
    """Run the plan to its end, or until Ctrl-C."""
    clock, timeline = VirtualClock(), Timeline()
    limits = SchedulerLimits(
        max_running_requests=plan.options.max_running_requests,
        max_scheduled_tokens=plan.options.max_scheduled_tokens,
        kv_cache_blocks=plan.options.kv_cache_blocks,
    )
    configuration = MetricsConfiguration(
        max_request_samples=SAMPLES, counter_window_seconds=LONGEST_WINDOW, slo=plan.slo
    )
    with SchedulerMetricsCollector(configuration, limits=limits, clock=clock) as collector, _progress() as progress:
        collector.subscribe(timeline)
        simulator = Simulator(
            _announced(plan, progress),
            RequestTracker(collector),
            options=plan.options,
            disturbances=plan.disturbances,
            clock=clock,
            seed=plan.seed,
            speed=plan.speed,
        )
        task = progress.add_task(plan.title, total=plan.total)
        result = simulator.run(lambda so_far: progress.update(task, completed=so_far.arrived - so_far.in_flight))
        snapshot = collector.get_snapshot()
    return result, Report(snapshot, timeline, title=shown(plan.title), interrupted=result.interrupted)


def show(report: Report, *, as_json: bool, svg: Path | None) -> None:
    """Write what was asked for: the picture first, so that its failure leaves nothing half-printed."""
    if svg is not None:
        _write_svg(report, svg)
    stdout.write(_document(report.snapshot, report.interrupted) if as_json else _text(report))


def note(message: str) -> None:
    """Tell the user something that is not the report."""
    print(f"note: {shown(message, LONGEST_LINE)}", file=sys.stderr)  # noqa: T201


def _announced(plan: Plan, progress: Progress) -> Iterator[RequestSpec]:
    """The workload; says that it begins once the simulator asks for it, from when on Ctrl-C ends in a report."""
    progress.console.print(f"note: serving {shown(plan.title)}", soft_wrap=True, markup=False, highlight=False)
    yield from plan.workload


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.completed:,.0f} requests served", style="bold"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (sys.stderr and sys.stderr.isatty()),
    )


def _document(snapshot: MetricsSnapshot, interrupted: bool) -> bytes:
    if interrupted:
        snapshot = msgspec.structs.replace(snapshot, labels={**snapshot.labels, "interrupted": "true"})
    return snapshot.to_json() + b"\n"


def _text(report: Report) -> bytes:
    console = Console()
    width = min(max(console.width, NARROWEST), WIDEST) if console.is_terminal else REPORT_WIDTH
    console = Console(width=width, markup=False)
    with console.capture() as captured:
        console.print(report)
    text = captured.get()
    if not console.is_terminal:
        text = "".join(line.rstrip() + "\n" for line in text.splitlines())
    return text.encode(console.encoding, errors="replace")


def _write_svg(report: Report, path: Path) -> None:
    console = Console(
        record=True, width=REPORT_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", markup=False
    )
    console.print(report)
    try:
        path.write_text(_aligned(console.export_svg(title="batchscope", unique_id="batchscope")), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--svg {path}: cannot be written: {error.strerror or error}") from None


_PADDED_TEXT = re.compile(r'x="([\d.]+)"([^>]*) textLength="([\d.]+)"([^>]*)>((?:&#160;)*)([^<]*?)((?:&#160;)*)</text>')


def _aligned(svg: str) -> str:
    """The picture with its texts placed by position: some viewers drop the blanks that rich places them by."""

    def place(found: re.Match[str]) -> str:
        x, before, length, after, left, text, right = found.groups()
        blanks, trailing = len(left) // len("&#160;"), len(right) // len("&#160;")
        characters = len(html.unescape(text))
        width = float(length) / max(1, blanks + characters + trailing)
        return f'x="{float(x) + width * blanks:.1f}"{before} textLength="{width * characters:.1f}"{after}>{text}</text>'

    return _PADDED_TEXT.sub(place, svg)
