"""What a check found on an engine's page, as tables: the numbers it gives, those it cannot, the names nobody knows."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchscope.scraping.check import CheckReport, GivenNumber
from batchscope.text import shown_document
from batchscope.views.numbers import count, percent

_SHOWN_NAMES = 40
_SHOWN_OF_A_KIND = 3


def view(report: CheckReport) -> RenderableType:
    """All of it, as it may be shown."""
    report = shown_document(report)
    if not report.engine:
        return Group(Text(report.error), Text("\nits names:"), _unknown(report))
    parts: list[RenderableType] = [_head(report), _section("It gives", "since it started"), _given(report)]
    if report.besides:
        parts += [_section("And besides", "what other engines do not tell"), _besides(report)]
    if report.not_given:
        parts += [_section("It cannot give", "or does not at present"), _not_given(report)]
    if report.unused_names:
        parts += [_section("Known, and not used", "parts of the engine that this table leaves alone"), _unused(report)]
    if report.unknown_names:
        parts += [_section("Names that are not known", "a newer version's, perhaps"), _unknown(report)]
    if report.rejected:
        parts += [_section("Values that cannot be right", "left out"), Text("\n".join(report.rejected[:_SHOWN_NAMES]))]
    return Group(*parts)


def _head(report: CheckReport) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    lines.add_row("page", report.url)
    lines.add_row("engine", report.title)
    lines.add_row("version", f"{report.version}, by its names" if report.version else "its names do not tell")
    lines.add_row("numbers", f"{len(report.given)} given, {len(report.not_given)} not")
    names = f"{len(report.unknown_names)} of the engine's are not known"
    lines.add_row("names", f"{names}; {report.foreign_names} of others (process, web server) are not read")
    lines.add_row("as in", report.names_from)
    if report.measures:
        lines.add_row("measures", report.measures)
    if report.more_at:
        lines.add_row("more", f"{report.more_at} has everything, with exact percentiles")
    if report.lacking:
        lines.add_row("LACKING", Text(", ".join(report.lacking), style="bold red"))
    return lines


def _given(report: CheckReport) -> RenderableType:
    table = _table("number", "now", "name on the page, and what it means")
    table.columns[1].justify = "right"
    for name, number in report.given.items():
        meaning = Text(number.source)
        if number.definition:
            meaning.append(f"\n{number.definition}", style="dim")
        table.add_row(name, _value(number), meaning)
    return table


def _besides(report: CheckReport) -> RenderableType:
    table = _table("name on the page", "now", "what it means")
    table.columns[1].justify = "right"
    for name, number in report.besides.items():
        table.add_row(name, _value(number), number.definition)
    return table


def _value(number: GivenNumber) -> str:
    if number.kind == "ratio":
        return percent(number.value)
    return f"n = {count(number.value)}" if number.kind == "histogram" else count(number.value)


def _not_given(report: CheckReport) -> RenderableType:
    by_reason: dict[str, list[str]] = {}
    for name, reason in report.not_given.items():
        by_reason.setdefault(reason, []).append(name)
    table = _table("number", "why")
    for reason, names in by_reason.items():
        table.add_row("\n".join(names), reason)
    return table


def _unused(report: CheckReport) -> RenderableType:
    table = _table("what it is", "names on the page")
    for about, names in report.unused_names.items():
        more = f" and {len(names) - _SHOWN_OF_A_KIND} more" if len(names) > _SHOWN_OF_A_KIND else ""
        table.add_row(about, ", ".join(names[:_SHOWN_OF_A_KIND]) + more)
    return table


def _unknown(report: CheckReport) -> RenderableType:
    names = report.unknown_names[:_SHOWN_NAMES]
    more = len(report.unknown_names) - len(names)
    return Text("\n".join((*names, *([f"and {more:,} more"] if more else []))))


def _section(title: str, about: str) -> Text:
    return Text.assemble("\n", (title, "bold"), ("   " + about, "dim"))


def _table(first: str, *rest: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="dim")
    table.add_column(first, no_wrap=True)
    for name in rest:
        table.add_column(name, overflow="fold")
    return table
