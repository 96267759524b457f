"""``batchscope score RUN MODEL``: how well a model foretells another run of the engine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from batchscope.cli import stdout
from batchscope.cli.fit import Assumed, RunPath, Since, observed_with
from batchscope.cli.options import AsJson, CommandError
from batchscope.cli.whatif import errors_in_words
from batchscope.prediction import Prediction, read_model, what_if
from batchscope.prediction.figures import STATISTICS, worst_off
from batchscope.text import readable_document
from batchscope.views.numbers import change, counted, duration
from batchscope.views.rendering import for_stdout
from batchscope.views.words import short_name

SCHEMA = "batchscope.score/1"


def score(
    run: RunPath,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What 'batchscope fit' wrote.", show_default=False)],
    since: Since = 0.0,
    assume: Assumed = [],  # noqa: B006  (typer copies it)
    as_json: AsJson = False,
) -> int:
    """Check a model: what it says of a run that it was not fitted to, beside what happened there.

    The run is replayed under its own settings, whatever those of the model's run were.
    """
    if run.is_file() and model.is_dir():
        raise CommandError(f"score {run} {model}: the other way round: expected RUN, a folder, and then MODEL, a file")
    told = what_if(observed_with(run, assume), read_model(model), since=since)
    stdout.write(_document(told) if as_json else for_stdout(_shown(told)))
    return 0


def off(told: Prediction) -> dict[str, dict[str, float]]:
    """By latency and statistic: foretold over recorded, less 1; ``nan`` where there is nothing to compare."""
    return {
        name: {
            statistic: now / was - 1 if was > 0 else math.nan
            for statistic, now, was in zip(STATISTICS, told.replayed.figures[name].values, figure.values, strict=True)
        }
        for name, figure in told.recorded.figures.items()
    }


def _document(told: Prediction) -> bytes:
    figures = {name: getattr(told, name).figures for name in ("recorded", "replayed")}
    rest = {name: getattr(told, name) for name in ("requests", "errors", "extrapolated", "notes")}
    document = {"schema": SCHEMA, "off": off(told), **figures, **rest}
    return msgspec.json.encode(readable_document(msgspec.to_builtins(document))) + b"\n"


def _shown(told: Prediction) -> Group:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "", "recorded", "foretold", "off"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, recorded in told.recorded.figures.items():
        for statistic, was, now in zip(STATISTICS, recorded.values, told.replayed.figures[name].values, strict=True):
            title = short_name(name) if statistic == "mean" else ""
            table.add_row(title, statistic, duration(was), duration(now), change(now, was))
    worst = worst_off(told.recorded.figures, told.replayed.figures, told.recorded.figures)
    found = "nothing to compare" if worst is None else (
        f"the worst of these figures is off by {100 * abs(worst.value):.1f} %"
    )  # fmt: skip
    lines = [Text(f"{counted(told.requests, 'request')}; {found}", style="bold")]
    marks = [Text(f"extrapolated: {each}", style="yellow") for each in told.extrapolated]
    return Group(*lines, table, errors_in_words(told), *marks, *(Text(f"note: {each}") for each in told.notes))
