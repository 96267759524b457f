"""What ``demo`` and ``replay`` have in common: serve a workload through a collector, show what came of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from batchscope import MetricsConfiguration, RequestTracker, SchedulerMetricsCollector, SloTargets
from batchscope.cli import LONGEST_LINE, stdout
from batchscope.cli.demo_engine import limits_of
from batchscope.cli.options import write_svg
from batchscope.records import EngineInfo
from batchscope.simulator import (
    Disturbances,
    RequestSpec,
    SchedulerOptions,
    SimulationResult,
    Simulator,
    VirtualClock,
    Workload,
)
from batchscope.sinks import Recording
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import shown
from batchscope.version import __version__
from batchscope.views.rendering import for_stdout
from batchscope.views.report import Report
from batchscope.views.timeline import Timeline

SAMPLES = 100_000
"""Requests whose exact latencies the report is about; of a longer run the last ones."""
LONGEST_WINDOW = 86_400
LIVE_WINDOW = 60
"""Seconds that rates are of: of a report all that was, of what is looked at meanwhile the last minute."""
Live = Callable[[SchedulerMetricsCollector], AbstractContextManager[object]]
"""Shows a collector while it records."""


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
    labels: dict[str, str] = {}
    priorities: dict[str, int] = {}
    """Of request classes, where the workload has any: a recorded run says them, so that it can be replayed."""
    record: Path | None = None


def serve(plan: Plan, live: Live | None = None) -> tuple[SimulationResult, Report]:
    """Run the plan to its end, or until Ctrl-C; ``live`` shows it meanwhile, and its end until Ctrl-C."""
    clock, timeline = VirtualClock(), Timeline()
    limits = limits_of(plan.options)
    configuration = MetricsConfiguration(
        max_request_samples=SAMPLES, counter_window_seconds=LIVE_WINDOW if live else LONGEST_WINDOW, slo=plan.slo
    )
    with (
        SchedulerMetricsCollector(configuration, limits=limits, clock=clock, labels=plan.labels) as collector,
        recorded(collector, plan.record, plan.options, plan.priorities),
        live(collector) if live else nullcontext(),
        _progress() as progress,
    ):
        collector.subscribe(timeline)
        workload = _Announced(plan, progress)
        simulator = Simulator(
            workload,
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
        if live and not result.interrupted:
            note("the workload is over: its last figures stay until Ctrl-C")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
    report = Report(
        snapshot,
        timeline,
        title=plan.title,
        why_refused=workload.why_refused(),
        interrupted=result.interrupted,
    )
    return result, report


@contextmanager
def recorded(
    collector: SchedulerMetricsCollector,
    root: Path | None,
    options: SchedulerOptions,
    priorities: Mapping[str, int] | None = None,
) -> Iterator[None]:
    """Record to ``root``, where there is one; at the end it is told where to, or why not."""
    if root is None:
        yield
        return
    collector.engine = EngineInfo("simulator", __version__)
    known: dict[str, Any] = {"policy": options.policy, **({"priorities": dict(priorities)} if priorities else {})}
    recording = collector.record_to(root, configuration=known)
    try:
        with recording:
            yield
    finally:  # Ctrl-C is how some end
        _tell(recording)


def _tell(recording: Recording) -> None:
    if recording.failure or recording.lost:
        lost = "".join(f", {rows:,} rows of {kind.lower()}" for kind, rows in recording.lost.items())
        note(f"{recording.path} is not complete: {recording.failure or 'there was no room'}{lost}")
    else:
        note(f"recorded to {recording.path}")


def show(report: Report, *, as_json: bool, svg: Path | None) -> None:
    """Write what was asked for: the picture first, so that its failure leaves nothing half-printed."""
    if svg is not None:
        write_svg(report, svg)
    stdout.write(_document(report.snapshot, report.interrupted) if as_json else for_stdout(report))


def note(message: str) -> None:
    """Tell the user something that is not the report."""
    print(f"note: {shown(message, LONGEST_LINE)}", file=sys.stderr)  # noqa: T201


class _Announced:
    """The workload; says that it begins once the simulator asks for it, from when on Ctrl-C ends in a report."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        self._longest = 0

    def __iter__(self) -> Iterator[RequestSpec]:
        notice = f"note: serving {shown(self._plan.title)}"
        self._progress.console.print(notice, soft_wrap=True, markup=False, highlight=False)
        for spec in self._plan.workload:
            self._longest = max(self._longest, spec.longest_context)
            yield spec

    def why_refused(self) -> str:
        """The scheduler refuses what the empty cache could not hold, and nothing else."""
        options = self._plan.options
        needed = -(-self._longest // options.block_size)
        return f"they can never fit: kv_cache_blocks is {options.kv_cache_blocks}, the longest needs {needed}"


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
