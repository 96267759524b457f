"""``batchscope fit RUN``: the constants of the cost model, from a recorded run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from batchscope.cli import stdout
from batchscope.cli.options import CommandError
from batchscope.errors import ConfigurationError
from batchscope.prediction import FittedModel, Observed, fit
from batchscope.prediction.whatif import SETTINGS
from batchscope.views.numbers import percent
from batchscope.views.rendering import for_stdout

RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A recorded run's folder, or one that holds just one.", show_default=False)
]
Settings = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, e.g. max_running_requests=128; repeat it for more."),
]
Assumed = Annotated[
    list[str],
    typer.Option(
        "--assume", metavar="NAME=VALUE", help="A setting that the run does not say, e.g. kv_cache_blocks=2588."
    ),
]
DEPTHS = {
    "iterations": "iterations and requests (a regression on what ran)",
    "requests": "requests alone (a search through the simulator)",
}


def fit_command(
    run: RunPath,
    until: Annotated[float, typer.Option(metavar="X", help="Only this share of the run's time, from its start.")] = 1.0,
    assume: Assumed = [],  # noqa: B006  (typer copies it)
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the model there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the model as one JSON document.")] = False,
) -> int:
    """Fit the simulator's cost model to a recorded run.

    From what ran: iterations where they were recorded, else the instants and lengths of requests.
    """
    model = fit(observed_with(run, assume), until=until)
    if out is not None:
        write_model(model, out)
    stdout.write(model.to_json() if as_json else for_stdout(shown_model(model)))
    return 0


def write_model(model: FittedModel, out: Path) -> None:
    """The model as JSON."""
    try:
        out.write_bytes(model.to_json())
    except OSError as error:
        raise CommandError(f"--out {out}: cannot be written ({error.strerror}), expected a file to write") from error


def observed_with(run: Path, assume: list[str]) -> Observed:
    """The run, with what ``--assume`` says of it."""
    from batchscope.prediction.recorded import read_observed  # noqa: PLC0415  (needs the extra ledger)

    assumed = parsed_settings(assume, "--assume")
    for name in assumed:
        if name not in SETTINGS:
            raise CommandError(f"--assume {name}: no such setting, expected one of {', '.join(SETTINGS)}")
    try:
        return read_observed(run, **assumed)
    except ConfigurationError as error:
        if error.field in assumed:
            raise CommandError(f"--assume {error.field}={error.value}: expected {error.allowed}") from None
        raise


def parsed_settings(given: list[str], option: str = "--set") -> dict[str, Any]:
    """``NAME=VALUE`` each: whole numbers, decimals, yes or no, ``none``, or a name."""
    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise CommandError(f"{option} {text}: expected NAME=VALUE, such as max_running_requests=128")
        settings[name.strip().replace("-", "_")] = _value(value.strip())
    return settings


def _value(text: str) -> Any:
    words: dict[str, Any] = {"none": None, "yes": True, "true": True, "no": False, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def shown_model(model: FittedModel) -> Group:
    """The model as people read it."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("constant", "value", "95 % interval", "share of time", ""):
        table.add_column(heading, justify="left" if heading in {"constant", ""} else "right")
    for name, constant in model.constants.items():
        interval = f"{in_microseconds(constant.low)} .. {in_microseconds(constant.high)}"
        doubt = "" if constant.identified else "not identified by this run"
        table.add_row(name, f"{in_microseconds(constant.value)} us", interval, percent(constant.share), doubt)
    seen = model.seen
    return Group(
        Text(f"{model.run}: {model.engine or 'an unnamed engine'}, {model.requests:,} requests", style="bold"),
        Text(f"fitted to {DEPTHS[model.depth]}, error {100 * model.error:.2g} %"),
        Text(""),
        table,
        Text(""),
        Text(
            f"seen in an iteration: up to {seen.batch:,} requests, {seen.context_tokens:,} tokens of context, "
            f"{seen.chunk_tokens:,} prefill tokens"
        ),
        *(Text(f"note: {note}") for note in model.assumed),
    )


def in_microseconds(seconds: float) -> str:
    """Four digits, or as many as a whole number has."""
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
