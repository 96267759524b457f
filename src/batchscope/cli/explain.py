"""``batchscope explain RUN``: where the time of one request, or of the slowest, went."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from batchscope.cli import LONGEST_LINE, stdout
from batchscope.cli.options import CommandError
from batchscope.cli.simulation import note
from batchscope.text import quoted, shown
from batchscope.views.numbers import counted
from batchscope.views.rendering import for_stdout

if TYPE_CHECKING:
    from batchscope.ledger import Run

UNDECIDED = 3
METRICS = ("ttft", "tpot", "e2e", "gap")


def explain(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A recorded run's folder, or a folder with one run.", show_default=False),
    ],
    request: Annotated[
        str | None,
        typer.Option(metavar="ID", help="This request: its id, or # and its number in the run.", show_default=False),
    ] = None,
    worst: Annotated[
        str | None,
        typer.Option(metavar="|".join(METRICS), help="The slowest by it, beside the others.", show_default="ttft"),
    ] = None,
    share: Annotated[float, typer.Option(metavar="X", help="How many are the slowest, a ratio 0..1.")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as one JSON document, nothing else.")] = False,
) -> int:
    """Explain where the time went: queued and held by what, prefill, decoding, preempted, between iterations.

    The parts add up to the whole. Exit code: 0; 2 = wrong use, or no run to be read; 3 = the run does not hold what
    that takes (spans, instants): what it does hold is shown.
    """
    from batchscope.ledger import open_run  # noqa: PLC0415  (an extra; commands load without it)
    from batchscope.ledger.explain import Explainer, Metric, NotToldError, UnknownRequestError  # noqa: PLC0415
    from batchscope.views.explanation import ExplanationView, settings  # noqa: PLC0415

    if request is not None and worst is not None:
        raise CommandError("--request and --worst: expected one of them")
    if worst is not None and worst not in METRICS:
        raise CommandError(f"--worst {quoted(worst)}: expected one of {', '.join(METRICS)}")
    if not 0 < share <= 1:
        raise CommandError(f"--share {share}: expected a ratio above 0 and up to 1, 0.01 for the slowest 1 %")
    opened = open_run(run)
    if not told(opened):
        return UNDECIDED
    try:
        explainer = Explainer(opened)
        if request is not None:
            explanation = explainer.request(request)
        else:
            explanation = explainer.worst(Metric(worst or METRICS[0]), share)
    except UnknownRequestError as error:
        raise CommandError(f"--request {quoted(request)}: {error}") from None
    except NotToldError as error:
        print(f"not known: {shown(error, LONGEST_LINE)}", file=sys.stderr)  # noqa: T201
        return UNDECIDED
    stdout.write(msgspec.json.encode(explanation) + b"\n" if as_json else for_stdout(ExplanationView(explanation)))
    if not as_json and (behind := settings(explanation)):
        name = behind[0].partition(",")[0]
        note(f"what another value would bring: batchscope whatif {shown(run)} --set {name}=N")
    return 0 if explanation.complete else UNDECIDED


def remarks(run: Run) -> list[str]:
    """What is missing or wrong in it, and whether more may come."""
    growing = ["is still being written; this is what it holds so far"] if run.state == "recording" else []
    return run.problems + growing


def told(run: Run) -> bool:
    """Say what is missing in it; whether there is anything in it at all."""
    for remark in remarks(run):
        note(f"{run.path.name}: {remark}")
    if unfinished := max(len(run.unfinished()), run.document.in_flight or 0):  # a lean run knows how many alone
        note(f"{run.path.name}: {counted(unfinished, 'request')} did not finish: not in what follows")
    if not run.headers:
        note(f"{run.path.name}: nothing was recorded in this run")
    return bool(run.headers)
