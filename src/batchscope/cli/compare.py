"""``batchscope compare A... -- B...``: do runs differ, and is that worse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from typer.core import TyperCommand

from batchscope.cli import stdout
from batchscope.cli.options import CommandError
from batchscope.errors import DecodeError
from batchscope.text import quoted

if TYPE_CHECKING:
    from batchscope.ledger import Run
    from batchscope.ledger.comparison import Comparison

FAILED, INCONCLUSIVE = 1, 3
PORTIONS = ("auto", "all", "steady")
_BETWEEN = "\0--"


class Sides(TyperCommand):
    """Keeps ``--`` as what it is here, the border between A and B; options may stand on either side of it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, with a word that no shell can give in the place of ``--``."""
        return super().parse_args(ctx, [_BETWEEN if word == "--" else word for word in args])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002  (click's)
        """The line of usage names the border."""
        return ["[OPTIONS]", "A... -- B..."]


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="A... -- B...",
            help="Runs before and after, their folders; of a folder with several runs all are taken.",
            show_default=False,
        ),
    ],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COND",
            help="Exit 1 where the whole interval is beyond it: 'p99_ttft > +5%', 'goodput < -2%', 'mean_tpot > 2ms'.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            metavar="|".join(PORTIONS),
            help="What of each run counts: all of it, or its steady part, without warm-up and drain; auto: the steady "
            "part unless both sides served the same requests.",
        ),
    ] = "auto",
    margin: Annotated[
        float, typer.Option(metavar="SHARE", help="Figures whose difference is surely within are called equivalent.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the blocks that are drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON document.")] = False,
) -> int:
    """Compare recorded runs figure by figure, with intervals that hold for requests that hang together.

    One run a side can show a difference only beyond a floor; three repeats a side or more decide.
    Exit code: 0; with --fail-if 1 = a condition holds, 3 = cannot be decided from these runs; 2 = wrong use.
    """
    from batchscope.ledger.comparison import Portion, Settings, compare_runs, parse_condition  # noqa: PLC0415  (extra)
    from batchscope.views.comparison import view  # noqa: PLC0415
    from batchscope.views.rendering import for_stdout  # noqa: PLC0415

    if seed < 0:
        raise CommandError(f"--seed {seed}: expected a whole number >= 0")
    if part not in PORTIONS:
        raise CommandError(f"--part {quoted(part)}: expected one of {', '.join(PORTIONS)}")
    conditions = [parse_condition(text) for text in fail_if or ()]
    a, b = _sides(runs)
    comparison = compare_runs(_opened(a), _opened(b), Settings(margin=margin, seed=seed, part=Portion(part)))
    code = _answer(comparison, conditions)
    stdout.write(msgspec.json.encode(comparison) + b"\n" if as_json else for_stdout(view(comparison)))
    return code


def _sides(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and behind the border; of two runs alone it may be left out."""
    if _BETWEEN not in words and len(words) == 2:
        return words[:1], words[1:]
    if words.count(_BETWEEN) != 1 or words[0] == _BETWEEN or words[-1] == _BETWEEN:
        raise CommandError(
            "expected runs on both sides of one --, such as batchscope compare runs/before -- runs/after"
        )
    border = words.index(_BETWEEN)
    return words[:border], words[border + 1 :]


def _opened(paths: list[str]) -> list[Run]:
    """Each a run, or all runs of a root."""
    from batchscope.ledger import open_run  # noqa: PLC0415
    from batchscope.ledger.run import find_runs  # noqa: PLC0415

    found = []
    for path in map(Path, paths):
        try:
            inside = find_runs(path)
        except DecodeError:
            inside = []
        found += [open_run(each) for each in inside or [path]]
    return found


def _answer(comparison: Comparison, conditions: list[Any]) -> int:
    from batchscope.ledger.comparison.condition import Outcome  # noqa: PLC0415
    from batchscope.ledger.comparison.document import Answer  # noqa: PLC0415

    outcomes = set()
    for condition in conditions:
        outcome, why = condition.of(comparison, len(conditions))
        comparison.conditions.append(Answer(condition.text, outcome.value, why))
        outcomes.add(outcome)
    if Outcome.FAIL in outcomes:
        return FAILED
    return INCONCLUSIVE if Outcome.INCONCLUSIVE in outcomes else 0
