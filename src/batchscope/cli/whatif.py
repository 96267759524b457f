"""``batchscope whatif RUN``: the recorded requests under other settings."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from batchscope.cli import stdout
from batchscope.cli.fit import (
    Assumed,
    ModelFile,
    RunPath,
    Settings,
    Since,
    model_of,
    observed_with,
    parsed_settings,
    settings_named,
    working,
)
from batchscope.cli.options import AsJson
from batchscope.prediction import Figure, Prediction, what_if
from batchscope.prediction.figures import STATISTICS, Off, worst_off
from batchscope.prediction.whatif import Scenario
from batchscope.text import readable_document
from batchscope.views.numbers import change, count, counted, duration, percent
from batchscope.views.rendering import for_stdout
from batchscope.views.words import limiter_name, short_name

SCHEMA = "batchscope.whatif/1"


def whatif(
    run: RunPath,
    model: ModelFile = None,
    settings: Settings = [],  # noqa: B006  (typer copies it)
    rate_scale: Annotated[float, typer.Option(metavar="X", help="2 = everything arrives twice as fast.")] = 1.0,
    since: Since = 0.0,
    assume: Assumed = [],  # noqa: B006
    as_json: AsJson = False,
) -> int:
    """Predict the recorded requests under other settings, beside what was recorded.

    The fitted model replays the run under its own settings first: what it gets wrong there, it gets wrong elsewhere.
    """
    changed = parsed_settings(settings)
    with working() as stage:
        observed = observed_with(run, assume)
        fitted = model_of(observed, model, stage)
        stage("predicting", 0, None)
        with settings_named(changed):
            prediction = what_if(observed, fitted, changed, rate_scale=rate_scale, since=since)
    stdout.write(document(prediction) if as_json else for_stdout(shown_prediction(prediction)))
    return 0


def document(prediction: Prediction) -> bytes:
    """One JSON object: ``recorded``, ``replayed``, ``predicted``, each with its latencies; ``null``: not measured."""
    scenarios = {
        name: {**scenario.figures, **{field: getattr(scenario, field) for field in _BESIDE}}
        for name in ("recorded", "replayed", "predicted")
        for scenario in [getattr(prediction, name)]
    }
    rest = {name: getattr(prediction, name) for name in prediction.__struct_fields__ if name not in scenarios}
    return msgspec.json.encode(readable_document(msgspec.to_builtins({"schema": SCHEMA, **scenarios, **rest}))) + b"\n"


_BESIDE = ("limited_by", "preemptions", "seconds")


def shown_prediction(prediction: Prediction) -> Group:
    """The prediction as people read it."""
    settings = ", ".join(f"{name} = {value}" for name, value in prediction.settings.items()) or "the recorded settings"
    if prediction.rate_scale != 1.0:
        settings += f", requests {prediction.rate_scale:g} times as fast"
    lines = [Text(f"What if: {settings}", style="bold"), Text(_trust(prediction)), Text("")]
    marks = [Text(f"extrapolated: {each}", style="yellow") for each in prediction.extrapolated]
    notes = [Text(f"note: {each}") for each in prediction.notes]
    return Group(
        *lines,
        _latencies(prediction),
        Text("off: replayed over recorded; change: predicted over replayed; the interval is of the predicted mean"),
        Text(""),
        _batch(prediction),
        Text(""),
        errors_in_words(prediction),
        *marks,
        *notes,
    )


def _trust(prediction: Prediction) -> str:
    """How many requests, and how far the replay is off where it is worst: a prediction is no better."""
    recorded, replayed = prediction.recorded.figures, prediction.replayed.figures
    off = worst_off(recorded, replayed, recorded)
    return counted(prediction.requests, "request") + (f"; {trust_in_words(off)}" if off is not None else "")


def trust_in_words(off: Off, which: str = "worst figure") -> str:
    """What no prediction is better than."""
    return (
        f"trust it no further than the replay of what was recorded, whose {which} "
        f"({short_name(off.latency)} {off.statistic}) is off by {100 * abs(off.value):.1f} %"
    )


def _latencies(prediction: Prediction) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "", "recorded", "replayed", "off", "predicted", "change", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in prediction.recorded.figures:
        figures = (getattr(prediction, each).figures[name] for each in ("recorded", "replayed", "predicted"))
        _add_rows(table, short_name(name), *figures)
    return table


def _add_rows(table: Table, name: str, recorded: Figure, replayed: Figure, predicted: Figure) -> None:
    for index, statistic in enumerate(STATISTICS):
        was, again, then = (figure.values[index] for figure in (recorded, replayed, predicted))
        interval = f"{duration(predicted.low)} .. {duration(predicted.high)}" if statistic == "mean" else ""
        title = name if statistic == "mean" else ""
        off, by_settings = change(again, was), change(then, again)
        table.add_row(title, statistic, duration(was), duration(again), off, duration(then), by_settings, interval)


def _batch(prediction: Prediction) -> Table:
    """What limits the batch, and who is evicted, recorded, replayed, predicted."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("limited by", "recorded", "replayed", "predicted"):
        table.add_column(heading, justify="left" if heading == "limited by" else "right")
    scenarios: list[Scenario] = [prediction.recorded, prediction.replayed, prediction.predicted]
    causes = sorted({cause for scenario in scenarios for cause, share in scenario.limited_by.items() if share})
    for cause in causes:
        shares = [percent(each.limited_by.get(cause, 0.0)) if each.limited_by else "-" for each in scenarios]
        table.add_row(limiter_name(cause), *shares)
    table.add_row("preemptions", *(count(each.preemptions) for each in scenarios))
    return table


def errors_in_words(prediction: Prediction) -> Text:
    """Where the replay errs."""
    errors = prediction.errors
    split = "" if math.isnan(errors.step_time) else (
        f"; the time of iterations, given the real batches: {100 * errors.step_time:+.1f} %; "
        f"the schedule, given the real times: {percent(errors.schedule)}"
    )  # fmt: skip
    return Text(f"error of the replay of the whole run (a request's total time): {percent(errors.both)}{split}")
