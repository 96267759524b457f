"""``batchscope fit RUN``: the constants of the cost model, from a recorded run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batchscope.cli import stdout
from batchscope.cli.options import CommandError
from batchscope.errors import ConfigurationError
from batchscope.prediction import FittedModel, Observed, fit, read_model
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
ModelFile = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="What 'batchscope fit' wrote.", show_default="fitted to RUN first"),
]
Since = Annotated[
    float, typer.Option("--from", metavar="X", help="Only requests that finished after this share of the run.")
]
_CALLED = {
    "max_num_seqs": "max_running_requests",
    "max_num_batched_tokens": "max_scheduled_tokens",
    "num_gpu_blocks_override": "kv_cache_blocks",
    "enable_prefix_caching": "prefix_caching",
    "chunked_prefill_size": "max_scheduled_tokens",
}
"""What vLLM and SGLang call these settings."""
DEPTHS = {
    "iterations": "iterations and requests (a regression on what ran)",
    "forward passes": "forward passes and requests (a regression on the passes; what lies between, by the requests)",
    "requests": "requests alone (a search through the simulator)",
}


def fit_command(
    run: RunPath,
    until: Annotated[float, typer.Option(metavar="X", help="Only this share of the run's time, from its start.")] = 1.0,
    assume: Assumed = [],  # noqa: B006  (typer copies it)
    iterations: Annotated[
        Path | None,
        typer.Option(
            "--iterations",
            metavar="RUN",
            help="The same engine's iterations, recorded meanwhile in a run of their own: forward passes, say.",
            show_default="those of RUN",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the model there, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the model as one JSON document.")] = False,
) -> int:
    """Fit the simulator's cost model to a recorded run.

    From what ran: iterations or forward passes where they were recorded, else the instants and lengths of requests.
    """
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise CommandError(f"--out {out}: cannot be written, expected a file in a folder that is there")
    with working() as stage:
        observed = observed_with(run, assume, iterations)
        stage("fitting the model", 0, None)
        model = fit(observed, until=until)
    if out is not None:
        write_model(model, out)
    stdout.write(model.to_json() if as_json else for_stdout(shown_model(model)))
    return 0


Stage = Callable[[str, int, int | None], None]
"""Told what is done, how much of it, and of how much."""


@contextmanager
def working() -> Iterator[Stage]:
    """A bar on stderr, where that is a terminal."""
    with Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not (sys.stderr and sys.stderr.isatty()),
    ) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda stage, done, of: progress.update(task, description=stage, completed=done, total=of)


def model_of(observed: Observed, path: Path | None, stage: Stage) -> FittedModel:
    """What ``--model`` names, or fitted to the run first."""
    if path is not None:
        return read_model(path)
    stage("fitting the model", 0, None)
    return fit(observed)


def write_model(model: FittedModel, out: Path) -> None:
    """The model as JSON."""
    try:
        out.write_bytes(model.to_json())
    except OSError as error:
        raise CommandError(f"--out {out}: cannot be written ({error.strerror}), expected a file to write") from error


def observed_with(run: Path, assume: list[str], iterations: Path | None = None) -> Observed:
    """The run, with what ``--assume`` says of it."""
    from batchscope.prediction.recorded import read_observed  # noqa: PLC0415  (needs the extra ledger)

    assumed = parsed_settings(assume, "--assume")
    with settings_named(assumed, "--assume"):
        for name in assumed:
            if name not in SETTINGS:
                raise ConfigurationError("set", name, f"one of {', '.join(SETTINGS)}")
        return read_observed(run, iterations, **assumed)


@contextmanager
def settings_named(given: Mapping[str, Any], option: str = "--set") -> Iterator[None]:
    """What is wrong with a setting is said with the option that it came with."""
    try:
        yield
    except ConfigurationError as error:
        if error.field == "set":
            known_as = _CALLED.get(str(error.value))
            hint = f"it is called {known_as} here" if known_as else f"expected {error.allowed}"
            raise CommandError(f"{option} {error.value}: no such setting, {hint}") from None
        if error.field in given:
            raise CommandError(f"{option} {error.field}={error.value}: expected {error.allowed}") from None
        if given:
            together = ", ".join(f"{name}={value}" for name, value in given.items())
            raise CommandError(f"{option} {together}: with it, {error}") from None
        raise


def parsed_settings(given: list[str], option: str = "--set") -> dict[str, Any]:
    """``NAME=VALUE`` each: whole numbers, decimals, yes or no, ``none``, or a name."""
    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise CommandError(f"{option} {text}: expected NAME=VALUE, such as max_running_requests=128")
        name = name.strip().replace("-", "_")
        if name in settings:
            raise CommandError(f"{option} {text}: {name} is there twice, expected one value of it")
        settings[name] = _value(value.strip())
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
