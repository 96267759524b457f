"""Two sides of runs beside each other: what differs, what is the same, what cannot be said yet."""

from __future__ import annotations

import math

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchscope.ledger.comparison.document import Comparison, Difference, Verdict, Window
from batchscope.ledger.comparison.figures import is_first
from batchscope.ledger.comparison.pair import CONFIDENCE
from batchscope.text import shown
from batchscope.views.numbers import MISSING, amount, duration, percent
from batchscope.views.palette import BAD, GOOD, NAME, WARNING

_HOW = {
    "id": "paired by id",
    "order": "paired in order of arrival",
    "no": "not paired: the workloads differ",
}
_OUTCOMES = {"pass": GOOD, "fail": BAD, "inconclusive": WARNING}


def view(comparison: Comparison) -> RenderableType:
    """All of it, as it may be shown."""
    parts: list[RenderableType] = [_head(comparison), Text(_legend(comparison), style="dim"), Text()]
    parts.append(_figures(comparison))
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
        f"{counts[Verdict.EQUIVALENT]} equivalent, {counts[Verdict.INCONCLUSIVE]} inconclusive{_leaning(comparison)}"
    )
    return text if comparison.figures else "there is no figure that both sides have"


def _leaning(comparison: Comparison) -> str:
    """Where those go that more runs may well decide: what got worse is not to be missed for being unproven."""
    better = [each.better for each in comparison.figures if each.leans and each.better is not None]
    return f" ({better.count(True)} lean to better, {better.count(False)} to worse)" if better else ""


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
    if comparison.windows:
        lines.add_row("counted", _counted(comparison))
    lines.add_row("result", summary(comparison))
    return lines


def _counted(comparison: Comparison) -> str:
    """Which requests, and in which time: a report counts what ended from its beginning to its end."""
    told = ", ".join(
        f"{side} {shown(_times([window for window in comparison.windows if window.run in names]))}"
        for side, names in (("A", comparison.a), ("B", comparison.b))
    )
    return f"{comparison.counted}; requests by arrival, rates by end: {told}"


def _times(windows: list[Window]) -> str:
    """``1,200 of 1,300 in 20.0 s..310.0 s``; of several runs their sum alone."""
    requests = f"{sum(one.requests for one in windows):,} of {sum(one.of for one in windows):,}"
    if len(windows) != 1:
        return f"{requests} in {len(windows)} runs"
    return f"{requests} in {windows[0].start:,.1f}..{windows[0].end:,.1f} s"


def _figures(comparison: Comparison) -> RenderableType:
    """A line a figure, whole from 80 columns on: first what matters to whoever is served, then what is behind it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False, show_edge=False)
    for title in ("figure", "A", "B", "B - A %", "95 % interval", "verdict"):
        table.add_column(title, justify="left" if title in {"figure", "verdict"} else "right", no_wrap=True)
    told = [figure for figure in comparison.figures if figure.a or figure.b]  # nothing on both sides is nothing to read
    first = [is_first(figure.figure) for figure in told]
    for place, figure in enumerate(told):
        if place and first[place - 1] and not first[place]:
            table.add_section()
        a, b = (_value(figure, value) for value in (figure.a, figure.b))
        table.add_row(figure.figure, a, b, _relative(figure), _interval(figure), _verdict(figure))
    return table


def _value(figure: Difference, value: float) -> str:
    if figure.unit == "s":
        return duration(value)
    return percent(value) if figure.unit == "1" else amount(value)


def _relative(figure: Difference) -> str:
    """The difference as per cent of A; where A is 0 there is none."""
    if math.isfinite(figure.relative):
        return _signed(figure.relative)
    return "from 0" if figure.difference else MISSING


def _interval(figure: Difference) -> str:
    if not figure.a and figure.error > 0 and math.isfinite(figure.error):
        low, high = figure.interval(CONFIDENCE)
        return f"{_value(figure, low)}..{_value(figure, high)}"
    if not math.isfinite(figure.low + figure.high):
        return MISSING
    return f"{_signed(figure.low)}..{_signed(figure.high)}"


def _signed(ratio: float) -> str:
    """Per cent, with as many digits as can be read."""
    percent = 100 * ratio
    return f"{percent:+.1f}" if abs(percent) < 1000 else f"{percent:+.0f}" if abs(percent) < 1e5 else f"{percent:+.0e}"


def _verdict(figure: Difference) -> Text:
    if figure.verdict is Verdict.DIFFERS:
        word = {True: "better", False: "worse", None: "differs"}[figure.better]
        return Text(word, style={True: GOOD, False: BAD, None: "bold"}[figure.better])
    if figure.verdict is Verdict.EQUIVALENT:
        return Text(f"within {100 * (figure.within or 0):.1f} %", style="dim")
    wanted = f"{figure.needed_repeats} runs" if figure.needed_requests is None else f"{figure.needed_requests:,}"
    return Text(f"needs {wanted}", style=WARNING)


def _legend(comparison: Comparison) -> str:
    """What the columns are, and the words of the verdicts that there are."""
    found = {figure.verdict for figure in comparison.figures}
    told = ["B - A and its 95 % interval are per cent of A"]
    if Verdict.DIFFERS in found:
        told.append("better, worse, differs: no accident")
    if Verdict.EQUIVALENT in found:
        told.append("within X %: equivalent, surely less apart than that")
    if Verdict.INCONCLUSIVE in found:
        told.append(
            "needs N runs: inconclusive, about so many a side would tell" if comparison.repeats
            else "needs N: inconclusive, about N requests a side would tell, or 3 runs a side"
        )  # fmt: skip
    return "; ".join(told)


def _conditions(comparison: Comparison) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    for answer in comparison.conditions:
        lines.add_row(Text(answer.outcome, style=_OUTCOMES[answer.outcome]), shown(answer.condition), shown(answer.why))
    return lines
