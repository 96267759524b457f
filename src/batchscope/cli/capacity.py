"""``batchscope capacity RUN|TRACE``: the highest rate at which users are still served in time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from batchscope.checks import LARGEST, check_whole
from batchscope.cli import stdout
from batchscope.cli.fit import (
    Assumed,
    Settings,
    Stage,
    model_of,
    observed_with,
    parsed_settings,
    settings_named,
    working,
)
from batchscope.cli.options import (
    DEFAULTS,
    AsJson,
    CommandError,
    Html,
    SloByClass,
    SloE2e,
    SloGap,
    SloTpot,
    SloTtft,
    Svg,
    check_html,
    check_svg,
    targets_asked,
    targets_given,
    write_html,
    write_svg,
)
from batchscope.cli.simulation import note
from batchscope.configuration import SloTargets
from batchscope.prediction import read_model
from batchscope.prediction.attainment import Attainment
from batchscope.prediction.capacity import (
    MOST_SIMULATIONS,
    Capacity,
    RatePoint,
    Traffic,
    capacity,
    check_share,
    traffic_of,
)
from batchscope.prediction.observed import Gone
from batchscope.prediction.whatif import check_engine, with_settings
from batchscope.simulator import LinearCostModel, SchedulerOptions, open_trace
from batchscope.text import readable_document, shown
from batchscope.views.numbers import bar, duration, per_second, percent, percent_range
from batchscope.views.rendering import for_stdout
from batchscope.views.words import limiter_name, targets_in_words

SCHEMA = "batchscope.capacity/1"
NO_RATE = 1
BAR_WIDTH = 24
FAR_OFF = 0.05
"""A model that misses the recorded attainment by more is no ground for a capacity."""


def capacity_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|TRACE", help="A recorded run's folder, or a trace as 'replay' reads it.", show_default=False
        ),
    ],
    slo_ttft: SloTtft = None,
    slo_tpot: SloTpot = None,
    slo_e2e: SloE2e = None,
    slo_gap: SloGap = None,
    slo: SloByClass = None,
    attainment: Annotated[
        float, typer.Option(metavar="X", help="The share of the requests that has to meet all of its targets.")
    ] = 0.9,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What 'batchscope fit' wrote.",
            show_default="fitted to RUN; of a TRACE the demo's cost",
        ),
    ] = None,
    settings: Settings = [],  # noqa: B006  (typer copies it)
    assume: Assumed = [],  # noqa: B006
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N requests.", show_default="all")
    ] = None,
    as_json: AsJson = False,
    svg: Svg = None,
    html: Html = None,
) -> int:
    """Find the highest rate at which users are still served in time, and the backlog does not grow.

    The same requests, in the same order, arrive faster and faster. Without --slo-... the targets of the run hold. Exit
    code: 0; 1 = no rate holds; 2 = wrong use, or a run that tells too little.
    """
    given = targets_given(SloTargets(slo_ttft, slo_tpot, slo_e2e, slo_gap), slo)
    check_svg(svg, source)
    check_html(html)
    check_share(attainment)
    if limit is not None:
        check_whole("limit", limit, 1, LARGEST, ", or None for all of it")
    asked = _Asked(source, model, parsed_settings(settings), assume, limit)
    with working() as stage:
        traffic, declared, notes = _of_run(asked, stage) if source.is_dir() else _of_trace(asked)
        targets = targets_asked(given, declared, source)
        found = capacity(
            traffic,
            targets,
            target=attainment,
            on_simulated=lambda done: stage("simulations, at most", done, MOST_SIMULATIONS),
        )
    found = msgspec.structs.replace(found, notes=[*notes, *found.notes])
    told = shown_capacity(found)
    if svg is not None:
        write_svg(told, svg)
    if html is not None:
        from batchscope.dashboard.capacity_page import capacity_page  # noqa: PLC0415  (its files are read when it is)

        note(write_html(capacity_page(found, _headline(found), _sentences(found)), html))
    stdout.write(document(found) if as_json else for_stdout(told))
    return 0 if found.found else NO_RATE


_Source = tuple[Traffic, Mapping[str, SloTargets], list[str]]
"""What is served, the targets it was recorded with, and what was assumed."""


class _Asked(NamedTuple):
    """What is to be served, by which model, under which settings."""

    path: Path
    model: Path | None
    changed: dict[str, Any]
    assume: list[str]
    limit: int | None

    def options(self, recorded: SchedulerOptions) -> SchedulerOptions:
        """The recorded settings, changed."""
        with settings_named(self.changed):
            return with_settings(recorded, self.changed)


def _of_run(asked: _Asked, stage: Stage) -> _Source:
    observed = observed_with(asked.path, asked.assume)
    model = model_of(observed, asked.model, stage)
    check_engine(observed, model)
    traffic = traffic_of(observed, model, asked.options(observed.options))
    return _first(traffic, asked.limit), observed.slo, list(observed.assumed)


def _of_trace(asked: _Asked) -> _Source:
    path = asked.path
    if asked.assume:
        raise CommandError(f"--assume {asked.assume[0]}: {path} is a trace, which has no settings: expected --set")
    model = read_model(asked.model) if asked.model is not None else None
    requests = tuple(open_trace(path, limit=asked.limit))
    served = tuple(spec for spec in requests if spec.output_tokens)
    notes = [f"{len(requests) - len(served):,} requests that failed at their service are left out"]
    if model is None:
        notes.append("an iteration costs what Qwen-2-7B takes on one A30: --model has your engine's costs")
    traffic = Traffic(
        name=path.name,
        workload=served,
        options=asked.options(model.options if model is not None else DEFAULTS),
        cost=model.cost if model is not None else LinearCostModel(),
        model=model,
    )
    return traffic, {}, notes[len(requests) == len(served) :]


def _first(traffic: Traffic, limit: int | None) -> Traffic:
    """Only so many of them, and those who gave up until then."""
    if limit is None or limit >= len(traffic.workload):
        return traffic
    last, gone = traffic.workload[limit - 1].arrival, traffic.gone
    return msgspec.structs.replace(
        traffic,
        workload=traffic.workload[:limit],
        gone=Gone(
            given_up=gone.given_up[:limit] if gone.given_up is not None else None,
            unserved=tuple(each for each in gone.unserved if each[0] <= last),
        ),
        recorded=traffic.recorded.first(limit) if traffic.recorded is not None else None,
    )


def document(found: Capacity) -> bytes:
    """One JSON object; ``null``: not known."""
    return msgspec.json.encode(readable_document({"schema": SCHEMA, **msgspec.to_builtins(found)})) + b"\n"


def shown_capacity(found: Capacity) -> Group:
    """The answer, the picture of attainment over rate, and what to know of it."""
    return Group(
        Text(_headline(found), style="bold"),
        Text(
            f"{percent(found.target)} of {found.requests:,} requests within {targets_in_words(found.slo)}, "
            "no growing backlog"
        ),
        Text(""),
        _picture(found),
        Text(""),
        *(Text(line) for line in _sentences(found)),
        *(Text(f"extrapolated: {each}", style="yellow") for each in found.extrapolated),
        *(Text(f"note: {each}") for each in found.notes),
    )


def _headline(found: Capacity) -> str:
    if not found.found:
        lowest = found.points[0]
        return (
            f"{found.name}: no rate holds, not even {_rate(lowest.rate)} ({lowest.rate_scale:.3g} times the recorded "
            f"rate): {_what(found.edge)}"
        )
    between = " .. ".join(_rate(bound, "?") for bound in (found.low, found.high))
    return (
        f"{found.name}: up to {_rate(found.rate)}, {found.rate_scale:.3g} times the recorded "
        f"{_rate(found.recorded_rate)} (95 %: {between})"
    )


def _rate(rate: float, unknown: str = "-") -> str:
    return unknown if math.isnan(rate) else f"{per_second(rate)}/s"


def _what(edge: str) -> str:
    return "too few requests are in time" if edge == "attainment" else "the backlog grows"


def _picture(found: Capacity) -> Table:
    """Attainment over rate: a line for each rate that was simulated."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    headings = ("rate", "times", "attainment", "", "95 % interval", "backlog grows", "")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "attainment" else "right", no_wrap=True)
    for point in found.points:
        color = "green" if point.holds else "red"
        table.add_row(
            _rate(point.rate),
            f"{point.rate_scale:.3f}",
            Text(bar(point.attainment.value, BAR_WIDTH), color),
            percent(point.attainment.value),
            percent_range(point.attainment.low, point.attainment.high),
            f"{100 * point.growth.value:+.1f} %",
            _mark(point, found),
        )
    return table


