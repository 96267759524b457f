"""Two sides of runs beside each other: what differs, what is the same, what cannot be said yet."""

from __future__ import annotations

import math

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchscope.ledger.comparison.document import Comparison, Difference, Verdict
from batchscope.text import shown
from batchscope.views.numbers import MISSING, amount, duration, percent
from batchscope.views.palette import BAD, GOOD, NAME, WARNING

_HOW = {
    "id": "paired by id",
    "order": "paired in order of arrival",
    "no": "not paired: the workloads differ",
}
_WANTED = {
    False: "inconclusive (N): about N requests a side would tell, or 3 repeats a side",
    True: "inconclusive (N repeats): about so many a side would tell",
}
_OUTCOMES = {"pass": GOOD, "fail": BAD, "inconclusive": WARNING}


def view(comparison: Comparison) -> RenderableType:
    """All of it, as it may be shown."""
    parts: list[RenderableType] = [_head(comparison), Text(), _figures(comparison)]
    if any(figure.verdict is Verdict.INCONCLUSIVE for figure in comparison.figures):
        parts.append(Text(_WANTED[comparison.repeats], style="dim"))
    parts += [Text(f"- {shown(note)}") for note in comparison.notes]
    if comparison.conditions:
        parts += [Text(), _conditions(comparison)]
    return Group(*parts)


def summary(comparison: Comparison) -> str:
    """What it comes to, in a line."""
    counts = {verdict: sum(1 for each in comparison.figures if each.verdict is verdict) for verdict in Verdict}
    worse = [each for each in comparison.figures if each.verdict is Verdict.DIFFERS and each.better is False]
    better = sum(1 for each in comparison.figures if each.verdict is Verdict.DIFFERS and each.better)
    text = (
        f"{counts[Verdict.DIFFERS]} figures differ ({better} better, {len(worse)} worse), "
        f"{counts[Verdict.EQUIVALENT]} equivalent, {counts[Verdict.INCONCLUSIVE]} inconclusive"
    )
    return text if comparison.figures else "there is no figure that both sides have"


def _head(comparison: Comparison) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    lines.add_row("A", Text(", ".join(map(shown, comparison.a)), style=NAME))
    lines.add_row("B", Text(", ".join(map(shown, comparison.b)), style=NAME))
    if comparison.repeats:
        lines.add_row("requests", f"repeats: {len(comparison.a)} runs against {len(comparison.b)}")
    else:
        pairs = f"{comparison.pairs:,} " if comparison.pairs else ""
        lines.add_row("requests", f"{pairs}{_HOW[comparison.paired]}")
    lines.add_row("result", summary(comparison))
    return lines


def _figures(comparison: Comparison) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="bold", pad_edge=False)
    for title, justify in (
        ("figure", "left"),
        ("A", "right"),
        ("B", "right"),
        ("B - A", "right"),
        ("95 % interval", "right"),
        ("verdict", "left"),
    ):
        table.add_column(title, justify=justify, no_wrap=title != "verdict")  # type: ignore[arg-type]
    for figure in comparison.figures:
        if figure.a or figure.b:  # nothing on both sides is nothing to be read
            table.add_row(
                figure.figure,
                _value(figure, figure.a),
                _value(figure, figure.b),
                _relative(figure),
                _interval(figure),
                _verdict(figure),
            )
    return table


def _value(figure: Difference, value: float) -> str:
    if figure.unit == "s":
        return duration(value)
    return percent(value) if figure.unit == "1" else amount(value)


def _relative(figure: Difference) -> str:
    """The difference as a share of A; where A is 0, as it is."""
    if math.isfinite(figure.relative):
        return f"{figure.relative:+.1%}".replace("%", " %")
    return f"+{_value(figure, figure.difference)}" if figure.difference else MISSING


def _interval(figure: Difference) -> str:
    if not math.isfinite(figure.low + figure.high):
        return MISSING
    return f"{100 * figure.low:+.1f}..{100 * figure.high:+.1f} %"


def _verdict(figure: Difference) -> Text:
    if figure.verdict is Verdict.DIFFERS:
        word = {True: "better", False: "worse", None: "differs"}[figure.better]
        return Text(word, style={True: GOOD, False: BAD, None: "bold"}[figure.better])
    if figure.verdict is Verdict.EQUIVALENT:
        return Text(f"equivalent within {100 * (figure.within or 0):.1f} %", style="dim")
    return Text(f"inconclusive ({_needs(figure)})", style=WARNING)


def _needs(figure: Difference) -> str:
    """In a few letters; the line under the table says the rest."""
    if figure.needed_requests is not None:
        return f"{figure.needed_requests:,}"
    return f"{figure.needed_repeats} repeats"


def _conditions(comparison: Comparison) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    for answer in comparison.conditions:
        lines.add_row(Text(answer.outcome, style=_OUTCOMES[answer.outcome]), shown(answer.condition), shown(answer.why))
    return lines