def _mark(point: RatePoint, found: Capacity) -> str:
    if point.rate_scale == found.rate_scale:
        return "< capacity"
    return "" if point.holds else "fails"


def _sentences(found: Capacity) -> list[str]:
    lines = []
    if found.recorded is not None:
        ours = next((point.attainment for point in found.points if point.rate_scale == 1.0), None)
        of = "of the same" if found.as_recorded else "with the settings that were given"
        told = f"; the model says {_share(ours)} {of}" if ours is not None else ""
        lines.append(f"as recorded, at {_rate(found.recorded_rate)}: {_share(found.recorded)} were in time{told}")
        if ours is not None and found.as_recorded and abs(ours.value - found.recorded.value) > FAR_OFF:
            lines.append("that is far off: trust the capacity no further than this; 'batchscope whatif' says what errs")
    if found.found:
        lines += _by_class(found)
        lines.append(f"beyond it {_what(found.edge)}" if found.edge else "no higher rate was tried")
        limiters = sorted(found.limited_by.items(), key=lambda pair: -pair[1])
        causes = ", ".join(f"{limiter_name(cause)} {percent(share)}" for cause, share in limiters if share >= 0.01)
        lines.append(f"what limits the batch there: {causes}")
        if math.isnan(found.low):
            lines.append("the lower bound is not known: of so few requests no share is large enough for sure")
        lasts = duration(found.seconds)
        lines.append(
            "a rate is of the requests that come, from the first to the last: the same ones, closer together or "
            f"further apart; there they come in {lasts}"
        )
    return lines


def _by_class(found: Capacity) -> list[str]:
    """Who is in time at the capacity, where classes are told apart."""
    best = next(point for point in found.points if point.rate_scale == found.rate_scale)
    told = [f"{shown(name, 60)} {_share(each)} of {each.requests:,}" for name, each in best.by_class.items()]
    return [f"in time at that rate: {'; '.join(told)}"] if len(told) > 1 else []


def _share(attainment: Attainment) -> str:
    return f"{percent(attainment.value)} ({percent_range(attainment.low, attainment.high)})"
